"""Where was training interrupted? The state of a PPO run on disk, JSON and safetensors, replaced whole.

Beside it lie the weights of the last rollout that kept within the limits, which a halt goes back to. They are written in every iteration:
a copy in memory would take as much as the trained weights themselves, twice over while it is replaced.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from policies.quick.moving import read_back
from policies.untyped import Json, Optimizer

GOOD = "good.safetensors"


def save_good(folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Write the weights beside the state in `folder`, as those to go back to."""
    path, fresh = _good(folder), _good(folder).with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(read_back(parameters), fresh)
    fresh.replace(path)


@torch.no_grad()
def load_good(folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Put the weights of the last `save_good` back, or those that came with the state. Nothing where none were ever saved."""
    path = _good(folder) if _good(folder).is_file() else folder / GOOD
    if path.is_file():
        with safe_open(path, "pt") as file:
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(name))


def _good(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{GOOD}")


def save_state(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer, extra: dict[str, Json]) -> None:
    """Write trained weights, Adam's moments, what `save_good` wrote last and `extra` (JSON) to `folder`.

    An interruption leaves the older state in place.
    """
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    moments = optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {f"weight/{name}": p for name, p in parameters.items()}
    for index, name in enumerate(parameters):
        for key, value in moments.get(index, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value)
    save_file(read_back(tensors), fresh / "state.safetensors")
    if _good(folder).is_file():
        try:
            os.link(_good(folder), fresh / GOOD)  # it is never written to again, only replaced
        except OSError:  # a file system without hard links
            shutil.copyfile(_good(folder), fresh / GOOD)
    for path in fresh.glob("*.safetensors"):
        with path.open("rb") as written:
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


def load_state(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Json] | None:
    """Put a saved state back into `parameters` and the moments that `optimizer` has; returns what else was saved, or None if nothing was.

    What `save_good` wrote after that state is forgotten: `load_good` gives what came with it.
    """
    _good(folder).unlink(missing_ok=True)
    if not folder.exists():  # interrupted between the two renames; another process may be quicker to mend it
        with suppress(FileNotFoundError):
            folder.with_name(folder.name + ".old").rename(folder)
    if not (folder / "state.json").is_file():
        return None
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            for key, moment in optimizer.state[parameter].items():
                moment.copy_(tensors[f"{key}/{name}"])
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
