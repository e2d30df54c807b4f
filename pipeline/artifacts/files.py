"""How are files hashed and written whole? JSON, JSON lines and sha256."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.artifacts.ownership import MANIFEST
from pipeline.redaction import redacted, redacted_in


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def weights_sha256(folder: Path) -> str | None:
    """What tells a model from others, and equal runs from none: sha256 of its weights, as sha256sum prints it, or of the list of
    their files where there are several; None where the folder has none. The manifest's hashes are of times, too."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    found = [[path.name, sha256(path)] for path in files]
    return digest(found) if len(found) > 1 else found[0][1] if found else None


def flaw(folder: Path, files: Sequence[Mapping[str, Any]], hashed: Callable[[Path], str] = sha256) -> str | None:
    """What is not as a manifest lists it, in words: the first file that is missing, is a link or has another hash, or that is there
    and not listed; None: all is whole."""
    for item in files:
        path = folder / item["path"]
        if (link := _link(folder, path)) is not None:
            return f"{link}: a link in the place of what was published"
        if not path.is_file():
            return f"{path}: missing though the manifest lists it"
        if hashed(path) != item["sha256"]:
            return f"{path}: changed since it was published"
    more = strangers(folder, files)
    return f"{more[0]}: not among the files that the manifest lists" if more else None


def strangers(folder: Path, files: Sequence[Mapping[str, Any]]) -> list[Path]:
    """What lies in a published folder beside its manifest and is not listed there. Empty folders are nothing."""
    listed = {folder / item["path"] for item in files} | {folder / MANIFEST}
    return sorted(path for path in folder.rglob("*") if path not in listed and (path.is_symlink() or not path.is_dir()))


def _link(folder: Path, path: Path) -> Path | None:
    """The first part of a path below `folder` that is a link."""
    steps = [*reversed([one for one in path.parents if one.is_relative_to(folder) and one != folder]), path]
    return next((one for one in steps if one.is_symlink()), None)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, secrets taken out. Refuses NaN and infinities."""
    text = json.dumps(redacted_in(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 whole or not at all, secrets taken out; halves of surrogate pairs become question marks."""
    write_bytes(path, redacted(text).encode("utf-8", "replace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary sibling, flushed to disk, then renamed; into what a link leads to. What is no
    file, such as /dev/stdout, is written to as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):  # none was made; what went wrong is told by what was raised
            temporary.unlink()


def permitted(folder: Path) -> None:
    """Give all files and folders below `folder`, and itself, the permissions that anything new has here. Libraries make some for their
    owner alone (safetensors, tempfile), and a group would find weights that it cannot read beside a manifest that it can."""
    mask = _umask()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            with suppress(PermissionError, FileNotFoundError):  # another user's, or gone meanwhile
                path.chmod((0o777 if path.is_dir() else 0o666) & ~mask | path.stat().st_mode & 0o7000)


def _umask() -> int:
    """This process's mask; to read it by setting it would open what other threads make meanwhile."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines that a stage of ours wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
