"""What do several people say together about the same completions?"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.schema import Completion, Ranking, prompt_key


def item_of(ranking: Ranking) -> tuple[str, tuple[str, ...]]:
    """What was ranked, whoever did it: the prompt and the completions in one order."""
    return prompt_key(ranking.prompt), tuple(sorted(one.text for one in ranking.completions))


def by_mean_rank(rankings: Sequence[Ranking]) -> tuple[list[Ranking], list[Ranking]]:
    """(rankings, those left out): one ranking for every item that several judge, by the mean of their ranks.

    A tie counts as the mean of the ranks it spans (Kendall 1945), equal means as a tie. The ranking made stands where
    the first of its kind stood, without an annotator and with everybody's ratings. Items judged once stay as they are.
    Where all means are equal the annotators cancel out, and all their rankings of the item are left out.
    """
    return _as_one(rankings, _mean_tiers)


def by_majority(rankings: Sequence[Ranking]) -> tuple[list[Ranking], list[Ranking]]:
    """The same by the majority: a completion stands as high as it has completions that more people put below it than above
    it, less those that more put above it (Copeland 1951). Where each completion has as many of both, the item is left out."""
    return _as_one(rankings, _majority_tiers)


def _as_one(
    rankings: Sequence[Ranking], tiers_of: Callable[[Sequence[Ranking]], tuple[tuple[str, ...], ...]]
) -> tuple[list[Ranking], list[Ranking]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault(item_of(ranking), []).append(ranking)
    made: list[Ranking] = []
    cancelled: list[Ranking] = []
    for group in groups.values():
        if len(group) == 1:
            made.append(group[0])
            continue
        tiers = tiers_of(group)
        if len(tiers) < 2:
            cancelled += group
        else:
            bad = 2 * sum(one.all_bad for one in group) > len(group)
            made.append(replace(group[0], completions=_rated(group), ranking=tiers, annotator=None, all_bad=bad))
    return made, cancelled


def _rated(group: Sequence[Ranking]) -> tuple[Completion, ...]:
    """The completions of the first ranking with the ratings of all."""
    given: dict[str, tuple[float, ...]] = {}
    for ranking in group:
        # Completions that say the same are one to whoever rated them.
        own = {one.text: one.ratings or () for one in ranking.completions}
        for text, ratings in own.items():
            given[text] = given.get(text, ()) + ratings
    return tuple(replace(one, ratings=given[one.text] or None) for one in group[0].completions)


def _mean_tiers(group: Sequence[Ranking]) -> tuple[tuple[str, ...], ...]:
    """Tiers in the ids of the first ranking of the group."""
    total: dict[str, float] = {}
    for ranking in group:
        for text, rank in _fractional(ranking).items():
            total[text] = total.get(text, 0.0) + rank
    tiers: dict[float, list[str]] = {}
    for one in group[0].completions:
        # Sums of halves are exact, so equal means are equal sums.
        tiers.setdefault(total[one.text], []).append(one.id)
    return tuple(tuple(tiers[rank]) for rank in sorted(tiers))


def _majority_tiers(group: Sequence[Ranking]) -> tuple[tuple[str, ...], ...]:
    """Tiers in the ids of the first ranking of the group."""
    ranks = [_fractional(ranking) for ranking in group]
    text = {one.id: one.text for one in group[0].completions}

    def above(one: str, other: str) -> int:
        """1 where more people put `one` above `other` than below it, -1 the other way round."""
        votes = sum((by[one] < by[other]) - (by[one] > by[other]) for by in ranks)
        return (votes > 0) - (votes < 0)

    tiers: dict[int, list[str]] = {}
    for name, own in text.items():
        tiers.setdefault(-sum(above(own, other) for other in {*text.values()}), []).append(name)
    return tuple(tuple(tiers[score]) for score in sorted(tiers))


def _fractional(ranking: Ranking) -> dict[str, float]:
    """Rank of each text from 0, tied ones at the mean of the places they share."""
    text = {one.id: one.text for one in ranking.completions}
    place, out = 0, {}
    for tier in ranking.ranking:
        for one in tier:
            out[text[one]] = place + (len(tier) - 1) / 2
        place += len(tier)
    return out
