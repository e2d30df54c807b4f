"""How do several processes share a long step over rows? They are forked, take one portion after the other, and end with who waits for them."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pipeline.ending import SIGNALS, with_parent
from pipeline.settings.config import ConfigError

T = TypeVar("T")
R = TypeVar("R")

FEW = 1000  # rows that are done sooner than processes are forked
PORTION = 500

_job: list[Any] = []  # the rows and the work that a fork finds


def count(num_proc: int) -> int:
    """How many processes data.num_proc means here. A fork is only safe on Linux."""
    return num_proc if sys.platform == "linux" else 1


def worked(rows: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], processes: int, what: str) -> list[R]:
    """What `work` gives for each of `rows`, in their order, whatever the number of processes; what travels back is pickled. `what` is done
    in words, for the line that says how many do it.

    Raises what `work` raises, and ConfigError where a process is ended from outside.
    """
    if processes == 1 or len(rows) < FEW:
        return list(work(rows))
    starts = range(0, len(rows), PORTION)
    print(f"data: {what} by {processes} processes (data.num_proc)", flush=True)
    _job[:] = [rows, work]
    try:
        forks = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(processes, len(starts)), forks, _begin, (os.getpid(),)) as pool:
            return [one for part in pool.map(_portion, starts) for one in part]
    except BrokenProcessPool as error:
        raise ConfigError(
            f"data.num_proc: one of {processes} processes was ended while rows were {what.rpartition(' ')[2]}, for want of memory perhaps; "
            "set data.num_proc=1"
        ) from error
    finally:
        _job.clear()


def _begin(parent: int) -> None:
    with_parent(parent)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the one that waits heeds them


def _portion(start: int) -> list[Any]:
    rows, work = _job
    return list(work(rows[start : start + PORTION]))
