"""Where do models come from, and in what shape? Loading, checked heads, LoRA."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from policies.blueprint import check_described, config_at, speaks_by
from policies.errors import BackboneError as BackboneError
from policies.errors import not_there
from policies.precision import Held, finished, held, loading
from policies.quick.linear import quick
from policies.quick.packing import enable_packing
from policies.seq2seq import reads_rows
from policies.sharding import reading_shares
from policies.strangers import said
from policies.tokenizers import ends, eos_ids, tokens
from policies.trials import check_causal, check_numbers, check_scores, decoder, output_layer, reason, settle_configs
from policies.untyped import Arguments, Foreign, Model, Tokenizer


def _fetched(
    loader: Foreign,
    path: str | Path,
    how: torch.dtype | Held,
    revision: str | None,
    **more: Foreign,
) -> tuple[PreTrainedModel, dict[str, list[Foreign]]]:
    """A model as it is held, and what transformers says of its weights."""
    how = held(how)
    check_described(path, config_at(path, revision), loader)
    try:
        more |= loading(how, loader, path, revision)
        with reading_shares(how.shared) as asked:
            model, info = loader.from_pretrained(
                str(path),
                revision=revision or "main",
                trust_remote_code=False,
                output_loading_info=True,
                **more,
                **asked,
            )
    except BackboneError:
        raise
    except OSError as error:
        raise not_there(path, "model", error) from error
    except Exception as error:  # what a model of somebody's own raises cannot be foreseen
        shapes = _other_shapes(loader, path, revision, more) if isinstance(error, RuntimeError) else ""
        remedy = (
            "name another model in reward.model"
            if loader is AutoModelForSequenceClassification
            else "use another model"
        )
        raise BackboneError(
            f"{path}: cannot be loaded by {loader.__name__} ({shapes or said(error)}); {remedy}"
        ) from error
    check_numbers(model, path)
    settle_configs(model, path)
    finished(model, how)
    quick(model)
    return model.eval(), info


def _other_shapes(loader: Foreign, path: str | Path, revision: str | None, how: Arguments) -> str:
    """Weights whose shapes are not those of the config, which transformers tells in a report of many lines only; "" where it is something else."""
    how = {**how, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        _, info = loader.from_pretrained(str(path), revision=revision or "main", trust_remote_code=False, **how)
    except Exception:  # as before
        return ""
    told = [
        f"{name} is {list(found)}, and by its config.json {list(wanted)}"
        for name, found, wanted in sorted(info["mismatched_keys"])
    ]
    return "; ".join(told[:2])


def _loaded(loader: Foreign, path: str | Path, how: torch.dtype | Held, revision: str | None) -> PreTrainedModel:
    model, info = _fetched(loader, path, how, revision)
    wrong = [
        *info["missing_keys"],
        *info["mismatched_keys"],
        *(k for k in info["unexpected_keys"] if "rotary" not in k),
    ]
    if wrong:
        raise BackboneError(
            f"{path}: its weights do not fit {type(model).__name__}: {', '.join(map(str, list(wrong)[:4]))}; use a model of this kind"
        )
    return model


def load_causal(
    path: str | Path, tokenizer: Tokenizer, how: torch.dtype | Held, revision: str | None = None
) -> PreTrainedModel:
    """A language model in eval mode, whose generation config names all that ends a completion: causal, or an encoder–decoder, which reads rows
    (`policies.seq2seq`).

    Raises BackboneError on ill-fitting weights, on a model that a few tokens show to be of no use here, and where `tokenizer` has more
    tokens than the model: a row made for them could be sampled.
    """
    model = _loaded(speaks_by(config_at(path, revision)), path, how, revision)
    if model.config.is_encoder_decoder:
        reads_rows(model, path)
    embedding: Model = model.get_input_embeddings()
    wanted = tokens(tokenizer)
    if wanted > embedding.weight.shape[0]:
        raise BackboneError(
            f"{path}: has {embedding.weight.shape[0]} tokens and its tokenizer {wanted}; resize and train its embedding first"
        )
    if getattr(embedding, "padding_idx", None) in ends(tokenizer):
        embedding.padding_idx = None  # else the row of a token that is read in conversations would never learn
    generation, stops = model.generation_config, eos_ids(model, tokenizer)
    if tokenizer.pad_token_id not in stops:
        _set_pad(model, tokenizer.pad_token_id)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    check_causal(model)
    output_layer(model)
    enable_packing(model)
    return model


def load_classifier(
    path: str | Path, tokenizer: Tokenizer, how: torch.dtype | Held, revision: str | None = None
) -> PreTrainedModel:
    """A sequence classifier with one output and a trained head. Raises BackboneError where the head is missing or has other outputs."""
    try:
        model = _loaded(AutoModelForSequenceClassification, path, how, revision)
    except BackboneError as error:
        if not isinstance(error.__cause__, RuntimeError):  # weights of other sizes
            raise
        raise BackboneError(
            f"{path}: its weights do not fit its config.json, which names {_outputs(path, revision)}; a reward model has one (num_labels: 1)"
        ) from error
    if model.config.num_labels != 1:
        raise BackboneError(f"{path}: has {model.config.num_labels} outputs; a reward model has one (num_labels: 1)")
    _pad_for(model, tokenizer, path)
    _float32_head(model)
    _read_head(model, Path(path))
    model.config.use_cache = False  # of no use here, and it would keep padded rows from being packed
    check_scores(model)
    enable_packing(model)
    return model


def _outputs(path: str | Path, revision: str | None) -> str:
    """How many outputs a config names, as transformers reads it: two where it says nothing."""
    count = config_at(path, revision).num_labels
    return f"{count} output{'' if count == 1 else 's'}"


def new_classifier(
    path: str | Path, tokenizer: Tokenizer, how: torch.dtype | Held, seed: int, revision: str | None = None
) -> PreTrainedModel:
    """A sequence classifier with a fresh head of one output: weight N(0, 1/√(d+1)), bias 0 (2403.17031, detail 11). Raises
    BackboneError where its kind has no such head, or the score does not see the whole text."""
    with torch.random.fork_rng(devices=[]):  # a head may have layers below its last one, which are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        model, _ = _fetched(AutoModelForSequenceClassification, path, how, revision, num_labels=1)
    _pad_for(model, tokenizer, path)
    _float32_head(model)
    init_head(output_head(model), seed)
    model.config.use_cache = False
    check_scores(model)
    enable_packing(model)
    return model


def _set_pad(model: Model, pad: int | None) -> None:
    """Name `pad` in the configs that have a place for it; others could not be saved with one."""
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        if "pad_token_id" in {field.name for field in dataclasses.fields(config)}:
            config.pad_token_id = pad


def _pad_for(model: Model, tokenizer: Tokenizer, path: str | Path) -> None:
    """A row of the embedding for a pad that the tokenizer was given, and the pad in the config of a model that finds the last token by it.

    Others are left as they are: some count positions by the pad of their config, which is read when they are loaded again.
    """
    try:
        if tokens(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(tokens(tokenizer), mean_resizing=False)
    except Exception as error:  # what a model of somebody's own raises cannot be foreseen
        raise BackboneError(
            f"{path}: its embeddings cannot be made to fit the tokenizer ({reason(error)}); use another model"
        ) from error
    if _ends_at_pad(model):
        if tokenizer.pad_token_id in (None, *ends(tokenizer)):
            raise ValueError("a pad that ends texts too: load the tokenizer with scores=True")
        _set_pad(model, tokenizer.pad_token_id)


@torch.no_grad()
def _ends_at_pad(model: Model) -> bool:
    """Whether a score is read before what the config calls padding: tried on a row whose last token is called so, and is not."""
    before = model.config.get_text_config().pad_token_id
    ids = torch.tensor([[3, 4, 5, 6]], device=next(model.parameters()).device)
    scores = []
    try:
        for pad in (6, 2):
            _set_pad(model, pad)
            scores.append(model(input_ids=ids).logits)
    except Exception:  # it gives no scores, which is told where they are tried
        return True
    finally:
        _set_pad(model, before)
    return not torch.equal(*scores)


def _float32_head(model: nn.Module) -> None:
    """Keep everything above the encoder or decoder in float32, whatever the dtype of the states that reach it.

    In bfloat16 a head would take no update below half a step of its grid, and give scores in steps of 1/128 from 1 up.
    """
    body = decoder(model)
    for module in model.children():
        if module is not body:
            module.float().register_forward_pre_hook(_in_float32)


@torch.no_grad()
def _read_head(model: nn.Module, folder: Path) -> None:
    """Put the head's weights as a folder holds them in place of those that loading rounded to the dtype of the rest."""
    body = decoder(model)
    inside = {id(p) for p in body.parameters()}
    head = {name: p for name, p in model.named_parameters() if id(p) not in inside}
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(path, "pt") as file:
            for name in head.keys() & set(file.keys()):
                head[name].copy_(file.get_tensor(name))


def _in_float32(module: nn.Module, inputs: tuple[Foreign, ...]) -> tuple[Foreign, ...]:
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)


def init_head(head: nn.Linear, seed: int) -> None:
    """Weight N(0, 1/√(d+1)), bias 0."""
    with torch.no_grad():
        noise = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed))
        head.weight.copy_(noise / math.sqrt(head.in_features + 1))
        if head.bias is not None:
            head.bias.zero_()


def output_head(model: nn.Module) -> nn.Linear:
    """The last linear layer of a classifier, the one that makes its single output."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1]
    if not heads:
        raise BackboneError(f"{type(model).__name__} has no linear layer with one output; use a sequence classifier")
    return heads[-1]


def recomputed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that `checkpointed` recomputes: transformers' own choice, the outermost where one lies in another."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)}
    return [m for name, m in layers.items() if not any(name.startswith(f"{other}.") for other in layers)]


@contextmanager
def checkpointed(model: nn.Module, on: bool, active: str | None) -> Iterator[None]:
    """Within the block, if `on`, decoder layers keep no activations and recompute them in the backward pass, with adapter `active`.

    transformers would do so in training mode only, in which dropout is at work too; so each layer's forward is wrapped here.
    """
    layers = recomputed_layers(model) if on else []

    def again() -> tuple[Foreign, Foreign]:
        return nullcontext(), adapter(model, active) if isinstance(model, PeftModel) else nullcontext()

    for layer in layers:
        vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=again)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


@contextmanager
def adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Within the block the adapter `name` is at work, or none.

    peft's own `set_adapter` also switches requires_grad, which a wrapped (DDP) model must not see change, so this sets the
    layers' active adapter itself. Needs peft 0.17 or newer; to be dropped when peft can switch without touching gradients.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if name is not None and not any(name in layer._get_available_adapters() for layer in layers):
        raise KeyError(f"no layer has an adapter {name}")  # peft would run the base in its place
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
