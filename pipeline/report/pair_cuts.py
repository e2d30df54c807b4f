"""Into which slices do held-out pairs fall? By the gap between the two, their lengths, which is longer, and where they come from."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.schema import Ranking
from pipeline.language import fixed
from pipeline.rows.published import source_of
from reward import metrics

SOURCES = 12  # slices by tag or source; the rest are one
GAPS, LENGTHS = 5, 3  # slices of about equally many pairs
Slices = dict[str, NDArray[np.bool_]]
RANGES = tuple(map(fixed, ("rating gap", "places apart", "mean length of the two, tokens")))
CUTS = (*RANGES, *map(fixed, ("which is longer", "tag or source")))
NAMES = tuple(map(fixed, ("all pairs", "the better one", "neither", "the worse one", "all others")))


def cuts(held_out: Sequence[Ranking], scored: Sequence[dict[str, Any]], pairs: metrics.Pairs) -> dict[str, Slices]:
    """cut -> slice -> the pairs in it, (P,) bool. Every pair is in one slice of a cut."""
    completions = [c for ranking in held_out for c in ranking.completions]
    rank = np.array([r for ranking in held_out for r in ranking.ranks()])
    length = np.array([n for row in scored for n in row["lengths"]])
    found: dict[str, Slices] = {}
    if all(c.rating is not None for c in completions):
        rating = np.array([c.rating for c in completions], dtype=float)
        apart = rating[pairs.better] - rating[pairs.worse]
        found["rating gap"] = by_quantile(np.round(apart, 6), GAPS, "{:.2f}")
    else:
        found["places apart"] = by_quantile(rank[pairs.worse] - rank[pairs.better], GAPS, "{:.0f}")
    both = length[[pairs.better, pairs.worse]]
    found["mean length of the two, tokens"] = by_quantile(both.mean(0), LENGTHS, "{:.1f}")
    found["which is longer"] = {
        "the better one": both[0] > both[1],
        "neither": both[0] == both[1],
        "the worse one": both[0] < both[1],
    }
    names = [ranking.tag or source_of(ranking.source) for ranking in held_out]
    common = [name for name, _ in Counter(names).most_common(SOURCES)]
    named = np.array([common.index(name) if name in common else SOURCES for name in names])[pairs.group]
    found["tag or source"] = {name: named == place for place, name in enumerate([*common, "all others"])}
    return {cut: {name: which for name, which in slices.items() if which.any()} for cut, slices in found.items()}


def by_quantile(values: NDArray[Any], parts: int, form: str) -> Slices:
    """Up to `parts` slices of about equally many values, named by their ends; equal values are never parted."""
    edges = np.unique(np.quantile(values, np.arange(1, parts) / parts))
    place = np.searchsorted(edges, values)  # a value on an edge is below it
    slices: Slices = {}
    for part in np.unique(place):
        ends = [form.format(end) for end in (values[place == part].min(), values[place == part].max())]
        name = " to ".join(dict.fromkeys(ends))
        slices[name] = slices.get(name, np.zeros(len(values), dtype=bool)) | (place == part)
    return slices
