"""Are only the completions that were liked learnt, and the others counted?"""

import pytest
from asked import account, but, example, problems_of, read, rows_of

NAME = "unpaired"
ROWS = rows_of(NAME)


def test_what_was_liked_is_a_demonstration_and_the_rest_is_counted() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "demonstrations")
    assert account(loaded) == (3, 2, {"label false: nothing to imitate": 1})
    assert [(row.prompt, row.completion) for row in loaded.rows] == [
        ("Name a bird.", " A wren."),
        ([{"role": "user", "content": "Say hi."}], "Hi!"),
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("label", 1), ("label", [True]), ("completion", " "), ("prompt", 3), ("prompt", None)]
)
def test_a_mistake_is_told(tmp_path, key: str, value: object) -> None:
    problems = problems_of(tmp_path, [ROWS[0], but(ROWS[1], key, value)], format=NAME)
    assert [(line, field) for line, field, _ in problems] == [(2, key)]
