"""Is what a person did taken for what it is? Ties, partial orders, nothing ranked; and what is no order is told in one sentence."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.people.orders import NotAnOrder, Order, among, checked, in_order, ordered, pairs, parse, ranked, relation
from pipeline.people.store import new_item

ITEM = new_item("p", [("a", "sft"), ("b", "sft"), ("c", "ppo"), ("d", None)])
IDS = ("c0", "c1", "c2", "c3")


def body(**changes: Any) -> dict[str, Any]:
    """A tie in the middle, the last one unranked."""
    whole = {"item": ITEM.id, "tiers": [["c2"], ["c0", "c3"]], "unranked": ["c1"], "all_bad": False, "note": ""}
    return whole | {"seconds": 3.5, "shown": ["c1", "c3", "c0", "c2"], "repeat": 0} | changes


def test_an_order_is_taken_as_it_was_made() -> None:
    assert checked(body(), ITEM) == body()
    order = parse(body(), IDS)
    assert order == Order((("c2",), ("c0", "c3")), ("c1",), False) == ordered(body())
    assert sorted(pairs(order)) == [("c2", "c0"), ("c2", "c3")]  # none of the unranked one, none of the tie
    assert ranked(order) == {"c0", "c2", "c3"} and order.says_something
    assert relation(order, "c2", "c0") == 1 and relation(order, "c0", "c2") == -1 and relation(order, "c0", "c3") == 0
    assert [one.text for one in in_order(ITEM, ["c2", "c0"])] == ["a", "c"]


def test_all_bad_stands_beside_an_order_or_alone() -> None:
    assert checked(body(all_bad=True), ITEM)["tiers"] == [["c2"], ["c0", "c3"]]
    alone = checked(body(tiers=[], unranked=list(IDS), all_bad=True), ITEM)
    assert not ordered(alone).says_something and list(pairs(ordered(alone))) == []


def test_one_tier_is_an_answer_that_makes_no_pair() -> None:
    everything = parse(body(tiers=[list(IDS)], unranked=[]), IDS)
    assert not everything.says_something and list(pairs(everything)) == []
    best = parse(body(tiers=[["c2"]], unranked=["c0", "c1", "c3"]), IDS)
    assert not best.says_something


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tiers": [["c2"], ["c0", "c3"], ["c9"]]}, "'c9' is no completion of this item"),
        ({"tiers": [["c2"], ["c0", "c3", "c2"]]}, "c2 stands twice"),
        ({"tiers": [["c2", "c1"], ["c0", "c3"]]}, "c1 stands twice"),
        ({"unranked": []}, "c1 stands nowhere; every completion stands once"),
        ({"tiers": [["c2"], [], ["c0", "c3"]]}, "a tier is empty"),
        ({"tiers": [], "unranked": list(IDS)}, "nothing is ranked"),
        ({"tiers": ["c2", "c0"]}, "a tier is a list of completions' ids"),
        ({"tiers": {"c2": 1}}, "tiers is a list of lists"),
        ({"tiers": [[2], [0, 3]]}, "a tier is a list of completions' ids"),
        ({"unranked": None}, "unranked is a list"),
        ({"all_bad": "no"}, "all_bad is true or false"),
        ({"all_bad": 0}, "all_bad is true or false"),
        ({"note": "x" * 2001}, "at most 2000 characters"),
        ({"note": None}, "note is a text"),
        ({"note": "\ud83d"}, "half of a character"),
        ({"seconds": -1}, "seconds is a number"),
        ({"seconds": float("nan")}, "seconds is a number"),
        ({"seconds": True}, "seconds is a number"),
        ({"shown": ["c1", "c3", "c0"]}, "shown names each completion once"),
        ({"shown": ["c1", "c3", "c0", "c0"]}, "shown names each completion once"),
        ({"repeat": 2}, "repeat is 0, or 1"),
        ({"repeat": False}, "repeat is 0, or 1"),
        ({"item": "other"}, "item names another item"),
        ({"score": 5}, "there is no field 'score'"),
    ],
)
def test_what_is_no_order_is_told(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(NotAnOrder, match=why):
        checked(body(**changes), ITEM)


def test_a_field_that_is_missing_is_told() -> None:
    for name in body():
        with pytest.raises(NotAnOrder, match=f"{name} is missing"):
            checked({key: value for key, value in body().items() if key != name}, ITEM)


@given(st.lists(st.sampled_from([0, 1, 2, 3, None]), min_size=4, max_size=4), st.booleans())
def test_every_order_that_places_make_is_taken_and_says_what_they_say(places: list[int | None], all_bad: bool) -> None:
    """The pairs are those of which both were placed, one above the other; whatever is left out of the order stays out of them."""
    tiers = [[one for one, at in zip(IDS, places, strict=True) if at == place] for place in range(4)]
    made = {
        "tiers": [tier for tier in tiers if tier],
        "unranked": [one for one, at in zip(IDS, places, strict=True) if at is None],
    }
    if not made["tiers"] and not all_bad:
        return
    order = parse(made | {"all_bad": all_bad}, IDS)
    at = dict(zip(IDS, places, strict=True))
    wanted = {
        (a, b) for a, b in itertools.permutations(IDS, 2) if at[a] is not None and at[b] is not None and at[a] < at[b]
    }
    assert set(pairs(order)) == wanted and order.says_something == bool(wanted)
    part = among(order, ["c0", "c2"])
    assert set(pairs(part)) == {pair for pair in wanted if set(pair) <= {"c0", "c2"}} and part.unranked == ()
