"""What does the machine refuse: space, permission, files, memory? One sentence that says what, where, how much there is, what helps.

Libraries tell of it in many ways: an OSError, Rust's "(os error 28)", torch's "unexpected pos", a word of sqlite. Here they become
one. What is no refusal of the machine is left alone, and keeps its traceback.
"""

import errno
import io
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.artifacts.errors import ArtifactError
from pipeline.graph import PRETRAINED

FULL, MEMORY = (errno.ENOSPC, errno.EDQUOT), -errno.ENOMEM
UNWRITTEN = 0  # torch says that a file could not be written, and not why
ON = "the same command goes on then"
WORDS = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the quota of its disk is used up",
    errno.EROFS: "its file system is read-only",
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted",
    errno.ENAMETOOLONG: "the name is longer than its file system takes",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.EISDIR: "a folder is where a file belongs",
    errno.ENOTDIR: "a file is where a folder belongs",
    errno.EEXIST: "a file is where a folder belongs",
    errno.EIO: "its disk reports a fault",
    errno.ESTALE: "its network disk has lost it",
    errno.ENOLCK: "its file system has no locks",
    errno.EFBIG: "the file would be larger than is allowed",
    UNWRITTEN: "it could not be written whole",
}
HELP = {
    errno.EROFS: "mount it so that it can be written to, or work on another disk",
    errno.EACCES: "give yourself the permission (ls -ld shows whose it is), or work in a folder of your own",
    errno.EPERM: "give yourself the permission (lsattr and ls -ld show what forbids it), or work in a folder of your own",
    errno.ENAMETOOLONG: "choose a shorter name, or work in a folder nearer to the root",
    errno.ENFILE: "close other programs, or raise fs.file-max",
    errno.EISDIR: "move that folder away, or name another file",
    errno.ENOTDIR: "move that file away, or name another folder",
    errno.EEXIST: "move that file away, or name another folder",
    errno.EIO: f"see what dmesg says of the disk, or move the run to another one; {ON}",
    errno.ESTALE: f"mount it again; {ON}",
    errno.ENOLCK: "work on a disk with locks, or start the lock service of the network disk",
}
_RUST = re.compile(r"\(os error (\d+)\)")
_NUMBERED = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)
_TORCH = re.compile(
    r"inline_container\.cc.*(unexpected pos|file write failed|writ)|PytorchStreamWriter failed|iostream error",
    re.DOTALL,
)
_OF_SQLITE = {
    "database or disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "disk i/o error": errno.EIO,
}
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|alloc_failed|unable to mmap"
    r"|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
_PATHS = (
    "filename",
    "filepath",
    "output_path",
    "temporary",
    "path",
    "file",
    "f",
    "self",
    "output_dir",
    "save_directory",
)
"""How a file or folder is called where it is written, here and in the libraries."""
_FAULTS_OF_OURS = (TypeError, ValueError, LookupError, AttributeError, NameError, AssertionError, ArithmeticError)

needed: dict[Path, tuple[float, str]] = {}
"""By partial folder: bytes that its stage writes, about, and which settings make them fewer; where that was estimated (training/room.py)."""


class Refused(ArtifactError):
    """What the machine refused to a stage, in one sentence."""


@contextmanager
def told(stage: str, folder: Path, prune: str = "") -> Iterator[None]:
    """Within the block, where `stage` works in its partial `folder`, what the machine refuses becomes Refused. `prune`: what is said of
    the command that removes former results, where there are any."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        if (said := sentence(error, stage, folder, prune)) is None:
            raise
        raise Refused(said) from error


def sentence(error: BaseException, stage: str = "", folder: Path = Path("runs"), prune: str = "") -> str | None:
    """What the machine refused, by an exception or one behind it; None where it is of another kind. `folder` is where it happened if
    the exception does not say."""
    if (found := _found(error)) is None:
        return None
    number, path = found
    before = f"{stage}: " if stage else ""
    if number == MEMORY:
        return f"{before}memory ran out ({_first_line(error)}); {lower(stage)}"
    where = _written(error) if path is None else Path(path)
    place = where or _likely(number, folder)
    if number == UNWRITTEN and free(place) < 1 << 20:
        number = errno.ENOSPC
    name = f"a file in {place}" if where is None else f"{place}"
    return f"{before}{name}: {WORDS[number]}{_how_much(number, place, stage, folder)}; {_help(number, folder, prune)}"


def lower(stage: str) -> str:
    """What makes a stage need less memory."""
    section = "reward" if stage == "gold" else stage
    if stage == "ppo":
        return (
            "lower ppo.micro_batch_tokens or ppo.batch_size, or set ppo.gradient_checkpointing=true or ppo.tuning=lora"
        )
    if stage in PRETRAINED:
        return (
            f"lower {stage}.per_device_train_batch_size, {stage}.max_length or {stage}.hidden_size, or set "
            f"{stage}.gradient_checkpointing=true"
        )
    if stage in ("sft", "reward", "gold", "reward_encoder", "dpo", "kto", "rloo", "rft"):
        return (
            f"lower {section}.per_device_train_batch_size or data.max_length, or set {section}.gradient_checkpointing=true or "
            f"{section}.tuning=lora"
        )
    if stage in ("compare", "best_of_n", "rank"):
        stage = "compare" if stage == "rank" else stage
        return f"lower {stage}.per_device_eval_batch_size, compare.generation.max_new_tokens or ppo.response_length"
    return "give it a smaller model or fewer rows, or a machine with more memory"


def free(folder: Path) -> int:
    """Bytes that may still be written to the file system of `folder`, which need not be there yet."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The nearest folder above, or this one, that is there."""
    for one in (folder, *folder.absolute().parents):
        with suppress(OSError):
            if one.is_dir():
                return one
    return Path("/")


def size_words(count: float) -> str:
    """Such as 1.6 GB."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    if count < 1e7:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _found(error: BaseException) -> tuple[int, str | None] | None:
    """Number and path of the refusal behind an exception: its own, that of its cause, or of what it was raised in answer to."""
    seen: set[int] = set()
    one: BaseException | None = error
    unknown = None
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if (number := _number(one)) is not None:
            name = getattr(one, "filename", None)
            path = os.fsdecode(name) if isinstance(name, str | bytes) else None
            if number != UNWRITTEN:
                return number, path
            unknown = (number, path)
        silent = one.__suppress_context__ or isinstance(one, _FAULTS_OF_OURS)
        one = one.__cause__ or (None if silent else one.__context__)
    return unknown


def _number(error: BaseException) -> int | None:
    """What a single exception tells, as an errno; MEMORY and UNWRITTEN beside them."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOMEM:
            return MEMORY
        if error.errno == errno.EEXIST and (error.filename is None or Path(os.fsdecode(error.filename)).is_dir()):
            return None  # a folder that a program made twice
        if error.errno == errno.ENOENT and "No usable temporary directory" in text:
            return errno.ENOSPC if free(Path("/tmp")) < 1 << 20 else errno.EACCES
        return error.errno if error.errno in WORDS else None
    if isinstance(error, _FAULTS_OF_OURS):
        return None
    told = _RUST.search(text) or (_NUMBERED.search(text) if not isinstance(error, ArtifactError) else None)
    if told is not None:
        number = int(told[1])
        return MEMORY if number == errno.ENOMEM else number if number in WORDS and number != errno.EEXIST else None
    if type(error).__module__ == "sqlite3":
        return next((number for words, number in _OF_SQLITE.items() if words in text.lower()), None)
    if isinstance(error, RuntimeError | ImportError) and _NO_MEMORY.search(text):
        return MEMORY
    return UNWRITTEN if isinstance(error, RuntimeError) and _TORCH.search(text) else None


def _written(error: BaseException) -> Path | None:
    """The file or folder that was being written, by the names that it has where the exception was raised: a library's save functions
    and Python's files tell none. None where nothing there looks like one."""
    found, step = None, error.__traceback__
    while step is not None:
        for name in _PATHS:
            value = step.tb_frame.f_locals.get(name)
            if isinstance(value, io.IOBase):
                value = getattr(value, "name", None)
                value = tempfile.gettempdir() if isinstance(value, int) else value  # a file without a name
            if isinstance(value, str | Path) and str(value) and Path(value).parent.is_dir():
                found = Path(value)
                break
        step = step.tb_next
    return found


def _likely(number: int, folder: Path) -> Path:
    """Where it happened, where the exception names no file: of the folders that are written to, the one with the least room."""
    if number not in FULL:
        return folder
    terminal = [Path(f"/proc/self/fd/{number}").resolve() for number in (1, 2)]
    others = [*([Path(tempfile.tempdir)] if tempfile.tempdir else []), Path(os.environ.get("HF_HOME", folder))]
    return min([folder, *others, *(path.parent for path in terminal if path.is_file())], key=free)


def _how_much(number: int, place: Path, stage: str, folder: Path) -> str:
    """How much is free there, and how much the stage needs; or the limit that was met."""
    if number in (*FULL, UNWRITTEN):
        there = os.statvfs(existing(place))
        left = (
            f"{size_words(there.f_bavail * there.f_frsize)} are free of {size_words(there.f_blocks * there.f_frsize)}"
        )
        if there.f_files and not there.f_favail:
            left += ", and no more files can be made there"
        need = f"; {stage} writes about {size_words(needed[folder][0])}" if folder in needed else ""
        return f" ({left}{need})"
    if number == errno.EMFILE:
        return f" (ulimit -n is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    return ""


def _help(number: int, folder: Path, prune: str) -> str:
    if number in (*FULL, UNWRITTEN):
        fewer = f", or {needed[folder][1]}" if folder in needed and needed[folder][1] else ""
        return f"make room{fewer}; {ON}{prune}"
    if number == errno.EMFILE:
        return f"raise it, such as ulimit -n 4096; {ON}"
    if number == errno.EFBIG:
        return f"raise ulimit -f; {ON}"
    return HELP[number]


def _first_line(error: BaseException) -> str:
    """The first line of what was said, short."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 120 else f"{text[:120]}…"
