"""What does a model do without the order of its tokens? The same tokens with their positions shuffled, and with one position for all."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.inspect.maps import evenly, picture
from pipeline.language import fixed

LAYERS = 4  # shown, from the first to the last
MOVES = 1e-3  # of the logits' spread: what positions must change at least, to have changed anything
WAYS = (fixed("as it is"), fixed("shuffled"), fixed("all the same"))


@dataclass(frozen=True)
class Way:
    """One way to number the same tokens. Shares are means over layers, heads and tokens."""

    name: str
    images: dict[int, str]  # layer from 1 -> the attention, mean of its heads, as a data: URI
    before: float  # share on the token before
    itself: float  # share on the token itself
    logprob: float  # of the completion, nats a token


@torch.no_grad()
def ways(model: Any, ids: Sequence[int], prompt: int, seed: int) -> list[Way]:
    """The three ways, for the tokens `ids` of which the first `prompt` are the prompt; [] where positions that are handed to `model`, a
    causal LM, change nothing, or where it takes none (one that knows distances alone, say). Switches it to eager attention."""
    model.set_attn_implementation("eager")
    order, rng = list(range(len(ids))), random.Random(seed)
    while len(order) > 1 and order == sorted(order):
        rng.shuffle(order)
    numbered: Mapping[str, Sequence[int]] = dict(zip(WAYS, (range(len(ids)), order, [0] * len(ids)), strict=True))
    found, said = [], list[Tensor]()
    for name, positions in numbered.items():
        made = _run(model, ids, positions)
        if made is None:
            return []
        logits, layers = made
        said.append(logits)
        found.append(_way(name, logits, layers, ids, prompt))
    moved = max((other - said[0]).abs().max() for other in said[1:])
    return found if moved > MOVES * said[0].std() else []


def _run(model: Any, ids: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, list[Tensor]] | None:
    """Logits (L, V) and each layer's attention (L, L), the mean of its heads; None where the model takes no positions or shows no attention."""
    device = next(model.parameters()).device
    given = torch.tensor([list(ids)], device=device)
    try:
        out = model(
            input_ids=given,
            attention_mask=torch.ones_like(
                given
            ),  # without it, positions that fall are taken for several texts in one row
            position_ids=torch.tensor([list(positions)], device=device),
            output_attentions=True,
            use_cache=False,
        )
    except TypeError:
        return None
    layers = [layer[0].float().mean(0).cpu() for layer in getattr(out, "attentions", None) or () if layer is not None]
    return (out.logits[0].float().cpu(), layers) if layers else None


def _way(name: str, logits: Tensor, layers: Sequence[Tensor], ids: Sequence[int], prompt: int) -> Way:
    images = {i + 1: picture(layers[i].numpy()) for i in evenly(len(layers), LAYERS)}
    every = torch.stack(list(layers)).mean(0)
    before = every.diagonal(-1).mean().item() if len(ids) > 1 else 0.0
    logprobs = torch.log_softmax(logits[prompt - 1 : -1], -1)
    of_said = logprobs.gather(1, torch.tensor(list(ids[prompt:]))[:, None])
    return Way(name, images, before, every.diagonal().mean().item(), of_said.mean().item())
