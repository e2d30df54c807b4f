"""How much is computed at once, where the recipe leaves it open? On a GPU as much as its free memory holds, on a CPU what was measured as best.

What is chosen changes memory and speed and, but for rounding, no number. So a setting that is left open stays open in a stage's
identity, and the choice stands among the notes of its manifest: a run made with another memory is up to date, and goes on from a state.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
from accelerate.utils import gather_object

from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.settings.ppo import PPO
from pipeline.training import preflight
from pipeline.training.limits import available
from policies.footprint import Footprint
from policies.loop_settings import MICRO_BATCH_TOKENS, ROLLOUT_BATCH

USABLE = 0.9  # of what is free on a GPU: what the allocator cannot hand out is left over
TOKENS = tuple(2**n for n in range(8, 15))  # of a micro-batch: 256 to 16,384
ROWS = tuple(2**n for n in range(3, 11))  # that are decoded together: 8 to 1,024
EVALUATED = 64  # of them, on a CPU
MICRO, ROLLOUT, EVALUATION = "micro_batch_tokens", "per_device_rollout_batch_size", "per_device_eval_batch_size"


def largest(tried: Sequence[int], most: float, fits: Callable[[int], bool]) -> int:
    """The largest of `tried`, which rise, that fits and is filled by `most`: less than twice as much. The first one where none does."""
    filled = [one for one in tried if one < 2 * max(1.0, most)] or [tried[0]]
    return next((one for one in reversed(filled) if fits(one)), tried[0])


def of_ppo(config: Config, run: Run, widest: int) -> tuple[PPO, dict[str, int]]:
    """The section with nothing left open, and by name what was; told on the terminal in one line. `widest`: tokens of the longest prompt.
    Every process is to ask; all get the same, the least."""

    def counted(free: float) -> dict[str, int]:
        model, beside = preflight.policy(config, run.folder("sft"), config.ppo), preflight.scorers(config, run)
        return ppo_on_gpu(config, model, beside, widest, run.world_size, free)

    usual = {MICRO: MICRO_BATCH_TOKENS, ROLLOUT: ROLLOUT_BATCH}
    open_ = {name: value for name, value in usual.items() if getattr(config.ppo, name) is None}
    chosen = _chosen("ppo", run, open_, counted)
    return config.ppo.model_copy(update=chosen), chosen


def ppo_on_gpu(
    config: Config, model: Footprint, beside: float, widest: int, processes: int, free: float
) -> dict[str, int]:
    """What fits into `free` GB of a GPU: tokens of a micro-batch and rows that are sampled together, counted as the preflight counts them; what
    the recipe says stays. `beside` and `widest` are those of `preflight.phases`."""
    section, rows = config.ppo, ceil(config.ppo.batch_size / processes)
    longest = widest + section.response_length

    def total(phase: str, **sizes: int) -> float:
        sized = config.model_copy(update={"ppo": section.model_copy(update=sizes)})
        return sum(preflight.phases(sized, model, beside, widest, 0.0, processes)[phase].values())

    tokens = largest(TOKENS, rows * longest, lambda n: total("learning", **{MICRO: n}) <= USABLE * free)
    together = largest(ROWS, rows, lambda n: total("sampling", **{ROLLOUT: n}) <= USABLE * free)
    return {MICRO: section.micro_batch_tokens or tokens, ROLLOUT: section.per_device_rollout_batch_size or together}


def of_asking(
    stage: str, config: Config, run: Run, sources: Sequence[Any], rows: int, length: int
) -> tuple[int, dict[str, int]]:
    """How many of `rows` completions of `length` tokens a stage that trains nothing samples together, from models of which `sources` are two or more,
    and by name what was left open. As `of_ppo`."""
    set_: int | None = getattr(config, stage).per_device_eval_batch_size
    each = ceil(rows / run.world_size)

    def counted(free: float) -> dict[str, int]:
        def fits(n: int) -> bool:
            parts = preflight.asking_needs(config, run, sources, n, length)
            return sum(parts.values()) - parts["process"] <= USABLE * free

        return {EVALUATION: largest(ROWS, each, fits)}

    chosen = _chosen(stage, run, {EVALUATION: EVALUATED} if set_ is None else {}, counted)
    return set_ or chosen[EVALUATION], chosen


def _chosen(
    stage: str, run: Run, left_open: dict[str, int], counted: Callable[[float], dict[str, int]]
) -> dict[str, int]:
    """The values of what was left open: those that are given, or on a GPU those that are `counted` for its free GB, of all processes the least."""
    if not left_open:
        return {}
    found, where = left_open, "as measured best on a CPU"
    if torch.cuda.is_available():
        free, _ = available(run.world_size)
        where = f"for {free:.3g} GB that are free on the GPU"
        try:
            fitting = counted(free)
            found = {name: fitting[name] for name in left_open}
        except Exception as error:  # the preflight says what: its model cannot be built without weights
            where = f"as the model cannot be counted ({type(error).__name__})"
    every = gather_object([found])
    found = {name: min(one[name] for one in every) for name in left_open}
    if run.main_process:
        print(f"{stage}: {where}: {' '.join(f'{stage}.{name}={value}' for name, value in found.items())}", flush=True)
    return found
