"""Which items have known answers, and did a person find them? Clear ones of the run's published rankings, for the first minutes.

Clear is the best completion of a ranking beside the worst: with ratings, those that lie furthest apart; without, those of the
rankings with the most tiers. Practice is never exported.
"""

from collections.abc import Sequence

from data.schema import Completion, Ranking
from pipeline.artifacts.run import Run
from pipeline.people.choosing import chance
from pipeline.people.orders import Order, pairs
from pipeline.people.store import Item, new_item

COUNT = 5  # items of practice
ENOUGH = 0.8  # the share of pairs put as they are known to be, from which a person has understood the task


def practice_items(rankings: Sequence[Ranking], count: int = COUNT) -> list[Item]:
    """At most `count` items of two completions each, the clearest first, no prompt twice; the same ones whenever they are made."""
    clear = [
        (distance, chance("practice", one.id), one) for one in rankings if (distance := _distance(one)) is not None
    ]
    found, seen = list[Item](), set[str]()
    for _, _, ranking in sorted(clear, key=lambda entry: (not entry[0][0], -entry[0][1], entry[1])):
        best, worst = _ends(ranking)
        item = _item(ranking, best, worst)
        if repr(item.prompt) not in seen and best.text.strip() != worst.text.strip():
            seen.add(repr(item.prompt))
            found.append(item)
        if len(found) == count:
            break
    return found


def of_run(run: Run) -> list[Item]:
    """The practice of a run whose stage data is finished: of training rankings, so that what is held out stays unseen."""
    from pipeline.rows.published import rankings

    return practice_items(rankings(run, "train")) if run.manifest("data") is not None else []


def right(item: Item, order: Order) -> tuple[int, int]:
    """How many pairs of an item's known order a person put in that order, and of how many: one that is tied or not ranked is wrong."""
    known = set(pairs(known_order(item)))
    return len(known & set(pairs(order))), len(known)


def known_order(item: Item) -> Order:
    """The order that a practice item is known to have."""
    return Order(tuple(map(tuple, item.body["order"])))


def understood(answers: Sequence[tuple[int, int]]) -> bool:
    """Whether so much of what `right` gave for each item is right that the person has understood the task."""
    good, of = (sum(one[place] for one in answers) for place in (0, 1))
    return of > 0 and good / of >= ENOUGH


def _distance(ranking: Ranking) -> tuple[bool, float] | None:
    """How clear a ranking is: those with ratings before those without, then by the distance; None where it is not."""
    if len(ranking.ranking) < 2:
        return None
    best, worst = _ends(ranking)
    if best.rating is not None and worst.rating is not None:
        return (True, best.rating - worst.rating) if best.rating > worst.rating else None
    return False, float(len(ranking.ranking))


def _ends(ranking: Ranking) -> tuple[Completion, Completion]:
    by_id = {one.id: one for one in ranking.completions}
    return by_id[ranking.ranking[0][0]], by_id[ranking.ranking[-1][0]]


def _item(ranking: Ranking, best: Completion, worst: Completion) -> Item:
    """The item, its completions in an order that says nothing."""
    turned = chance("practice sides", ranking.id) < 0.5
    sides = [worst, best] if turned else [best, worst]
    order = [["c1"], ["c0"]] if turned else [["c0"], ["c1"]]
    body = {"order": order, "source": f"ranking {ranking.id}"}
    return new_item(ranking.prompt, [(one.text, one.model) for one in sides], "practice", body)
