"""Are two answers side by side read with the right polarity, and a conversation with what was rejected?"""

from typing import Any

import pytest
from asked import example, problems_of, read, write

PLAIN = {"prompt": "Name a lake.", "response_a": "Ness.", "response_b": "A puddle."}
TALK = [{"role": "user", "content": "Name a lake."}, {"role": "assistant", "content": "Ness."}]


def best(folder: Any, row: dict[str, Any], **options: Any) -> str:
    (ranking,) = read(write(folder, [row]), **options).rows
    return next(one.text for one in ranking.completions if one.id == ranking.ranking[0][0])


def test_the_examples() -> None:
    loaded = read(example("side_by_side"))
    assert (loaded.format, loaded.account.left_out) == ("side_by_side", {"tie": 1})
    assert [row.ranking[0][0] for row in loaded.rows] == ["c0", "c1", "c1", "c0"]
    assert loaded.rows[2].prompt == [{"role": "user", "content": "What do bees eat?"}]
    assert [one.model for one in loaded.rows[2].completions] == ["small", "large"]
    rejected = read(example("rejected_response"))
    assert [[one.text for one in row.completions] for row in rejected.rows] == [
        ["The pine.", "The birch."],
        ["A narrow arm of the sea.", "A car."],
        ["One, two, three.", "Three.", "One, two, four."],
    ]
    assert [row.ranking for row in rejected.rows] == [(("c0",), ("c1",))] * 2 + [(("c0",), ("c1", "c2"))]


@pytest.mark.parametrize("verdict", ["a", "A", "response_a", "model_a", "Response A"])
def test_a_verdict_names_one_of_the_two(tmp_path, verdict: str) -> None:
    assert best(tmp_path, PLAIN | {"winner": verdict}) == "Ness."
    assert best(tmp_path, PLAIN | {"preference": verdict}) == "Ness."
    assert best(tmp_path, PLAIN | {"winner": verdict}, reverse=True) == "A puddle."


@pytest.mark.parametrize("verdict", ["c", "", None, 1, 0, 0.7, "response", "both a and b", True])
def test_a_verdict_that_names_neither_is_told(tmp_path, verdict: Any) -> None:
    """Nobody knows whether 1 is the first or the second of two letters."""
    problems = problems_of(tmp_path, [PLAIN | {"winner": verdict}])
    assert [field for _, field, *_ in problems] == ["winner"]


@pytest.mark.parametrize(("first", "second", "one", "other"), [("1", "2", 1, 2), ("0", "1", 0, 1)])
def test_numbers_are_the_answers_own(tmp_path, first: str, second: str, one: int, other: int) -> None:
    row = {"prompt": "Name a lake.", f"completion_{first}": "Ness.", f"completion_{second}": "A puddle."}
    assert best(tmp_path, row | {"better": one}) == "Ness."
    assert best(tmp_path, row | {"better": str(other)}) == "A puddle."


@pytest.mark.parametrize("tie", ["tie", "Tie", "tie (bothbad)", "both", "equal"])
def test_ties_are_left_out(tmp_path, tie: str) -> None:
    assert read(write(tmp_path, [PLAIN | {"winner": tie}])).account.left_out == {"tie": 1}


def test_turns_that_part_early_are_left_out(tmp_path) -> None:
    row = {"prompt": ["Hi", "Name a lake."], "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    same = row | {"response_a": ["Hello!", "Ness."], "response_b": ["Hello!", "A puddle."]}
    other = row | {"response_a": ["Hello!", "Ness."], "response_b": ["Hey!", "A puddle."]}
    assert best(tmp_path, same) == "Ness."
    assert read(write(tmp_path, [other])).account.left_out == {"the answers part before the last turn": 1}
    (problem,) = problems_of(tmp_path, [same | {"winner_model_b": 1}])
    assert problem[1] == "winner_model_a"


def test_what_was_rejected_must_be_something_else(tmp_path) -> None:
    for row, field in (
        ({"messages": TALK, "rejected_response": "Ness."}, "rejected_response"),
        ({"messages": TALK, "rejected_response": ""}, "rejected_response"),
        ({"messages": TALK, "rejected_response": "No.", "rejected_responses": ["Hm."]}, "rejected_response"),
        ({"messages": TALK[:1], "rejected_response": "No."}, "messages"),
    ):
        assert [problem[1] for problem in problems_of(tmp_path, [row])] == [field]
