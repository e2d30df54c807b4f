"""How does a process end, and who ends with it? Signals, the step that training had reached, and children that outlive nobody.

SIGINT (Ctrl-C) ends at once. SIGTERM and SIGHUP end at the next step where a stage trains, once its state is saved, elsewhere at once.
A second signal, or GRACE seconds, end whatever goes on. The exit code is 128 and the signal's number: 130, 143, 129. A process that
was started by one of ours ends with it, however that one went: the kernel sees to it. Imports nothing heavy: it comes first.
"""

import atexit
import ctypes
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from pipeline import beating

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 10.0  # seconds that a step may take until its state is saved
SAME = 0.5  # within so many seconds a signal is the same one, once from the terminal and once from who started us
ENDS = "PIPELINE_ENDS"  # the environment of one process among several: the folder where it says why it ended
LAUNCHER = "PIPELINE_LAUNCHER"  # and the process that started it
INTERRUPTED, MISTAKE, FAULT = "interrupted", "mistake", "fault"
_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Ending(SystemExit):
    """An end that we have decided on. Any other SystemExit comes from a user's function, or from what it imports."""


@dataclass
class _Now:
    """Where this process stands."""

    signal: int = 0  # the first that came; 0: none
    at: float = 0.0
    guarded: bool = False  # whether somebody turns a KeyboardInterrupt into a sentence
    step: int | None = None  # steps that are done; None: nothing is trained
    steps: int = 0
    child: int | None = None  # the process that is waited for, to which signals go
    supervisor: int | None = None  # where to write that the work is done
    parent: bool = False  # whether it ends with the process that started it


_now = _Now()


def heed_signals() -> None:
    """From here on signals end this process as the module says. One that who started us has switched off (nohup) stays so."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _heed)


def _heed(number: int, frame: object) -> None:
    again = bool(_now.signal)
    if again and time.monotonic() - _now.at < SAME:
        return
    if not again:
        _now.signal, _now.at = number, time.monotonic()
    if (child := _now.child) is not None:
        _send(child, number)
        _later(1.0 if again else GRACE + 2, lambda: _kill(child))
    elif again or not _now.guarded:
        end_now()
    else:
        _later(GRACE, end_now)
        if _now.step is None or number == signal.SIGINT:
            raise KeyboardInterrupt


def _later(seconds: float, act: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _kill(child: int) -> None:
    if _now.child == child:  # it is waited for, so the number is still its own
        _send(child, signal.SIGKILL)


def asked() -> int:
    """The signal that asks this process to end; 0 where none does."""
    return _now.signal


def leave(number: int) -> NoReturn:
    """End as the signal does, whose state is saved now; in another process it may be the one that was asked."""
    _now.signal = _now.signal or number
    raise KeyboardInterrupt


def alone() -> bool:
    """Whether this process does nothing else than what we started it for, so that it may end without further ado."""
    return _now.parent


def reached(step: int | None, steps: int = 0) -> None:
    """So many of a stage's steps are done; None: it trains no more."""
    _now.step, _now.steps = step, steps
    beating.reached(step, steps)


def code() -> int:
    """With what a process ends that was interrupted."""
    return 128 + (_now.signal or signal.SIGINT)


def sentence() -> str:
    """What a user reads of a process that was interrupted."""
    where = "" if _now.step is None else f" at step {_now.step} of {_now.steps}"
    return f"interrupted{where}; the same command goes on"


def end_now() -> NoReturn:
    """Say so, and end without another line of Python."""
    say(INTERRUPTED, sentence())
    os._exit(code())


def say(kind: str, text: str) -> None:
    """Tell the terminal why this process ends. One among several leaves that to who started them, who knows what all of them say."""
    folder = Path(os.environ.get(ENDS, "-"))
    if not folder.is_dir():
        print(text, file=sys.stderr, flush=True)
        return
    path = folder / os.environ.get("RANK", "launcher")
    told = {
        "kind": kind,
        "text": text,
        "code": code() if kind == INTERRUPTED else 0,
        "when": time.time(),
        "rank": path.name,
    }
    path.with_suffix(".new").write_text(json.dumps(told), encoding="utf-8")
    path.with_suffix(".new").rename(path)


def culprit(trace: TracebackType | None) -> str:
    """Where an end came from, as a user finds it: the function, its file and line."""
    place = "a function"
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith("<frozen") and "_sitebuiltins" not in code.co_filename:
            name = "the module" if code.co_name == "<module>" else f"{code.co_name}()"
            place = f"{code.co_filename}:{trace.tb_lineno}, in {name}"
        trace = trace.tb_next
    return place


@contextmanager
def guarding() -> Iterator[None]:
    """Within the block an interruption is a KeyboardInterrupt, which who asks for this turns into a sentence; what ends the block
    normally, or in a way that was decided on, is an end with its work done."""
    _now.guarded = True
    try:
        yield
    finally:
        _now.guarded = False


def with_parent(parent: int) -> None:
    """From here on this process is killed when the process `parent`, which has started it, is gone, however that one went.

    Killed, as nobody is left who would hear of a state that is saved; what it has published and saved is whole at any moment.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    _now.parent = True
    if os.getppid() != parent:  # it went before
        os._exit(128 + signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def passing_on(child: int) -> Iterator[None]:
    """Within the block, in which the process `child` is waited for, signals go to it; it is killed where it does not heed them."""
    _now.child = child
    if _now.signal:  # it came while the child was started
        _send(child, _now.signal)
    try:
        yield
    finally:
        _now.child = None


def ended(what: str, returned: int, where: str = "") -> int:
    """The exit code for what a child returned, minus the signal that ended it; and a line where it could not say itself why. `where`:
    its step, in words."""
    if _now.signal:
        if returned != code():
            say(INTERRUPTED, sentence())
        return code()
    if returned < 0:
        memory = ", for want of memory perhaps" if -returned == signal.SIGKILL else ""
        name = signal.Signals(-returned).name
        print(
            f"error: {what} was ended by {name}{where}{memory}; the same command goes on", file=sys.stderr, flush=True
        )
        return 128 - returned
    return returned


def beat() -> None:
    """Write this process's beats into the folder where it says why it ended, if it is one among several that has such a folder."""
    folder = Path(os.environ.get(ENDS, "-"))
    if folder.is_dir():
        path = folder / f"{os.environ.get('RANK', 'launcher')}{beating.BEAT}"
        beating.begin(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def begin() -> None:
    """What our command line does first. A process among several ends with what started it; make's with make."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        heed_signals()
        with_parent(int(launcher))
        beat()
        return
    by_make = os.environ.get("PIPELINE_CALLER") == "make"
    supervise(" ".join(sys.argv[1:2]) or "the program", os.getppid() if by_make else None)


def supervise(what: str, parent: int | None = None) -> None:
    """Returns in a child of this process, which waits for it: so no end goes without a word, whatever a user's function does.
    `what` is the child's work in words; `parent` is the process with which this one ends in its turn.

    Elsewhere than on Linux it returns at once: there a fork may not go on with what was imported.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none is lost in between
    heed_signals()
    if parent is not None:
        with_parent(parent)
    if sys.platform == "linux":
        me, (reading, writing) = os.getpid(), os.pipe()
        beats = os.memfd_create("beats") if among_several() else None
        if child := os.fork():
            os.close(writing)
            _wait(what, child, reading, beats)
        os.close(reading)
        with_parent(me)
        if beats is not None:
            beating.begin(beats)
        _now.supervisor = writing
        atexit.register(done)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def among_several() -> bool:
    """Whether others wait for this process, whoever started them."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def _wait(what: str, child: int, reading: int, beats: int | None) -> NoReturn:
    if beats is not None:
        what = f"process {os.environ.get('RANK', '?')} of {what}"
    with passing_on(child), beating.looked_at({} if beats is None else {what: beats}) as silent:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        returned = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if silent and returned < 0:
        print(silent[0].sentence, file=sys.stderr, flush=True)
        returned = silent[0].code
    elif returned < 0:
        beat = None if beats is None else beating.read(beats)
        returned = ended(what, returned, "" if beat is None else beat.where)
    elif returned == 0 and not os.read(reading, 1):
        print(
            f"error: {what} was ended from within before it was done, as os._exit(0) does; look for that in a function of yours or in "
            "what it imports, and let it raise an error instead",
            file=sys.stderr,
            flush=True,
        )
        returned = 2
    os._exit(returned)


def done() -> None:
    """Tell who supervises this process that its work is done."""
    if _now.supervisor is not None:
        os.write(_now.supervisor, b".")
        os.close(_now.supervisor)
        _now.supervisor = None


def ended_with_us(module: str, *arguments: str) -> list[str]:
    """The command line of `python -m module`, as a child of this process that ends with it. -P: beside this file
    lie modules that have names of Python's own."""
    return [sys.executable, "-P", __file__, str(os.getpid()), module, *arguments]


if __name__ == "__main__":
    with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
