"""Where was training interrupted? The state of a PPO run on disk, JSON and safetensors, sealed with hashes and replaced whole.

Beside it lie the weights of the last rollout that kept within the limits, which a halt goes back to. They are written in every iteration:
a copy in memory would take as much as the trained weights themselves, twice over while it is replaced.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from policies.sealed import newest_whole, seal
from policies.sharding import gathered, put
from policies.untyped import Json, Optimizer

GOOD = "good.safetensors"


def save_good(folder: Path, parameters: dict[str, nn.Parameter], writes: bool = True) -> None:
    """Write the weights beside the state in `folder`, as those to go back to. Every process is to call it; one of them `writes`."""
    tensors = gathered(parameters, writes)
    if not writes:
        return
    path, fresh = _good(folder), _good(folder).with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, fresh)
    fresh.replace(path)


@torch.no_grad()
def load_good(folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Put the weights of the last `save_good` back, or those that came with the state. Nothing where none were ever saved."""
    path = _good(folder) if _good(folder).is_file() else folder / GOOD
    if path.is_file():
        with safe_open(path, "pt") as file:
            for name, parameter in parameters.items():
                put(parameter, file.get_tensor(name))


def _good(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{GOOD}")


def nothing(folder: Path) -> None:
    """Keeps nothing beside a state."""


def save_state(
    folder: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: Optimizer,
    extra: dict[str, Json],
    of: str = "",
    beside: Callable[[Path], None] = nothing,
    writes: bool = True,
) -> None:
    """Write trained weights, Adam's moments, what `save_good` wrote last and `extra` (JSON) to `folder`, and what `beside` writes into
    the folder that it is given. `of` says to what the state belongs. Every process is to call it; one of them `writes`: whole tensors,
    which any number of processes can go on from.

    An interruption leaves the older state in place.
    """
    tensors: dict[str, Tensor] = {f"weight/{name}": p for name, p in parameters.items()}
    for name, p in parameters.items():
        tensors |= {f"{key}/{name}": torch.as_tensor(value) for key, value in optimizer.state.get(p, {}).items()}
    tensors = gathered(tensors, writes)
    if not writes:
        return
    fresh, old = _names(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(tensors, fresh / "state.safetensors")
    if _good(folder).is_file():
        try:
            os.link(_good(folder), fresh / GOOD)  # it is never written to again, only replaced
        except OSError:  # a file system without hard links
            shutil.copyfile(_good(folder), fresh / GOOD)
    with (fresh / "state.json").open("w", encoding="utf-8") as file:
        json.dump(extra, file, allow_nan=False)
    beside(fresh)
    seal(fresh, of)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path, of: str = "") -> None:
    """Let the newest whole state stand in `folder`. What an interrupted save left beside it goes, and what is damaged is told and set
    aside; what `save_good` wrote after that state is forgotten: `load_good` gives what came with it.

    To be called by one process, before all of them call `load_state`.
    """
    fresh, old = _names(folder)
    for path in (_good(folder), _good(folder).with_suffix(".new")):
        path.unlink(missing_ok=True)
    found = newest_whole((fresh, folder, old), of)
    if found is not None and found != folder:
        shutil.rmtree(folder, ignore_errors=True)
        found.rename(folder)
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)


def load_state(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Json] | None:
    """Put a saved state back into `parameters` and the moments that `optimizer` has; returns what else was saved, or None if nothing was."""
    if not (folder / "state.json").is_file():
        return None
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            put(parameter, tensors[f"weight/{name}"])
            for key, moment in optimizer.state[parameter].items():
                put(moment, tensors[f"{key}/{name}"])
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def _names(folder: Path) -> tuple[Path, Path]:
    """Where a state is written, and where the former one is while the new one takes its place."""
    return folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
