"""Is rank 1 Nectar's best, are equal ranks ties, and is its transcript a conversation?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "nectar"
ROW = rows_of(NAME)[0]
EXPECTED = [[["c2"], ["c0", "c3"], ["c1"]], [["c0"], ["c2"], ["c1"]]]


def test_the_example() -> None:
    """Ranks 2, 4, 1, 2; then 1, 3, 2; then 1, 1."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "rank 1 is best, equal ranks tie"
    assert account(loaded) == (3, 2, {"tie": 1})
    assert orders(loaded) == EXPECTED
    assert loaded.rows[0].prompt == [{"role": "user", "content": "Give me a word for a small river."}]
    assert [turn["role"] for turn in loaded.rows[1].prompt] == ["user", "assistant", "user"]
    assert loaded.rows[1].prompt[2]["content"] == "Spell rhythm."
    assert [(one.text, one.model) for one in loaded.rows[1].completions] == [
        ("R-H-Y-T-H-M.", "m-one"),
        ("R-Y-T-H-M.", "m-two"),
        ("It is spelt rhythm.", "m-three"),
    ]


def test_parquet_and_a_tie_gap_that_ranks_know_nothing_of(tmp_path) -> None:
    loaded = read(write(tmp_path, rows_of(NAME), "parquet"), tie_gap=3)
    assert (loaded.format, orders(loaded)) == (NAME, EXPECTED)


def test_a_prompt_that_stops_after_the_question(tmp_path) -> None:
    rows = [but(row, "prompt", row["prompt"].removesuffix("\n\nAssistant: ")) for row in rows_of(NAME)]
    loaded = read(write(tmp_path, rows))
    assert [row.prompt for row in loaded.rows] == [row.prompt for row in read(example(NAME)).rows]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "answers", 2, "rank", 0.0), "answers[2].rank", "0 is not from 1 to 4"),
        (but(ROW, "answers", 2, "rank", 8.5), "answers[2].rank", "8.5 is not from 1 to 4"),
        (but(ROW, "answers", 2, "rank", "first"), "answers[2].rank", 'it is "first", not a number'),
        (but(ROW, "answers", 2, "rank", None), "answers[2].rank", "it is null, not a number"),
        (but(ROW, "answers", 2, "rank", GONE), "answers[2].rank", "the key is missing"),
        (but(ROW, "answers", 1, "answer", " "), "answers[1].answer", "it is blank"),
        (but(ROW, "answers", 1, "answer", "Brook."), "answers", "the same text stands in two ranks"),
        (but(ROW, "answers", ROW["answers"][:1]), "answers", "there are fewer than 2"),
        (but(ROW, "prompt", "Give me a word."), "prompt", "it is no transcript"),
        (but(ROW, "prompt", "\n\nHuman: Hi\n\nAssistant: Hello!"), "prompt", "the last turn is not the user's"),
        (but(ROW, "prompt", "\n\nHuman: \n\nAssistant: "), "prompt[0].content", "it is blank"),
        (but(ROW, "prompt", GONE), "prompt", "the key is missing"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
