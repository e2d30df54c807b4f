"""What does this model do? A few tokens are run through it at load, and nothing is concluded from the names of its attributes.

A quick path is used where a trial shows that it gives what `model(input_ids, attention_mask)` gives. Where it does not, that path
alone falls back, and one line says so.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from policies.errors import BackboneError as BackboneError
from policies.seq2seq import START, Rows, Stacks, given_states, of_rows, spoken
from policies.told import tell as tell
from policies.untyped import Foreign, Model

DRAWS = 3  # of tokens, each of which must show what would be held against a model
OF_SPREAD = 5  # times the tolerance: by what share of their spread scores may differ
EXAGGERATED = 16  # times, of states that show whether an output layer is one product
HANGING = 1e-2  # of the largest number: by how much rounding makes a state another in float32; 9e-4 was seen
ROUNDED = 4  # tokens of a row, of which one may be another by rounding alone


def body_name(model: Model) -> str | None:
    """The attribute under which a causal LM or classifier keeps its decoder; None where it keeps none."""
    if isinstance(getattr(model, model.base_model_prefix, None), nn.Module):
        return str(model.base_model_prefix)
    inner = [name for name, module in model.named_children() if isinstance(module, PreTrainedModel)]
    return inner[0] if len(inner) == 1 else None


def decoder(model: nn.Module) -> nn.Module:
    """The decoder without its language-model or classification head; what has neither is one itself. Of an encoder–decoder both stacks, which
    read rows."""
    inner = bare(model)
    if isinstance(inner, Rows):
        return Stacks(inner)
    name = body_name(inner)
    body: nn.Module = inner if name is None else getattr(inner, name)
    return body


def bare(model: Model) -> Model:
    """The causal LM or classifier inside peft's model, whose layers keep their adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trial_rows(model: Model, width: int = 9, draw: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask (3, width) on the model's device: a full row and two that are padded on the right, the same for each `draw`."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    mask = (torch.arange(width) < torch.tensor([width, width - 2, width - 5])[:, None]).long()
    ids = torch.randint(vocabulary, (3, width), generator=torch.Generator().manual_seed(draw))
    if of_rows(model):
        ids[[0, 1, 2], [3, 2, 1]] = START
    elif (eos := scored_at(model)) is not None:
        ids = ids.where(ids != eos, (ids + 3) % vocabulary)
        ids[range(3), mask.sum(1) - 1] = eos
    return ids.to(model.device), mask.to(model.device)


def scored_at(model: Model) -> int | None:
    """The token whose state a classifier on an encoder–decoder scores a text by, which is to stand at its end and nowhere else; None for others."""
    config = bare(model).config
    return config.eos_token_id if config.is_encoder_decoder and not of_rows(model) else None


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether two results are the same within the tolerance of `dtype`, or else of their own, as a share of the largest number."""
    return found.shape == wanted.shape and torch.allclose(
        found.float(),
        wanted.float(),
        rtol=0.0,
        atol=tolerance(dtype or wanted.dtype) * max(wanted.abs().max().item(), 1e-6),
    )


def tolerance(dtype: torch.dtype) -> float:
    """By what share of the largest number two results in `dtype` may differ. int8 stands for a model in 8 bit: of the demo's sft model
    padded and alone, two draws of four passed 3e-2, and none passes this."""
    return {torch.float32: 1e-4, torch.int8: 0.15}.get(dtype, 3e-2)


def alike(found: Tensor, wanted: Tensor, mask: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether states or logits (B, L, N) of the tokens in `mask` (B, L) are the same in every row, but for one token in ROUNDED.

    A token's state may hang on its last digits. Of the demo's sft model one in 300 passes the tolerance in float32 when the batch is
    another, by at most HANGING, and one in 20 in bfloat16, by any amount, when one number in a thousand is rounded the other way; their neighbours keep theirs. What
    a model or a path does otherwise, it does to most tokens of a row.
    """
    seen = mask.bool()
    if found.shape != wanted.shape:
        return False
    largest = wanted[seen].abs().max().clamp(min=1e-6)
    apart, dtype = (found.float() - wanted.float()).abs().amax(-1) / largest, dtype or wanted.dtype
    most = HANGING if dtype == torch.float32 else math.inf
    allowed = (seen.sum(1) // ROUNDED).clamp(min=1)
    return bool((apart <= most)[seen].all() and ((~(apart <= tolerance(dtype)) & seen).sum(1) <= allowed).all())


def same_scores(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Whether scores (N,) of texts, but for a third of them, are the same within a share of how far scores of different texts are apart, or of the largest.

    A score hangs on one token's state (`alike`), and scores may all be near zero, so that a share of the largest alone says little.
    """
    if found.shape != wanted.shape or not (found.isfinite().all() and wanted.isfinite().all()):
        return False
    allowed = max(
        OF_SPREAD * tolerance(dtype) * (wanted.max() - wanted.min()).item(),
        tolerance(dtype) * wanted.abs().max().item(),
    )
    off = (found - wanted).abs() > max(allowed, 1e-9)
    return off.sum().item() <= max(len(off) // 3, 1)


def rounded_in(model: Model) -> torch.dtype:
    """The dtype that states of `model` are as coarse as. In 8 bit a row's numbers hang on the rows beside it, as which columns are
    outliers is decided over a batch (LLM.int8, 2208.07339, section 3)."""
    kind: torch.dtype = next(decoder(model).parameters()).dtype
    return torch.int8 if getattr(model, "is_loaded_in_8bit", False) else kind


@dataclass(frozen=True)
class OutputLayer:
    """How a causal LM gets from final states to logits.

    `scale` is what the product with the output embedding is multiplied by; None where that is not all, and the model's own code is to
    be asked. `width` is that of a state, `kind` the class of what the decoder returns.
    """

    scale: float | None
    width: int
    kind: type


def output_layer(model: Model) -> OutputLayer:
    """The output layer of a causal LM, tried once and kept on the model. Raises BackboneError."""
    model = bare(model)
    if (known := getattr(model, "tried_output", None)) is None:
        known = model.tried_output = _tried_output(model)
    return known


@torch.no_grad()
def _tried_output(model: Model) -> OutputLayer:
    name = type(model).__name__
    ids, mask = trial_rows(model)
    try:
        ran = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
        states = ran.last_hidden_state
        wanted, said = model(input_ids=ids, attention_mask=mask, use_cache=False).logits, spoken(ids, mask)
    except BackboneError:
        raise
    except Exception as error:  # what a model of somebody's own raises cannot be foreseen
        raise BackboneError(
            f"{name}: gives no logits and states of a decoder for token ids and an attention mask alone ({reason(error)}); "
            "use a causal language model of text"
        ) from error
    head, own = model.get_output_embeddings(), OutputLayer(None, states.shape[-1], type(ran))
    try:
        plain = head(states).float()
        scale = _scale(plain[said], wanted[said])
        if alike(plain * scale, wanted.float(), said, wanted.dtype) and not _bends(model, states[said], scale, own):
            return OutputLayer(scale, states.shape[-1], type(ran))
    except Exception:  # no output embedding, or one of another width
        pass
    try:
        flat = own_logits(model, states.flatten(0, 1), own)
        same = alike(flat.view(*mask.shape, -1), wanted.float(), said, wanted.dtype)
    except Exception:
        same = False
    if not same:
        raise BackboneError(f"{name}: its logits are not made of its decoder's final states; use another architecture")
    return own


def _scale(plain: Tensor, wanted: Tensor) -> float:
    """What products `plain` (N, V) are multiplied by to be logits `wanted` (N, V): of each token by least squares, and the median of those."""
    each = (plain * wanted.float()).sum(-1) / plain.square().sum(-1).clamp(min=1e-12)
    scale = each.median().item()
    return 1.0 if abs(scale - 1.0) < (1e-5 if wanted.dtype == torch.float32 else 1e-3) else scale


def _bends(model: Model, states: Tensor, scale: float, layer: OutputLayer) -> bool:
    """Whether logits are another multiple of the product where they are large, as a cap makes them, or more than it where it is none: in
    bfloat16 a cap of 30 changes logits of 10 by no more than rounding may. Tried on states that are EXAGGERATED, and on none; where the
    model's own forward takes no states, it does not show."""
    for each in (states * EXAGGERATED, states * 0.0):
        try:
            own = own_logits(model, each, layer)
        except Exception:  # what a model of somebody's own raises cannot be foreseen
            return False
        if not close(model.get_output_embeddings()(each).float() * scale, own, states.dtype):
            return True
    return False


def own_logits(model: Model, states: Tensor, layer: OutputLayer) -> Tensor:
    """Logits (N, V) float32 of final states (N, H), by the model's own forward, whose decoder hands back the states."""
    model = bare(model)
    if of_rows(model):
        given = _Given(model.get_decoder(), layer.kind(last_hidden_state=states[None]))
        return given_states(model, states, given)
    shell = copy.copy(model)  # the same modules, but for the decoder
    vars(shell).pop("forward", None)  # what a trainer of trl put on the model would run the model, and not its shell
    shell._modules = dict(model._modules)
    shell._modules[body_name(model)] = _Given(decoder(model), layer.kind(last_hidden_state=states[None]))
    ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
    out: Tensor = shell(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return out[0].float()


class _Given(nn.Module):
    """In a decoder's place: hands back what it was made with."""

    def __init__(self, decoder: Model, out: Foreign):
        super().__init__()
        self.out, self.config, self.dtype = out, decoder.config, decoder.dtype

    def forward(self, *args: Foreign, **kwargs: Foreign) -> Foreign:
        return self.out


def reason(error: Exception) -> str:
    """The first line of what an error says, for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")


@torch.no_grad()
def check_numbers(model: nn.Module, path: object) -> None:
    """Raise BackboneError where a weight is NaN or infinite: a row of an embedding would wait for its token to spoil all."""
    for name, parameter in model.named_parameters():
        weight: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if weight.is_floating_point() and weight.numel() and not weight.is_meta:
            numbers = weight.float() if weight.element_size() < 2 else weight  # 8 bit: torch finds no least and largest
            if not torch.stack(torch.aminmax(numbers)).isfinite().all():
                raise BackboneError(
                    f"{path}: {name} holds NaN or infinity among its weights; fetch them again, or use another model"
                )


def check_causal(model: Model) -> None:
    """Raise BackboneError unless states of a token depend on it and those before it alone: not on those after it, on padding to the
    right, or on chance."""
    try:
        _check_causal(model)
    except BackboneError:
        raise
    except Exception as error:  # what a model of somebody's own raises cannot be foreseen
        raise BackboneError(
            f"{type(model).__name__}: gives no states of a decoder for token ids and an attention mask alone ({reason(error)}); "
            "use a causal language model of text"
        ) from error


@torch.no_grad()
def _check_causal(model: Model) -> None:
    ids, mask = trial_rows(model)
    name, body = type(model).__name__, decoder(model)
    kind, vocabulary = rounded_in(model), model.get_input_embeddings().weight.shape[0]

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return found

    with torch.enable_grad():
        learns = any(p.requires_grad for p in body.parameters())
        graph = states(ids[:1], mask[:1])
    if learns and not graph.requires_grad:
        raise BackboneError(f"{name}: gives no gradients while dropout is off; use another architecture")
    draws = [trial_rows(model, draw=draw) for draw in range(DRAWS)]
    if not any(alike(states(*rows), states(*rows), rows[1], kind) for rows in draws):
        raise BackboneError(f"{name}: says something else each time to the same tokens; use another architecture")
    if all(_sees_ahead(states, *rows, vocabulary, kind) for rows in draws):
        raise BackboneError(
            f"{name}: its tokens see those after them, so it is no causal language model as it is; set is_decoder: true in its "
            "config.json if it was trained as one, else use another"
        )
    if all(_sees_padding(states, *rows, kind) for rows in draws):
        raise BackboneError(f"{name}: says something else where a row is padded on the right; use another architecture")


def _sees_ahead(
    states: Callable[[Tensor, Tensor], Tensor], ids: Tensor, mask: Tensor, vocabulary: int, kind: torch.dtype
) -> bool:
    """Whether states change with the token that follows them. All other tokens, and so all roundings, are the same."""
    other, before = ids.clone(), mask[:, 1:].bool()
    other[:, -1] = (ids[:, -1] + 1) % vocabulary
    return not close(states(other, mask)[:, :-1][before], states(ids, mask)[:, :-1][before], kind)


def _sees_padding(states: Callable[[Tensor, Tensor], Tensor], ids: Tensor, mask: Tensor, kind: torch.dtype) -> bool:
    """Whether a padded row has other states than alone."""
    alone = torch.zeros_like(plain := states(ids, mask))
    for row, length in enumerate(mask.sum(1).tolist()):
        alone[row, :length] = states(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
    return not alike(alone, plain, mask, kind)


@torch.no_grad()
def check_scores(model: Model) -> None:
    """Raise BackboneError unless a classifier gives each row one score that sees its last token and not the padding behind it."""
    pad, name = model.config.get_text_config().pad_token_id, type(model).__name__
    pad, vocabulary = -1 if pad is None else pad, model.get_input_embeddings().weight.shape[0]
    eos = scored_at(model)

    def scores(ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = model(input_ids=ids.where(mask.bool(), max(pad, 0)), attention_mask=mask).logits
        if found.shape != (len(ids), 1):
            raise BackboneError(f"{name}: gives no one score of a row; name another model in reward.model")
        return found[:, 0]

    padded, alone, blind = list[Tensor](), list[Tensor](), list[Tensor]()
    try:
        for draw in range(DRAWS):
            ids, mask = trial_rows(model, draw=draw)
            ids = ids.where(ids != pad, (ids + 2) % vocabulary)  # it would hide the end of a text
            ends, rows = mask.sum(1) - 1, range(len(ids))
            plain, other, last = scores(ids, mask), ids.clone(), ends if eos is None else ends - 1
            changed = (ids[rows, last] + 1) % vocabulary
            other[rows, last] = changed.where(changed != (-1 if eos is None else eos), (changed + 1) % vocabulary)
            blind.append(scores(other, mask) == plain)
            cut = [(ids[i : i + 1, : end + 1], mask[i : i + 1, : end + 1]) for i, end in enumerate(ends.tolist())]
            short = [row for row, end in enumerate(ends.tolist()) if end + 1 < ids.shape[1]]
            padded.append(plain[short])
            alone += [scores(*cut[row]) for row in short]
    except BackboneError:
        raise
    except Exception as error:  # what a model of somebody's own raises cannot be foreseen
        raise BackboneError(
            f"{name}: gives no scores for token ids and an attention mask alone ({reason(error)}); name another model in reward.model"
        ) from error
    if not same_scores(torch.cat(alone), torch.cat(padded), rounded_in(model)):
        raise BackboneError(
            f"{name}: gives no score of a row that is the same padded and alone; name another model in reward.model"
        )
    if torch.cat(blind).any():
        raise BackboneError(
            f"{name}: its score does not see the last token of a text; name another model in reward.model"
        )


def settle_configs(model: Model, path: object) -> None:
    """Make the configs of a model such that they can be saved, so that publishing cannot fail on them after hours. Raises BackboneError.

    transformers refuses to save a temperature, top_k or top_p beside do_sample: false. The author's numbers are kept: do_sample is set.
    """
    generation, config = getattr(model, "generation_config", None), model.config

    def why() -> str | None:
        with TemporaryDirectory() as folder:
            refused = _refused(lambda: config.save_pretrained(folder))
        return refused if generation is None else refused or _refused(lambda: generation.validate(strict=True))

    if why() is not None and generation is not None and not generation.do_sample:
        generation.do_sample = True
        if why() is None:
            tell(
                f"{path}: its generation_config.json says how to sample but not do_sample: true, and could not be saved; set"
            )
    if (told := why()) is not None:
        raise BackboneError(
            f"{path}: its configs cannot be saved again ({told}); correct its config.json and generation_config.json"
        )


def _refused(check: Callable[[], object]) -> str | None:
    """What transformers has against it, on one line."""
    try:
        check()
    except Exception as error:  # of strict configs too, whose errors share no class
        return " ".join(str(error).split())
    return None
