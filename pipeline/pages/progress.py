"""How far is it? A bar with the time to go on a terminal, one line a minute elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

EVERY = 60.0  # seconds between two lines where there is no terminal


class Lines(tqdm):
    """A progress bar told as lines: the first after EVERY seconds, so that what is done before says nothing."""

    clock: Callable[[], float] = time.monotonic

    def __init__(self, **settings: Any):
        self.told = self.clock()
        super().__init__(**settings | {"mininterval": 0, "miniters": 1})

    def display(self, *args: Any, **kwargs: Any) -> None:  # tqdm asks for it whenever something has changed
        if self.clock() - self.told >= EVERY:
            self.told = self.clock()
            print(line(self.format_dict, bool(self.unit_scale)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more is told: the stage closes with a line of its own."""
        self.disable = True


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
    others = os.environ.get("RANK", "0") != "0"
    return kind(total=total, initial=start, desc=what, unit=unit, disable=others, dynamic_ncols=True, leave=True)


def shown(figures: dict[str, float], names: tuple[str, ...], most: int = 3) -> dict[str, str]:
    """The first `most` of `names` that `figures` has, as a bar shows them beside itself: by the last part of each name."""
    found = [name for name in names if name in figures][:most]
    return {name.rpartition("/")[2].replace("mean_", ""): f"{figures[name]:.3g}" for name in found}
