"""Is what was saved for a restart still what was written? Hashes of all its files, written last; what is not whole is named and set aside.

Nothing here imports torch: the hashes are read before anything is loaded.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

SEAL = "seal.json"
BROKEN = ".broken"  # what was set aside is called so


def seal(folder: Path, of: str) -> None:
    """Write into `folder` the hash of each file in it, flushed to disk, and `of`, which says to what it belongs. From then on it counts."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    fresh = folder / f"{SEAL}.tmp"
    with fresh.open("w", encoding="utf-8") as file_:
        file_.write(json.dumps({"of": of, "files": files}, indent=1))
        file_.flush()
        os.fsync(file_.fileno())
    fresh.replace(folder / SEAL)


def flaw(folder: Path, of: str) -> str | None:
    """What is wrong with what `seal` sealed in `folder`, in words; None where all of it is whole, nothing was added, and it is `of` the
    same."""
    try:
        said = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        belongs, files = said["of"], dict(said["files"])
        if folder.is_symlink():
            return "it is a link"
        if belongs != of:
            return "it was saved by other settings, parents or files"
        lying = {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()} - {folder / SEAL}
        if added := sorted(lying - {folder / name for name in files}):
            return f"{added[0].relative_to(folder)} was not saved with it"
        for name, known in files.items():
            path = folder / name
            if path not in lying:
                return f"{name} is missing"
            with path.open("rb") as file:
                if path.is_symlink() or hashlib.file_digest(file, "sha256").hexdigest() != known:
                    return f"{name} has changed since it was saved"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{SEAL} cannot be read ({type(error).__name__})"
    return None


def newest_whole(candidates: Iterable[Path], of: str) -> Path | None:
    """The first of `candidates`, which are given the newest first, that is whole; those before it are told, and set aside or, where
    their saving was never finished, removed."""
    for path in candidates:
        if not path.exists() and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink() and not (path / SEAL).exists():
            print(f"{path}: its saving was not finished, so it goes", file=sys.stderr)
            shutil.rmtree(path)
        elif (wrong := flaw(path, of)) is not None:
            set_aside(path, wrong)
        else:
            return path
    return None


def set_aside(path: Path, wrong: str) -> Path:
    """Give what is not whole another name beside it, and say so: the new name."""
    names = [f"{path.name}{BROKEN}", *(f"{path.name}{BROKEN}-{number}" for number in range(2, 1000))]
    place = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    path.rename(place)
    print(f"{path}: {wrong}, so it is not used; it is set aside as {place.name}", file=sys.stderr)
    return place
