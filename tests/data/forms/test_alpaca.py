"""Are Alpaca's instructions put together with their input, their system message and the turns before?"""

import pytest
from asked import GONE, Row, account, but, example, read, rows_of, told, write

NAME = "alpaca"
PLAIN, INPUT, DIALOGUE, BARE = rows_of(NAME)


def test_the_prompt_is_a_text_unless_something_stands_before_it() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "demonstrations")
    assert account(loaded) == (4, 4, {})
    assert [(row.prompt, row.completion) for row in loaded.rows] == [
        ("Name a fruit that is yellow.", "A banana."),
        ("Put the sentence into the past.\n\nI go home.", "I went home."),
        (
            [
                {"role": "system", "content": "Speak of Bergen."},
                {"role": "user", "content": "Does it rain in winter?"},
                {"role": "assistant", "content": "Nearly every day."},
                {"role": "user", "content": "And in the summer?"},
            ],
            "Then it rains less.",
        ),
        ("Count to three.", "One, two, three."),
    ]
    assert [row.id for row in loaded.rows] == [*(f"{example(NAME)}:{line}" for line in (1, 2, 3)), "4"]


def test_a_system_message_alone(tmp_path) -> None:
    """As it comes from a table: what a row has not is null or empty there."""
    rows = [{**PLAIN, "system": "Be brief.", "history": []}, {**PLAIN, "system": None, "history": None}]
    rows.append({**PLAIN, "input": None, "system": " ", "history": ""})
    made = [row.prompt for row in read(write(tmp_path, rows)).rows]
    asked = "Name a fruit that is yellow."
    assert made == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}], asked, asked]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded = read(write(tmp_path, [PLAIN, INPUT], ending))
    assert loaded.format == NAME
    assert [row.completion for row in loaded.rows] == ["A banana.", "I went home."]
    assert [row.prompt for row in loaded.rows] == [row.prompt for row in read(example(NAME)).rows[:2]]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(PLAIN, "output", ""), "output", "it is blank"),
        (but(PLAIN, "output", GONE), "output", "the key is missing"),
        (but(PLAIN, "output", ["a"]), "output", "it is a list, not a text"),
        (but(PLAIN, "instruction", None), "instruction", "it is null"),
        (but(INPUT, "input", 3), "input", "it is a number, not a text"),
        (but(DIALOGUE, "system", {}), "system", "it is an object, not a text"),
        (but(DIALOGUE, "history", "before"), "history", "it is a text, not a list"),
        (but(DIALOGUE, "history", 0, ["Only one"]), "history[0]", "it is no pair of a question and an answer"),
        (but(DIALOGUE, "history", 0, 1, None), "history[0][1]", "it is null"),
        (but(DIALOGUE, "tools", "[{}]"), "tools", "tools are not supported"),
        (but(BARE, "id", 4.5), "id", "it is a number, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
