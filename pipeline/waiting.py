"""What is done about a function of the user's that does not return? A word after a minute, and after function_timeout an end.

The other processes of a stage wait for the one whose function does not return: it is that one which speaks, and whose end ends them.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from data.reading import sources
from pipeline import beating, ending

WORD = 60.0  # seconds until it is said what is waited for
LIMIT = 1800.0  # seconds of one call, unless `allow` said otherwise: a batch that a judge behind a slow line scores takes minutes
MORE = 600.0  # seconds that other processes wait beyond that
NEVER = timedelta(days=365)  # what is taken for no limit where one is asked for

_limit: list[float | None] = [LIMIT]


def allow(seconds: float | None) -> None:
    """How long one call may take in this process, by the setting function_timeout; None: for ever."""
    _limit[0] = seconds
    beating.allow(seconds)
    sources.called_by = lambda function, name: patient(function, f"function {name}")


def others_wait() -> timedelta:
    """How long a process waits for another one, in which a function may be called."""
    return NEVER if _limit[0] is None else timedelta(seconds=max(LIMIT, _limit[0] + MORE))


@dataclass(eq=False)
class _Call:
    """A call that has not returned yet."""

    what: str
    limit: float | None
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    def look(self) -> None:
        """Say what is to be said by now, or end."""
        waited, word = time.monotonic() - self.since, WORD if self.limit is None else min(WORD, self.limit)
        if self.limit is not None and waited >= self.limit:
            how = "mend it, or set function_timeout to more seconds (null: no limit)"
            ending.say(ending.MISTAKE, f"error: {self.what} has not returned for {self.limit:g} s; {how}")
            os._exit(2)  # an exception does not reach code that waits in C, and a function may catch it
        if waited >= word and not self.told:
            self.told = True
            end = "" if self.limit is None else f"; function_timeout ends it after {self.limit:g} s"
            print(f"{self.what} has not returned for {word:g} s{end}", file=sys.stderr, flush=True)


_calls = dict[_Call, None]()
_watch: list[threading.Thread] = []  # the thread that looks at them; a process that is forked has none yet


def _look() -> None:
    while True:
        for call in list(_calls):
            call.look()
        time.sleep(0.25)


@contextmanager
def watched(what: str, limit: bool = True) -> Iterator[None]:
    """Say that `what` has not returned where the block takes longer than a minute, and end this process where it takes longer than
    is allowed, unless it has a limit of its own."""
    if not _watch or not _watch[0].is_alive():
        _watch[:] = [threading.Thread(target=_look, daemon=True)]
        _watch[0].start()
    call = _Call(what, _limit[0] if limit else None)
    _calls[call] = None
    try:
        yield
    finally:
        del _calls[call]


def patient(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function, each call of it watched, and each step of an iterator that it returns."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with watched(what):
            found = function(*args, **kwargs)
        return _steps(found, what) if hasattr(found, "__next__") else found

    return called


def _steps(rows: Iterator[Any], what: str) -> Iterator[Any]:
    while True:
        with watched(what):
            try:
                row = next(rows)
            except StopIteration:
                return
        yield row
