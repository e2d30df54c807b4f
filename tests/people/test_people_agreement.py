"""Do the figures of agreement come out as by hand? Two people who agree and who do not, ties, partial orders, repeats, practice, time."""

import math
from typing import Any

import pytest

from pipeline.people.agreement import Figure, agreements
from pipeline.people.store import Event, Item, new_item

PAIRS = [new_item(f"p{n}", [(f"a{n}", None), (f"b{n}", None)]) for n in range(12)]
THREE = new_item("three", [("x", None), ("y", None), ("z", None)])
PRACTICE = new_item("practice", [("good", None), ("bad", None)], "practice", {"order": [["c0"], ["c1"]]})
FIRST, SECOND, TIE = [["c0"], ["c1"]], [["c1"], ["c0"]], [["c0", "c1"]]


class Book:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, person: str, kind: str, **body: Any) -> str:
        name = f"e{len(self.events)}"
        self.events.append(Event(name, "2026-01-01T00:00:00+00:00", person, kind, body))
        return name

    def said(
        self,
        person: str,
        item: Item,
        tiers: list[list[str]],
        repeat: int = 0,
        seconds: float = 10.0,
        all_bad: bool = False,
    ) -> str:
        placed = [one for tier in tiers for one in tier]
        rest = [one.id for one in item.completions if one.id not in placed]
        return self.add(
            person, "ranking", item=item.id, tiers=tiers, unranked=rest, repeat=repeat, seconds=seconds, all_bad=all_bad
        )


def values(figure: Figure) -> tuple[float | None, int]:
    return figure.value, figure.of


def test_three_of_four_alike_by_hand() -> None:
    """Four items of two: of the eight completions six were given the same rank by both, two a 0 and a 1. Of the 16 values 8 are 0 and
    8 are 1; alpha = 1 - 15 · 2 / (8 · 8). Kendall's tau is 1, 1, 1, -1."""
    book = Book()
    for place, item in enumerate(PAIRS[:4]):
        book.said("Anna", item, FIRST, seconds=10)
        book.said("Ben", item, SECOND if place == 3 else FIRST, seconds=20)
    overall, each = agreements(PAIRS, book.events)
    assert values(overall.alpha) == (1 - 15 * 2 / 64, 4) and values(overall.tau) == (0.5, 4)
    assert values(overall.alike) == (0.75, 4) and values(overall.seconds)[0] == 15 and overall.ranked == 8
    assert overall.alpha.low is overall.tau.low is overall.alike.low is None, "four items are too few for an interval"
    assert [one.name for one in each] == ["Anna", "Ben"] and values(each[0].alpha) == (1 - 30 / 64, 4)
    assert values(each[0].seconds) == (10.0, 4) and each[0].seconds.low is None and values(each[1].seconds) == (20.0, 4)


def test_intervals_hold_the_figure_and_are_there_from_five_items() -> None:
    book = Book()
    for place, item in enumerate(PAIRS):
        book.said("Anna", item, FIRST, seconds=10 + place)
        book.said("Ben", item, SECOND if place % 4 == 3 else FIRST, seconds=30)
    overall, _ = agreements(PAIRS, book.events)
    assert overall.tau.value == 0.5 and overall.alike.value == 0.75
    for figure in (overall.alpha, overall.tau, overall.alike, overall.seconds):
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert figure.low < figure.value < figure.high
    # one item's tau is 1 or -1, its alike 1 or 0: the two intervals are one, stretched
    assert overall.alike.low is not None and overall.tau.low == pytest.approx(2 * overall.alike.low - 1)


def test_a_tie_is_half_way() -> None:
    """Anna's tie gives both the mean rank ½, so that no value of hers equals Ben's, and no pair is in an order of both."""
    book = Book()
    book.said("Anna", PAIRS[0], TIE)
    book.said("Ben", PAIRS[0], FIRST)
    overall, _ = agreements(PAIRS, book.events)
    assert overall.tau == Figure(None) and overall.alike == Figure(None)
    # values 0, ½, ½, 1, once, twice, once: distances by mean places 0.5, 2, 3.5; observed 2 · 1.5², expected by all pairs
    expected = 2 * 1.5**2 + 1 * 3.0**2 + 2 * 1.5**2
    assert overall.alpha.value == pytest.approx(1 - 3 * (2 * 1.5**2) / expected)


def test_of_partial_orders_only_what_both_ranked_is_compared() -> None:
    book = Book()
    book.said("Anna", THREE, [["c0"], ["c1"], ["c2"]])
    book.said("Ben", THREE, [["c2"], ["c1"]])  # of c0 he says nothing
    overall, _ = agreements([THREE], book.events)
    assert values(overall.tau) == (-1.0, 1) and values(overall.alike) == (0.0, 1)
    assert overall.alpha.value == 1 - 3 * 2 / 4, "two completions, each once first and once last"
    book.said("Cleo", THREE, [["c0"]])
    overall, each = agreements([THREE], book.events)
    assert overall.tau.value == -1.0 and overall.alpha == Figure(None), "no two that all three ranked"
    assert each[2].tau == Figure(None) and each[2].ranked == 1


def test_a_person_is_held_against_the_others_alone() -> None:
    book = Book()
    for item in PAIRS[:6]:
        for person, tiers in (("Anna", FIRST), ("Ben", FIRST), ("Cleo", SECOND)):
            book.said(person, item, tiers)
    overall, (anna, ben, cleo) = agreements(PAIRS, book.events)
    assert (
        overall.tau.value == pytest.approx(-1 / 3) and anna.tau.value == ben.tau.value == 0.0 and cleo.tau.value == -1.0
    )
    assert overall.alike.value == pytest.approx(1 / 3) and cleo.alike.value == 0.0 and anna.alike.value == 0.5
    assert cleo.alike.high is not None and 0 < cleo.alike.high < 0.35, "Wilson's, as every resample is 0 too"


def test_self_agreement_is_of_the_repeats() -> None:
    book = Book()
    book.said("Anna", THREE, [["c0"], ["c1"], ["c2"]])
    book.said("Anna", THREE, [["c0"], ["c1", "c2"]], repeat=1)
    book.said("Anna", PAIRS[0], FIRST)
    book.said("Anna", PAIRS[0], FIRST, repeat=1)
    book.said("Ben", PAIRS[0], SECOND, repeat=1)  # of one that he never ranked first
    overall, (anna, ben) = agreements([THREE, *PAIRS], book.events)
    assert values(anna.again) == (3 / 4, 4) == values(overall.again) and ben.again == Figure(None)
    assert anna.ranked == 2 and overall.alpha == Figure(None), "a repeat is no second person"


def test_practice_counts_apart() -> None:
    book = Book()
    book.said("Anna", PRACTICE, FIRST)
    book.said("Ben", PRACTICE, TIE)
    overall, (anna, ben) = agreements([PRACTICE], book.events)
    assert (
        values(anna.practice) == (1.0, 1) and values(ben.practice) == (0.0, 1) and values(overall.practice) == (0.5, 2)
    )
    assert overall.ranked == 0 and overall.alpha == Figure(None) and overall.seconds == Figure(None)


def test_what_was_taken_back_is_nothing() -> None:
    book = Book()
    book.said("Anna", PAIRS[0], FIRST)
    book.said("Ben", PAIRS[0], FIRST)
    wrong = book.said("Ben", PAIRS[0], SECOND)
    skip = book.add("Ben", "skip", item=PAIRS[1].id)
    book.add("Cleo", "report", item=PAIRS[1].id, reason="x")
    book.said("Cleo", PAIRS[2], [], all_bad=True)
    book.said("Cleo", new_item("gone", [("a", None)]), [["c0"]])
    assert agreements(PAIRS, book.events)[0].tau.value == -1.0
    book.add("Ben", "undo", event=wrong)
    book.add("Ben", "undo", event=skip)
    overall, (_, ben, cleo) = agreements(PAIRS, book.events)
    assert overall.tau.value == 1.0 and ben.skipped == 0 and (cleo.reported, cleo.all_bad, cleo.ranked) == (1, 1, 1)


def test_nothing_is_told_of_nothing() -> None:
    overall, each = agreements([], [])
    assert each == [] and overall.to_json()["alpha"] == {"value": None, "low": None, "high": None, "of": 0}
    assert not any(isinstance(value, float) and math.isnan(value) for value in vars(overall.alpha).values())
