"""Where may an adapter sit? On linear layers of the decoder that a text runs through, and that peft can adapt and merge.

Both are tried: which layers run is seen by hooks, and peft is asked with a copy of the model that shares its weights.
"""

import copy
from collections.abc import Iterable
from typing import Protocol

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from policies.blueprint import without_numbers
from policies.quick.linear import Linear, in_one_step, quick
from policies.seq2seq import of_rows, unread_rows
from policies.sharding import sharded
from policies.trials import BackboneError, close, decoder, reason, scored_at, tell, trial_rows
from policies.untyped import AnyFunction, Foreign

LINEAR = nn.Linear | Conv1D
KNOWN = (nn.Linear, Linear, Conv1D)  # classes that are a product and no more


class LoraSettings(Protocol):
    """The adapter of a recipe, by peft's names."""

    @property
    def r(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def target_modules(self) -> str | list[str]: ...
    @property
    def layers(self) -> str | None:
        """Such as "last 10"; None: all."""


def lora_config(model: PreTrainedModel, lora: LoraSettings, task_type: str) -> LoraConfig:
    """peft's LoraConfig from a recipe's `lora` section (r, lora_alpha, target_modules, layers). Raises BackboneError.

    Targets are named as the recipe names them where that hits what can be adapted and nothing else; else by the full names of the
    modules, so that the towers of a model that also sees or hears are left alone.
    """
    if sharded(model):
        return _by_twin(model, lora, task_type)
    wanted = LoraConfig(target_modules=lora.target_modules)
    sound, linear = adaptable(model), {name for name, _ in _linear(model)}
    everything = lora.target_modules == "all-linear"
    meant = linear if everything else {n for n, _ in model.named_modules() if check_target_module_exists(wanted, n)}
    if not everything:
        _refuse(model, meant, lora.target_modules)
    chosen, layers = sorted(meant & sound if everything else _that_run(model, meant)), None
    if lora.layers is not None:
        chosen, layers = _last(chosen, lora)
    head = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    exact = everything and linear - head == sound and _why_not(model, "all-linear", sound) is None
    targets: str | list[str] = chosen
    if layers is None and (exact or (not everything and set(chosen) == meant)):
        targets = lora.target_modules
    elif layers is not None and len({_prefix(name) for name in linear if _number(name) is not None}) == 1:
        leaves = {name.rpartition(".")[2] for name in chosen}
        same = {n for n in linear if n.rpartition(".")[2] in leaves and _number(n) in layers} == set(chosen)
        targets, layers = (sorted(leaves), layers) if same else (chosen, None)
    else:
        layers = None
    return in_one_step(
        LoraConfig(
            task_type="SEQ_2_SEQ_LM" if of_rows(model) else task_type,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=0.0,
            target_modules=targets,
            layers_to_transform=layers,
            modules_to_save=_unknown_heads(model) if task_type == "SEQ_CLS" else None,
        )
    )


def _unknown_heads(model: PreTrainedModel) -> list[str] | None:
    """Names of a classifier's head where peft knows none of them, as on an encoder–decoder: it would be neither trained nor saved. None where
    it finds one by its name."""
    body = decoder(model)
    heads = [name for name, module in model.named_children() if module is not body and [*module.parameters()]]
    return None if any(known in name for name in heads for known in ("classifier", "score")) else heads


def _by_twin(model: PreTrainedModel, lora: LoraSettings, task_type: str) -> LoraConfig:
    """`lora_config` of a model whose layers are shared out, and so cannot be copied: tried on one of its kind without numbers. In bfloat16
    where a kernel has no other form without numbers."""
    with torch.device("meta"):
        twin: Foreign = type(model)(copy.deepcopy(model.config)).eval()
    quick(twin)
    try:
        return lora_config(twin, lora, task_type)
    except BackboneError:
        raise
    except Exception:  # what a model of somebody's own raises cannot be foreseen
        pass
    try:
        return lora_config(twin.to(torch.bfloat16), lora, task_type)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"lora: {type(model).__name__} cannot be run without numbers ({reason(error)}), and so not be shared out; set sharding=none"
        ) from error


def adaptable(model: PreTrainedModel) -> set[str]:
    """Names of the linear layers that `all-linear` adapts: inside the decoder, run by a text, and such as peft can adapt."""
    body = {id(module) for module in decoder(model).modules()}
    inside = {name for name, module in _linear(model) if id(module) in body}
    runs = _that_run(model, inside)
    if runs and _why_not(model, sorted(runs), runs) is None:
        return runs
    refused: dict[str, str] = {}
    for leaf in sorted({name.rpartition(".")[2] for name in runs}):
        same = {name for name in runs if name.rpartition(".")[2] == leaf}
        if (why := _why_not(model, sorted(same), same)) is not None:
            refused[leaf] = why
    if refused and refused.keys() != {name.rpartition(".")[2] for name in runs}:
        why = next(iter(refused.values()))
        tell(
            f"lora: {type(model).__name__} keeps {', '.join(refused)} without an adapter, as peft cannot adapt them here: {why}"
        )
    sound = {name for name in runs if name.rpartition(".")[2] not in refused}
    if not sound:
        why = next(iter(refused.values()), "none is run by a text")
        raise BackboneError(
            f"lora: {type(model).__name__} has no linear layer that can be adapted ({why}); use another architecture"
        )
    return sound


def _linear(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LINEAR)]


def _chain(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that a module lies in, the outermost first."""
    found = [model]
    for part in name.split(".")[:-1]:
        found.append(getattr(found[-1], part))
    return found


class _Read(TorchFunctionMode):
    """Notes which tensors torch's functions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(
        self, func: AnyFunction, types: Foreign, args: tuple[Foreign, ...] = (), kwargs: Foreign = None
    ) -> Foreign:
        self.seen |= {id(one) for one in (*args, *(kwargs or {}).values()) if isinstance(one, nn.Parameter)}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _that_run(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Those of the linear layers `names` that are called where a text is run, or lie in a numbered layer that is, as an expert that no
    token was sent to. Not those whose weight is read past their forward: what an adapter adds there would be lost."""
    called: set[int] = set()
    odd: set[int] = set()  # linear layers by their class that are more than a product
    unread = model.device.type == "meta"  # before its weights are read: the same forward, on tensors without numbers
    if unread:
        model = copy.deepcopy(model)

    def note(module: Foreign, given: tuple[Foreign, ...], out: Foreign) -> None:
        called.add(id(module))
        if unread or type(module) in KNOWN or not isinstance(module, LINEAR) or not module.weight.is_floating_point():
            return  # quantised weights have layers of peft's own
        try:
            plain = close(nn.functional.linear(given[0], module.weight, module.bias), out)
        except Exception:  # weights of another shape
            plain = False
        if not plain:
            odd.add(id(module))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        if unread:
            with without_numbers(model) as mode, mode, _Read() as read:
                # a head that looks for its token finds none
                (decoder(model) if model.config.is_encoder_decoder else model)(**unread_rows(model, 9), use_cache=False)
        else:
            ids, mask = trial_rows(model)
            with _Read() as read:
                model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    found = set()
    for name in names:
        module: Foreign = model.get_submodule(name)
        if id(module) in odd:
            continue
        if id(module) in called:
            found.add(name)
        elif id(module.weight) not in read.seen:
            chain, parts = _chain(model, name), name.split(".")
            numbered = (chain[at + 1] for at, part in enumerate(parts[:-1]) if part.isdigit())
            if any(id(layer) in called for layer in numbered):
                found.add(name)
    return found


def _why_not(model: nn.Module, targets: str | list[str], wanted: set[str]) -> str | None:
    """Why peft does not adapt the linear layers `wanted` and nothing else by `targets`, or None: tried on a copy that shares the weights."""
    memo: dict[int, Foreign] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    clone: Foreign = copy.deepcopy(model, memo)
    trained = [p for p in model.parameters() if p.requires_grad]  # peft freezes what it adapts
    try:
        config = in_one_step(LoraConfig(r=1, target_modules=targets if isinstance(targets, str) else list(targets)))
        adapted = get_peft_model(clone, config).eval()
        loaded: Foreign = set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted))
    except Exception as error:  # peft names its own reasons
        return reason(error)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    got = {n.removeprefix("base_model.model.") for n, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    if config.target_parameters or got != wanted:
        return "peft would adapt the experts in its place"
    if any("lora_" in key for key in loaded.missing_keys):
        return "peft would lose it on its way through a file"
    if model.device.type == "meta":  # no weights yet, so no gradients
        return None
    ids, mask = trial_rows(model)
    learned = [p for p in adapted.parameters() if p.requires_grad]
    try:
        with torch.enable_grad():
            if scored_at(clone) is None:
                states = decoder(clone)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            else:
                states = clone(input_ids=ids, attention_mask=mask, use_cache=False).logits
            torch.autograd.grad(states.square().mean(), learned, allow_unused=True)
    except Exception as error:  # a backward pass of somebody's own
        return f"no gradient reaches it while dropout is off, {reason(error)}"
    return None


def _refuse(model: PreTrainedModel, meant: set[str], targets: str | list[str]) -> None:
    """Raise BackboneError where the modules that a recipe names cannot have an adapter that is merged later."""
    name = f"lora.target_modules: {targets!r}"
    leaves = sorted({n.rpartition(".")[2] for n, _ in _linear(model)})
    if not meant:
        raise BackboneError(f"{name} names no module of {type(model).__name__}; it has {', '.join(leaves)}")
    for one in sorted(meant):
        module: Foreign = model.get_submodule(one)
        if not isinstance(module, LINEAR):
            raise BackboneError(
                f"{name} names {one}, a {type(module).__name__} and no linear layer; choose of {', '.join(leaves)}"
            )
        shared = [
            n for n, m in model.named_modules() if m is not module and getattr(m, "weight", None) is module.weight
        ]
        if shared:
            raise BackboneError(
                f"{name} names {one}, whose weight is that of {shared[0]} too, so that merging an adapter would change both; leave it out"
            )
    runs = _that_run(model, meant)
    leaf = {n.rpartition(".")[2] for n in meant}
    if lost := leaf - {n.rpartition(".")[2] for n in runs}:
        raise BackboneError(
            f"{name}: {', '.join(sorted(lost))} is not called where {type(model).__name__} reads a text; leave it out"
        )
    if (why := _why_not(model, sorted(runs), runs)) is not None:
        raise BackboneError(f"{name}: {why}; choose others, or all-linear")


def _number(name: str) -> int | None:
    """The number of the layer that a module lies in."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _prefix(name: str) -> str:
    """The name of the list of layers that a module lies in."""
    parts = name.split(".")
    return ".".join(parts[: next((i for i, part in enumerate(parts) if part.isdigit()), 0)])


def _last(names: list[str], lora: LoraSettings) -> tuple[list[str], list[int]]:
    """Those of `names` that lie in the last layers that the recipe asks for, and the layers' numbers. Raises BackboneError."""
    if isinstance(lora.target_modules, str) and lora.target_modules != "all-linear":
        raise BackboneError("lora.layers: goes with lora.target_modules as all-linear or a list of names; give those")
    numbers = [number for name in names if (number := _number(name)) is not None]
    assert lora.layers is not None
    count, wanted = max(numbers, default=-1) + 1, int(lora.layers.split()[1])
    if wanted > count:
        raise BackboneError(f"lora.layers: {lora.layers!r} of a model with {count} layers; choose at most last {count}")
    layers = list(range(count - wanted, count))
    return [name for name in names if _number(name) in layers], layers
