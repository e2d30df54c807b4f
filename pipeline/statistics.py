"""How sure is a difference between two models, and how varied is what a model writes?

Every interval here is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over *prompts*: two samples of one
prompt resemble each other, so counting them as independent would make the interval too narrow.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_CELLS = 4_000_000  # resampled prompts held at once: bounds memory at about 64 MB, whatever the number of prompts


def _by_prompt(values: NDArray[np.float64], prompts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of `values` (N,) float64 per distinct prompt: (G,) and (G,) float64, prompts in sorted order."""
    if len(values) != len(prompts):
        raise ValueError(f"{len(values)} values for {len(prompts)} prompts: give each value its prompt")
    if len(values) == 0:
        raise ValueError("no samples: nothing to compute a statistic of")
    if not np.isfinite(values).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(values)))} is not finite")
    _, index = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    sums = np.bincount(index, weights=values).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64], draws: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of sum(sums) / sum(counts), both (G,), drawing G prompts with replacement `draws` times."""
    groups = len(sums)
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // groups)
    parts = []
    for start in range(0, draws, rows):
        picked = rng.integers(groups, size=(min(rows, draws - start), groups))
        parts.append(sums[picked].sum(axis=1) / counts[picked].sum(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(x: Sequence[float], prompts: Sequence[str], draws: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Mean of x (N,) over all samples with its 95% interval, in the unit of x: {"mean", "low", "high"}.

    `prompts` (N,) names the prompt of each value. Raises ValueError when a value is missing or not finite.
    """
    values = np.asarray(x, dtype=np.float64)
    sums, counts = _by_prompt(values, prompts)
    low, high = _interval(sums, counts, draws, seed)
    return {"mean": float(values.mean()), "low": low, "high": high}


def win_rate(
    a: Sequence[float],
    b: Sequence[float],
    prompts: Sequence[str],
    tie: float = 1e-9,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, int | float]:
    """How often a beats b: {"wins", "ties", "losses"} (int) and {"win_rate", "low", "high"} (shares, 95% interval).

    a[i] and b[i] (N,) are the scores of two models' completions of the same prompts[i] with the same seed; scores
    within `tie` of each other tie, and a tie counts as half a win: (W + T/2) / N. An unbeaten model gets an interval
    of no width, as every resample is unbeaten too, so judge the number of prompts beside it.
    Raises ValueError when lengths differ, nothing is given or a score is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}: a win rate needs pairs")
    # inf - inf is nan, which _by_prompt refuses; the warning would only repeat its error
    with np.errstate(invalid="ignore"):
        difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    _by_prompt(difference, prompts)
    wins = int((difference > tie).sum())
    losses = int((difference < -tie).sum())
    ties = len(difference) - wins - losses
    outcome = np.where(difference > tie, 1.0, np.where(difference < -tie, 0.0, 0.5))
    low, high = _interval(*_by_prompt(outcome, prompts), draws, seed)
    return {
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": (wins + ties / 2) / len(difference),
        "low": low,
        "high": high,
    }


def distinct_n(texts: Sequence[Sequence[int | str]], n: int) -> float:
    """Distinct n-grams / all n-grams over `texts`, each a list of tokens; 0 when no text has n tokens.

    After Li et al. 2016 (arXiv 1510.03055, section 5.2), who divide by the number of *tokens*; dividing by n-grams,
    as later work does, makes 1 mean "never repeated". No n-gram crosses from one text into the next. The measure falls
    as more text is counted: compare models on equally many prompts, and see their lengths.
    """
    if n < 1:
        raise ValueError(f"n-grams of length {n}: n starts at 1")
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
