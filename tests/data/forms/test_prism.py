"""Are PRISM's utterances ranked turn by turn by their scores, behind the answers that were chosen?"""

import pytest
from asked import Row, but, example, orders, problems_of, read, rows_of, write

NAME = "prism"
ROWS = rows_of(NAME)


def test_the_higher_score_of_a_turn_is_better() -> None:
    """k1: 93, 40 and 4, then 80 and 10; k2: 77 and 20, then 50 twice."""
    loaded = read(example(NAME))
    assert orders(loaded) == [[["c1"], ["c2"], ["c0"]], [["c1"], ["c0"]], [["c0"], ["c1"]]]
    assert [(row.id, row.annotator) for row in loaded.rows] == [("k1-0", "u1"), ("k1-1", "u1"), ("k2-0", "u2")]
    assert loaded.rows[1].prompt == [
        {"role": "user", "content": "Name a tree."},
        {"role": "assistant", "content": "An oak."},
        {"role": "user", "content": "And a fish."},
    ]
    assert loaded.account.left_out == {"tie": 2} and loaded.problems == []


def test_rows_in_any_order(tmp_path) -> None:
    plain, turned = read(example(NAME)), read(write(tmp_path, ROWS[::-1]))
    assert sorted((str(row.prompt), row.ranking) for row in turned.rows) == sorted(
        (str(row.prompt), row.ranking) for row in plain.rows
    )


def test_a_turn_whose_beginning_is_lost_is_left_out(tmp_path) -> None:
    assert [row.id for row in read(write(tmp_path, ROWS[3:])).rows] == ["k2-0"]
    unchosen = [but(row, "if_chosen", False) for row in ROWS[:3]]
    loaded = read(write(tmp_path, unchosen + ROWS[3:]))
    assert [row.id for row in loaded.rows] == ["k1-0", "k2-0"]
    assert loaded.account.left_out == {"an earlier turn is missing": 2, "tie": 2}


def test_an_answer_given_twice_has_the_mean_of_its_scores(tmp_path) -> None:
    """An oak has 30 and 50, a bush 45."""
    made = [ROWS[0] | {"model_response": "An oak.", "score": 30, "if_chosen": False},
            ROWS[1] | {"score": 50}, ROWS[2] | {"score": 45}]  # fmt: skip
    (row,) = read(write(tmp_path, made)).rows
    assert [(one.text, one.ratings) for one in row.completions] == [("An oak.", (30.0, 50.0)), ("A bush.", (45.0,))]
    assert row.ranking == (("c2",), ("c0",))


@pytest.mark.parametrize(
    ("number", "bad", "field", "says"),
    [
        (1, but(ROWS[1], "score", 101), "score", "101 is not from 0"),
        (1, but(ROWS[1], "score", None), "score", "it is null"),
        (1, but(ROWS[1], "score", 30), "if_chosen", "another answer of the turn has a higher score"),
        (2, but(ROWS[2], "if_chosen", True), "if_chosen", "the answer of line 2 was chosen in this turn"),
        (2, but(ROWS[2], "if_chosen", None), "if_chosen", "nothing says whether"),
        (2, but(ROWS[2], "within_turn_id", 1), "within_turn_id", "it stands twice in the turn"),
        (2, but(ROWS[2], "user_prompt", "Name a stone."), "user_prompt", "it is not that of line 1"),
        (2, but(ROWS[2], "turn", 0.5), "turn", "0.5 is no whole number"),
        (2, but(ROWS[2], "conversation_id", None), "conversation_id", "nothing says to which"),
    ],
)
def test_a_mistake_is_told(tmp_path, number: int, bad: Row, field: str, says: str) -> None:
    found = problems_of(tmp_path, [*ROWS[:number], bad, *ROWS[number + 1 :]])
    assert (number + 1, field) == found[0][:2] and says in found[0][2]
    kept = read(tmp_path / "rows.jsonl", skip_bad=True).account
    assert kept.read == 9 == kept.used + kept.left_out.total() + kept.rejected.total()
