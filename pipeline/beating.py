"""Is a process that others wait for still there? It writes a beat every second; who started it looks, and asks the kernel.

A process that is stopped (SIGSTOP, a debugger's is another matter) is ended after STOPPED seconds, and one whose Python does not go on, as
code in C keeps its lock, after what one call of a user's function may take: function_timeout. Not seen here is a process whose Python goes on and
whose work does not: of that only its function_timeout tells. Time in which who looks was stopped itself, with all others or with the machine, does not count.
"""

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEAT = ".beat"  # how the name of a file of beats ends, behind a process's rank
EVERY = 1.0  # seconds from beat to beat, and from look to look
STOPPED = 15.0  # seconds that a process may be stopped
NO_STEP, NO_LIMIT = -1, float("inf")
_BEAT = struct.Struct("<qqqqd")  # process, beats so far, steps done, steps in all, seconds that Python may stand still


@dataclass(frozen=True)
class Beat:
    """What a process said last."""

    process: int
    count: int
    step: int = NO_STEP  # that is done; NO_STEP: nothing is trained
    steps: int = 0
    limit: float = NO_LIMIT

    @property
    def where(self) -> str:
        """Its step in words, with a space before them; nothing where it has none."""
        return "" if self.step == NO_STEP else f" at step {self.step} of {self.steps}"


@dataclass
class _Own:
    """What this process says of itself, and where; -1: nowhere."""

    file: int = -1
    process: int = 0
    count: int = 0
    step: int = NO_STEP
    steps: int = 0
    limit: float = NO_LIMIT


_own = _Own()


def begin(file: int) -> None:
    """From here on this process writes its beats at the beginning of the open file `file`."""
    _own.file, _own.process = file, os.getpid()
    _write()
    threading.Thread(target=_go_on, daemon=True).start()


def _go_on() -> None:
    while _own.process == os.getpid():
        time.sleep(EVERY)
        _own.count += 1
        _write()


def _write() -> None:
    if _own.file >= 0 and _own.process == os.getpid():  # not in what it forks
        said = _BEAT.pack(_own.process, _own.count, _own.step, _own.steps, _own.limit)
        with suppress(OSError):  # a full disk is told by what needs it
            os.pwrite(_own.file, said, 0)


def reached(step: int | None, steps: int) -> None:
    """So many steps are done."""
    _own.step, _own.steps = NO_STEP if step is None else step, steps
    _write()


def allow(seconds: float | None) -> None:
    """How long Python may stand still; None: for ever."""
    _own.limit = NO_LIMIT if seconds is None else seconds
    _write()


def read(file: int) -> Beat | None:
    """The last beat in an open file; None before the first."""
    said = os.pread(file, _BEAT.size, 0)
    return Beat(*_BEAT.unpack(said)) if len(said) == _BEAT.size else None


def last(path: Path) -> Beat | None:
    """The last beat in the file at `path`, if there is one."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return read(file)
    finally:
        os.close(file)


@dataclass(frozen=True)
class Silent:
    """A process that was ended, as it did not answer."""

    name: str
    beat: Beat
    stopped: bool  # by a signal; else its Python stood still

    @property
    def code(self) -> int:
        """With what ends who started it: the signal's, or that of a mistake."""
        return 128 + signal.SIGSTOP if self.stopped else 2

    @property
    def sentence(self) -> str:
        """What a user reads of it."""
        if self.stopped:
            return (
                f"error: {self.name} was stopped{self.beat.where} by a signal (SIGSTOP) and did not go on for {STOPPED:g} s, so "
                "what waited for it was ended; the same command goes on"
            )
        return (
            f"error: {self.name} has not answered for {self.beat.limit:g} s{self.beat.where}, as a call that it made keeps Python's lock; "
            "mend that function, or set function_timeout to more seconds (null: no limit); the same command goes on"
        )


@dataclass
class _Seen:
    """A process, and since when it is so, in seconds in which somebody looked."""

    process: Any
    count: int = -1
    stopped: float = 0.0
    still: float = 0.0


@dataclass
class Looking:
    """Looks at processes by their beats; the file of each is opened by who knows of it."""

    found: list[Silent] = field(default_factory=list)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _at: float = field(default_factory=lambda: time.monotonic())

    def look(self, beats: dict[str, Beat | None]) -> None:
        """Kill each process of `beats`, by name, that has not answered for too long, and add it to `found`."""
        now = time.monotonic()
        passed, self._at = min(now - self._at, 2 * EVERY), now
        for name, beat in beats.items():
            if beat is not None and all(one.name != name for one in self.found):
                self._look_at(name, beat, passed)

    def _look_at(self, name: str, beat: Beat, passed: float) -> None:
        import psutil

        try:
            if (one := self._seen.get(name)) is None or one.process.pid != beat.process:
                one = self._seen[name] = _Seen(psutil.Process(beat.process))
            one.stopped = one.stopped + passed if one.process.status() == psutil.STATUS_STOPPED else 0.0
            one.still = one.still + passed if one.count == beat.count and not _held(one.process) else 0.0
            one.count = beat.count
            if one.stopped >= STOPPED or one.still >= beat.limit:
                self.found.append(Silent(name, beat, one.stopped >= STOPPED))
                one.process.kill()
        except psutil.Error:
            return  # it has ended, which its parent knows


def _held(process: Any) -> bool:
    """Whether a debugger has stopped it, or a signal has, which is counted by itself."""
    import psutil

    return process.status() in (psutil.STATUS_TRACING_STOP, psutil.STATUS_STOPPED)


@contextmanager
def looked_at(files: dict[str, int], folder: Path | None = None, what: str = "") -> Iterator[list[Silent]]:
    """Within the block a thread looks at the processes that beat in open `files`, by name, and in those of `folder`, each a process of
    the stage `what` by its rank; those that were ended stand in the list."""
    looking, over = Looking(), threading.Event()
    if not files and folder is None:
        yield looking.found
        return

    def go_on() -> None:
        while not over.wait(EVERY):
            beats = {name: read(file) for name, file in files.items()}
            for path in folder.glob(f"*{BEAT}") if folder is not None else ():
                started = f"process {path.stem}" if path.stem.isdigit() else "what started the processes"
                beats[f"{started} of {what}"] = last(path)
            looking.look(beats)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield looking.found
    finally:
        over.set()
        thread.join()
