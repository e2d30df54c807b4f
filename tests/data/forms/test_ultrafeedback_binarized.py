"""Is UltraFeedback's binarized form read though its answers repeat the prompt, and are equal scores ties?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "ultrafeedback_binarized"
ROW = rows_of(NAME)[0]


def test_the_example() -> None:
    """Scores 9 and 2, 10 and 1, 7 and 7, 8 and 7.5: the third is a tie."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "chosen is better than rejected, equal scores tie"
    assert account(loaded) == (4, 3, {"tie": 1})
    assert orders(loaded) == [[["c0"], ["c1"]]] * 3
    first = loaded.rows[0]
    assert first.prompt == [{"role": "user", "content": "What is a haiku?"}]
    assert [(one.text, one.ratings) for one in first.completions] == [
        ("A poem of three short lines.", (9.0,)),
        ("A kind of fish.", (2.0,)),
    ]


def test_the_tie_gap_leaves_out_what_is_too_near() -> None:
    """8 and 7.5 are nearer than 0.6, and not nearer than 0.5."""
    assert account(read(example(NAME), tie_gap=0.6)) == (4, 2, {"tie": 2})
    assert account(read(example(NAME), tie_gap=0.5)) == (4, 3, {"tie": 1})


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, rows_of(NAME), "parquet"))
    assert (loaded.format, loaded.read, len(loaded.rows)) == (NAME, 4, 3)
    assert loaded.rows[0].prompt == [{"role": "user", "content": "What is a haiku?"}]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "score_chosen", 1.0), "score_chosen", "it is below score_rejected"),
        (but(ROW, "score_rejected", None), "score_rejected", "it is null, not a number"),
        (but(ROW, "score_rejected", "low"), "score_rejected", 'it is "low", not a number'),
        (but(ROW, "score_rejected", GONE), "score_rejected", "the key is missing"),
        (but(ROW, "prompt", "What is a sonnet?"), "chosen", "its last question is not the prompt"),
        (but(ROW, "prompt", None), "prompt", "it is null"),
        (but(ROW, "rejected", 0, "content", "What is it?"), "rejected", "its last question is not the prompt"),
        (but(ROW, "rejected", ROW["chosen"]), "rejected", "it equals chosen"),
        (but(ROW, "rejected", "A kind of fish."), "rejected", "it is a text, not a list of messages"),
        (but(ROW, "chosen", 1, "role", "model"), "chosen[1].role", '"model" is no role'),
        (but(ROW, "chosen", 1, "content", ""), "chosen[1].content", "it is blank"),
        (but(ROW, "chosen", ROW["chosen"][:1]), "chosen", "the last turn is not the assistant's"),
        (but(ROW, "chosen", ROW["chosen"][1:]), "chosen[0]", "the assistant speaks before the user"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
