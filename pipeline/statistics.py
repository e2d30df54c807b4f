"""How sure is a difference between two models, and how much of it is chance?

Every bootstrap here is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over *prompts*: two samples of
one prompt resemble each other, so counting them as independent would make the interval too narrow. Beside it stand the
Wilson interval, which needs no draws, and the spread between training seeds, which no resampling of prompts can show.

What models write is measured in `report.side_effects`, models are ranked in `report.ranking_models`, and
`report.sentences` says what an interval allows to claim.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.statistics import LEVEL, Floats, ratio_ends
from reward.statistics import outcomes as _outcomes

TIE = 1e-9  # scores nearer to each other tie: a model's scores may hang on the batch in their last digits


def prompt_index(values: Floats, prompts: Sequence[str]) -> NDArray[np.int64]:
    """Place (N,) int64 of each value's prompt among the distinct prompts in sorted order.

    Raises ValueError when `values` (N,) float64 is empty, holds a number that is not finite, or lacks prompts.
    """
    if len(values) != len(prompts):
        raise ValueError(f"{len(values)} values for {len(prompts)} prompts: give each value its prompt")
    if len(values) == 0:
        raise ValueError("no samples: nothing to compute a statistic of")
    if not np.isfinite(values).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(values)))} is not finite")
    return np.unique(np.asarray(prompts, dtype=str), return_inverse=True)[1].astype(np.int64)


def ratio_interval(
    numerator: Floats, denominator: Floats, prompts: Sequence[str], draws: int, seed: int
) -> tuple[float, float]:
    """95% percentile bootstrap over prompts of Σ numerator / Σ denominator, both (N,) float64, the latter ≥ 0.

    With a denominator of ones this is the interval of a mean. All samples of a prompt stay together. Raises ValueError
    as `prompt_index`, and when a resample's denominator is 0.
    """
    index = prompt_index(numerator, prompts)
    above, below = (np.bincount(index, weights=own).astype(np.float64) for own in (numerator, denominator))
    return ratio_ends(above, below, draws, seed)


def mean_interval(x: Sequence[float], prompts: Sequence[str], draws: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Mean of x (N,) over all samples with its 95% interval, in the unit of x: {"mean", "low", "high"}.

    `prompts` (N,) names the prompt of each value. Raises ValueError when a value is missing or not finite.
    """
    values = np.asarray(x, dtype=np.float64)
    low, high = ratio_interval(values, np.ones(len(values)), prompts, draws, seed)
    return {"mean": float(values.mean()), "low": low, "high": high}


def outcomes(a: Sequence[float], b: Sequence[float], tie: float = TIE) -> Floats:
    """(N,) float64: 1 where a[i] beats b[i], 0 where it loses, ½ where the two are within `tie` of each other.

    a and b (N,) are scores of two models' completions of the same prompts with the same seeds. Raises ValueError when
    lengths differ or a score is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores against {len(b)}: a win rate needs pairs")
    # inf - inf is nan, which the next line refuses; the warning would only repeat its error
    with np.errstate(invalid="ignore"):
        difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(difference)))} is not finite")
    return _outcomes(difference, tie)


def win_rate(
    a: Sequence[float],
    b: Sequence[float],
    prompts: Sequence[str],
    tie: float = TIE,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, int | float]:
    """How often a beats b: {"wins", "ties", "losses", "prompts"} (int) and {"win_rate", "low", "high"} (shares, 95%).

    a[i] and b[i] (N,) are the scores of two models' completions of the same prompts[i] with the same seed; scores
    within `tie` of each other tie, and a tie counts as half a win: (W + T/2) / N. An unbeaten model gets an interval
    of no width, as every resample is unbeaten too: `report.sentences` falls back on `wilson` there.
    Raises ValueError when lengths differ, nothing is given or a score is not finite.
    """
    outcome = outcomes(a, b, tie)
    low, high = ratio_interval(outcome, np.ones(len(outcome)), prompts, draws, seed)
    return {
        "wins": int((outcome == 1.0).sum()),
        "ties": int((outcome == 0.5).sum()),
        "losses": int((outcome == 0.0).sum()),
        "win_rate": float(outcome.mean()),
        "low": low,
        "high": high,
        "prompts": len(set(prompts)),
    }


def wilson(wins: float, ties: float, losses: float) -> dict[str, float]:
    """Win rate (W + T/2) / N with Wilson's 95% score interval: {"win_rate", "low", "high"}, shares.

    Wilson 1927 (JASA 22:209–212); the formula is method 3 of Newcombe 1998 (Statistics in Medicine 17:857–872):
    (2Np + z² ± z·sqrt(z² + 4Np(1 - p))) / (2(N + z²)). It never leaves [0, 1] and has width even for an unbeaten model.
    Two things to know: a tie's outcome varies less than a win or loss at the same rate, so with ties the interval is
    somewhat too wide; and it takes its N comparisons as independent, so with several samples a prompt it is too narrow
    and the bootstrap over prompts is the one to trust. Raises ValueError for a negative count or none at all.
    """
    if min(wins, ties, losses) < 0:
        raise ValueError(f"{wins} wins, {ties} ties, {losses} losses: counts are not negative")
    total = wins + ties + losses
    if total == 0:
        raise ValueError("no wins, ties or losses: nothing to compute a win rate of")
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    rate = (wins + ties / 2) / total
    middle = 2 * total * rate + z * z
    half = z * math.sqrt(z * z + 4 * total * rate * (1 - rate))
    low, high = (middle - half) / (2 * (total + z * z)), (middle + half) / (2 * (total + z * z))
    return {"win_rate": rate, "low": max(0.0, low), "high": min(1.0, high)}  # ends of 0 and 1 may be off by rounding


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that one of k samples is right, where c of n are: 1 − C(n − c, k) / C(n, k), the unbiased estimator of Chen et al. 2021
    (arXiv 2107.03374, equation 1). Raises ValueError where k is not between 1 and n, or c not between 0 and n."""
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} of {c} right samples among {n}: give 1 to {n} tries and 0 to {n} right ones")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def distinct_n(texts: Sequence[Sequence[int | str]], n: int) -> float:
    """Distinct n-grams / all n-grams over `texts`, each a list of tokens; 0 when no text has n tokens.

    After Li et al. 2016 (arXiv 1510.03055, section 5.2), who divide by the number of *tokens*; dividing by n-grams,
    as later work does, makes 1 mean "never repeated". No n-gram crosses from one text into the next. The measure falls
    as more text is counted: compare models on equally many prompts, and see their lengths. It has no interval: a
    resample holds some prompts twice, so its n-grams repeat, and every replicate would lie below the figure itself.
    """
    if n < 1:
        raise ValueError(f"n-grams of length {n}: n starts at 1")
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def seed_spread(figures: Sequence[float]) -> dict[str, Any]:
    """What training anew changes: {"seeds" (int), "mean", "min", "max", "sd", "low", "high"}, in the unit of the
    figures.

    figures (n,): one figure of each training seed, for instance its win rate over the same prompts, n >= 2. `low` and
    `high` are the 95% t-interval of the mean over seeds, mean ± t(0.975, n - 1)·sd/√n with sd over n - 1 (Student 1908;
    Henderson et al. 2018, arXiv 1709.06560, on why seeds must be shown). With 2 seeds t is 12.7: wide because two runs
    say little. It is another question than the interval over prompts of one run (that one takes the trained model as
    given), so show both and never pool them. A share's interval may leave [0, 1]; whoever shows it ends it there. Raises ValueError for fewer than two figures or one that is not finite.
    """
    values = np.asarray(figures, dtype=np.float64)
    if len(values) < 2:
        raise ValueError(f"a spread between training seeds needs two or more, not {len(values)}: train with SEEDS=3")
    if not np.isfinite(values).all():
        raise ValueError(f"the figure of seed {int(np.argmin(np.isfinite(values)))} is not finite")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = t_quantile((1 + LEVEL) / 2, len(values) - 1) * sd / math.sqrt(len(values))
    return {
        "seeds": len(values),
        "mean": mean,
        "min": float(values.min()),
        "max": float(values.max()),
        "sd": sd,
        "low": mean - half,
        "high": mean + half,
    }


def t_quantile(share: float, freedom: int) -> float:
    """Student's t with `freedom` degrees: the value that `share` (½ to 1, exclusive) of the distribution lies below."""
    if not 0.5 < share < 1 or freedom < 1:
        raise ValueError(f"no t quantile at {share} with {freedom} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(100):  # bisection in the angle θ = atan(t/√ν), where the distribution is bounded and smooth
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + _t_within(middle, freedom)) / 2 < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _t_within(angle: float, freedom: int) -> float:
    """P(|T| < √ν·tan θ), Abramowitz and Stegun 1964, equations 26.7.3 (odd ν) and 26.7.4 (even ν)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(freedom // 2):
        total += term
        term *= square * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
