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


MEASURED = (
    ("score", "mend the reward function"),
    ("log-probabilities", "lower learning_rate, or use dtype: float32"),
    ("reference log-probabilities", "use dtype: float32"),
    ("values", "lower learning_rate or vf_coef"),
)
"""What is measured of an episode, and what helps where it is not finite."""


def _flaws(micro: MicroBatch) -> Tensor:
    """(B, 4) bool: which of MEASURED is not finite for which episode; what lies beside a completion's tokens does not count."""
    measured = (micro.raw_scores[:, None], micro.logprobs, micro.reference, known(micro.values))
    return torch.stack([(~torch.isfinite(x) & micro.batch.mask).any(dim=1) for x in measured], dim=1)


def check_finite(batches: Sequence[Sequence[MicroBatch]], step: int) -> None:
    """Raise Halt when any process has a score, a log-probability or a value that is not finite; all of them are judged together."""
    every = [micro for mini in batches for micro in mini]
    flaws = torch.cat([_flaws(micro) for micro in every]).tolist()
    named = list(zip([name for micro in every for name in micro.prompt_ids], flaws, strict=True))
    problems = [
        f"step {step}: {what} not finite for prompt {prompt}; {remedy}"
        for number, (what, remedy) in enumerate(MEASURED)
        for prompt, found in named
        if found[number]
    ]
    if found := gather_object(problems):
        raise Halt("; ".join(found[:5]), spoiled=any(": score not finite" not in problem for problem in found))


class Sums:
    """Sums of figures over micro-batches and processes, from which means are taken."""

    def __init__(self) -> None:
        self.on_device: dict[str, Tensor] = {}  # what no one has waited for
        self.known: dict[str, float] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        if isinstance(value, Tensor):
            value = value.detach().double()
            self.on_device[name] = self.on_device[name] + value if name in self.on_device else value
        else:
            self.known[name] = self.known.get(name, 0.0) + value

    def reduced(self, accelerator: Accelerator) -> dict[str, float]:
        """The totals over all processes; the device is waited for here, once."""
        names, here = sorted(self.on_device), sorted(self.known)
        counted = torch.tensor([self.known[n] for n in here], dtype=torch.float64).to(accelerator.device)
        stacked = torch.cat([torch.stack([self.on_device[n] for n in names]), counted])
        return dict(zip([*names, *here], accelerator.reduce(stacked, "sum").tolist(), strict=True))


def rollout_figures(totals: dict[str, float], kl_coef: float, step: int, settings: LoopSettings) -> dict[str, float]:
    """What is told of steps 1 to 3, by TRL's names: means over episodes, or over tokens where the name ends in _avg."""
    n = totals["episodes"]
    kl = totals["kl"] / n
    sampling = {}
    if "importance" in totals:
        sampling["sampling/importance_sampling_ratio/mean"] = totals["importance"] / totals["tokens"]
        sampling["sampler/kl"] = totals["sampler_kl"] / totals["tokens"]
        sampling["sampler/capped"] = totals["capped"] / totals["tokens"]
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
    spread = {name: totals[f"{name}_square"] / tokens - (totals[name] / tokens) ** 2 for name in ("return", "residual")}
    return {
        "val/explained_variance": 1 - spread["residual"] / spread["return"] if spread["return"] > 0 else 0.0,
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
    sampler = figures.get("sampler/kl", 0.0)
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
        (
            *("KL of sampler to policy", sampler, "above max_sampler_kl", settings.max_sampler_kl),
            sampler > settings.max_sampler_kl,
            "the sampler's weights or numbers are not the trainer's; set engine: transformers, or dtype: float32"
            if step == 0 or not settings.async_steps  # before any update they are the same with async_steps, too
            else "the update between them is part of it; lower learning_rate or num_ppo_epochs, or set async_steps: 0",
        ),
    ):
        if broken:
            raise Halt(f"step {step}: {name} {figure:.3g} {limit} {value}; {remedy}")
