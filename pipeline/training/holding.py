"""How does a stage hold its models? In the recipe's dtype where they are frozen, as they were published where they are only asked."""

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from pipeline.settings.config import Config, ConfigError
from policies.precision import Held, Shares, pick_dtype
from policies.sharding import bytes_here


def to_train(config: Config, device: torch.device, tuning: str, shared_by: str | None = None) -> Held:
    """For a model that training changes: float32 where all of it learns, else what an adapter sits on, in the recipe's dtype and
    quantization. `shared_by`: the setting that has its layers shared out among the processes, all of which are to load it then."""
    attention = config.attn_implementation
    check_attention(config, device)
    shared = None if shared_by is None else Shares(shared_by, learned=tuning == "full")
    if tuning == "full":
        return Held(torch.float32, attention=attention, shared=shared)
    return Held(pick_dtype(config.dtype, device), quantization=config.quantization, attention=attention, shared=shared)


def as_published(config: Config, device: torch.device) -> Held:
    """For a model that is only asked or judged: as its folder holds it, what a user loads, never rounded to the recipe's dtype."""
    check_attention(config, device)
    return Held(pick_dtype(config.dtype, device), unrounded=True, attention=config.attn_implementation)


def shares(sharding: str, *models: nn.Module | None) -> dict[str, Any]:
    """For the notes of a manifest: which layers of `models` are shared out, and the bytes of their weights that each of several processes
    holds. Every process is to ask; nothing where there is one."""
    held = gather_object([bytes_here(*(model for model in models if model is not None))])
    return {"sharding": {"sharding": sharding, "weights_bytes": held}} if len(held) > 1 else {}


def check_attention(config: Config, device: torch.device) -> None:
    """Raises ConfigError where attn_implementation does not run on this machine."""
    if config.attn_implementation == "flash_attention_2" and device.type != "cuda":
        raise ConfigError(
            "attn_implementation: flash_attention_2 needs a CUDA GPU and there is none here; set attn_implementation=sdpa"
        )
