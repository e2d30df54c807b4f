"""What the machine refuses besides room: permission, names, open files, sound disks, memory. One sentence each, and the stage goes on."""

import errno
import io
import os
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from disk_walk import ROOT, STAGES, forget, goes_on, making, refused, with_all_before
from safetensors import SafetensorError
from small_disk import Disk, attempt, few_files, on_a_disk, without_privileges
from test_disks import Tally, held, results, whole  # noqa: F401  (the fixture)

from pipeline.artifacts.files import permitted, write_bytes
from pipeline.artifacts.refusals import sentence
from pipeline.data_check import check
from pipeline.training import room

NUMBERS = (errno.EIO, errno.EDQUOT, errno.EACCES, errno.EROFS)
WORDS = {
    errno.EIO: "its disk reports a fault",
    errno.EDQUOT: "the quota of its disk is used up",
    errno.EACCES: "not permitted",
    errno.EROFS: "its file system is read-only",
}
TOLD = [
    (OSError(errno.ENOSPC, "No space left on device", "runs/r/x"), "runs/r/x: no space is left on its disk"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota of its disk is used up"),
    (OSError(errno.EROFS, "Read-only file system", b"x"), "x: its file system is read-only"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), "x: not permitted"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "the name is longer than its file system takes"),
    (OSError(errno.EMFILE, "Too many open files", "x"), "too many files are open (ulimit -n is "),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "a folder is where a file belongs"),
    (OSError(errno.EIO, "Input/output error"), "its disk reports a fault"),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "no space is left"),
    (SafetensorError("I/O error: Input/output error (os error 5)"), "its disk reports a fault"),
    (Exception("Permission denied (os error 13)"), "not permitted"),  # what tokenizers raises
    (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012"),
        "could not be written whole",
    ),
    (RuntimeError("basic_ios::clear: iostream error"), "could not be written whole"),
    (sqlite3.OperationalError("database or disk is full"), "no space is left on its disk"),
    (MemoryError(), "memory ran out (MemoryError); lower sft.per_device_train_batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "memory ran out"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory ran out (CUDA out of memory."),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
]
NOT_TOLD = [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
    FileExistsError(errno.EEXIST, "File exists", "/tmp"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError("Can't load the configuration of x"),
    ValueError("No space left on device (os error 28)"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    KeyError("out of memory"),
]


def test_each_refusal_is_one_sentence_and_a_fault_of_ours_none(tally: Tally) -> None:
    with tally("disks") as cases:
        for error, words in TOLD:
            with cases(repr(error)):
                said = sentence(error, "sft", Path("runs/r/sft.partial"))
                assert said is not None and words in said and said.startswith("sft: ") and "\n" not in said, said
        for error in NOT_TOLD:
            with cases(repr(error)):
                assert sentence(error) is None
        with cases("a fault of ours while a refusal is handled"):
            mistake = KeyError("x")
            mistake.__context__ = OSError(errno.EIO, "Input/output error")
            assert sentence(mistake) is None
        with cases("a library that raises its own error for it"):
            wrapped = RuntimeError("An error occurred while generating the dataset")
            wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "cache/x.arrow")
            assert "cache/x.arrow: no space" in str(sentence(wrapped))


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former one stays; a link leads to what it led to; what is no file is written to."""
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    page.write_text("former")
    link.symlink_to(page)
    write_bytes(link, b"new")
    assert link.is_symlink() and page.read_text() == "new"
    write_bytes(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input"):
        write_bytes(page, b"newer")
    assert page.read_text() == "new" and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_what_a_library_made_for_its_owner_alone_gets_what_the_umask_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "inner").mkdir(mode=0o700)
        for name in ("a", "inner/b"):
            os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY, 0o600))
        permitted(tmp_path)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_a_full_disk_in_stage_data(tmp_path: Path, tally: Tally) -> None:
    """What every stage is tried for when the slow tests run: full, read-only, not permitted, too few open files, names in the way."""
    import pipeline.stages.data  # noqa: F401

    def inside(disk: Disk) -> list[tuple[str, str | None]]:
        found: list[tuple[str, str | None]] = []
        Path("runs/r").mkdir(parents=True)
        for name, before, after, words in (
            ("full", lambda: disk.resize(0), disk.resize, "no space is left on its disk"),
            ("read-only", lambda: disk.resize(read_only=True), disk.resize, "its file system is read-only"),
            ("runs/ is a file", _in_the_way, _out_of_the_way, "runs: no folder"),
        ):
            before()
            held(found, name, lambda: refused(attempt(making("data")), words))  # noqa: B023
            after()
        Path("runs/r").chmod(0o555)
        ended = attempt(making("data"), without_privileges)
        held(found, "not permitted", lambda: refused(ended, "not permitted"))
        Path("runs/r").chmod(0o755)
        for long in ("page", "json"):
            told = attempt(lambda: _checked(**{long: Path("x" * 256)}))  # noqa: B023
            held(found, f"--{long} with a long name", lambda: refused(told, "longer than its file system takes"))  # noqa: B023
        held(found, "then", lambda: attempt(making("data")).code == 0 or pytest.fail("not made"))
        return found

    results(tally, on_a_disk(tmp_path / "disk", inside))


def _in_the_way() -> None:
    shutil.rmtree("runs")
    Path("runs").write_text("mine")


def _out_of_the_way() -> None:
    Path("runs").unlink()
    Path("runs/r").mkdir(parents=True)


def _checked(page: Path | None = None, json: Path | None = None) -> None:
    check.run(str(ROOT / "data" / "smoke.jsonl"), [], "tiny-random", json, page)


def failing(number: int, after: int) -> Callable[[], None]:
    """Every writing of a file beyond the first `after`, once the stage has seen that there is room, fails as a disk makes it."""

    def before() -> None:
        right, count = io.open, [0]

        def opened(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
            if set(mode) & set("wax+") and "runs" in str(file):
                count[0] += 1
                if count[0] > after:
                    raise OSError(number, os.strerror(number), str(file))
            return right(file, mode, *arguments, **more)

        checked = room.check

        def then(*arguments: Any, **more: Any) -> str:
            io.open = opened  # type: ignore[assignment]
            __builtins__["open"] = opened  # type: ignore[index]
            return checked(*arguments, **more)

        room.check = then

    return before


def out_of_memory() -> None:
    """The stage's memory runs out as it begins to work."""

    def then(*_: Any, **__: Any) -> str:
        raise MemoryError("Unable to allocate 9.00 GiB for an array")

    room.check = then


def refused_to(stage: str, walked: Path, reference: dict[str, Any], disk: Disk) -> list[tuple[str, str | None]]:
    """What is refused to a stage one after another, each attempt going on from what the one before left; then nothing is."""
    found: list[tuple[str, str | None]] = []
    with_all_before(stage, walked)
    disk.resize(read_only=True)
    ended = attempt(making(stage))
    disk.resize()
    held(found, f"{stage}: read-only", lambda: refused(ended, WORDS[errno.EROFS]))
    Path("runs/r").chmod(0o555)
    ended = attempt(making(stage), without_privileges)
    Path("runs/r").chmod(0o755)
    held(found, f"{stage}: not permitted", lambda: refused(ended, WORDS[errno.EACCES]))
    for later, number in enumerate(NUMBERS):
        after = 0 if stage == "best_of_n" else later  # it writes three files in all
        ended = attempt(making(stage), failing(number, after))
        held(found, f"{stage}: {os.strerror(number)}", partial(refused, ended, WORDS[number]))
    ended = attempt(making(stage), out_of_memory)
    held(found, f"{stage}: memory", lambda: refused(ended, "memory ran out (Unable to allocate 9.00 GiB"))
    ended = attempt(making(stage), lambda: few_files(0))
    held(found, f"{stage}: open files", lambda: refused(ended, "too many files are open"))
    held(found, f"{stage}: nothing published", lambda: _absent(Path("runs/r") / stage))
    held(found, f"{stage}: goes on", lambda: goes_on(stage, reference))
    forget(stage)
    return found


def _absent(folder: Path) -> None:
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_refused_is_told_and_the_stage_goes_on(
    stage: str,
    whole: tuple[Path, dict[str, Any]],  # noqa: F811
    tmp_path: Path,
    tally: Tally,
) -> None:
    results(tally, on_a_disk(tmp_path / "disk", lambda disk: refused_to(stage, *whole, disk)))
