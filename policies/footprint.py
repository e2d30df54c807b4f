"""How much memory do a model's parts take? Counted on the model itself, built from its config without memory, before its weights are read.

Nothing here knows an architecture: weights are those that the model has (experts, tied heads, towers), activations and the cache are what
its own forward keeps when it is run on tensors that have a shape and no numbers (torch's FakeTensor).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSequenceClassification

from policies.adapters import LoraSettings, lora_config
from policies.blueprint import DECLARED, blueprint, without_numbers
from policies.precision import Held
from policies.quick.linear import quick
from policies.seq2seq import unread_rows
from policies.trials import decoder
from policies.untyped import Foreign, Model, ModelConfig

TRIED = 101
"""Tokens of the row that is run: a prime that no width of a model has, so that what grows with the row is told by being a multiple of it."""
QUANTISED = {
    "nf4": 0.5 + 4 / 64,
    "fp4": 0.5 + 4 / 64,
    "int8": 1.0,
}  # bytes a number, with a float32 scale for 64 of them in 4 bit


@dataclass(frozen=True)
class Footprint:
    """What one model takes."""

    weights: float  # bytes of all weights, as they are held
    numbers: int  # of all weights; those that are tied count once
    body: int  # of those, without the head
    trained: int  # of one adapter, or of all weights where there is none
    adapted: float  # bytes of the matrices that the adapter changes, as a merged copy holds them
    vocabulary: int  # outputs of the head
    hidden: int
    depth: int  # layers that gradients go through
    size: int  # bytes of one number that is computed with
    once: float  # bytes that autograd keeps between forward and backward, however many tokens there are
    kept: float  # the same for each token
    square: float  # the same for each pair of tokens of a row, where attention keeps all its weights
    states: float  # bytes that a model keeps of a row to say its next token, however long that is
    cache: tuple[tuple[float, int | None], ...]  # the same for each token, up to so many of them (None: all), a layer

    def activations(self, tokens: float, longest: float) -> float:
        """Bytes kept for the backward of rows with so many `tokens` in all, the `longest` of them so long."""
        return self.once + tokens * (self.kept + self.square * longest)

    def cached(self, length: int) -> float:
        """Bytes of keys, values and states of one row of `length` tokens."""
        return self.states + sum(each * min(length, window or length) for each, window in self.cache)


def footprint(config: ModelConfig, how: Held, lora: LoraSettings | None, kind: Foreign = None) -> Footprint:
    """Count the model of `config`, held as `how` says: with a new adapter, or trained whole where `lora` is None. Where a kernel has no float32
    form without numbers (torch's grouped products, of experts) it is run in bfloat16, and numbers count twice. Where all layers are the same,
    one and two of them are run, and the others count as the second.

    Raises what the model's class raises where it cannot be built or run without weights, and BackboneError as `lora_config` does.
    """
    try:
        return _counted(config, how, lora, kind)
    except RuntimeError:
        if how.dtype == torch.bfloat16:
            raise
    half = _counted(config, replace(how, dtype=torch.bfloat16), lora, kind)
    names = ("adapted", "once", "kept", "square", "states")
    twice = {name: 2 * getattr(half, name) for name in names}
    cache = tuple((2 * each, window) for each, window in half.cache)
    return replace(half, **twice, cache=cache, weights=weights_of(config, how, kind), size=how.dtype.itemsize)


@dataclass(frozen=True)
class _AllLayers:
    """The adapter of a recipe, in every layer."""

    r: int
    lora_alpha: int
    target_modules: str | list[str]
    layers: str | None = None


def _counted(config: ModelConfig, how: Held, lora: LoraSettings | None, kind: Foreign) -> Footprint:
    model = blueprint(config, kind, integers=False, dtype=how.dtype)
    count = config.get_text_config().num_hidden_layers
    if count <= 3 or not _alike(model, config, count):
        return _run(model, how, lora, kind)
    all_layers = None if lora is None else _AllLayers(lora.r, lora.lora_alpha, lora.target_modules)
    one, two = (
        _run(blueprint(_shallow(config, few), kind, integers=False, dtype=how.dtype), how, all_layers, kind)
        for few in (1, 2)
    )
    depth = count if lora is None or lora.layers is None else min(count, int(lora.layers.split()[1]))

    def grown(name: str, layers: int) -> float:
        return float(getattr(one, name) + (layers - 1) * (getattr(two, name) - getattr(one, name)))

    return replace(
        two,
        adapted=grown("adapted", depth),
        once=grown("once", depth),
        kept=grown("kept", depth),
        square=grown("square", depth),
        weights=_held(model, decoder(model), how),
        numbers=sum(p.numel() for p in model.parameters()),
        body=sum(p.numel() for p in decoder(model).parameters()),
        trained=int(grown("trained", depth)),
        depth=depth,
        states=grown("states", count),
        cache=one.cache[:1] * count,
    )


def _alike(model: Model, config: ModelConfig, count: int) -> bool:
    """Whether the decoder's layers have the same weights and no list of the config makes one of them another than the others."""
    stacks = [m for m in decoder(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    shapes = [{tuple((n, p.shape) for n, p in layer.named_parameters()) for layer in stack} for stack in stacks]
    lists = [v for v in vars(config.get_text_config()).values() if isinstance(v, list | tuple) and len(v) == count]
    return len(stacks) == 1 and len(shapes[0]) == 1 and all(len({repr(v) for v in one}) == 1 for one in lists)


def _shallow(config: ModelConfig, layers: int) -> ModelConfig:
    """The same model with fewer layers."""
    found = copy.deepcopy(config)
    text = found.get_text_config()
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == text.num_hidden_layers:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return found


def _run(model: Model, how: Held, lora: LoraSettings | None, kind: Foreign) -> Footprint:
    """What `model`, without weights, shows when it is run whole."""
    quick(model)
    body = decoder(model)
    numbers, inside = (sum(p.numel() for p in one.parameters()) for one in (model, body))
    weights, heads = _held(model, body, how), model.get_output_embeddings()
    trained, adapted, depth = numbers, 0.0, model.config.get_text_config().num_hidden_layers
    if lora is not None:
        depth = min(depth, int(lora.layers.split()[1])) if lora.layers is not None else depth
        adapter = lora_config(model, lora, "SEQ_CLS" if kind is AutoModelForSequenceClassification else "CAUSAL_LM")
        with torch.device("meta"):
            model = get_peft_model(model, adapter)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        layers = [(one, one.get_base_layer()) for one in model.modules() if isinstance(one, BaseTunerLayer)]
        changed = [getattr(base, getattr(one, "parameter_name", "weight"), None) for one, base in layers]
        adapted = float(sum(weight.numel() * how.dtype.itemsize for weight in changed if weight is not None))
    with without_numbers(model) as mode:
        kept, cache = _kept(model, mode), _cache(model, mode)
    return Footprint(
        weights,
        numbers,
        inside,
        trained,
        adapted,
        heads.weight.shape[0] if heads is not None else 1,
        model.config.get_text_config().hidden_size,
        depth,
        how.dtype.itemsize,
        *kept,
        *cache,
    )


def weights_of(config: ModelConfig, how: Held, kind: Foreign = None) -> float:
    """Bytes of the weights alone. Raises as `footprint` does."""
    model = blueprint(config, kind, integers=False, dtype=how.dtype)
    return _held(model, decoder(model), how)


def _held(model: Model, body: nn.Module, how: Held) -> float:
    """Bytes of all weights: linear layers of the body quantised where that is asked."""
    total = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    if how.quantization is None:
        return total
    inner = [module.weight for module in body.modules() if isinstance(module, nn.Linear)]
    return total - sum(w.numel() * (w.element_size() - QUANTISED[how.quantization]) for w in inner)


def _tried(model: Model) -> int:
    """TRIED, or a smaller prime that the model has positions for."""
    config = model.config.get_text_config()
    declared = [limit for name in DECLARED if isinstance(limit := getattr(config, name, None), int) and limit > 0]
    return next((prime for prime in (TRIED, 53, 29) if prime <= min(declared, default=TRIED)), 13)


def _kept(model: Model, mode: FakeTensorMode) -> tuple[float, float, float]:
    """Bytes that the body's forward keeps for the backward, weights left out: in any case, a token, a pair of tokens."""
    mine = {p.untyped_storage()._cdata for p in model.parameters()}
    stored: dict[int, Foreign] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in mine:
            stored[storage._cdata] = (
                storage,
                storage.nbytes() // tensor.element_size(),
            )  # held: none takes its address
        return tensor

    sums, length = [0.0, 0.0, 0.0], _tried(model)
    with mode, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = decoder(model)(**unread_rows(model, length), use_cache=False)
        for storage, count in stored.values():
            power = 0 if count % length else 1 if count % length**2 else 2
            sums[power] += storage.nbytes() / length**power
    del out
    return sums[0], sums[1], sums[2]


@torch.no_grad()
def _cache(model: Model, mode: FakeTensorMode) -> tuple[float, tuple[tuple[float, int | None], ...]]:
    """Bytes that the model keeps of a row to say its next token: states of one size, and a layer's keys and values a token, with the
    window that bounds them."""
    length = _tried(model)
    with mode:
        out = decoder(model)(**unread_rows(model, length), use_cache=True)
    states, layers = 0.0, list[tuple[float, int | None]]()
    for cache in (out.get("past_key_values"), out.get("cache_params")):
        for layer in getattr(cache, "layers", [cache]):
            tensors = list(_tensors(layer, set()))
            grown = sum(one.nbytes for one in tensors if one.numel() % length == 0)
            states += sum(one.nbytes for one in tensors if one.numel() % length)
            if grown:
                layers.append((grown / length, getattr(layer, "sliding_window", None)))
    return states, tuple(layers)


def _tensors(one: Foreign, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor inside of a cache, once."""
    if one is None or id(one) in seen:
        return
    seen.add(id(one))
    inside: Foreign = ()
    if isinstance(one, Tensor):
        yield one
    elif isinstance(one, dict):
        inside = one.values()
    elif isinstance(one, list | tuple):
        inside = one
    elif type(one).__module__.startswith("transformers") and hasattr(one, "__dict__"):
        inside = vars(one).values()
    for part in inside:
        yield from _tensors(part, seen)
