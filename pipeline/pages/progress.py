"""How far is it? A bar with the time to go on a terminal; elsewhere one line a minute, while nothing moves too."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

EVERY = 60.0  # seconds between two lines where there is no terminal


class Lines(tqdm):
    """A progress bar told as lines: the first after EVERY seconds, so that what is done before says nothing."""

    clock: Callable[[], float] = time.monotonic
    newest: "Lines | None" = None  # that is not closed

    def __init__(self, **settings: Any):
        self.told = self.clock()
        super().__init__(**settings | {"mininterval": 0, "miniters": 1})
        Lines.newest = None if self.disable else self

    def display(self, *args: Any, **kwargs: Any) -> None:  # tqdm asks for it whenever something has changed
        if self.clock() - self.told >= EVERY:
            self.told = self.clock()
            print(line(self.format_dict, bool(self.unit_scale)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more is told: the stage closes with a line of its own."""
        self.disable = True
        if Lines.newest is self:
            Lines.newest = None


@contextmanager
def never_silent(what: str) -> Iterator[None]:
    """Within the block a line a minute is told where there is no terminal, though a step, a model's loading or a file takes longer: of the
    bar that is open, else that `what` is at work. Quiet on other processes than the first."""
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(what, ended), daemon=True)
    if not sys.stderr.isatty() and not _of_another_process():
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _tell(what: str, ended: threading.Event) -> None:
    began = said = Lines.clock()
    while not ended.wait(EVERY / 60):
        now, at = Lines.clock(), Lines.newest
        if now - max(said, 0.0 if at is None else at.told) < EVERY:
            continue
        said = now
        with suppress(OSError, ValueError):  # nobody reads any more
            if at is None:
                print(f"{what}: at work for {tqdm.format_interval(now - began)}", file=sys.stderr, flush=True)
            else:
                at.display()


def line(at: Mapping[str, Any], scaled: bool) -> str:
    """Such as "ppo: 12 of 32 iterations, 3:20 left; score 1.43, kl 2.10, length 13.2", from tqdm's format_dict."""
    shown = tqdm.format_sizeof if scaled else str
    done, total = at["n"], at["total"]
    plural = at["unit"] if at["unit"].endswith(("s", "B")) else f"{at['unit']}s"
    told = (
        f"{at['prefix']}: {shown(done)} of {shown(total)} {plural}"
        if total
        else f"{at['prefix']}: {shown(done)} {plural}"
    )
    new = done - at["initial"]
    if total and new > 0:
        told += f", {tqdm.format_interval((total - done) * at['elapsed'] / new)} left"
    return f"{told}; {at['postfix'].replace('=', ' ')}" if at["postfix"] else told


def bar(total: int, what: str, unit: str, start: int = 0) -> tqdm:
    """A progress bar with the time to go, whose last line stays; on standard error that is no terminal, one line a minute; quiet on
    other processes than the first."""
    kind = tqdm if sys.stderr.isatty() else Lines
    others = _of_another_process()
    return kind(total=total, initial=start, desc=what, unit=unit, disable=others, dynamic_ncols=True, leave=True)


def _of_another_process() -> bool:
    return os.environ.get("RANK", "0") != "0"


def shown(figures: dict[str, float], names: tuple[str, ...], most: int = 3) -> dict[str, str]:
    """The first `most` of `names` that `figures` has, as a bar shows them beside itself: by the last part of each name."""
    found = [name for name in names if name in figures][:most]
    return {name.rpartition("/")[2].replace("mean_", ""): f"{figures[name]:.3g}" for name in found}
