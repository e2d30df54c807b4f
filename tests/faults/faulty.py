"""What do the tests of several processes do to one of them? As sitecustomize.py on its path, read before anything else of the process.

FAULT is an act, a rank and a moment: "begin", or the number of steps that are done. LIMIT and PUBLISHING are seconds: how long processes wait for each other,
and how long it takes to publish.
"""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

ACTS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hold": lambda: __import__("ctypes").PyDLL(None).sleep(100),  # with Python's lock
    "wait": lambda: time.sleep(100),
}


def act(name: str) -> None:
    Path("fault").write_text(str(time.time()))
    if name == "raise":
        raise LookupError("a fault of mine")
    ACTS[name]()


def prepare(name: str, rank: str, moment: str) -> None:
    """Put the act at its moment in this process."""
    from pipeline import ending

    right, begin = ending.reached, ending.begin

    def reached(step: int | None, steps: int = 0) -> None:
        right(step, steps)
        if str(step) == moment:
            act(name)

    def beginning() -> None:
        begin()
        act(name if rank == os.environ["RANK"] else "wait")

    if rank == os.environ["RANK"]:
        ending.reached = reached
    if moment == "begin":
        ending.begin = beginning


def slow(limit: float, seconds: float) -> None:
    """Publishing takes longer than processes wait for each other."""
    from pipeline import waiting
    from pipeline.artifacts import publish

    right = publish.publish

    def publishing(*given: Any, **more: Any) -> Any:
        time.sleep(seconds)
        return right(*given, **more)

    waiting.others_wait = lambda: timedelta(seconds=limit)
    publish.publish = publishing


if "STOPPED" in os.environ:
    from pipeline import beating

    beating.STOPPED, beating.EVERY = float(os.environ["STOPPED"]), 0.1
if "RANK" in os.environ and "FAULT" in os.environ:
    prepare(*os.environ["FAULT"].split())
if "RANK" in os.environ and "LIMIT" in os.environ:
    slow(float(os.environ["LIMIT"]), float(os.environ["PUBLISHING"]))
