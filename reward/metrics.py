"""How good is a reward model? Accuracy on people's pairs, beside a model that only measures length; calibration.

The figures are plain numpy functions; the `evaluate.Metric` classes at the end are shells around them. Inputs are
ranking groups, one list a group, all lists of a group equally long: `scores` float, `ranks` int (lower is better, equal
is a tie, -1 is padding). Two completions with different ranks are a pair; a tie is none. With `ratings` (mean rating of
each completion) a pair is two completions whose ratings differ by `min_gap` or more, the higher one better, whatever
their ranks. Every pair weighs the same; intervals are 95% percentile bootstraps (Efron and Tibshirani 1993, chapter 13)
over groups, as pairs of a group share completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from policies.untyped import Json
from reward import statistics
from reward.statistics import Floats

Groups = Sequence[Sequence[float]]

DRAWS = 10_000
BINS = 10
MIN_GROUPS = 10
_ROUNDING = 1e-9  # a gap of 0.5 between means of ratings may come out as 0.49999999999999978


@dataclass(frozen=True)
class Pairs:
    """P pairs, (P,) int64 each: their group, and their completions as places in all groups concatenated."""

    group: NDArray[np.int64]
    better: NDArray[np.int64]
    worse: NDArray[np.int64]

    def only(self, which: NDArray[np.bool_]) -> "Pairs":
        """The pairs that `which` (P,) bool picks."""
        return Pairs(self.group[which], self.better[which], self.worse[which])


def find_pairs(ranks: Sequence[Sequence[int]], ratings: Groups | None = None, min_gap: float = 0.0) -> Pairs:
    """The pairs of all groups, by ranks, or by ratings at least `min_gap` apart.

    Raises ValueError when there is no pair, when `min_gap` comes without ratings or when a rating is missing or not
    finite.
    """
    if ratings is None and min_gap:
        raise ValueError(f"min_gap {min_gap} is a difference of ratings: give the ratings, too")
    if ratings is not None:
        _flat(ratings, ranks, "rating")
    found = []
    start = 0
    for place, group in enumerate(ranks):
        rank = np.asarray(group, dtype=np.int64)
        if ratings is None:
            above = rank[:, None] < rank[None, :]
        else:
            rating = np.asarray(ratings[place], dtype=np.float64)
            gap = rating[:, None] - rating[None, :]
            above = (gap > _ROUNDING) & (gap >= min_gap - _ROUNDING)
        better, worse = np.nonzero(above & (rank >= 0)[:, None] & (rank >= 0)[None, :])
        found.append((np.full(len(better), place), better + start, worse + start))
        start += len(rank)
    if not any(len(group) for group, _, _ in found):
        asked = "differ in rank" if ratings is None else f"have different ratings, at least {min_gap} apart"
        raise ValueError(f"no pairs to judge: no two completions of a group {asked}")
    return Pairs(*(np.concatenate(part).astype(np.int64) for part in zip(*found, strict=True)))


def _flat(values: Groups, ranks: Sequence[Sequence[int]], what: str) -> Floats:
    """Values of all groups, concatenated (N,) float64; each must be finite unless its rank says that it is padding."""
    if len(values) != len(ranks):
        raise ValueError(f"{what}s of {len(values)} groups and ranks of {len(ranks)}: give every group both")
    for place, (group, rank) in enumerate(zip(values, ranks, strict=True)):
        if len(group) != len(rank):
            raise ValueError(f"group {place}: {len(group)} {what}s for {len(rank)} ranks")
        for index, (value, its_rank) in enumerate(zip(group, rank, strict=True)):
            if its_rank >= 0 and not (value is not None and np.isfinite(value)):
                raise ValueError(f"group {place}: {what} {index} is {value}, not a finite number")
    return np.array([np.nan if value is None else value for group in values for value in group], dtype=np.float64)


def _outcomes(values: Floats, pairs: Pairs) -> Floats:
    """(P,) 1 where the better completion has the higher value, ½ where the values are equal, else 0."""
    return statistics.outcomes(values[pairs.better] - values[pairs.worse])


def outcomes(scores: Groups, ranks: Sequence[Sequence[int]], pairs: Pairs) -> Floats:
    """(P,) 1 for a pair whose better completion has the higher score, ½ for equal scores, else 0. Raises as `pairwise_accuracy`."""
    return _outcomes(_flat(scores, ranks, "score"), pairs)


def margins(scores: Groups, ranks: Sequence[Sequence[int]], pairs: Pairs) -> Floats:
    """(P,) score of the better completion less that of the worse one."""
    values = _flat(scores, ranks, "score")
    return values[pairs.better] - values[pairs.worse]


def mean_of_pairs(values: Floats, pairs: Pairs, draws: int = DRAWS, seed: int = 0) -> dict[str, float | int | None]:
    """Mean of `values` (P,) over the pairs of a slice: {"mean", "low", "high", "pairs", "groups"}.

    The ends are None where fewer than MIN_GROUPS groups have a pair, or all values are equal: a percentile bootstrap is then too narrow,
    or has no width at all. Raises ValueError without pairs.
    """
    if not len(values):
        raise ValueError("no pairs to take a mean of")
    groups = len(np.unique(pairs.group))
    low, high = _interval(values, pairs, draws, seed) if groups >= MIN_GROUPS and np.ptp(values) else (None, None)
    return {"mean": float(values.mean()), "low": low, "high": high, "pairs": len(values), "groups": groups}


def _interval(values: Floats, pairs: Pairs, draws: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the mean of `values` (P,) over pairs; the groups that have a pair are what is drawn."""
    _, group = np.unique(pairs.group, return_inverse=True)
    sums, counts = (np.bincount(group, weights=own).astype(np.float64) for own in (values, None))
    return statistics.ratio_ends(sums, counts, draws, seed)


def pairwise_accuracy(
    scores: Groups,
    ranks: Sequence[Sequence[int]],
    ratings: Groups | None = None,
    min_gap: float = 0.0,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """Share of pairs whose better completion has the higher score, equal scores ½.

    {"pairwise_accuracy", "low", "high"} are shares, "pairs" is their number. Raises ValueError without pairs or when a
    score is not finite.
    """
    pairs = find_pairs(ranks, ratings, min_gap)
    right = _outcomes(_flat(scores, ranks, "score"), pairs)
    low, high = _interval(right, pairs, draws, seed)
    return {"pairwise_accuracy": float(right.mean()), "pairs": len(right), "low": low, "high": high}


def length_null(
    lengths: Groups,
    ranks: Sequence[Sequence[int]],
    ratings: Groups | None = None,
    min_gap: float = 0.0,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of "longer is better" or "shorter is better", whichever is right more often on these very pairs.

    `lengths` in any unit, the same for all. {"length_accuracy", "low", "high"} belong to the better of the two,
    "longer" and "shorter" are both, "pairs" is the number of pairs. The interval keeps the sign chosen on the whole
    sample: choosing it anew in each resample would bootstrap a maximum, which fails where both are about equally good
    (compare Andrews 2000). Raises as `pairwise_accuracy`.
    """
    pairs = find_pairs(ranks, ratings, min_gap)
    longer = _outcomes(_flat(lengths, ranks, "length"), pairs)
    best = _best_sign(longer)
    low, high = _interval(best, pairs, draws, seed)
    return {
        "length_accuracy": float(best.mean()),
        "longer": float(longer.mean()),
        "shorter": float(1 - longer.mean()),
        "pairs": len(best),
        "low": low,
        "high": high,
    }


def _best_sign(longer: Floats) -> Floats:
    return longer if longer.mean() >= 0.5 else 1.0 - longer


def paired_gain(
    scores: Groups,
    lengths: Groups,
    ranks: Sequence[Sequence[int]],
    ratings: Groups | None = None,
    min_gap: float = 0.0,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """What the model knows beyond length: {"gain", "low", "high"}, its accuracy minus `length_null`'s on the same
    pairs.

    Paired: a resample draws groups with both outcomes, so what is hard for both does not widen the interval. The null
    has its best sign on this sample, so the gain is, if anything, too small. `low` > 0 says that the model beats
    length. Raises as `pairwise_accuracy`.
    """
    pairs = find_pairs(ranks, ratings, min_gap)
    right = _outcomes(_flat(scores, ranks, "score"), pairs)
    gain = right - _best_sign(_outcomes(_flat(lengths, ranks, "length"), pairs))
    low, high = _interval(gain, pairs, draws, seed)
    return {"gain": float(gain.mean()), "low": low, "high": high}


def calibration_error(
    scores: Groups, ranks: Sequence[Sequence[int]], ratings: Groups | None = None, min_gap: float = 0.0
) -> dict[str, Json]:
    """Expected calibration error over pairs: Σ_bins (count / P)·|accuracy - confidence| (Guo et al. 1706.04599, eq. 3).

    Confidence max(p, 1 - p) for p = σ(s_i - s_j), the Bradley–Terry probability, so `scores` must be on the scale of
    the loss: not yet divided by their standard deviation. Right, wrong, or ½ for equal scores. {"ece", "bins"}: ten
    bins over [½, 1], each closed on the right, {"low", "high", "confidence", "accuracy", "count"}; the two means are
    None in an empty bin. Raises as `pairwise_accuracy`.
    """
    pairs = find_pairs(ranks, ratings, min_gap)
    values = _flat(scores, ranks, "score")
    right = _outcomes(values, pairs)
    confidence = 1.0 / (1.0 + np.exp(-np.abs(values[pairs.better] - values[pairs.worse])))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    ece, bins = 0.0, []
    for place in range(BINS):
        inside = index == place
        count = int(inside.sum())
        mean_confidence = float(confidence[inside].mean()) if count else None
        accuracy = float(right[inside].mean()) if count else None
        if mean_confidence is not None and accuracy is not None:
            ece += count / len(right) * abs(accuracy - mean_confidence)
        low, high = float(edges[place]), float(edges[place + 1])
        bins.append({"low": low, "high": high, "confidence": mean_confidence, "accuracy": accuracy, "count": count})
    return {"ece": ece, "bins": bins}


def brier_score(
    scores: Groups, ranks: Sequence[Sequence[int]], ratings: Groups | None = None, min_gap: float = 0.0
) -> float:
    """Mean of (1 - p)² over pairs, p = σ(s_better - s_worse) the Bradley–Terry probability of what people said (Brier 1950).

    0 is best, a coin has ¼. `scores` as for `calibration_error`. Raises as `pairwise_accuracy`.
    """
    gap = margins(scores, ranks, find_pairs(ranks, ratings, min_gap))
    wrong = np.exp(-np.logaddexp(0.0, gap))  # 1 - σ(gap), without overflow
    return float(np.mean(wrong**2))


def length_correlation(scores: Sequence[float], lengths: Sequence[float]) -> float:
    """Spearman's correlation of score and length over all completions (N,), from -1 to 1; equal values share a rank.

    0 where all scores or all lengths are equal: nothing rises with anything. Raises ValueError for unequal numbers,
    fewer than two completions or a value that is not finite.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} scores for {len(y)} lengths: give one each")
    if len(x) < 2:
        raise ValueError(f"a correlation needs two completions or more, not {len(x)}")
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        raise ValueError(f"completion {int(np.argmin(finite))}: its score or length is not finite")
    x, y = _mean_ranks(x), _mean_ranks(y)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float(np.clip((x * y).sum() / scale, -1.0, 1.0)) if scale else 0.0


def _mean_ranks(values: Floats) -> Floats:
    """(N,) ranks from 1, lowest value first; equal values get the mean of the ranks they take up together."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2.0)[place]


def human_ceiling(ratings_groups: Sequence[Sequence[Sequence[float]]], min_gap: float = 0.5) -> float:
    """Share of pairs that one random rater of each completion orders as the mean ratings do, equal ratings ½.

    `ratings_groups`: groups of completions, each with single people's ratings. Pairs are completions of one group whose
    means differ by `min_gap` or more. The expectation is exact over all rater pairs. It is what one person achieves
    (whose own rating is in the mean), so the yardstick for a reward model, though no bound: the mean is steadier than
    any of its raters. Raises ValueError when a completion has no ratings or no pair is far enough apart.
    """
    means = [[float(np.mean(ratings)) if len(ratings) else 0.0 for ratings in group] for group in ratings_groups]
    pairs = find_pairs([[0] * len(group) for group in means], means, min_gap)
    return float(np.mean(rater_agreement(ratings_groups, pairs)))


def rater_agreement(ratings_groups: Sequence[Sequence[Sequence[float]]], pairs: Pairs) -> Floats:
    """(P,) probability that one random rater of each completion orders the two of a pair as `pairs` does, equal ratings ½.

    Raises ValueError when a completion has no ratings.
    """
    for place, group in enumerate(ratings_groups):
        for index, ratings in enumerate(group):
            if not len(ratings):
                raise ValueError(f"group {place}: completion {index} has no ratings")
    people = [np.asarray(ratings, dtype=np.float64) for group in ratings_groups for ratings in group]
    return np.array(
        [
            (1.0 + np.sign(people[better][:, None] - people[worse][None, :]).mean()) / 2.0
            for better, worse in zip(pairs.better, pairs.worse, strict=True)
        ]
    )


class _InMemory(evaluate.Metric):
    """Shell around one function: nothing is downloaded or written, and each process computes what it is given."""

    inputs = datasets.Features(
        predictions=datasets.List(datasets.Value("float64")), references=datasets.List(datasets.Value("int64"))
    )

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return self._data_dir_root  # the parent makes a folder here, even when all is kept in memory

    def _info(self) -> evaluate.MetricInfo:
        text = type(self).__doc__ or ""
        return evaluate.MetricInfo(description=text, citation="", inputs_description=text, features=self.inputs)


class PairwiseAccuracy(_InMemory):
    """predictions: scores, references: ranks, a list a group; `ratings`, `min_gap` if any. See `pairwise_accuracy`."""

    def _compute(
        self, predictions: Groups, references: list[list[int]], ratings: Groups | None = None, min_gap: float = 0.0
    ) -> dict[str, float]:
        return pairwise_accuracy(predictions, references, ratings, min_gap)


class LengthNull(_InMemory):
    """predictions: lengths, references: ranks, a list a group; `ratings`, `min_gap` if any. See `length_null`."""

    def _compute(
        self, predictions: Groups, references: list[list[int]], ratings: Groups | None = None, min_gap: float = 0.0
    ) -> dict[str, float]:
        return length_null(predictions, references, ratings, min_gap)


class ExpectedCalibrationError(_InMemory):
    """predictions: scores, references: ranks, a list a group; `ratings`, `min_gap` if any. See `calibration_error`."""

    def _compute(
        self, predictions: Groups, references: list[list[int]], ratings: Groups | None = None, min_gap: float = 0.0
    ) -> dict[str, Json]:
        return calibration_error(predictions, references, ratings, min_gap)


class LengthCorrelation(_InMemory):
    """predictions: scores, references: lengths, one of each a completion. See `length_correlation`."""

    inputs = datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("float64"))

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {"length_correlation": length_correlation(predictions, references)}
