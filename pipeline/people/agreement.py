"""How far do people agree, with each other and with themselves, and how long does an item take them? Each figure with its 95% interval.

Figures of agreement are those of data/refining/agreement.py. Of a partial order only what was ranked is compared: of an item the
completions that everybody ranked who ranked the item, between two people those that both ranked. Intervals draw whole items again;
below five items there is none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from data.refining.agreement import agreement, orders, tau_b
from data.schema import Ranking
from pipeline.people.orders import Order, among, in_order, ordered, ranked, relation
from pipeline.people.practice import right
from pipeline.people.standing import LastWords, last_words, standing
from pipeline.people.store import Event, Item
from pipeline.statistics import mean_interval, ratio_interval, wilson

FEWEST = 5  # items, or answers, below which drawing them again says nothing


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, each None where nothing defines it; `of` says of how many (items, pairs or answers)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    of: int = 0

    def to_json(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "of": self.of}


@dataclass(frozen=True)
class Person:
    """One person's work, or that of all (`name` is empty). `alpha` is Krippendorff's, ordinal; `tau` Kendall's tau-b, a mean over items
    and pairs of people; `alike` the share of pairs of completions that two people put in the same order, of those that both put in
    one; `again` the share of pairs of completions that a person put alike (better, worse or tied) both times; `practice` the share
    of pairs of practice items put as they are known to be; `seconds` the mean time of an item."""

    name: str
    ranked: int
    skipped: int
    reported: int
    all_bad: int
    alpha: Figure
    tau: Figure
    alike: Figure
    again: Figure
    practice: Figure
    seconds: Figure

    def to_json(self) -> dict[str, Any]:
        return {name: value.to_json() if isinstance(value, Figure) else value for name, value in vars(self).items()}


def agreements(items: Sequence[Item], events: Sequence[Event]) -> tuple[Person, list[Person]]:
    """The figures of all people together, and of each by name. A person's agreement is that with the others, on the items that
    this person ranked."""
    known, said = {item.id: item for item in items}, standing(events)
    words = {key: event for key, event in last_words(events).items() if key[1] in known}
    names = sorted({event.person for event in said if event.kind in ("ranking", "skip", "report")})
    return _figures("", known, words, said), [_figures(name, known, words, said) for name in names]


def _figures(name: str, known: Mapping[str, Item], words: LastWords, said: Sequence[Event]) -> Person:
    first = {key: event for key, event in words.items() if known[key[1]].kind == "rank" and key[2] == 0}
    own = {key: event for key, event in first.items() if name in ("", key[0])}
    by_item = _by_item(first, {key[1] for key in own})
    kinds = [event.kind for event in said if name in ("", event.person)]
    return Person(
        name,
        ranked=len(own),
        skipped=kinds.count("skip"),
        reported=kinds.count("report"),
        all_bad=sum(bool(event.body["all_bad"]) for event in own.values()),
        alpha=_alpha(known, by_item),
        tau=_tau(by_item, name),
        alike=_alike(by_item, name),
        again=_again({key: event for key, event in words.items() if name in ("", key[0])}, known),
        practice=_practice(
            {key: event for key, event in words.items() if name in ("", key[0]) and known[key[1]].kind == "practice"},
            known,
        ),
        seconds=_mean([float(event.body["seconds"]) for event in own.values()], [str(n) for n in range(len(own))]),
    )


ByItem = dict[str, dict[str, Order]]
"""item -> person -> order, of items that two or more people ranked."""


def _by_item(words: LastWords, wanted: set[str]) -> ByItem:
    found: ByItem = {}
    for (person, item, _), event in words.items():
        if item in wanted and event.body["tiers"]:
            found.setdefault(item, {})[person] = ordered(event.body)
    return {item: by for item, by in found.items() if len(by) > 1}


def _alpha(known: Mapping[str, Item], by_item: ByItem) -> Figure:
    rankings = [one for item, by in by_item.items() for one in _alike_rankings(known[item], by)]
    found = agreement(rankings)
    low, high = found["alpha_interval"] or (None, None)
    return Figure(found["alpha"], low, high, found["items"])


def _alike_rankings(item: Item, by: Mapping[str, Order]) -> list[Ranking]:
    """Everybody's ranking of the completions that all of them ranked; none where those are fewer than two."""
    common = set.intersection(*map(ranked, by.values()))
    if len(common) < 2:
        return []
    left = tuple(in_order(item, sorted(common)))
    return [Ranking(item.id, item.prompt, left, among(order, common).tiers, "people", who) for who, order in by.items()]


def _both(by: Mapping[str, Order], name: str) -> Iterable[tuple[list[float], list[float]]]:
    """The ranks that each two people gave to the completions that both ranked, two or more; of the pairs with `name` alone."""
    for one, other in combinations(sorted(by), 2):
        if name in ("", one, other):
            yield from _ranks(by[one], by[other])


def _ranks(one: Order, other: Order) -> Iterable[tuple[list[float], list[float]]]:
    common = sorted(ranked(one) & ranked(other))
    if len(common) > 1:
        places = [{c: float(place) for place, tier in enumerate(order.tiers) for c in tier} for order in (one, other)]
        yield [places[0][c] for c in common], [places[1][c] for c in common]


def _tau(by_item: ByItem, name: str) -> Figure:
    found = [(tau_b(*both), item) for item, by in by_item.items() for both in _both(by, name)]
    defined = [(tau, item) for tau, item in found if tau is not None]
    return _mean([tau for tau, _ in defined], [item for _, item in defined])


def _alike(by_item: ByItem, name: str) -> Figure:
    counts = {
        item: np.sum([orders(*both)[:2] for both in _both(by, name)] or [(0, 0)], axis=0)
        for item, by in by_item.items()
    }
    return _share([(float(same), float(same + reverse), item) for item, (same, reverse) in counts.items()])


def _again(words: LastWords, known: Mapping[str, Item]) -> Figure:
    counted = []
    for (person, item, repeat), event in words.items():
        if repeat == 1 and known[item].kind == "rank" and (first := words.get((person, item, 0))) is not None:
            one, other = ordered(first.body), ordered(event.body)
            pairs = list(combinations(sorted(ranked(one) & ranked(other)), 2))
            same = sum(relation(one, *pair) == relation(other, *pair) for pair in pairs)
            counted.append((float(same), float(len(pairs)), f"{person}\0{item}"))
    return _share(counted)


def _practice(words: LastWords, known: Mapping[str, Item]) -> Figure:
    found = [
        (right(known[item], ordered(event.body)), f"{person}\0{item}") for (person, item, _), event in words.items()
    ]
    return _share([(float(good), float(of), group) for (good, of), group in found])


def _share(counted: Sequence[tuple[float, float, str]]) -> Figure:
    """The share of all that is counted, from (how many, of how many, group): of a share of 0 or 1 Wilson's interval, as every
    resample is the same."""
    counted = [one for one in counted if one[1]]
    above, below = math.fsum(one[0] for one in counted), math.fsum(one[1] for one in counted)
    if not counted:
        return Figure(None)
    value = above / below
    if len(counted) < FEWEST:
        return Figure(value, of=int(below))
    if value in (0.0, 1.0):
        ends = wilson(above, 0, below - above)
        return Figure(value, ends["low"], ends["high"], int(below))
    parts, wholes = np.array([one[0] for one in counted]), np.array([one[1] for one in counted])
    low, high = ratio_interval(parts, wholes, [one[2] for one in counted], 10_000, 0)
    return Figure(value, low, high, int(below))


def _mean(values: Sequence[float], groups: Sequence[str]) -> Figure:
    if not values:
        return Figure(None)
    if len(set(groups)) < FEWEST:
        return Figure(math.fsum(values) / len(values), of=len(values))
    found = mean_interval(values, groups)
    return Figure(found["mean"], found["low"], found["high"], len(values))
