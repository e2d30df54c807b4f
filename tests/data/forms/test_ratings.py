"""Do ratings become rankings by their means, with ties where a gap says so?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

from data.schema import Completion

NAME = "ratings"
ROW = rows_of(NAME)[0]


def test_the_higher_mean_is_better() -> None:
    """Means 3, 1, 4.5; 3 of (2, 3, 4) against 4 of (5, 4, 3); 2.2 twice and 1.7; 4 against 4 of (3, 5)."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "the higher mean rating is better, nearer than tie_gap is a tie"
    assert account(loaded) == (4, 3, {"tie": 1})
    assert orders(loaded) == [[["c2"], ["c0"], ["c1"]], [["short"], ["long"]], [["c0", "c2"], ["c1"]]]
    first, second, third = loaded.rows
    assert (first.id, first.annotator, second.annotator) == ("soup", None, "panel 7")
    assert [one.ratings for one in first.completions] == [(3.0,), (1.0,), (4.5,)]
    assert second.completions[1] == Completion("short", "A drowned valley that ice has carved.", "m2", (5.0, 4.0, 3.0))
    assert third.prompt == [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Why do leaves turn red?"},
    ]


@pytest.mark.parametrize(
    ("gap", "kept", "first"),
    [
        (0.5, 3, [["c2"], ["c0"], ["c1"]]),
        (0.51, 2, [["c2"], ["c0"], ["c1"]]),
        (2, 1, [["c0", "c2"], ["c1"]]),
        (4, 0, None),
    ],
)
def test_the_gap_ties_what_is_nearer(tmp_path, gap: float, kept: int, first: list | None) -> None:
    """Distances are 1.5 and 2, then 1, then 0.5: that of 2.2 and 1.7 is no less than 0.5, but less than 0.51. With a
    gap of 2 the soup's 3 joins 4.5 and 1 does not, with 4 it joins too and nothing is left of any row."""
    loaded = read(example(NAME), tie_gap=gap)
    assert account(loaded) == (4, kept, {"tie": 4 - kept})
    assert orders(loaded)[:1] == ([] if first is None else [first])


def test_equal_means_tie_whatever_floats_say(tmp_path) -> None:
    """(0.1 + 0.2) / 2 is 0.15, which binary fractions deny."""
    rows = [but(ROW, "ratings", [[0.1, 0.2], 0.15, 0.1])]
    assert orders(read(write(tmp_path, rows))) == [[["c0", "c1"], ["c2"]]]


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, [ROW, but(ROW, "id", "stew")], "parquet"))
    assert loaded.format == NAME and orders(loaded) == [[["c2"], ["c0"], ["c1"]]] * 2


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "ratings", GONE), "ratings", "the key is missing"),
        (but(ROW, "ratings", 3), "ratings", "it is a number, not a list"),
        (but(ROW, "ratings", [3, 1]), "ratings", "there are 2 for 3 completions"),
        (but(ROW, "ratings", [3, 1, None]), "ratings[2]", "it is null, not a number"),
        (but(ROW, "ratings", [3, "good", 4]), "ratings[1]", 'it is "good", not a number'),
        (but(ROW, "ratings", [3, 1, True]), "ratings[2]", "not a number"),
        (but(ROW, "ratings", [[3, {}], 1, 2]), "ratings[0][1]", "it is an object, not a number"),
        (but(ROW, "ratings", [[], 1, 2]), "ratings[0]", "nobody rated it"),
        (but(ROW, "ratings", [1e308, 1, 2]), "ratings[0]", ""),
        (but(ROW, "completions", ["one"]), "completions", "there are fewer than two"),
        (but(ROW, "completions", 1, " "), "completions[1]", "it is blank"),
        (but(ROW, "completions", 1, "Boil a potato in it. "), "completions", "the same text stands in two ranks"),
        (
            but(ROW, "completions", 0, {"text": "Salt.", "ratings": [1]}),
            "completions",
            "they have ratings of their own",
        ),
        (but(ROW, "messages", [{"role": "user", "content": "Hi"}]), "messages", "the row has a prompt as well"),
        (but(ROW, "prompt", None), "prompt", "it is null"),
        (but(ROW, "id", []), "id", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, but(bad, "id", "bad") if bad.get("id") == "soup" else bad)
    assert where == field
    assert says in problem
