"""In what numbers is a model held, and by which attention is it run? dtypes, 4 and 8 bit, attn_implementation."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, BitsAndBytesConfig

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
class Held:
    """How a model is held. A bare torch.dtype in its place means that dtype and nothing else."""

    dtype: torch.dtype  # of what is not quantised, and of what quantised weights are computed in
    unrounded: bool = False  # where the checkpoint's own dtype is finer than `dtype`, that one
    quantization: str | None = None  # nf4, fp4 or int8 (bitsandbytes) for the linear layers of the body
    attention: str | None = None  # transformers' attn_implementation; None: the model's default


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
    """Widen the numbers of a model that was loaded in its checkpoint's own dtype, where `how` asks for more; and let one in float32,
    which flash attention does not compute, take sdpa."""
    if how.unrounded and (wider := torch.promote_types(model.dtype, how.dtype)) != model.dtype:
        model.to(wider)
    if how.attention == FLASH and model.dtype == torch.float32:
        model.set_attn_implementation("sdpa")
        tell(f"{type(model).__name__}: {FLASH} computes no float32, so attention is sdpa in this model")


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
    config = AutoConfig.from_pretrained(str(path), revision=revision or "main")
    with torch.device("meta"):
        model = loader.from_config(config)
    return [name for name, module in model.named_children() if module is not model.base_model]
