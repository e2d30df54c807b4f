"""In what numbers is a model held, and by which attention is it run? dtypes, 4 and 8 bit, attn_implementation."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, BitsAndBytesConfig

from policies.untyped import Arguments, Foreign, Model


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """dtype of frozen weights. `auto` is float32 on CPU, where few processors have fast bfloat16 products, bfloat16 elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


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
    if how.quantization is not None:
        found["quantization_config"] = _quantised(how, _heads(loader, path, revision))
    return found


def finished(model: Model, how: Held) -> None:
    """Widen the numbers of a model that was loaded in its checkpoint's own dtype, where `how` asks for more."""
    if how.unrounded and (wider := torch.promote_types(model.dtype, how.dtype)) != model.dtype:
        model.to(wider)


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
