"""What is in these files? Their sha256, remembered where nothing about a file says that it changed: `runs/.cache/hashes.json`.

A file is known by its device and inode, and is the same while its size and both its times are. What was written within the last
two seconds is not remembered: some file systems could not tell a later write from that one. Whoever opens a parent reads all of it
whatever is remembered here (run.Run.require); "up to date" goes by this memory, unless it is asked to read again (`--verify`).
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pipeline.artifacts.files import sha256

MOST = 20_000  # files that are remembered; the oldest go
SETTLED = 2 * 10**9  # ns


def memory(root: Path) -> Path:
    """Where the hashes of files are remembered, beside the runs."""
    return root / ".cache" / "hashes.json"


def hashed(paths: Iterable[Path], remembered: Path, anew: bool = False) -> dict[Path, str]:
    """The sha256 of each file; read where it is not remembered, or `anew`. Raises OSError."""
    known, found, fresh = _known(remembered), dict[Path, str](), dict[str, list[int | str]]()
    for path in paths:
        before = path.stat()
        place, state = f"{before.st_dev}:{before.st_ino}", [before.st_size, before.st_mtime_ns, before.st_ctime_ns]
        if not anew and known.get(place, [])[:3] == state:
            found[path] = str(known[place][3])
            continue
        found[path], after = sha256(path), path.stat()
        same = state == [after.st_size, after.st_mtime_ns, after.st_ctime_ns]
        if same and max(before.st_mtime_ns, before.st_ctime_ns) < time.time_ns() - SETTLED:
            fresh[place] = [*state, found[path]]
    if fresh:
        _remember({**{place: one for place, one in known.items() if place not in fresh}, **fresh}, remembered)
    return found


def _known(file: Path) -> dict[str, list[int | str]]:
    """What is remembered; nothing where the file is not whole."""
    with suppress(OSError, ValueError):
        seal, _, text = file.read_text(encoding="utf-8").partition("\n")
        if seal == hashlib.sha256(text.encode()).hexdigest():
            return dict(json.loads(text))
    return {}


def _remember(known: dict[str, list[int | str]], file: Path) -> None:
    """Replace the memory whole. Two processes at once lose what one of them adds, which costs a hash."""
    own = file.with_name(f".{file.name}-{os.getpid()}")
    with suppress(OSError):  # a disk that is full or may not be written to costs a hash, too
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(dict(list(known.items())[-MOST:]))
            own.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
            own.replace(file)
        finally:
            own.unlink(missing_ok=True)
