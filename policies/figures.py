"""What is worth knowing of an iteration? Sums over micro-batches and processes, figures by TRL's names, and the limits that halt."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from policies.loop_settings import Limits, LoopSettings
from policies.micro_batch import MicroBatch, known


class Halt(Exception):
    """A limit was passed or a value was not finite. `spoiled`: the weights brought it about, so the last good ones are wanted back."""

    def __init__(self, message: str, spoiled: bool = True):
        super().__init__(message)
        self.spoiled = spoiled


@contextmanager
def timed(times: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds of the block to `times`."""
    started = time.perf_counter()
    yield
    times[f"time/{phase}"] = times.get(f"time/{phase}", 0.0) + time.perf_counter() - started


def not_finite(micro: MicroBatch, step: int) -> list[str]:
    """A sentence for each episode of a micro-batch that step 3 measured something of that is not finite."""
    smaller = "lower learning_rate, or use dtype: float32"
    return [
        *_flaws(micro, step, micro.raw_scores[:, None], "score", "mend the reward function"),
        *_flaws(micro, step, micro.logprobs, "log-probabilities", smaller),
        *_flaws(micro, step, micro.reference, "reference log-probabilities", "use dtype: float32"),
    ]


def _flaws(micro: MicroBatch, step: int, tensor: Tensor, what: str, remedy: str) -> list[str]:
    """`tensor` is (B, 1) or (B, T); what lies beside a completion's tokens does not count."""
    bad = (~torch.isfinite(tensor) & micro.batch.mask).any(dim=1).tolist()
    named = zip(micro.prompt_ids, bad, strict=True)
    return [f"step {step}: {what} not finite for prompt {prompt}; {remedy}" for prompt, found in named if found]


def check_finite(batches: Sequence[Sequence[MicroBatch]], step: int) -> None:
    """Raise Halt when any process has a score, a log-probability or a value that is not finite; all of them are judged together."""
    every = [micro for mini in batches for micro in mini]
    problems = [problem for micro in every for problem in not_finite(micro, step)]
    remedy = "lower learning_rate or vf_coef"
    problems += [p for micro in every for p in _flaws(micro, step, known(micro.values), "values", remedy)]
    if found := gather_object(problems):
        raise Halt("; ".join(found[:5]), spoiled=any(": score not finite" not in problem for problem in found))


class Sums:
    """Sums of figures over micro-batches and processes, from which means are taken."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        self.totals[name] = (
            self.totals.get(name, torch.zeros((), dtype=torch.float64)) + torch.as_tensor(value).detach().double().cpu()
        )

    def reduced(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self.totals)
        stacked = torch.stack([self.totals[n] for n in names]).float().to(accelerator.device)
        return dict(zip(names, accelerator.reduce(stacked, "sum").tolist(), strict=True))


def rollout_figures(totals: dict[str, float], kl_coef: float, step: int, settings: LoopSettings) -> dict[str, float]:
    """What is told of steps 1 to 3, by TRL's names: means over episodes, or over tokens where the name ends in _avg."""
    n = totals["episodes"]
    kl = totals["kl"] / n
    sampling = {}
    if "importance" in totals:
        sampling["sampling/importance_sampling_ratio/mean"] = totals["importance"] / totals["tokens"]
    return sampling | {
        "step": step + 1,
        "episode": (step + 1) * settings.batch_size,
        "objective/kl": kl,
        "objective/kl_coef": kl_coef,
        "objective/entropy": totals["entropy"] / n,
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": totals["score"] / n - kl_coef * kl,
        "objective/scores": totals["raw_score"] / n,
        "policy/entropy_avg": totals["entropy"] / totals["tokens"],
        "completions/mean_length": totals["length"] / n,
        "completions/eos_rate": totals["eos"] / n,
    }


def update_figures(totals: dict[str, float]) -> dict[str, float]:
    """What is told of step 5, by TRL's names: means over the tokens of all minibatches of all epochs."""
    tokens = totals["tokens"]
    ratio = totals["ratio"] / tokens
    return {
        "loss/policy_avg": totals["policy"] / tokens,
        "loss/value_avg": totals["value"] / tokens,
        "policy/approxkl_avg": totals["approxkl"] / tokens,
        "policy/clipfrac_avg": totals["clipped"] / tokens,
        "val/clipfrac_avg": totals["value_clipped"] / tokens,
        "val/ratio": ratio,
        "val/ratio_var": max(totals["ratio_square"] / tokens - ratio**2, 0.0),
        "grad_norm": totals["grad_norm"] / totals["steps"],
    }


def check_limits(figures: dict[str, float], settings: Limits, step: int) -> None:
    """Stop before an update from a batch that lies outside the limits."""
    kl, entropy, length = (figures[name] for name in ("objective/kl", "policy/entropy_avg", "completions/mean_length"))
    for name, figure, limit, value, broken, remedy in (
        ("KL", kl, "above max_kl", settings.max_kl, kl > settings.max_kl, "raise kl_coef or lower learning_rate"),
        (
            *("entropy", entropy, "below min_entropy", settings.min_entropy, entropy < settings.min_entropy),
            "lower learning_rate or raise kl_coef",
        ),
        (
            *("length", length, "below min_length", settings.min_length, length < settings.min_length),
            "look at the samples: the score may favour empty completions",
        ),
    ):
        if broken:
            raise Halt(f"step {step}: {name} {figure:.3g} {limit} {value}; {remedy}")
