"""What can be known of a model before its weights are read? Its parts, built from its config without memory, and how long a text it reads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from policies.errors import BackboneError, not_there
from policies.limited import Beyond, limited
from policies.seq2seq import reads_rows
from policies.strangers import SIZES, check_folder, said, signature
from policies.untyped import AnyFunction, Arguments, Foreign, Model, ModelConfig

DECLARED = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions")
"""What configs call the positions that a model was made for; transformers maps most of the names onto the first."""


def config_at(path: str | Path, revision: str | None = None) -> ModelConfig:
    """The config of a folder or a Hub id, whose files are looked at first. Raises BackboneError, NotThere where there is none."""
    check_folder(path, revision)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise not_there(path, "config.json", FileNotFoundError("the folder has none"))
    try:
        return AutoConfig.from_pretrained(str(path), revision=revision or "main", trust_remote_code=False)
    except OSError as error:
        raise not_there(path, "config.json", error) from error
    except Exception as error:  # each architecture checks its own in its own way
        raise BackboneError(
            f"{path}: its config.json cannot be read ({said(error)}); correct it, or use another model"
        ) from error


def speaks_by(config: ModelConfig) -> Foreign:
    """Which of transformers' classes makes a model of `config` that speaks."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


LAID_OUT, LAID_OUT_MEMORY = 120.0, 4 * 2**30
SPARE = 2**28
"""Numbers that a model may have beyond those of its weights, such as a head that is new."""
PACKED = 8  # numbers of a byte: more than any quantised weights hold
TABLES = 2**32  # numbers of what a model computes for itself, such as masks and positions


def check_described(path: str | Path, config: ModelConfig, kind: Foreign = None) -> None:
    """Raise BackboneError where the model that a folder's config describes is far larger than the weights beside it, before anything is
    allocated: it is laid out without numbers, in a fork with limits."""
    kind = kind or speaks_by(config)
    sizes = [one.stat().st_size for one in Path(path).glob("*") if one.suffix in (".safetensors", ".bin")]
    if sizes and (str(path), signature(path), kind) not in _DESCRIBED:
        try:
            found = limited(lambda: _laid_out(config, kind), LAID_OUT, LAID_OUT_MEMORY)
        except Beyond as error:
            raise BackboneError(
                f"{path}: what its config.json describes {error}, laid out without numbers; {_named(config)}"
            ) from None
        weights, tables = found
        if weights > PACKED * sum(sizes) + SPARE or tables > TABLES:
            raise BackboneError(
                f"{path}: its config.json describes {weights:.3g} weights and {tables:.3g} numbers of tables, and its files hold "
                f"{sum(sizes):.3g} bytes; {_named(config)}"
            )
        _DESCRIBED.add((str(path), signature(path), kind))


_DESCRIBED: set[Foreign] = set()  # what was looked at, by the signature of its folder


def _laid_out(config: ModelConfig, kind: Foreign) -> tuple[int, int]:
    """Numbers of the weights and of the tables of the model of `config`; none where its class cannot be built, which loading it tells."""
    for one in (kind, AutoModel):
        try:
            model = blueprint(config, one, integers=False)
        except Exception:
            continue
        return sum(p.numel() for p in model.parameters()), sum(b.numel() for b in model.buffers())
    return 0, 0


def _named(config: ModelConfig) -> str:
    """The sizes that a config names, the largest first, for the end of a sentence."""
    text = config.get_text_config()
    sizes = {name: value for name in SIZES if isinstance(value := getattr(text, name, None), int)}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:4]
    return f"correct {', '.join(f'{name} ({sizes[name]})' for name in largest)}, or use another model"


def blueprint(
    config: ModelConfig,
    kind: Foreign = None,
    *,
    integers: bool = True,
    dtype: torch.dtype | None = None,
) -> Model:
    """The model of `config` in eval mode, its weights on the meta device: shapes without numbers, in no memory. `integers`, such as tables of
    positions, are real; `kind` is the one that speaks unless another is named. Raises what the model's class raises."""
    kind = kind or speaks_by(config)
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        if integers:
            stack.enter_context(_RealIntegers())
        model = kind.from_config(config, dtype=dtype or torch.float32, trust_remote_code=False).eval()
    if kind is AutoModelForSeq2SeqLM:
        reads_rows(model, config.model_type)
    return model


@contextmanager
def without_numbers(model: Model) -> Iterator[FakeTensorMode]:
    """Within the block weights and buffers of `model` are tensors of the CPU by all that a forward can ask, but hold no numbers."""
    mode, known = FakeTensorMode(allow_non_fake_inputs=True), dict[int, Tensor]()
    for module in model.modules():
        stores: tuple[dict[str, Foreign], ...] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    with mode:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    known[id(tensor)] = (
                        nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
                    )
                store[name] = known[id(tensor)]
    yield mode


def readable(path: str | Path, revision: str | None = None) -> int | None:
    """Tokens of the longest text that the model in a folder or Hub id reads, None where nothing limits it: what its config declares, or
    what its table of learned positions holds where that is less (RoBERTa's begins at its padding). Raises as `config_at` does."""
    config = config_at(path, revision)
    check_described(path, config)
    found = [limit for limit in (_declared(config), _learned(config)) if limit is not None]
    return min(found, default=None)


def _declared(config: ModelConfig) -> int | None:
    """A config that stretches rotary positions by a factor declares them before stretching, under one name or the other."""
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in DECLARED]
    known = [number for number in named if isinstance(number, int) and number > 0]
    if not known:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = [known[0]]
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        before = one.get("original_max_position_embeddings") or known[0]
        stretched.append(int(before * _factor(one.get("factor"))))
    return max(stretched)


def _factor(value: Foreign) -> float:
    """By how much positions are stretched: 1 where a config names no number for it, which who loads the model tells."""
    return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else 1.0


def _learned(config: ModelConfig) -> int | None:
    """Positions that tables of learned ones hold, from the row of the first token on, as the model itself looks them up for four tokens."""
    for kind in (AutoModel, speaks_by(config)):
        looked = _LookedUp()
        try:
            model = blueprint(config, kind)
            with torch.no_grad(), looked:
                model(input_ids=torch.tensor([[7, 5, 9, 4]]), attention_mask=torch.ones(1, 4, dtype=torch.long))
        except Exception:  # a class that is not there, or, behind its tables, weights that hold no numbers
            pass
        if looked.tables:
            return min(looked.positions, default=None)
    return None


class _RealIntegers(TorchFunctionMode):
    """Within it tensors of integers are made on the CPU, whatever the device of the others."""

    WHOLE = (torch.long, torch.int, torch.bool)

    def __torch_function__(
        self, func: AnyFunction, types: Foreign, args: tuple[Foreign, ...] = (), kwargs: Arguments = None
    ) -> Foreign:
        kwargs = kwargs or {}
        if (func is torch.arange or kwargs.get("dtype") in self.WHOLE) and kwargs.get("device") is None:
            if func in (torch.arange, torch.zeros, torch.ones, torch.full, torch.tensor):
                kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


class _LookedUp(TorchFunctionMode):
    """Within it tables without numbers give zeros, and each look-up is noted: `tables` how many there were, `positions` how many rows
    those have from the first on that were looked up in ascending order."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.positions = 0, list[int]()

    def __torch_function__(
        self, func: AnyFunction, types: Foreign, args: tuple[Foreign, ...] = (), kwargs: Arguments = None
    ) -> Foreign:
        if func is F.embedding:
            ids, table = args[0], args[1]
            self.tables += 1
            rows = ids.flatten()[:4].tolist()
            if rows == list(range(rows[0], rows[0] + 4)):
                self.positions.append(table.shape[0] - rows[0])
            return torch.zeros(*ids.shape, table.shape[1])
        if func is F.linear:
            return torch.zeros(*args[0].shape[:-1], args[1].shape[0])
        return func(*args, **(kwargs or {}))
