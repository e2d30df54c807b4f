"""Are HelpSteer's rows gathered by prompt and ranked by the rating asked for?"""

import pytest
from asked import GONE, Row, but, example, orders, problems_of, read, rows_of, write

from data.schema import DataError

NAME = "helpsteer"
ROWS = rows_of(NAME)
PLAIN = [row for row in ROWS if "<extra_id_1>" not in row["prompt"]]
DIALOGUE = [
    {"role": "user", "content": "Name a river in Spain."},
    {"role": "assistant", "content": "The Ebro."},
    {"role": "user", "content": "Where does it end?"},
]


def test_the_responses_of_a_prompt_are_ranked_by_helpfulness() -> None:
    """Lines 1 and 3 have 3 and 4, lines 2 and 4 have 1 and the mean 2.5 of 2 and 3, lines 6 and 7 both have 2."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "the higher rating is better, nearer than tie_gap is a tie"
    assert orders(loaded) == [[["c1"], ["c0"]], [["c1"], ["c0"]]]
    assert (loaded.read, loaded.account.kept, loaded.account.used) == (7, 2, 4)
    assert loaded.account.left_out == {"only one response": 1, "tie": 2} and loaded.problems == []
    first, second = loaded.rows
    assert first.prompt == "Name three rivers." and second.prompt == DIALOGUE
    assert [one.text for one in first.completions] == [ROWS[0]["response"], ROWS[2]["response"]]
    assert [one.ratings for one in second.completions] == [(1.0,), (2.0, 3.0)]
    assert [row.source for row in loaded.rows] == [f"{example(NAME)}:1", f"{example(NAME)}:2"]


@pytest.mark.parametrize(
    ("axis", "expected", "left_out"),
    [
        ("correctness", [[["c0"], ["c1"]], [["c0"], ["c1"]]], {"only one response": 1, "tie": 2}),
        ("verbosity", [[["c1"], ["c0"]]] * 3, {"only one response": 1}),
    ],
)
def test_another_axis(axis: str, expected: list, left_out: dict) -> None:
    """Correctness is 4 and 2, 3 and 3, 4 and 3; verbosity 1 and 2, 0 and 2, 1 and 3."""
    loaded = read(example(NAME), axis=axis)
    assert orders(loaded) == expected and loaded.account.left_out == left_out


def test_an_axis_there_is_not() -> None:
    with pytest.raises(DataError, match="axis: there is no axis"):
        read(example(NAME), axis="humour")


def test_a_gap_ties() -> None:
    """3 and 4 are 1 apart, 1 and 2.5 are 1.5."""
    loaded = read(example(NAME), tie_gap=1.2)
    assert [row.prompt for row in loaded.rows] == [DIALOGUE]
    assert loaded.account.left_out == {"only one response": 1, "tie": 4}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded = read(write(tmp_path, PLAIN, ending))
    assert loaded.format == NAME
    assert [(row.prompt, row.ranking) for row in loaded.rows] == [("Name three rivers.", (("c1",), ("c0",)))]
    assert loaded.account.left_out == {"only one response": 1, "tie": 2}


def test_a_response_in_two_rows_was_rated_twice(tmp_path) -> None:
    """The first response has 3 and 5 - 4 = 0: mean 1.5, below the 4 of the other."""
    rows = [but(ROWS[2], "response", f"{ROWS[2]['response']} "), ROWS[0], but(ROWS[0], "helpfulness", 0), ROWS[2]]
    (made,) = read(write(tmp_path, rows)).rows
    assert [(one.text, one.ratings) for one in made.completions] == [
        (f"{ROWS[2]['response']} ", (4.0, 4.0)),
        (ROWS[0]["response"], (3.0, 0.0)),
    ]
    assert made.ranking == (("c0",), ("c1",))


BAD = ROWS[0]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(BAD, "helpfulness", 5), "helpfulness", "5 is not from 0 to 4"),
        (but(BAD, "helpfulness", "high"), "helpfulness", 'it is "high", not a number'),
        (but(BAD, "helpfulness", None), "helpfulness", "it is null, not a number"),
        (but(BAD, "helpfulness", []), "helpfulness", "nobody rated it"),
        (but(BAD, "helpfulness", [3, -1]), "helpfulness[1]", "-1 is not from 0 to 4"),
        (but(BAD, "helpfulness", GONE), "helpfulness", "the key is missing"),
        (but(BAD, "response", ""), "response", "it is blank"),
        (but(BAD, "response", ["a"]), "response", "it is a list, not a text"),
        (but(BAD, "prompt", GONE), "prompt", "the key is missing"),
        (but(BAD, "prompt", "Hi\n<extra_id_1>Assistant\nHello"), "prompt", "the last turn is not the user's"),
        (but(BAD, "prompt", "Hi\n<extra_id_1>User\nHo"), "prompt[1]", "two turns of the user in a row"),
        (but(BAD, "prompt", "\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nB"), "prompt[0].content", "it is blank"),
        (but(BAD, "id", ["x"]), "id", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    """Nothing but the bad row is lost; the two others of the prompt still make a ranking."""
    rows = [*ROWS, bad]
    ((line, where, problem),) = problems_of(tmp_path, rows)
    assert (line, where) == (8, field) and says in problem
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert orders(kept) == orders(read(example(NAME)))
    assert [reject.line for reject in kept.rejects] == [8]
    assert kept.read == 8 == kept.account.used + kept.account.left_out.total() + kept.account.rejected.total()
