"""Are liked and disliked completions both kept, and is a label that says neither told?"""

import math

import pytest
from asked import GONE, account, but, example, problems_of, read, rows_of, write

from data.schema import Judgement

NAME = "unpaired"
ROWS = rows_of(NAME)


def test_both_kinds_are_judgements() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "judgements")
    assert account(loaded) == (3, 3, {})
    assert all(isinstance(row, Judgement) for row in loaded.rows)
    assert [(row.prompt, row.completion, row.liked) for row in loaded.rows] == [
        ("Name a bird.", " A wren.", True),
        ("Name a bird.", " A spoon.", False),
        ([{"role": "user", "content": "Say hi."}], "Hi!", True),
    ]


def test_reverse_turns_every_judgement_round_and_the_polarity_says_so() -> None:
    loaded = read(example(NAME), reverse=True)
    assert [row.liked for row in loaded.rows] == [False, True, False]
    assert loaded.account.polarity.startswith("label true, 1, yes or 👍: the completion is liked; false, 0,")
    assert loaded.account.polarity.endswith("disliked (reversed by request)")


@pytest.mark.parametrize(
    ("value", "liked"),
    [(1, True), (0, False), (1.0, True), ("1", True), ("0", False), (" True ", True), ("FALSE", False)],
)
def test_a_label_may_be_a_number_or_a_cell(tmp_path, value: object, liked: bool) -> None:
    loaded = read(write(tmp_path, [but(ROWS[0], "label", value)]), format=NAME)
    assert [row.liked for row in loaded.rows] == [liked]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("label", value) for value in (2, -1, 0.5, math.inf, [True], "maybe", "", None, GONE)),
        *(("completion", " "), ("prompt", 3), ("prompt", None)),
    ],
)
def test_a_mistake_is_told(tmp_path, key: str, value: object) -> None:
    """No label is no dislike: what was never judged is not counted as disliked."""
    problems = problems_of(tmp_path, [ROWS[0], but(ROWS[1], key, value)], format=NAME)
    assert [(line, field) for line, field, _ in problems] == [(2, key)]
