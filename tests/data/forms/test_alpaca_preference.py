"""Are Alpaca's instructions with two outputs read as preferences?"""

import pytest
from asked import GONE, Row, account, but, example, orders, problems_of, read, rows_of, told, write

NAME = "alpaca_preference"
PLAIN, SHORT, DIALOGUE = rows_of(NAME)


def test_chosen_is_better() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (NAME, "rankings", "chosen is better than rejected")
    assert account(loaded) == (3, 3, {})
    assert orders(loaded) == [[["c0"], ["c1"]]] * 3
    assert [row.prompt for row in loaded.rows] == [
        "Say it more politely.\n\nGive me bread.",
        "What is seven times six?",
        [
            {"role": "system", "content": "Be exact."},
            {"role": "user", "content": "Is the sky blue?"},
            {"role": "assistant", "content": "By day, yes."},
            {"role": "user", "content": "Why?"},
        ],
    ]
    assert [one.text for one in loaded.rows[1].completions] == ["42", "It is 48."]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded = read(write(tmp_path, [PLAIN, SHORT], ending))
    assert loaded.format == NAME
    assert [[one.text for one in row.completions] for row in loaded.rows] == [
        ["Could I have some bread, please?", "Bread!"],
        ["42", "It is 48."],
    ]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(PLAIN, "rejected", PLAIN["chosen"]), "rejected", "it equals chosen"),
        (but(PLAIN, "chosen", GONE), "chosen", "the key is missing"),
        (but(PLAIN, "chosen", None), "chosen", "it is null"),
        (but(PLAIN, "instruction", ""), "instruction", "it is blank"),
        (but(SHORT, "chosen", "What is seven times six? 42"), "chosen", "it repeats the prompt"),
        (but(SHORT, "instruction", 42), "instruction", "it is a number, not a text"),
        (but(SHORT, "rejected", 48), "rejected", "it is a number, not a text"),
        (but(DIALOGUE, "history", 0, "By day, yes."), "history[0]", "it is no pair of a question and an answer"),
        (but(DIALOGUE, "rejected", " "), "rejected", "it is blank"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


def test_all_that_is_wrong_with_a_row_is_told(tmp_path) -> None:
    rows = [*rows_of(NAME), {"instruction": "", "input": "", "chosen": None, "rejected": 3}]
    assert [(line, field) for line, field, _ in problems_of(tmp_path, rows)] == [
        (4, "instruction"),
        (4, "chosen"),
        (4, "rejected"),
    ]
