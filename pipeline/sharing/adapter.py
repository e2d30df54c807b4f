"""How does an adapter reach others whose base model is on the Hub? Together with that of the sft model which it was trained on."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

Adapter = tuple[dict[str, Any], dict[str, Tensor]]
"""adapter_config.json, and the weights by name."""
A, B = ".lora_A.weight", ".lora_B.weight"


def read(folder: Path) -> Adapter:
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return settings, load_file(folder / "adapter_model.safetensors")


def joined(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that adds what `first` and then `second` add: s₁B₁A₁ + s₂B₂A₂ = [s₁B₁ s₂B₂][A₁; A₂], so its rank is the sum of both
    and its scale 1. A module that one of them leaves alone has zeros in its place."""
    (own, w1), (other, w2) = first, second
    ranks = own["r"], other["r"]
    modules = sorted({name.removesuffix(A) for w in (w1, w2) for name in w if name.endswith(A)})
    weights = {name: value for name, value in w2.items() if not name.endswith((A, B))}  # a score head
    for module in modules:
        parts = []
        for (settings, w), rank in zip((first, second), ranks, strict=True):
            like = w1 if module + A in w1 else w2
            down = w.get(module + A, torch.zeros(rank, like[module + A].shape[1]))
            up = w.get(module + B, torch.zeros(like[module + B].shape[0], rank))
            parts.append((down.float(), up.float() * settings["lora_alpha"] / rank))
        weights[module + A] = torch.cat([down for down, _ in parts]).contiguous()
        weights[module + B] = torch.cat([up for _, up in parts], dim=1).contiguous()
    names = {module.rpartition(".")[2] for module in modules}
    layers = [settings["layers_to_transform"] for settings in (own, other)]
    both = None if None in layers else sorted({layer for some in layers for layer in some})
    return other | {
        "r": sum(ranks),
        "lora_alpha": sum(ranks),
        "target_modules": sorted(names),
        "layers_to_transform": both,
        "base_model_name_or_path": own["base_model_name_or_path"],
    }, weights


def files(adapter: Adapter, base: str) -> dict[str, bytes]:
    """What an adapter's folder holds, its base named as the Hub knows it."""
    settings, weights = adapter
    told = settings | {"base_model_name_or_path": base, "revision": None}
    return {
        "adapter/adapter_config.json": (json.dumps(told, indent=2) + "\n").encode(),
        "adapter/adapter_model.safetensors": save(weights, metadata={"format": "pt"}),
    }
