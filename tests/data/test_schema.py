"""Do our rows survive a JSON line, and does a DataError read as a user needs it?"""

import json

import pytest

from data.schema import Completion, DataError, Demonstration, Judgement, Problem, Prompt, Ranking, prompt_key

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi \U0001f98a"}]
RANKING = Ranking(
    id="r1",
    prompt=MESSAGES,
    completions=(
        Completion("a", "one"),
        Completion("b", "two", "gpt2", (1.0, 2.0)),
        Completion("c", "three"),
        Completion("d", "four"),
    ),
    ranking=(("c",), ("a", "d"), ("b",)),
    source="f.jsonl:3",
    annotator="x",
)


@pytest.mark.parametrize(
    "row",
    [
        Demonstration("d1", "The", " end", "f:1"),
        Demonstration("d2", MESSAGES, "你好", "f:2"),
        Judgement("j1", "The", " end", True, "f:1"),
        Judgement("j2", MESSAGES, "你好", False, "f:2", "chat"),
        Prompt("p1", "The", "f:1"),
        RANKING,
        Ranking("r2", "p", (Completion("a", "x"), Completion("b", "y")), (("b",), ("a",)), "f:1"),
    ],
)
def test_a_row_survives_a_json_line(row):
    again = type(row).from_json(json.loads(json.dumps(row.to_json(), allow_nan=False)))
    assert again == row


def test_ranks_follow_the_completions_and_share_ties():
    """By hand: a is second with d, b third, c first."""
    assert RANKING.ranks() == [1, 2, 0, 1]


def test_rating_is_the_mean_and_none_without_ratings():
    """(1 + 2) / 2."""
    assert RANKING.completions[1].rating == 1.5
    assert RANKING.completions[0].rating is None


def test_a_problem_names_file_line_field_and_fix():
    assert str(Problem("f.jsonl", 3, "chosen", "it is null", "write a text")) == (
        "f.jsonl:3: chosen: it is null; write a text"
    )
    assert str(Problem("f.jsonl", None, "file", "it is empty", "add rows")) == "f.jsonl: file: it is empty; add rows"


def test_an_error_shows_three_of_a_kind_and_counts_the_rest():
    """25 blanks and 4 bad roles with different words in quotes: three lines each, 22 and 1 left; ten of a kind are few, and all shown."""
    problems = [Problem("f", n, "chosen", "it is blank", "mend") for n in range(25)]
    problems += [
        Problem("f", 30, "messages[2].role", f'"{role}" is no role', "mend") for role in ("bot", "me", "you", "it")
    ]
    lines = str(DataError(problems)).splitlines()
    assert lines[:3] == [f"f:{n}: chosen: it is blank; mend" for n in range(3)]
    assert [line.split('"')[1] for line in lines[3:6]] == ["bot", "me", "you"]
    assert lines[6:] == ["and 23 more:", "  22 × chosen: it is blank", "  1 × messages[…].role: … is no role"]
    assert len(str(DataError(problems[:10])).splitlines()) == 10


def test_a_prompt_key_forgets_spacing_and_composition_but_not_speakers():
    assert prompt_key("Caf\u00e9  now") == prompt_key(" Cafe\u0301 now\n")
    user, assistant = ([{"role": role, "content": "hi"}] for role in ("user", "assistant"))
    assert len({prompt_key("hi"), prompt_key(user), prompt_key(assistant), prompt_key("Hi")}) == 4
    assert prompt_key(json.dumps([["user", "hi"]])) != prompt_key(user)
