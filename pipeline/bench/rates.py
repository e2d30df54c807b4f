"""How fast does the machine multiply and read between the turns, and what share of that did an iteration reach?

    python -m pipeline.bench.rates float32        # started by pipeline.bench; measures whenever it is its turn

A shared machine is fast in one minute and slow in the next. A rate that was measured once, in a slow minute, lets an
iteration look better than the machine can do. So both rates are measured before and after every turn of the others, and
the best counts.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bench.machine import matrix_rate, read_rate
from pipeline.bench.turns import Turns

REPETITIONS = 5
"""Products and sums in one measurement, which gives their median: about a second, beside turns of many."""


def best(measurements: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, Any]:
    """The highest rates of all measurements: {"gflops", "read_gb_per_s", "measured": how many there were}.

    Raises KeyError when the products were measured in another dtype.
    """
    return {
        "gflops": max(one["gflops"][dtype] for one in measurements),
        "read_gb_per_s": max(one["read_gb_per_s"] for one in measurements),
        "measured": len(measurements),
    }


def shares(reached: Mapping[str, float], rate: float, named: str, unit: str) -> dict[str, float | str]:
    """What of `rate` each phase reached, both in `unit`; a sentence in place of every share where one is above 1.

    Nothing runs faster than the machine: one share above 1 says that the rate is too low, and so that every share of it
    is too high.
    """
    phase = max(reached, key=lambda name: reached[name])
    if reached[phase] > rate:
        wrong = f"the {named} rate was measured too low: {rate:.4g} {unit}, but {phase} reached {reached[phase]:.4g}"
        return dict.fromkeys(reached, f"{wrong}; run again on a quieter machine")
    return {name: speed / rate for name, speed in reached.items()}


def main() -> None:
    turns, dtype = Turns(), sys.argv[1]
    import torch

    more = turns.ready(dtype=dtype)
    while more:
        rates = {"gflops": {dtype: matrix_rate(dtype, REPETITIONS)}, "read_gb_per_s": read_rate(REPETITIONS)}
        torch.cuda.empty_cache()  # the others need the memory; without a GPU this does nothing
        more = turns.done(**rates)
    turns.close()


if __name__ == "__main__":
    main()
