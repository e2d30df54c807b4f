"""Are the items of practice clear, and is an answer held against what is known?"""

from data.schema import Completion, Ranking
from pipeline.people.orders import Order
from pipeline.people.practice import practice_items, right, understood


def ranking(number: int, prompt: str, gap: float | None, tiers: int = 2) -> Ranking:
    """The completions by id, the first the best; with ratings `gap` apart from first to last."""
    ids = [f"x{n}" for n in range(tiers)]
    rated = [None if gap is None else (gap - gap * n / (tiers - 1),) for n in range(tiers)]
    answers = tuple(
        Completion(name, f"{prompt} {name} {number}", None, own) for name, own in zip(ids, rated, strict=True)
    )
    return Ranking(f"r{number}", prompt, answers, tuple((one,) for one in ids), "s")


def test_the_clearest_come_first_and_no_prompt_twice() -> None:
    known = [ranking(n, f"p{n // 2}", float(n)) for n in range(1, 10)]
    found = practice_items(known, 3)
    assert [item.prompt for item in found] == ["p4", "p3", "p2"] and {item.kind for item in found} == {"practice"}
    assert [item.body["source"] for item in found] == ["ranking r9", "ranking r7", "ranking r5"]
    assert practice_items(known[::-1], 3) == found, "the same ones, however the rows stand"


def test_ratings_say_more_than_tiers() -> None:
    found = practice_items([ranking(1, "a", None, 4), ranking(2, "b", None, 3), ranking(3, "c", 0.5)])
    assert [item.prompt for item in found] == ["c", "a", "b"]


def test_the_known_order_is_that_of_the_ranking_and_the_best_is_not_always_first() -> None:
    known = [ranking(n, f"p{n}", float(n), 3) for n in range(1, 30)]
    found = practice_items(known, 29)
    for item, source in zip(found, known[::-1], strict=True):
        by_id = {one.id: one.text for one in item.completions}
        assert [by_id[tier[0]] for tier in item.body["order"]] == [
            source.completions[0].text,
            source.completions[2].text,
        ]
    assert 5 < sum(item.body["order"][0] == ["c0"] for item in found) < 24


def test_what_is_not_clear_is_no_practice() -> None:
    tied = Ranking("t", "p", (Completion("a", "x"), Completion("b", "y")), (("a", "b"),), "s")
    against = Ranking(
        "u", "q", (Completion("a", "x", None, (1.0,)), Completion("b", "y", None, (2.0,))), (("a",), ("b",)), "s"
    )
    alike = Ranking("v", "r", (Completion("a", "x"), Completion("b", " x ")), (("a",), ("b",)), "s")
    assert practice_items([tied, against, alike]) == []


def test_an_answer_is_right_where_it_puts_the_pair_in_order() -> None:
    item = practice_items([ranking(1, "p", 3.0)])[0]
    best, worst = (tier[0] for tier in item.body["order"])
    assert right(item, Order(((best,), (worst,)))) == (1, 1)
    for order in (
        Order(((worst,), (best,))),
        Order(((best, worst),)),
        Order(((best,),), (worst,)),
        Order((), (best, worst), True),
    ):
        assert right(item, order) == (0, 1)
    assert understood([(1, 1)] * 4 + [(0, 1)]) and not understood([(1, 1), (0, 1)]) and not understood([])
