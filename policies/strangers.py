"""What may a model's folder not hold? Files of strangers, looked at before any library reads them: no code, nothing from outside, sizes that
can be. Raises BackboneError with the file, the field and its value."""

import json
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from huggingface_hub import ResolvedRevision, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.hub import cached_file, resolve_revision

from policies.errors import BackboneError
from policies.limited import first_line
from policies.untyped import Foreign, Json

OTHER = "use another model"
MIB = 2**20
LONGEST = {
    "config.json": 16 * MIB,
    "tokenizer.json": 512 * MIB,
    "vocab.json": 128 * MIB,
    ".json": 64 * MIB,
    ".jinja": 4 * MIB,
}
"""Bytes that a text file may have, by its name or how that ends."""
CONFIGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "adapter_config.json",
    "processor_config.json",
)
LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
SIZES = {
    **dict.fromkeys(LAYERS, 10_000),
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), 2**24),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 2**18),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "moe_intermediate_size"), 2**22
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "head_dim"), 2**16
    ),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 2**16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 2**31),
    **dict.fromkeys(("num_labels", "type_vocab_size"), 2**20),
}
"""The largest that a config may name; far above any that is known."""
NONE_OF = {
    "type_vocab_size",
    "n_inner",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "head_dim",
}  # may be 0, as where there are none
MOST_KEYS, DEEPEST = 100_000, 64


def check_folder(path: str | Path, revision: str | None = None) -> None:
    """Raise BackboneError where a folder, or the configs of a Hub id, hold what no model of ours may."""
    folder = Path(path)
    if folder.is_dir():
        _checked(str(folder), _signature(folder))
        return
    for name in CONFIGS:
        if (file := file_of(str(path), name, revision)) is not None:
            _check_config(str(path), Path(file), None)


def signature(path: str | Path) -> tuple[Foreign, ...]:
    """What a folder's files are known by, so that it is looked at once; empty for a Hub id."""
    return _signature(Path(path)) if Path(path).is_dir() else ()


def _signature(folder: Path) -> tuple[Foreign, ...]:
    with os.scandir(folder) as entries:
        found = [(one.name, one.is_symlink(), one.stat(follow_symlinks=False)) for one in entries]
    return tuple(sorted((name, link, s.st_size, s.st_mtime_ns, s.st_ino) for name, link, s in found))


@lru_cache(maxsize=64)
def _pinned(name: str, revision: str | None) -> str | None:
    """The state of a Hub id, asked for once; None where the Hub is not there to say it."""
    try:
        found = resolve_revision(name, revision or "main")
    except Exception:  # no such id: who loads the model says so
        return None
    return found if isinstance(found, ResolvedRevision) else None


def file_of(name: str, file: str, revision: str | None) -> str | None:
    """A file of a Hub id in the cache, fetched where the Hub is there; None where there is none, which who loads the model says."""
    pinned = _pinned(name, revision)
    try:
        if pinned is None:  # without a word to the Hub, as each would wait for it in vain
            found = try_to_load_from_cache(name, file, revision=revision or "main")
        else:
            found = cached_file(name, file, revision=pinned, _raise_exceptions_for_missing_entries=False)
    except Exception:
        return None
    return found if isinstance(found, str) else None


@lru_cache(maxsize=64)
def _checked(path: str, known: tuple[Foreign, ...]) -> None:
    folder = Path(path)
    for file in sorted(folder.iterdir()):
        _check_file(folder, file)
    if (folder / "custom_generate").exists():
        raise BackboneError(
            f"{path}: it holds custom_generate, code of its own for sampling, which is never run; remove that folder, or {OTHER}"
        )
    if (folder / "adapter_config.json").exists():
        _refuse_adapter(folder)
    tensors = _tensors(folder)
    for file in sorted(folder.glob("*.index.json")):
        _check_index(folder, file)
    for name in CONFIGS:
        if (folder / name).is_file():
            _check_config(path, folder / name, tensors)


def _check_file(folder: Path, file: Path) -> None:
    if file.is_symlink():
        _check_link(folder, file)
    if not file.is_file():
        if file.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt", ".bin"):
            raise BackboneError(f"{file}: it is no file that can be read; put the file there, or {OTHER}")
        return
    limit = next((size for end, size in LONGEST.items() if file.name.endswith(end)), None)
    if limit is not None and (size := file.stat().st_size) > limit:
        raise BackboneError(
            f"{file}: it has {size} bytes, where {limit} are the most that such a file may have; {OTHER}"
        )


def _check_link(folder: Path, file: Path) -> None:
    """A link may lead to a file of the same folder, or to a blob of the Hub's cache, which a snapshot is made of."""
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BackboneError(f"{file}: it is a link that leads nowhere; put the file there, or {OTHER}") from None
    whole = folder.resolve()
    blobs = whole.parent.parent / "blobs"
    if not target.is_relative_to(whole) and not (whole.parent.name == "snapshots" and target.is_relative_to(blobs)):
        raise BackboneError(
            f"{file}: it is a link that leads out of the folder, to {target}; put the file itself there"
        )


def _refuse_adapter(folder: Path) -> None:
    settings = _object(str(folder), folder / "adapter_config.json")
    base = settings.get("base_model_name_or_path")
    raise BackboneError(
        f"{folder}: it holds adapter_config.json, so it is an adapter on {base!r} and no model; merge it into that "
        "(peft: merge_and_unload) and give the folder that is saved then"
    )


def _tensors(folder: Path) -> int | None:
    """How many tensors the weights of a folder are, by the headers of their files; None where there are none in safetensors."""
    config = folder / "config.json"
    whole = config.is_file() and "quantization_config" not in _object(str(folder), config)
    counts = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as weights:
                kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise BackboneError(
                f"{file}: its weights cannot be read ({first_line(error)}); fetch the file again, or {OTHER}"
            ) from None
        counts.append(len(kinds))
        for name, kind in kinds.items():
            if whole and name.endswith(".weight") and kind.startswith(("I", "U", "BOOL")):
                raise BackboneError(
                    f"{file}: {name} is of {kind}, and its config.json names no quantization_config; {OTHER}"
                )
    return sum(counts) if counts else None


def _check_index(folder: Path, file: Path) -> None:
    """Every file that an index of weights names is one beside it, of its kind."""
    told = _object(str(folder), file).get("weight_map")
    if not isinstance(told, dict) or not told:
        raise BackboneError(f"{file}: weight_map is {_shown(told)}, and no table of tensors and files; {OTHER}")
    ending = ".safetensors" if file.name.endswith(".safetensors.index.json") else ".bin"
    for tensor, name in told.items():
        if not _is_name(name) or not name.endswith(ending):
            raise BackboneError(
                f"{file}: weight_map: {tensor} is {_shown(name)}, which is no {ending} file of this folder; {OTHER}"
            )
        if not (folder / name).is_file():
            raise BackboneError(f"{file}: weight_map: {tensor} is in {name}, which is not there; fetch it, or {OTHER}")


def _object(path: str, file: Path) -> dict[str, Json]:
    """A JSON file that is an object. Raises BackboneError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise BackboneError(f"{file}: its brackets are nested too deep to be read; {OTHER}") from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file}: it cannot be read ({first_line(error)}); fetch it again, or {OTHER}") from None
    if not isinstance(found, dict):
        raise BackboneError(
            f"{file}: it holds {_shown(found)}, and no object of names and values; fetch it again, or {OTHER}"
        )
    return found


def _check_config(path: str, file: Path, tensors: int | None) -> None:
    settings = _object(path, file)
    where = file if Path(path).is_dir() else f"{path}: {file.name}"
    for key, value in _walk(where, settings):
        name = key.rpartition(".")[2]
        if name.endswith("_implementation") and any("/" in one for one in _texts(value)):
            raise BackboneError(
                f"{where}: {key} is {_shown(value)}, a kernel of the Hub, which is code that is never fetched; remove {key}"
            )
        if name == "custom_generate" and value is not None:
            raise BackboneError(f"{where}: {key} is {_shown(value)}, code of its own, which is never run; remove {key}")
        if name == "transformers_weights" and value is not None and not _is_name(value):
            raise BackboneError(f"{where}: {key} is {_shown(value)}, which is no file of this folder; remove {key}")
        if name.endswith("_token_id"):
            _check_ids(f"{where}: {key}", value)
        if name in SIZES and file.name == "config.json":
            _check_size(f"{where}: {key}", name, value, tensors)
        if key == "model_max_length" and not _is_length(value):
            raise BackboneError(
                f"{where}: {key} is {_shown(value)}, which is no number of tokens; correct it, or {OTHER}"
            )
        if isinstance(value, float) and math.isnan(value):
            raise BackboneError(f"{where}: {key} is {value}; correct it, or {OTHER}")
    if file.name == "config.json":
        _check_kind(where, settings)


def _check_kind(where: str | Path, settings: dict[str, Json]) -> None:
    kind = settings.get("model_type")
    if settings.get("auto_map") and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
        raise BackboneError(f"{where}: {code_of_its_own('auto_map')}")
    if kind is not None and not isinstance(kind, str):
        raise BackboneError(f"{where}: model_type is {_shown(kind)}, and no name; {OTHER}")
    if (quantized := settings.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        if not isinstance(quantized, dict) or (method is not None and _unknown(method)):
            told = f"quantization_config is {_shown(quantized)}"
            raise BackboneError(f"{where}: {told}, which is no way of holding weights that transformers has; {OTHER}")
    for name in ("id2label", "label2id"):
        if (labels := settings.get(name)) is not None and (not isinstance(labels, dict) or len(labels) > 10_000):
            raise BackboneError(f"{where}: {name} is {_shown(labels)}, and no table of at most 10,000 labels; {OTHER}")


def _unknown(method: Json) -> bool:
    return not isinstance(method, str) or method not in {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}


def code_of_its_own(what: str) -> str:
    """What is said of a model or tokenizer that is a program."""
    return (
        f"it brings code of its own ({what}), which is never run; use a model of an architecture that transformers has"
    )


def said(error: Exception) -> str:
    """What a library says against a stranger's file, without its advice to run code or to unpickle."""
    text = str(error)
    if "trust_remote_code" in text:
        return code_of_its_own("auto_map")
    if "weights_only" in text:
        return "it holds more than numbers, and is never unpickled; use one in safetensors"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # huggingface_hub's errors name the field first and what is wrong with it behind
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    line = (
        f"{type(error).__name__}: {line}"
        if isinstance(error, KeyError | ArithmeticError | AssertionError | RecursionError)
        else line
    )
    return line.rstrip(".") if len(line) <= 300 else line[:300] + " …"


def _walk(where: str | Path, settings: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    """Every value inside, with its name; not deeper and not more than a config can have."""
    left: list[tuple[str, Json, int]] = [(name, value, 1) for name, value in settings.items()]
    seen = 0
    while left:
        key, value, depth = left.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_KEYS:
            what = f"nested deeper than {DEEPEST}" if depth > DEEPEST else f"more than {MOST_KEYS}"
            raise BackboneError(f"{where}: its values are {what}; {OTHER}")
        yield key, value
        if isinstance(value, dict):
            left += [(f"{key}.{name}", inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            left += [(key, inner, depth + 1) for inner in value if isinstance(inner, dict | list | float)]


def _check_size(what: str, name: str, value: Json, tensors: int | None) -> None:
    for one in value if isinstance(value, list) else [value]:
        if one is None or isinstance(one, dict):  # what is inside of an object is looked at by its own name
            continue
        one = int(one) if isinstance(one, float) and one.is_integer() else one
        least = 0 if name in NONE_OF else 1
        if isinstance(one, bool) or not isinstance(one, int) or not least <= one <= SIZES[name]:
            raise BackboneError(
                f"{what} is {_shown(one)}, which is no whole number from {least} to {SIZES[name]}; correct it, or {OTHER}"
            )
        if name in LAYERS and tensors is not None and one > max(tensors, 256):
            raise BackboneError(f"{what} is {one}, and all its weights are {tensors} tensors; correct it, or {OTHER}")


def _check_ids(what: str, value: Json) -> None:
    for one in value if isinstance(value, list) else [value]:
        if one is not None and (isinstance(one, bool) or not isinstance(one, int) or not -1 <= one < 2**31):
            raise BackboneError(f"{what} is {_shown(one)}, which is no token's number; correct it, or {OTHER}")


def _texts(value: Json) -> list[str]:
    """The texts in a value, a list or an object."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [one for one in inside if isinstance(one, str)]


def _is_length(value: Json) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < math.inf)


def _is_name(value: Json) -> bool:
    """Whether it is the name of a file, and leads to no other folder."""
    return isinstance(value, str) and value not in (".", "..") and PurePosixPath(value).name == value


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + " …"
