"""How does a log that a stage adds to as it goes survive a fault? Each row bears a hash; rows that are not whole are told and made again."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from policies.sealed import BROKEN, set_aside

HASH = "sha256"  # the field of a row, over all its others


def add_rows(
    path: Path, rows: Iterable[dict[str, Any]], of: str = "", opener: Callable[[str, int], int] | None = None
) -> None:
    """Add rows to a log. `of` says to what they belong, and is part of their hashes; `opener` opens the file, as `open` has it."""
    lines = [json.dumps(row | {HASH: _hash(row, of)}, allow_nan=False) + "\n" for row in rows]
    with open(path, "a", encoding="utf-8", opener=opener) as file:
        file.write("".join(lines))


def _without_hash(row: dict[str, Any]) -> bool:
    return False


def whole_rows(
    path: Path, of: str = "", unhashed: Callable[[dict[str, Any]], bool] = _without_hash
) -> list[dict[str, Any]]:
    """The rows of a log as they were added, without their hashes; none where there is no file. A row without a hash counts where
    `unhashed` takes it.

    What is not whole is told and goes: at the end, where a kill or a full disk tears a row off, it is cut off the file; before
    whole rows, a copy of the file is set aside beside it.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError:  # a folder, or nothing that can be read
        set_aside(path, "it cannot be read")
        return []
    lines = raw.splitlines(keepends=True)  # of bytes: at \n and \r alone, which JSON escapes
    rows = [_row(line, of, unhashed) for line in lines]
    found = [row for row in rows if row is not None]
    if len(found) == len(rows):
        return found
    torn = rows.index(None)
    if len(found) == torn:
        os.truncate(path, sum(map(len, lines[:torn])))
        print(
            f"{path}: its last row was torn off by a fault; cut back to the {torn} whole rows before it",
            file=sys.stderr,
        )
        return found
    _without_broken(path, [line for line, row in zip(lines, rows, strict=True) if row is not None])
    print(
        f"{path}: row {torn + 1} is not as it was written, so it is made again; the file as it was is kept as {path.name}{BROKEN}",
        file=sys.stderr,
    )
    return found


def _row(line: bytes, of: str, unhashed: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The row on a line; None where the line has no end or is something else."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):  # UnicodeDecodeError too
        return None
    if not isinstance(found, dict):
        return None
    known = found.pop(HASH, None)
    return found if known == _hash(found, of) or (known is None and unhashed(found)) else None


def _hash(row: dict[str, Any], of: str) -> str:
    return hashlib.sha256(json.dumps([of, row], sort_keys=True).encode()).hexdigest()


def _without_broken(path: Path, whole: list[bytes]) -> None:
    """Replace a log by its whole rows; the file as it was stays beside it."""
    shutil.copy(path, path.with_name(path.name + BROKEN))  # with its permissions
    fresh = path.with_name(f"{path.name}.tmp")
    with fresh.open("wb") as file:
        file.write(b"".join(whole))
        file.flush()
        os.fsync(file.fileno())
    shutil.copymode(path, fresh)
    with suppress(FileNotFoundError):  # another process that reads it was quicker
        fresh.replace(path)
