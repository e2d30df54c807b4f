"""What may a stage touch? A run's own name, folders that this project made, and those only while no other process works there.

A run name is one path component below `runs/`, so no name leads out of it. A folder is replaced or removed only where it says
itself that it is ours. One process at a time makes a stage; the kernel lets go of its lock when it dies.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import refusals
from pipeline.artifacts.errors import ArtifactError
from pipeline.redaction import reason

LONGEST_NAME = 200  # bytes; file systems allow 255, and we append such as .partial and _seed_12
LOCK = "lock"  # the file in a stage's partial folder that its maker holds
MARK = "inputs.json"  # the file in it that says from what it was begun
MANIFEST = "manifest.json"  # the file in a published folder
BESIDE = (
    "index.html",
    "inspect",
    "logs",
    "llm_judge.jsonl",
    "llm_judge.jsonl.broken",
)  # what we write in a run's folder beside its stages
WORKED = re.compile(r"(inputs\.json|made|state|(metrics|samples(\.\d+)?)\.jsonl)(\..+)?")
"""What a stage calls what it writes into its partial folder: a folder of nothing else is ours, though its mark be torn."""


def check_run_name(name: str) -> str:
    """`name`, if it is one path component: letters and digits of any script, '.', '_', '-' and single spaces, not first '.' or '-'.

    Raises ArtifactError, with the name in ASCII, as it may hold anything.
    """
    if (why := reason(name)) is not None:
        raise ArtifactError(f"run name: it holds {why}; write for instance RUN=demo (--run demo)")
    if not is_plain_name(name):
        shown = ascii(name if len(name) <= 60 else f"{name[:60]}...")
        raise ArtifactError(
            f"run name {shown}: a run is one folder below runs/, named with letters, digits, '.', '_', '-' and spaces, "
            f"not beginning with '.' or '-', at most {LONGEST_NAME} bytes; write for instance RUN=demo (--run demo)"
        )
    return name


def is_plain_name(name: str) -> bool:
    """Whether `name` is one component of a path, as check_run_name says it."""
    allowed = all(c in " ._-" or unicodedata.category(c)[0] in "LNM" for c in name)
    tidy = name == " ".join(name.split()) and name[:1] not in ("", ".", "-")
    return allowed and tidy and len(name.encode("utf-8", "replace")) <= LONGEST_NAME


def check_root(root: Path) -> None:
    """`check_folder` of the folder of all runs."""
    check_folder(root, "the folder of all runs", "start in another folder, which may lie on another disk")


def check_folder(folder: Path, what: str, instead: str = "choose another RUN") -> None:
    """Raise ArtifactError where something else than a real folder stands in the place of `folder`: what is done below a link is done
    elsewhere. `what` belongs there."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        found = f"a link to {os.readlink(folder)}" if folder.is_symlink() else "no folder"
        raise ArtifactError(f"{folder}: {found}, and {what} belongs there; move it away, or {instead}")


def check_no_link(path: Path) -> None:
    """Raise ArtifactError where a link stands in the place of what we write ourselves."""
    if path.is_symlink():
        raise ArtifactError(
            f"{path}: a link to {os.readlink(path)}, and we write there; move it away, or choose another RUN"
        )


def check_replaceable(folder: Path, mark: str) -> None:
    """Raise ArtifactError unless `folder` is absent, empty, or a real folder of ours: one that holds a file `mark` of our making."""
    if not folder.is_symlink() and not folder.exists():
        return
    if folder.is_symlink() or not folder.is_dir():
        what = "a link" if folder.is_symlink() else "no folder"
        raise ArtifactError(
            f"{folder}: {what}, and a stage's folder belongs there; move it away, or choose another RUN"
        )
    names = {path.name for path in folder.iterdir()}
    inside = names - {LOCK, f"{mark}.tmp"}
    torn = mark == MARK and MARK in names and all(WORKED.fullmatch(name) for name in inside)
    if inside and not is_ours(folder, mark) and not torn:
        raise ArtifactError(
            f"{folder}: holds files and no {mark} of ours, so it is neither replaced nor removed; move it away, or choose another RUN"
        )


def clear(folder: Path, last: str = MARK) -> None:
    """Remove what lies in a folder of ours, the file that says so last, so that what a kill leaves of it is known for ours; but for
    the lock, which its holder removes."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == last) if folder.is_dir() else ():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_ours(folder: Path, mark: str) -> bool:
    """Whether the file `mark` in a folder is a JSON object with the hash that our manifests and marks have."""
    try:
        found = json.loads((folder / mark).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and _is_hash(found.get("inputs"))


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def attempt(folder: Path) -> dict[str, Any]:
    """From what the attempt in a partial folder was begun ("inputs", a hash), when ("started"), and what else its mark says; nothing
    where that cannot be read."""
    try:
        found: dict[str, Any] = json.loads((folder / MARK).read_text(encoding="utf-8"))
        plain = _is_hash(found["inputs"]) and isinstance(found["started"], str)
        lists = [found.get(name, {}).values() for name in ("parents", "outside")]
        return found if plain and all(isinstance(one, str) for values in lists for one in values) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def begun_from(folder: Path) -> str:
    """The hash of what the attempt in a partial folder was begun from; empty where its mark does not say."""
    return str(attempt(folder).get("inputs", ""))


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Within the block this process alone works in `folder`, a stage's partial folder, which is made where it is missing.

    A file in it, locked by the kernel, names the holder; the lock of a process that died is free. `what` names the work in
    messages. Raises ArtifactError where another process holds it, or where something else lies in the folder's place.
    """
    check_replaceable(folder, MARK)
    with using(folder.parent), _locks(folder, what) as file:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
        yield


@contextmanager
def _locks(folder: Path, what: str) -> Iterator[int]:
    try:
        file = _locked(folder / LOCK, what)
    except OSError as error:
        if refusals.sentence(error) is not None:
            raise
        reason = error.strerror or type(error).__name__
        raise ArtifactError(
            f"{folder / LOCK}: cannot be locked ({reason}); see that runs/ may be written to and holds nothing else of that name"
        ) from None
    _HELD.add(file)
    try:
        yield file
    finally:
        with suppress(OSError):  # gone with the folder when the stage was published
            if file in _HELD and os.path.samestat(os.fstat(file), os.stat(folder / LOCK)):
                (folder / LOCK).unlink()
                folder.rmdir()  # fails, as it should, where state of an unfinished attempt lies in it
        _let_go(file)


_HELD = set[int]()  # descriptors of locks


def _let_go(*files: int) -> None:
    for file in files or list(_HELD):
        if file in _HELD:
            _HELD.discard(file)
            os.close(file)


# a process that a user's function forks, and that outlives us, does not hold our locks
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Within the block nobody removes anything of the run in `folder`, which is made where it is missing: a shared lock on the folder
    itself. Raises ArtifactError where somebody does so now."""
    file = _whole(folder, fcntl.LOCK_SH, f"{folder}: another process is removing what lies here; wait until it is done")
    try:
        yield
    finally:
        _let_go(file)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block nobody makes or reads a stage of the run in `folder`. Raises ArtifactError that names who does so now."""
    for partial in sorted(folder.glob("*.partial")):
        if (holder := at_work(partial)) is not None:
            raise ArtifactError(
                f"{partial}: {holder} makes a stage here; wait until it is done, or stop that process first"
            )
    file = _whole(
        folder, fcntl.LOCK_EX, f"{folder}: another process reads it or makes a stage here; wait until it is done"
    )
    try:
        yield
    finally:
        _let_go(file)


def _whole(folder: Path, how: int, otherwise: str) -> int:
    """A descriptor of a folder, locked; not locked where the file system locks no folders. One that is removed meanwhile is made anew."""
    while True:
        try:
            if how == fcntl.LOCK_SH:
                folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if how == fcntl.LOCK_SH:
                continue
            raise ArtifactError(f"{folder}: removed by another process meanwhile") from error
        except OSError as error:
            if refusals.sentence(error) is not None:
                raise
            raise ArtifactError(f"{folder}: no run can lie there ({error.strerror}); choose another RUN") from None
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ArtifactError(otherwise) from None
        except OSError:  # a file system that locks no folders
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(folder)):
                _HELD.add(file)
                return file
        os.close(file)


def at_work(folder: Path) -> str | None:
    """Who works in a stage's partial folder now; None where nobody does."""
    try:
        with (folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(file.read(4096)) or "another process"
    except OSError:
        pass
    return None


def _locked(path: Path, what: str) -> int:
    """A descriptor of the lock file, locked. The file may be removed by its holder between opening and locking: then once more."""
    while True:
        with suppress(FileNotFoundError):  # the folder went between making and opening
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    if (text := os.pread(file, 4096, 0)) and _holder(text) is None:
                        raise ArtifactError(f"{path}: a file that is not ours; move it away, or choose another RUN")
                    return file
                os.close(file)
            except BlockingIOError:
                holder = _holder(os.pread(file, 4096, 0)) or "another process, which has just begun"
                os.close(file)
                raise ArtifactError(
                    f"{what} is being made by {holder}; wait until it is done, or stop that process first"
                ) from None
            except BaseException:
                os.close(file)
                raise


def _holder(text: bytes) -> str | None:
    """Who holds a lock, by what its file says; None where it says nothing of that kind."""
    with suppress(ValueError, KeyError, TypeError):
        found: dict[str, Any] = json.loads(text)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    return None
