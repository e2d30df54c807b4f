"""What does a published folder say of itself? Its manifest.json, written last, so that a folder that has one is complete."""

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

CONTRACT = 1
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """What a published folder says of itself (manifest.json)."""

    contract: int
    stage: str
    run: str
    inputs: str
    parents: list[dict[str, str]]
    files: list[dict[str, Any]]
    config: dict[str, Any]
    tokenizer: str
    model: dict[str, Any]
    seed: int
    dtype: str
    world_size: int
    libraries: dict[str, str]
    machine: str
    git_commit: str | None
    data: dict[str, Any]
    metrics: dict[str, float]
    gate: dict[str, Any]
    started: str
    finished: str
    forced: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    command: dict[str, Any] | None = (
        None  # what the command line was given (commands.Call.given); None: not made by one
    )


def read(path: Path) -> Manifest:
    """A manifest.json. Raises OSError, or ValueError that says what is wrong with it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["contract"] == CONTRACT:
            return _checked(Manifest(**raw))
        wrong = f"contract {raw['contract']}, this version reads {CONTRACT}"
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"not a manifest ({error})"
    raise ValueError(wrong)


def _checked(found: Manifest) -> Manifest:
    """`found`, if the fields that others look into are what publish writes. Raises ValueError."""
    inside: dict[str, tuple[Any, set[str]]] = {
        "files": (found.files, {"path", "size", "sha256"}),
        "parents": (found.parents, {"role", "sha256"}),
        "gate": ([found.gate], {"result", "checks"}),
        "config": ([found.config], {"settings"}),
    }
    for name, kind in get_type_hints(Manifest).items():
        if not _is_of(getattr(found, name), kind):
            raise ValueError(f"{name} is not what publish writes")
    for name, (entries, keys) in inside.items():
        if not all(isinstance(one, dict) and keys <= set(one) for one in entries):
            raise ValueError(f"{name} is not what publish writes")
    return found


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's kind, its contents not looked at."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    return isinstance(value, get_origin(kind) or kind)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of this checkout, with -dirty where files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that a result hangs on."""
    return {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def machine() -> str:
    """What this machine is, without its name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
