"""Where was training interrupted? The state of a PPO run on disk, JSON and safetensors, replaced whole."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_state(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: Any, good: dict[str, Tensor], extra: dict[str, Any]
) -> None:
    """Write trained weights, Adam's moments, the last good weights and `extra` (JSON) to `folder`.

    An interruption leaves the older state in place.
    """
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    moments = optimizer.state_dict()["state"]
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in parameters.items()}
    for index, name in enumerate(parameters):
        for key, value in moments.get(index, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
    tensors |= {f"good/{name}": tensor for name, tensor in good.items()}
    save_file(tensors, fresh / "state.safetensors")
    with (fresh / "state.safetensors").open("rb") as written:
        os.fsync(written.fileno())
    with (fresh / "state.json").open("w", encoding="utf-8") as file:
        json.dump(extra, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Any) -> dict[str, Any] | None:
    """Put a saved state back into `parameters` and `optimizer`; returns what else was saved, the last good weights as "good".

    None if nothing was saved.
    """
    if not folder.exists():  # interrupted between the two renames; another process may be quicker to mend it
        with suppress(FileNotFoundError):
            folder.with_name(folder.name + ".old").rename(folder)
    if not (folder / "state.json").is_file():
        return None
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    state = optimizer.state_dict()
    for index, name in enumerate(parameters):
        kept = {
            key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors
        }
        if kept:
            state["state"][index] = kept
    optimizer.load_state_dict(state)
    good = {name: tensors[f"good/{name}"] for name in parameters if f"good/{name}" in tensors}
    return json.loads((folder / "state.json").read_text(encoding="utf-8")) | {"good": good}
