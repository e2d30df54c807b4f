"""In what numbers is a model held, and by which attention is it run? dtypes, 4 and 8 bit, attn_implementation."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from policies.blueprint import config_at
from policies.errors import BackboneError
from policies.told import tell
from policies.untyped import Arguments, Foreign, Model

FLASH = "flash_attention_2"


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """dtype of frozen weights. `auto` is bfloat16, but float32 on a CPU without tiles for it: its products of bfloat16 are
    slower than those of float32, with avx512_bf16 too."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" and not has_tiles() else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def has_tiles() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in tiles (Intel's AMX) and the kernel lets us."""
    asked = (
        getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_init_amx")
    )  # private still in 2.13
    return all(ask is not None and ask() for ask in asked)


@dataclass(frozen=True)
class Shares:
    """That decoder layers are shared out among processes: by which setting, for messages, and whether they are to learn."""

    setting: str
    learned: bool


@dataclass(frozen=True)
class Held:
    """How a model is held. A bare torch.dtype in its place means that dtype and nothing else."""

    dtype: torch.dtype  # of what is not quantised, and of what quantised weights are computed in
    unrounded: bool = False  # where the checkpoint's own dtype is finer than `dtype`, that one
    quantization: str | None = None  # nf4, fp4 or int8 (bitsandbytes) for the linear layers of the body
    attention: str | None = None  # transformers' attn_implementation; None: the model's default
    shared: Shares | None = None  # of the decoder layers a process reads its share alone; every process is to load then


def held(how: "torch.dtype | Held") -> Held:
    return Held(how) if isinstance(how, torch.dtype) else how


def loading(how: Held, loader: Foreign, path: str | Path, revision: str | None) -> dict[str, Arguments]:
    """Arguments of `loader.from_pretrained` that make a model held so; `finished` does the rest."""
    found: dict[str, Arguments] = {"dtype": "auto" if how.unrounded else how.dtype}
    if how.attention is not None:
        found["attn_implementation"] = how.attention
    if how.attention == FLASH:  # it runs nowhere else, and what a model does is tried right after loading
        found["device_map"] = {"": torch.cuda.current_device()}
    if how.quantization is not None:
        found["quantization_config"] = _quantised(how, _heads(loader, path, revision))
    return found


def finished(model: Model, how: Held) -> None:
    """Widen the numbers of a model that was loaded in its checkpoint's own dtype, where `how` asks for more; let one in float32,
    which flash attention does not compute, take sdpa; and keep 4-bit weights as they were quantised.

    Raises BackboneError where bitsandbytes reads 4-bit weights wrongly on this machine.
    """
    _keep_packing(model)
    _check_reading(model)  # of a checkpoint that was quantised before, too
    if how.unrounded and (wider := torch.promote_types(model.dtype, how.dtype)) != model.dtype:
        model.to(wider)
    if how.attention == FLASH and model.dtype == torch.float32:
        model.set_attn_implementation("sdpa")
        tell(f"{type(model).__name__}: {FLASH} computes no float32, so attention is sdpa in this model")


def _keep_packing(model: Model) -> None:
    """Hold bitsandbytes' 4-bit layers to the weights that they were given.

    On a CPU with avx512_bf16 the first forward in evaluation mode packs them anew for a kernel of transformers' kernels package: it
    rounds the scales to bfloat16, so that evaluation and training differ, and takes only outputs that 32 and inputs that 64 divides
    (seen with bitsandbytes 0.50; its layers ask this attribute of their own).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _check_reading(model: Model) -> None:
    """Raise BackboneError where a 4-bit weight reads otherwise as a matrix than as a row of blocks, which is how it is stored.

    So it is with bitsandbytes 0.50 on a CPU with AVX-512 where 16 but not 64 divides a layer's inputs. One layer of each shape is tried.
    """
    layers = {tuple(one.weight.quant_state.shape): one for one in model.modules() if hasattr(one, "quant_state")}
    wrong = [f"{rows}x{columns}" for (rows, columns), one in sorted(layers.items()) if not _reads(one.weight)]
    if wrong:
        raise BackboneError(
            f"{type(model).__name__}: bitsandbytes reads its 4-bit weights of {', '.join(wrong)} wrongly on this machine; "
            "set quantization=int8 or quantization=null"
        )


def _reads(weight: Foreign) -> bool:
    from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise

    state = weight.quant_state
    if state.nested:  # its scales are quantised too
        state = copy.copy(state)
        state.absmax, state.nested = dequantize_blockwise(state.absmax, state.state2) + state.offset, False
    blocks = math.prod(state.shape) // state.blocksize
    stored, scales = weight.data.reshape(-1)[: blocks * state.blocksize // 2, None], state.absmax[:blocks]
    shape = torch.Size((blocks, state.blocksize))
    plain = QuantState(scales, shape, state.code, state.blocksize, state.quant_type, state.dtype)
    whole = dequantize_4bit(weight.data, state).reshape(-1)[: math.prod(shape)]
    return torch.equal(whole, dequantize_4bit(stored, plain).reshape(-1))


def _quantised(how: Held, heads: list[str]) -> BitsAndBytesConfig:
    """4 bit as in QLoRA (Dettmers et al. 2023, 2305.14314), without double quantisation; 8 bit as LLM.int8 (2208.07339)."""
    if how.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=heads)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=how.quantization,
        bnb_4bit_compute_dtype=how.dtype,
        llm_int8_skip_modules=heads,
    )


def _heads(loader: Foreign, path: str | Path, revision: str | None) -> list[str]:
    """Names of the modules outside the body of the model that `loader` makes: they are not quantised."""
    config = config_at(path, revision)
    with torch.device("meta"):
        model = loader.from_config(config, trust_remote_code=False)
    whole = model.base_model is model  # T5 has no body beside its head, but an encoder and a decoder
    body = [model.get_encoder(), model.get_decoder()] if whole else [model.base_model]
    return [name for name, module in model.named_children() if not any(module is one for one in body)]
