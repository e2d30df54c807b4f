"""Is what several people said about one item put together as the arithmetic of ranks has it?"""

import json
from dataclasses import replace

import pytest

from data.loading import to_rows
from data.reading.options import Options
from data.refining.annotators import by_majority, by_mean_rank
from data.schema import Completion, Ranking


def ranking(
    order: str, *, annotator: str | None = None, texts: str = "abc", prompt: str = "p", line: int = 1
) -> Ranking:
    """`order` names texts best first, tiers apart by spaces; the ids are the positions in `texts`."""
    ids = {text: f"c{place}" for place, text in enumerate(texts)}
    tiers = tuple(tuple(ids[text] for text in tier) for tier in order.split())
    completions = tuple(Completion(ids[text], text) for text in texts)
    return Ranking(f"r{line}", prompt, completions, tiers, f"f:{line}", annotator)


def order(made: Ranking) -> str:
    text = {one.id: one.text for one in made.completions}
    return " ".join("".join(sorted(text[one] for one in tier)) for tier in made.ranking)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (["a b c", "a b c"], "a b c"),
        # Places a 0 0 2, b 1 2 0, c 2 1 1: sums 2, 3, 4.
        (["a b c", "a c b", "b c a"], "a b c"),
        # a 0+1, b 1+0, c 2+2: two are equal.
        (["a b c", "b a c"], "ab c"),
        # The tie of a and b counts 0.5 each: a 0.5+0, b 0.5+2, c 2+1. With 0 for both a tie b would be at 2, c at 2.
        (["ab c", "a c b"], "a b c"),
        # The tie of b and c counts 1.5 each: a 0+2, b 1.5+1, c 1.5+0.
        (["a bc", "c b a"], "c a b"),
        # a 0+1+1, b 2+0+2, c 1+2+0: nobody's order but the first one's.
        (["a c b", "b a c", "c a b"], "a c b"),
    ],
)
def test_mean_ranks(orders: list[str], expected: str) -> None:
    """Worked by hand above each; ties have the mean of the places they span (Kendall 1945)."""
    group = [ranking(one, annotator=f"p{place}", line=place) for place, one in enumerate(orders)]
    (made,), cancelled = by_mean_rank(group)
    assert order(made) == expected and cancelled == []
    assert (made.annotator, made.id, made.source) == (None, "r0", "f:0")


def test_opposite_annotators_cancel_out() -> None:
    group = [ranking("a b c", line=1), ranking("c b a", line=2)]
    alone = ranking("b a c", prompt="q", line=3, annotator="x")
    assert by_mean_rank([group[0], alone, group[1]]) == ([alone], group)


@pytest.mark.parametrize(
    ("bad", "together"), [((True, True, False), True), ((True, False, False), False), ((True, False), False)]
)
def test_all_are_bad_where_most_said_so(bad: tuple[bool, ...], together: bool) -> None:
    group = [replace(ranking("a b c", line=line), all_bad=one) for line, one in enumerate(bad)]
    assert [one.all_bad for one in by_mean_rank(group)[0]] == [together]


def test_the_order_in_which_completions_are_listed_does_not_matter() -> None:
    """The second one numbers its completions the other way: its ids mean other texts."""
    (made,), _ = by_mean_rank([ranking("a b c"), ranking("a b c", texts="cba", line=2)])
    assert order(made) == "a b c" and [one.text for one in made.completions] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "other",
    [ranking("a b", texts="ab", line=2), ranking("a b d", texts="abd", line=2), ranking("c b a", prompt="q", line=2)],
    ids=["fewer", "another", "prompt"],
)
def test_different_completions_or_prompts_are_not_merged(other: Ranking) -> None:
    one = ranking("a b c", annotator="x")
    assert by_mean_rank([one, other]) == ([one, other], [])


def test_a_text_that_stands_twice_keeps_both_ids() -> None:
    """Both stand in one tie, as they must: (a a) at 0.5, 1.5 and 0.5 each, c at 2, 0 and 2."""
    first, second = ranking("ab c", texts="abc"), ranking("c ab", texts="abc", line=2)
    third = ranking("ab c", texts="abc", line=3)
    twice = [
        Ranking(
            one.id, "p", tuple(Completion(c.id, c.text.replace("b", "a")) for c in one.completions), one.ranking, "f"
        )
        for one in (first, second, third)
    ]
    (made,), _ = by_mean_rank(twice)
    assert [sorted(tier) for tier in made.ranking] == [["c0", "c1"], ["c2"]]


def test_everybody_s_ratings_are_kept() -> None:
    def rated(order: str, ratings: dict[str, float], texts: str) -> Ranking:
        bare = ranking(order, texts=texts)
        told = tuple(Completion(one.id, one.text, ratings=(ratings[one.text],)) for one in bare.completions)
        return Ranking("r", "p", told, bare.ranking, "f:1")

    (made,), _ = by_mean_rank([rated("a b", {"a": 4, "b": 2}, "ab"), rated("a b", {"a": 3, "b": 1}, "ba")])
    assert {one.text: one.ratings for one in made.completions} == {"a": (4, 3), "b": (2, 1)}


def test_every_row_read_is_accounted_for(tmp_path) -> None:
    """Three people agree on one item, two contradict each other on another, one was judged once."""
    rows = [
        {"prompt": "p", "completions": ["a", "b"], "ranking": [[0], [1]], "annotator": "x"},
        {"prompt": "q", "completions": ["a", "b"], "ranking": [[0], [1]], "annotator": "x"},
        {"prompt": "p", "completions": ["b", "a"], "ranking": [[1], [0]], "annotator": "y"},
        {"prompt": "q", "completions": ["a", "b"], "ranking": [[1], [0]], "annotator": "y"},
        {"prompt": "r", "completions": ["a", "b"], "ranking": [[1], [0]], "annotator": "y"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    apart = to_rows(str(path))
    assert (len(apart.rows), apart.account.used, apart.account.left_out.total()) == (5, 5, 0)
    loaded = to_rows(str(path), Options(aggregate="mean"))
    assert [(row.prompt, row.annotator, row.ranking) for row in loaded.rows] == [
        ("p", None, (("c0",), ("c1",))),
        ("r", "y", (("c1",), ("c0",))),
    ]
    assert loaded.account.left_out == {"annotators cancel out": 2}
    assert (loaded.read, loaded.account.used, loaded.account.kept) == (5, 3, 2)


@pytest.mark.parametrize(
    ("orders", "mean", "majority"),
    [
        # Three against two put a first, though those two put it last: 3 to 2, 3 to 2, 5 to 0.
        (["a b c"] * 3 + ["b c a"] * 2, "b a c", "a b c"),
        (["a b", "a b", "b a"], "a b", "a b"),
        # Each beats one and is beaten by one: nobody wins, by either count.
        (["a b c", "b c a", "c a b"], None, None),
        (["a b", "b a"], None, None),
        # Of those who tied a and b nobody is for either.
        (["ab c", "b a c", "ab c"], "b a c", "b a c"),
    ],
)
def test_the_majority_and_the_mean_may_differ(orders: list[str], mean: str | None, majority: str | None) -> None:
    rows = [ranking(one, texts="abc" if "c" in one else "ab", line=line) for line, one in enumerate(orders)]
    for by, expected in ((by_mean_rank, mean), (by_majority, majority)):
        made, cancelled = by(rows)
        assert [order(one) for one in made] == ([] if expected is None else [expected])
        assert len(cancelled) == (len(rows) if expected is None else 0)
        turned, _ = by(rows[::-1])
        assert [order(one) for one in turned] == [order(one) for one in made]
