"""How far do people who ranked the same completions agree?

Three measures, each blind where another sees: the share of pairs put in the same order (easy to read, but half of it is
chance), Kendall's tau-b (a whole ranking, ties accounted for), Krippendorff's alpha (chance taken off, any number of
annotators, missing judgements allowed).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, Literal

from data.refining.annotators import item_of
from data.refining.resampled import intervals
from data.schema import Ranking

Level = Literal["nominal", "ordinal", "interval"]


def agreement(rankings: Iterable[Ranking]) -> dict[str, Any]:
    """Agreement over the items (a prompt with its completions) that two or more named annotators ranked.

    `pairwise`: of all pairs of completions that two annotators both put in an order, the share in which it is the same
    one; pairs that either of them tied are only counted (`tied`). `tau_b`: mean over items and pairs of annotators,
    where it is defined. `alpha`: ordinal, of the ranks of all completions, ties at their mean rank. The two intervals are of 95%, items drawn again. A figure is None
    where nothing defines it. Rankings without an annotator have no say, and of several by one annotator the first has.
    """
    items: dict[Any, dict[str, Ranking]] = {}
    for ranking in rankings:
        if ranking.annotator is not None:
            items.setdefault(item_of(ranking), {}).setdefault(ranking.annotator, ranking)
    judged = [list(by.values()) for by in items.values() if len(by) > 1]
    alike = opposite = tied = undefined = 0
    taus: list[tuple[float, int]] = []
    units: list[list[tuple[float, ...]]] = []
    of_items: list[tuple[int, int]] = []
    for group in judged:
        vectors = [_mean_ranks(ranking) for ranking in group]
        units.append(list(zip(*vectors, strict=True)))
        before = alike, opposite
        for one, other, times in _pairs(vectors):
            same, reverse, ties = orders(one, other)
            alike, opposite, tied = alike + times * same, opposite + times * reverse, tied + times * ties
            tau = tau_b(one, other)
            if tau is None:
                undefined += times
            else:
                taus.append((tau, times))
        of_items.append((alike - before[0], opposite - before[1]))
    pairwise_interval, alpha_interval = intervals(of_items, units)
    of_taus = sum(times for _, times in taus)
    return {
        "items": len(judged),
        "annotators": len({ranking.annotator for group in judged for ranking in group}),
        "rankings": sum(map(len, judged)),
        "alike": alike,
        "opposite": opposite,
        "tied": tied,
        "pairwise": alike / (alike + opposite) if alike + opposite else None,
        "tau_b": math.fsum(tau * times for tau, times in taus) / of_taus if of_taus else None,
        "tau_b_of": of_taus,
        "tau_b_undefined": undefined,
        "alpha": alpha(unit for item in units for unit in item),
        "pairwise_interval": pairwise_interval,
        "alpha_interval": alpha_interval,
    }


def orders(one: Sequence[float], other: Sequence[float]) -> tuple[int, int, int]:
    """How many pairs of things two lists of ranks put in the same order, in opposite orders, or tied in either."""
    same = reverse = tied = 0
    for a, b in combinations(range(len(one)), 2):
        product = (one[a] - one[b]) * (other[a] - other[b])
        same, reverse, tied = same + (product > 0), reverse + (product < 0), tied + (product == 0)
    return same, reverse, tied


def tau_b(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's rank correlation corrected for ties (Kendall 1945): -1 to 1, None where a list ties everything."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} ranks against {len(other)}: both must rank the same things")
    same, reverse, _ = orders(one, other)
    free = [sum(a != b for a, b in combinations(ranks, 2)) for ranks in (one, other)]
    # Two roots would each be rounded, and the tau of a ranking with itself might miss 1.
    return (same - reverse) / math.sqrt(free[0] * free[1]) if all(free) else None


def alpha(units: Iterable[Sequence[float]], level: Level = "ordinal") -> float | None:
    """Krippendorff's alpha (Computing Krippendorff's Alpha-Reliability, 2011): 1 is agreement, 0 chance.

    `units`: for each thing judged the values it was given, missing ones left out; things with fewer than two values say
    nothing. None where nothing can be compared, or all values are the same.
    """
    counted = [counts for counts in map(Counter, units) if counts.total() > 1]
    totals: Counter[float] = Counter()
    for counts in counted:
        totals.update(counts)
    values = sorted(totals)
    difference = _difference(level, values, totals)
    expected = math.fsum(totals[c] * totals[k] * difference(c, k) for c, k in combinations(values, 2))
    observed = math.fsum(
        counts[c] * counts[k] * difference(c, k) / (counts.total() - 1)
        for counts in counted
        for c, k in combinations(sorted(counts), 2)
    )
    return 1 - (totals.total() - 1) * observed / expected if expected else None


def _difference(level: Level, values: Sequence[float], totals: Counter[float]) -> Callable[[float, float], float]:
    """The squared difference between two values, the lower one first (section 5 of the paper)."""
    if level == "nominal":
        return lambda c, k: 1.0
    if level == "interval":
        return lambda c, k: (c - k) ** 2
    up_to: dict[float, float] = {}
    below = 0
    for value in values:
        below += totals[value]
        up_to[value] = below - totals[value] / 2
    # Half of c, all between, half of k: what the sum of the paper less (n_c + n_k) / 2 comes to.
    return lambda c, k: (up_to[k] - up_to[c]) ** 2


def _mean_ranks(ranking: Ranking) -> tuple[float, ...]:
    """Rank of each distinct text, in the order of the texts; tied ones at the mean of the places they share."""
    rank = dict(zip((one.text for one in ranking.completions), ranking.ranks(), strict=True))
    ordered = [rank[text] for text in sorted(rank)]
    return tuple(sum(other < own for other in ordered) + (ordered.count(own) - 1) / 2 for own in ordered)


def _pairs(vectors: Sequence[tuple[float, ...]]) -> Iterable[tuple[tuple[float, ...], tuple[float, ...], int]]:
    """Each two different ways in which people ranked, and each way with itself, with the number of pairs of people."""
    ways = Counter(vectors)
    for one, other in combinations(ways, 2):
        yield one, other, ways[one] * ways[other]
    for one, people in ways.items():
        if people > 1:
            yield one, one, people * (people - 1) // 2
