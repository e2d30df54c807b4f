"""How long did each iteration take, and what could this machine do at that time? One process of those that `held` starts.

    python -m pipeline.plan.clock '[{"model": …}, 16]'        # a Spec and tokens of a prompt as JSON; in several processes by torchrun

All of them wait for each other, measure the machine together, and start an iteration together: on a machine that others use too, rates and
seconds are then of the same minute. Seconds are those of this process on a core, of one thread: what others take is no part of them. The first
iteration warms up.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from pipeline.bench.machine import matrix_rate, peak_gb, read_rate
from pipeline.bench.turns import Spec

NUMBERS = 2**25
"""Of the array that is read: more than a cache holds, and less than what an iteration gives back."""
timer = time.process_time


class Clock:
    """Takes the place of the bench's turns: nobody is waited for but the other processes."""

    def __init__(self, dtype: str, resident: float) -> None:
        self.dtype, self.resident, self.began, self.peak = dtype, resident, 0.0, 0.0
        self.seconds, self.waited, self.rates = list[float](), list[float](), list[dict[str, Any]]()
        self.phases, self.calls = list[dict[str, float]](), list[dict[str, float]]()
        self._started = (0.0, 0.0)

    def ready(self, **_: Any) -> bool:
        self.began = peak_gb()
        return self._start()

    def done(self, phases: dict[str, float], **_: Any) -> bool:
        self.seconds.append(timer() - self._started[0])
        self.waited.append(time.perf_counter() - self._started[1])
        self.phases.append(phases)
        self.peak = self.peak or peak_gb()  # of the first iteration: measuring the machine takes memory too
        _together()
        self.rates.append({"gflops": matrix_rate(self.dtype, 7, timer), "read_gb_per_s": read_rate(5, NUMBERS, timer)})
        return self._start()

    def close(self) -> None:
        """Nobody waits to hear of it."""

    def tell(self) -> None:
        told = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        print(json.dumps({"rank": int(os.environ.get("RANK", "0")), **told}), flush=True)

    def _start(self) -> bool:
        _together()
        self._started = (timer(), time.perf_counter())
        return True


def _together() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def main() -> None:
    given, prompt = json.loads(sys.argv[1])
    spec = Spec(**given)
    import psutil
    import torch

    from pipeline.bench.ours import fixed_prompts, play
    from pipeline.plan.calls import measured
    from pipeline.training.context import make_accelerator, quiet
    from policies.backbone import load_causal
    from policies.tokenizers import load_tokenizer

    quiet()
    device = make_accelerator().device
    before = measured(device, timer)
    tokenizer = load_tokenizer(spec.model)
    rows = fixed_prompts(tokenizer, spec.batch * spec.iterations, prompt)
    clock: Any = Clock(spec.dtype, psutil.Process().memory_info().rss / 1e9)
    play(load_causal(spec.model, tokenizer, getattr(torch, spec.dtype)), tokenizer, spec, rows, clock)
    clock.calls = [asdict(one) for one in (before, measured(device, timer))]
    clock.tell()


if __name__ == "__main__":
    main()
