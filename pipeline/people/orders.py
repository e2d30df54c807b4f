"""Is what a person did with the cards an order? Tiers with ties, partial orders, "all of them are bad"; nothing unknown, nothing twice.

What a browser sends is the body of an event of kind "ranking":

    {"item": id, "tiers": [["c2"], ["c0", "c3"]], "unranked": ["c1"], "all_bad": false, "note": "", "seconds": 12.5,
     "shown": ["c1", "c3", "c0", "c2"], "repeat": 0}

The first tier is the best, completions in one tier are tied. Of the unranked ones nothing is said: no pair is made of them.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.schema import Completion
from pipeline.people.store import Item

LONGEST_NOTE = 2000  # characters
LONGEST_TIME = 86_400.0  # seconds
FIELDS = ("item", "tiers", "unranked", "all_bad", "note", "seconds", "shown", "repeat")


class NotAnOrder(ValueError):
    """Why what was sent is no order of an item's completions: one sentence for whoever sent it."""


@dataclass(frozen=True)
class Order:
    """What a person said of an item's completions, by their ids."""

    tiers: tuple[tuple[str, ...], ...]
    unranked: tuple[str, ...] = ()
    all_bad: bool = False

    @property
    def says_something(self) -> bool:
        """Whether it puts one completion above another."""
        return len(self.tiers) > 1


def checked(body: Mapping[str, Any], item: Item) -> dict[str, Any]:
    """The body of an event of kind "ranking", if it is a sound one for `item`. Raises NotAnOrder."""
    for name in body:
        if name not in FIELDS:
            raise NotAnOrder(f"there is no field {ascii(name)[:60]}; there are {', '.join(FIELDS)}")
    for name in FIELDS:
        if name not in body:
            raise NotAnOrder(f"{name} is missing")
    if body["item"] != item.id:
        raise NotAnOrder("item names another item than the one that was ranked")
    ids = [one.id for one in item.completions]
    parse(body, ids)
    if not isinstance(body["note"], str) or len(body["note"]) > LONGEST_NOTE:
        raise NotAnOrder(f"note is a text of at most {LONGEST_NOTE} characters")
    if any("\ud800" <= character <= "\udfff" for character in body["note"]):
        raise NotAnOrder("note holds half of a character, which no file can hold")
    if not _is_number(body["seconds"]) or not 0 <= body["seconds"] <= LONGEST_TIME:
        raise NotAnOrder(f"seconds is a number from 0 to {LONGEST_TIME:.0f}")
    if Counter(_ids(body["shown"], "shown")) != Counter(ids):
        raise NotAnOrder("shown names each completion once, in the order of the cards")
    if type(body["repeat"]) is not int or body["repeat"] not in (0, 1):
        raise NotAnOrder("repeat is 0, or 1 where the item is shown to the person again")
    return dict(body)


def parse(body: Mapping[str, Any], ids: Collection[str]) -> Order:
    """The order in a body, of the completions `ids`: each stands once, in a tier or among the unranked. Raises NotAnOrder."""
    tiers = body.get("tiers")
    if not isinstance(tiers, list):
        raise NotAnOrder("tiers is a list of lists of completions' ids, the best first")
    order = Order(
        tuple(_ids(tier, "a tier") for tier in tiers),
        _ids(body.get("unranked"), "unranked"),
        body.get("all_bad") is True,
    )
    if any(not tier for tier in order.tiers):
        raise NotAnOrder("a tier is empty")
    if type(body.get("all_bad")) is not bool:
        raise NotAnOrder("all_bad is true or false")
    places = Counter([one for tier in order.tiers for one in tier] + list(order.unranked))
    for one in places:
        if one not in ids:
            raise NotAnOrder(f"{ascii(one)[:60]} is no completion of this item")
    for one in ids:
        if places[one] != 1:
            raise NotAnOrder(f"{one} stands {'twice' if places[one] else 'nowhere'}; every completion stands once")
    if not order.tiers and not order.all_bad:
        raise NotAnOrder("nothing is ranked; put a completion in its place, say that all are bad, or skip the item")
    return order


def ordered(body: Mapping[str, Any]) -> Order:
    """The order in a body that was checked before it was stored."""
    return Order(tuple(map(tuple, body["tiers"])), tuple(body["unranked"]), body["all_bad"])


def pairs(order: Order) -> Iterator[tuple[str, str]]:
    """(better, worse) of every two ranked completions that are not tied."""
    for place, tier in enumerate(order.tiers):
        for better in tier:
            for below in order.tiers[place + 1 :]:
                for worse in below:
                    yield better, worse


def among(order: Order, ids: Collection[str]) -> Order:
    """The same order of those completions alone that are in `ids`; none unranked."""
    left = (tuple(one for one in tier if one in ids) for tier in order.tiers)
    return Order(tuple(tier for tier in left if tier), (), order.all_bad)


def ranked(order: Order) -> set[str]:
    """The completions that have a place."""
    return {one for tier in order.tiers for one in tier}


def relation(order: Order, a: str, b: str) -> int:
    """1 where `a` stands above `b`, -1 below, 0 tied; both must be ranked."""
    place = {one: number for number, tier in enumerate(order.tiers) for one in tier}
    return (place[a] < place[b]) - (place[a] > place[b])


def in_order(item: Item, ids: Sequence[str]) -> list[Completion]:
    """The item's completions with these ids, in the item's order."""
    return [one for one in item.completions if one.id in ids]


def _ids(value: object, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise NotAnOrder(f"{field} is a list of completions' ids")
    return tuple(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
