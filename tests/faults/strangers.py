"""What do the tests of strangers' models share? A folder that is changed, and work in a fork that has seconds to end and is answered y."""

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from as_a_program import ended_by

SECONDS, GIB = 60.0, 2**30
"""What a case may take: the longest limit of ours is shorter, and a case that hangs takes all of it."""


@dataclass(frozen=True)
class Ended:
    """How work in a fork ended: its exit code (None where it was killed for its time), and what it wrote."""

    code: int | None
    said: str


def forked(work: Callable[[], object], seconds: float = SECONDS, memory: int = 6 * GIB, guard: bool = True) -> Ended:
    """`work` in a fork of this process, with a terminal's input that says y to whatever asks; `guard`: as the command line runs it, which
    does so itself."""
    from pipeline.running import guarded

    sys.stdout.flush()
    sys.stderr.flush()
    out, inside = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        ended_by(lambda: _within(inside, memory, (lambda: guarded(lambda: work() and None)) if guard else work))
    os.close(inside)
    return _watched(child, out, seconds)


def _within(inside: int, memory: int, work: Callable[[], object]) -> None:
    """Do `work` with so much memory beyond what is in use; what it says goes to `inside`."""
    _answered()
    os.dup2(inside, 1)
    os.dup2(inside, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
    work()


def _answered() -> None:
    """Standard input is endless y: what asks is told yes."""
    asked, answers = os.pipe()
    os.write(answers, b"y\n" * 100)
    os.close(answers)
    os.dup2(asked, 0)
    sys.stdin = os.fdopen(0, closefd=False)


def _watched(child: int, out: int, seconds: float) -> Ended:
    said, end, killed = bytearray(), time.monotonic() + seconds, False
    while True:
        ready, _, _ = select.select([out], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            killed = True
            break
        part = os.read(out, 65536)
        if not part:
            break
        said += part
    os.close(out)
    _, status = os.waitpid(child, 0)
    return Ended(None if killed else os.waitstatus_to_exitcode(status), said.decode(errors="replace"))


def rewritten(path: Path, **changes: Any) -> None:
    """A JSON file with other values; a value of ... takes the key out."""
    value = json.loads(path.read_text()) if path.exists() else {}
    for name, new in changes.items():
        if new is ...:
            value.pop(name, None)
        else:
            value[name] = new
    path.write_text(json.dumps(value))


def commanded(seconds: float, *arguments: str) -> Ended:
    """A command line in a fork."""

    def work() -> object:
        from pipeline.__main__ import app

        return app([*arguments], prog_name="python -m pipeline")

    return forked(work, seconds, guard=False)


def refused(ended: Ended, *named: str) -> None:
    """It ended as a user's mistake does: one sentence that names each of `named`, exit code 2, and nothing of a program's inside."""
    said = ended.said[-2000:]
    assert ended.code is not None, f"it hung: {said}"
    assert "Traceback" not in said and "panic" not in said.lower(), said
    assert ended.code == 2, f"exit code {ended.code}: {said}"
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("error: ") and sum(line.startswith("error: ") for line in ended.said.splitlines()) == 1, said
    assert "trust_remote_code" not in last and "[y/N]" not in ended.said, said
    for one in named:
        assert one in last, f"{one!r} is not told: {last}"


def json_with(path: Path, trail: tuple[str | int, ...], value: Any) -> None:
    """A JSON file with another value inside."""
    whole = json.loads(path.read_text())
    inner = whole
    for step in trail[:-1]:
        inner = inner[step]
    inner[trail[-1]] = value
    path.write_text(json.dumps(whole))
