"""How far do the judges agree? Figures for every pair of them, over what both have judged."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.statistics import mean_interval


def agreement(
    outcomes: Mapping[str, ArrayLike],
    prompts: Sequence[str],
    scores: Mapping[str, ArrayLike] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """{"judges": names, "pairs": [figures of two judges]}, ready for JSON; a figure that does not exist is None.

    outcomes: judge -> (N,) outcomes of the same comparisons, nan where it did not judge (as `Judge.outcomes`).
    prompts (N,): the prompt of each comparison, drawn as a whole for the interval.
    scores: judge -> (M,) scores of the same completions, of those judges that score.

    The figures of a pair: "judges" (two names); "items" that both judged; "decided", those on which neither tied;
    "equal", the share of these with the same winner, {"mean", "low", "high"} with its 95% interval; "kappa" over win,
    tie and loss (see `cohen_kappa`); "tau_b" over scores (see `kendall_tau_b`).
    Raises ValueError when lengths differ or a score is not finite.
    """
    judged = {name: np.asarray(values, dtype=np.float64) for name, values in outcomes.items()}
    if odd := [name for name, values in judged.items() if values.shape != (len(prompts),)]:
        raise ValueError(f"{odd[0]}: outcomes of shape {judged[odd[0]].shape} for {len(prompts)} prompts")
    pairs = []
    for one, other in combinations(judged, 2):
        shared = ~(np.isnan(judged[one]) | np.isnan(judged[other]))
        x, y = np.sign(judged[one][shared] - 0.5), np.sign(judged[other][shared] - 0.5)
        decided = (x != 0) & (y != 0)
        of = [prompt for prompt, kept in zip(prompts, shared, strict=True) if kept]
        same = (x == y)[decided].astype(np.float64).tolist()
        where = [prompt for prompt, kept in zip(of, decided, strict=True) if kept]
        scored = [scores[name] for name in (one, other) if name in scores] if scores else []
        pairs.append(
            {
                "judges": [one, other],
                "items": len(x),
                "decided": len(same),
                "equal": mean_interval(same, where, draws, seed) if same else None,
                "kappa": cohen_kappa(x, y),
                "tau_b": kendall_tau_b(*scored) if len(scored) == 2 else None,
            }
        )
    return {"judges": list(judged), "pairs": pairs}


def matrix(found: dict[str, Any], figure: str) -> list[list[Any]]:
    """One figure of `agreement` as a symmetric table, rows and columns in the order of found["judges"].

    figure: "items", "decided", "equal" (its mean), "kappa" or "tau_b". None on the diagonal and where there is none.
    """
    place = {name: i for i, name in enumerate(found["judges"])}
    table: list[list[Any]] = [[None] * len(place) for _ in place]
    for pair in found["pairs"]:
        value = pair[figure]
        one, other = (place[name] for name in pair["judges"])
        table[one][other] = table[other][one] = value["mean"] if isinstance(value, dict) else value
    return table


def cohen_kappa(x: ArrayLike, y: ArrayLike) -> float | None:
    """Cohen's kappa of two judges' categories, both (N,): (p_o - p_e) / (1 - p_e), from -1 to 1 (Cohen 1960).

    p_o is the share of items put in the same category, p_e the share that two judges with these marginals would reach
    by chance. It falls where one category prevails, whatever the agreement: see the share of equal outcomes beside it.
    None without items, or when both put every item in one and the same category, where kappa is 0/0.
    """
    one, other = _paired(x, y)
    if not len(one):
        return None
    categories = np.unique(np.concatenate([one, other]))
    if len(categories) == 1:
        return None
    by_chance = sum(float((one == c).mean() * (other == c).mean()) for c in categories)
    return (float((one == other).mean()) - by_chance) / (1 - by_chance)


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's tau-b of two judges' scores, both (M,), from -1 to 1: (C - D) / √((n₀ - n₁)(n₀ - n₂)) (Kendall 1945).

    C and D count pairs of completions that both order alike or against each other; n₀ - n₁ and n₀ - n₂ the pairs that
    the first and the second judge do not tie. It asks only for order, so that judges need not share a scale. None when
    a judge ties all. Quadratic in M: 5,000 scores take about a second. Raises ValueError for what is not finite.
    """
    one, other = _paired(x, y)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("a score is not finite")
    alike = untied_one = untied_other = 0
    for i in range(len(one) - 1):
        a, b = np.sign(one[i + 1 :] - one[i]), np.sign(other[i + 1 :] - other[i])
        alike += int((a * b).sum())
        untied_one += int(np.count_nonzero(a))
        untied_other += int(np.count_nonzero(b))
    return alike / math.sqrt(untied_one * untied_other) if untied_one and untied_other else None


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"two judges of the same items: shapes {one.shape} and {other.shape}")
    return one, other
