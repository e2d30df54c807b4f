"""Is a plain text learnt whole, and a transcript from its last answer?"""

import pytest
from asked import GONE, Row, account, but, example, problems_of, read, rows_of, told, write

NAME = "text"
ROWS = rows_of(NAME)


def test_a_text_has_no_prompt_and_a_transcript_has() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "demonstrations")
    assert account(loaded) == (3, 3, {})
    assert [(row.id, row.prompt, row.completion) for row in loaded.rows] == [
        (f"{example(NAME)}:1", "", "The harbour was quiet that morning."),
        ("ja", "", "港は静かだった。"),
        (
            f"{example(NAME)}:3",
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "Who wrote Faust?"},
            ],
            "Goethe did.",
        ),
    ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded = read(write(tmp_path, [{"text": row["text"]} for row in ROWS], ending))
    assert loaded.format == NAME
    assert [(row.prompt, row.completion) for row in loaded.rows] == [
        (row.prompt, row.completion) for row in read(example(NAME)).rows
    ]


@pytest.mark.parametrize("more", [{"label": 1}, {"title": "t"}, {"role": "user"}, {"summary": "s"}])
def test_a_text_beside_something_else_is_nobody_s_format(tmp_path, more: Row) -> None:
    """Rows for a classifier must not pass for plain text."""
    found = problems_of(tmp_path, [{"text": "a", **more}] * 3)
    assert [(line, field) for line, field, _ in found] == [(1, "keys")]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROWS[0], "text", None), "text", "it is null"),
        (but(ROWS[0], "text", " \n"), "text", "it is blank"),
        (but(ROWS[0], "text", 3), "text", "it is a number, not a text"),
        (but(ROWS[0], "text", ["a"]), "text", "it is a list, not a text"),
        (but(ROWS[1], "text", GONE), "text", "the key is missing"),
        (
            but(ROWS[2], "text", "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?"),
            "text",
            "the last turn is not the assistant's",
        ),
        (
            but(ROWS[2], "text", "\n\nHuman: Hi\n\nHuman: Ho\n\nAssistant: Yes"),
            "text[1]",
            "two turns of the user in a row",
        ),
        (but(ROWS[1], "id", []), "id", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, but(bad, "id", "bad") if bad.get("id") == "ja" else bad)
    assert where == field
    assert says in problem
