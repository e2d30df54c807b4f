"""Is what is published what was trained? An adapter merged and stored in a dtype that keeps it, held against the adapter itself.

bfloat16 has 8 bits of precision: a weight of 0.1 moves in steps of 0.0005, and an update smaller than half a step is lost. So what
rounding would keep of an update is measured before anything is rounded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pipeline.artifacts.gate import Check, at_least, at_most, check
from policies.backbone import adapter
from policies.template import Turn

LEAST_KEPT = 0.98  # of an update: what a coarser dtype must keep of it to be stored in
KEPT = at_least(LEAST_KEPT)
NEAR, FAR = at_most(0.01), at_most(0.1)  # KL in nats a token, between the policy with its adapter and the published one
SAME_SCORE = at_most(0.1)  # the largest difference of a score, in standard deviations of scores on sft samples
FEW_BITS = "the adapter was trained on the quantised base; load it there for what was trained"
TURNS, TOKENS = (
    8,
    32,
)  # completions, and tokens of each, on which policies are compared: 0.26 GB of probabilities at 256,000 words


@dataclass(frozen=True)
class Stored:
    """In which dtype merged weights are, what that kept of the update, and what the dtype that was trained in would have kept."""

    dtype: torch.dtype
    kept: float
    kept_in_training_dtype: float


class _Share:
    """1 - |held - wanted|² / |update|² over weights that come one by one: 1 where all of an update is kept, 0 where none is, below
    0 where rounding adds more than the update was. 1 where there is no update."""

    def __init__(self) -> None:
        self.lost = self.update = 0.0

    def add(self, wanted: Tensor, update: Tensor, dtype: torch.dtype) -> Tensor:
        """Count `wanted` (any shape, float64), which is the weight before training + `update`, held in `dtype`; returns it so."""
        held = wanted.to(dtype)
        self.lost += (held - wanted).square().sum().item()
        self.update += update.square().sum().item()
        return held

    @property
    def kept(self) -> float:
        return 1 - self.lost / self.update if self.update else 1.0


def adapted(model: nn.Module, name: str) -> list[Any]:
    """The layers that have the LoRA adapter `name`."""
    return [m for m in model.modules() if isinstance(m, LoraLayer) and name in m.scaling]


@torch.no_grad()
def merge(model: PeftModel, name: str = "default") -> tuple[Any, Stored]:
    """W + s·B·A of adapter `name`, W as it was loaded, in a plain model; the adapters are gone from `model` then.

    Stored in W's dtype where that keeps LEAST_KEPT of the update over all adapted weights (`_Share`), else everything in float32.
    """
    layers = adapted(model, name)
    trained_in, would = torch.float32, _Share()
    for layer in layers:
        weight, update = _parts(layer, name)
        trained_in = layer.get_base_layer().weight.dtype
        would.add(weight + update, update, trained_in)
    dtype, share = trained_in if would.kept >= LEAST_KEPT else torch.float32, _Share()
    for layer in layers:
        weight, update = _parts(layer, name)
        # a parameter of its own: an embedding may share the old one
        merged = nn.Parameter(share.add(weight + update, update, dtype), requires_grad=False)
        layer.get_base_layer().weight = merged
    plain: Any = model.unload()
    if dtype != trained_in:
        for parameter in plain.parameters():
            parameter.data = parameter.data.to(dtype)
    _untied(plain)
    return plain, Stored(dtype, share.kept, would.kept)


def _parts(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """The weight before training and s·B·A of float32 factors, both float64, so that their sum is rounded once."""
    return layer.get_base_layer().weight.double(), layer.get_delta_weight(name).double()


def _untied(model: Any) -> None:
    """Say in the config where output and input embedding have become two, as an adapter on one of them makes them."""
    outer = getattr(model, "get_output_embeddings", lambda: None)()
    if outer is None:
        return
    # an encoder–decoder may tie its output to the decoder's embedding and not to the encoder's
    mine = getattr(outer, "weight", None)
    if mine is None or not any(
        getattr(module, "weight", None) is mine for module in model.modules() if module is not outer
    ):
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


@torch.no_grad()
def kept_when_held(trained: nn.Module, base: nn.Module, dtype: torch.dtype) -> float:
    """What loading `trained` in `dtype` keeps of what training changed in `base` (`_Share`), over all weights."""
    share, before = _Share(), dict(base.named_parameters())
    for name, weight in trained.named_parameters():
        wanted = weight.double().cpu()
        share.add(wanted, wanted - before[name].double().cpu(), dtype)
    return share.kept


@torch.no_grad()
def distributions(model: Any, turns: Sequence[Turn]) -> list[Tensor]:
    """log π of the whole vocabulary at each of the first TOKENS tokens of the first TURNS completions, each (T, V) float32 on the
    CPU, row by row without padding."""
    found = []
    for prompt, completion in turns[:TURNS]:
        said = completion[:TOKENS]
        ids = torch.tensor([[*prompt, *said][:-1] if said else prompt], device=model.device)
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 :]
        found.append(torch.log_softmax(logits.float(), dim=-1).cpu())
    return found


def divergence(of: Iterable[Tensor], to: Iterable[Tensor]) -> float:
    """KL of log-probabilities (T, V) to others, nats a token: Σ p·(log p - log q), the mean over all tokens."""
    each = [(p.exp() * (p - q)).sum(-1) for p, q in zip(of, to, strict=True)]
    return torch.cat(each).mean().item()


def with_adapter(model: Any, name: str, measure: Callable[[], Any]) -> Any:
    """What `measure()` gives while `model` speaks by adapter `name`; None where it has none."""
    if not isinstance(model, PeftModel):
        return None
    with adapter(model, name):
        return measure()


def checks(figures: Mapping[str, float]) -> list[Check]:
    """Lines of a gate from "merged/kl", "merged/score_gap", "merged/kept" and, where the base was quantised, "quantised/kl" and
    "quantised/score_gap"; those of them that there are: none where no adapter was trained."""
    found = []
    if (kl := figures.get("merged/kl")) is not None:
        found.append(check("merged against adapter, KL", kl, must=FAR, should=NEAR, why="use the adapter on its base"))
    if (gap := figures.get("merged/score_gap")) is not None:
        found.append(check("merged against adapter, scores", gap, should=SAME_SCORE, why="use the adapter on its base"))
    if (kl := figures.get("quantised/kl")) is not None:
        found.append(check("published against quantised, KL", kl, should=NEAR, why=FEW_BITS))
    if (gap := figures.get("quantised/score_gap")) is not None:
        found.append(check("published against quantised, scores", gap, should=SAME_SCORE, why=FEW_BITS))
    if (kept := figures.get("merged/kept")) is not None:
        found.append(check("share of the update kept", kept, must=KEPT, why="a fault of merging: please report it"))
    return found
