"""Is WebGPT's higher score the better answer, and 0 a tie?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "webgpt"
ROW = rows_of(NAME)[0]
EXPECTED = [[["c0"], ["c1"]], [["c1"], ["c0"]]]


def test_the_example() -> None:
    """Scores .75 and -.75, -.25 and .25, 0 and 0."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "the answer with the higher score is better, 0 is a tie"
    assert account(loaded) == (3, 2, {"tie": 1})
    assert orders(loaded) == EXPECTED
    assert loaded.rows[1].prompt == "How old is glass?"
    assert [(one.text, one.ratings) for one in loaded.rows[1].completions] == [
        ("Nobody knows.", (-0.25,)),
        ("Some five thousand years [1].", (0.25,)),
    ]


def test_the_tie_gap_is_a_difference_of_scores() -> None:
    """.25 and -.25 are 0.5 apart."""
    assert account(read(example(NAME), tie_gap=0.5)) == (3, 2, {"tie": 1})
    assert account(read(example(NAME), tie_gap=0.51)) == (3, 1, {"tie": 2})


def test_the_question_as_a_text_in_csv_and_parquet(tmp_path) -> None:
    """A cell holds no object: the question is its text there, and numbers are digits."""
    keys = ("answer_0", "answer_1", "score_0", "score_1")
    flat = [{"question": row["question"]["full_text"]} | {key: row[key] for key in keys} for row in rows_of(NAME)]
    for path in (write(tmp_path, flat, "csv"), write(tmp_path, rows_of(NAME), "parquet")):
        loaded = read(path)
        assert (loaded.format, orders(loaded)) == (NAME, EXPECTED)
        assert loaded.rows[0].prompt == "Why do leaves fall?"


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "score_1", 0.75), "score_1", "it is not the opposite of score_0"),
        (but(ROW, "score_1", -0.7), "score_1", "it is not the opposite of score_0"),
        (but(ROW, "score_0", 3), "score_0", "3 is not from -1 to 1"),
        (but(ROW, "score_0", None), "score_0", "it is null, not a number"),
        (but(ROW, "score_0", 10**400), "score_0", "it is not from -1 to 1"),
        (but(ROW, "score_0", GONE), "score_0", "the key is missing"),
        (but(ROW, "answer_1", "\t"), "answer_1", "it is blank"),
        (but(ROW, "answer_1", GONE), "answer_1", "the key is missing"),
        (but(ROW, "answer_1", ROW["answer_0"]), "answer_1", "it equals answer_0"),
        (but(ROW, "question", "full_text", GONE), "question.full_text", "the key is missing"),
        (but(ROW, "question", "full_text", ""), "question.full_text", "it is blank"),
        (but(ROW, "question", 7), "question", "it is a number, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
