"""What is worth knowing of an iteration? Sums over micro-batches and processes, figures by TRL's names, and the limits that halt."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Halt(Exception):
    """A limit was passed or a value was not finite. `spoiled`: the weights brought it about, so the last good ones are wanted back."""

    def __init__(self, message: str, spoiled: bool = True):
        super().__init__(message)
        self.spoiled = spoiled


CALLED = {"raw_scores": "score", "logprobs": "log-probabilities", "reference": "reference log-probabilities"}


@contextmanager
def timed(times: dict[str, float], phase: str) -> Iterator[None]:
    """Add the seconds of the block to `times`."""
    started = time.perf_counter()
    yield
    times[f"time/{phase}"] = times.get(f"time/{phase}", 0.0) + time.perf_counter() - started


def not_finite(step: int, entry: dict[str, Any], name: str, remedy: str) -> list[str]:
    """A sentence for each episode of a micro-batch whose `name`, (B,) or (B, T), is not finite at a completion token."""
    tensor, mask = entry[name], entry["batch"].mask
    bad = (~torch.isfinite(tensor if tensor.dim() == 2 else tensor[:, None]) & mask).any(dim=1).tolist()
    return [
        f"step {step}: {CALLED.get(name, name)} not finite for prompt {prompt}; {remedy}"
        for prompt, found in zip(entry["prompts"], bad, strict=True)
        if found
    ]


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


def rollout_figures(totals: dict[str, float], kl_coef: float, step: int, settings: Any) -> dict[str, float]:
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


def check_limits(figures: dict[str, float], settings: Any, step: int) -> None:
    """Stop before an update from a batch that lies outside the limits."""
    for name, figure, limit, broken, remedy in (
        (
            "KL",
            figures["objective/kl"],
            f"above max_kl {settings.max_kl}",
            figures["objective/kl"] > settings.max_kl,
            "raise kl_coef or lower learning_rate",
        ),
        (
            "entropy",
            figures["policy/entropy_avg"],
            f"below min_entropy {settings.min_entropy}",
            figures["policy/entropy_avg"] < settings.min_entropy,
            "lower learning_rate or raise kl_coef",
        ),
        (
            "length",
            figures["completions/mean_length"],
            f"below min_length {settings.min_length}",
            figures["completions/mean_length"] < settings.min_length,
            "look at the samples: the score may favour empty completions",
        ),
    ):
        if broken:
            raise Halt(f"step {step}: {name} {figure:.3g} {limit}; {remedy}")
