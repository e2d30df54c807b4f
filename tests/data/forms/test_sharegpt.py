"""Are ShareGPT's dialogues read, whatever they call the two who speak?"""

import pytest
from asked import GONE, Row, account, but, example, problems_of, read, rows_of, told, write

NAME = "sharegpt"
SHORT, LONG, SYSTEM, ROLES = rows_of(NAME)


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def system(text: str) -> Row:
    return {"role": "system", "content": text}


def test_the_last_answer_is_the_completion() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "demonstrations")
    assert account(loaded) == (4, 4, {})
    assert [(row.prompt, row.completion) for row in loaded.rows] == [
        ([user("Is a whale a fish?")], "No, it is a mammal."),
        (
            [system("You are a pirate."), user("Hello."), assistant("Arr!"), user("Where is the gold?")],
            "Under the palm.",
        ),
        ([system("Answer briefly."), user("What is 2 + 2?")], "4"),
        ([user("Name a planet.")], "Saturn."),
    ]
    assert loaded.rows[0].id == "one"


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, [but(SHORT, "id", GONE), but(LONG, "conversations", 0, GONE)], "parquet"))
    assert loaded.format == NAME and [row.completion for row in loaded.rows] == [
        "No, it is a mammal.",
        "Under the palm.",
    ]


BAD = but(SHORT, "id", GONE)
FIRST, LAST = "conversations[0]", "conversations[1]"
LATE = [SHORT["conversations"][0], LONG["conversations"][0], SHORT["conversations"][1]]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(BAD, "conversations", 1, "value", ""), f"{LAST}.value", "it is blank"),
        (but(BAD, "conversations", 1, "value", None), f"{LAST}.value", "it is null"),
        (but(BAD, "conversations", 1, "value", GONE), f"{LAST}.value", "the key is missing"),
        (but(BAD, "conversations", 0, "from", GONE), f"{FIRST}.from", "the key is missing"),
        (but(BAD, "conversations", 0, "from", 1), f"{FIRST}.from", "it is a number, not a text"),
        (but(BAD, "conversations", 0, "from", "humam"), f"{FIRST}.from", '"humam" is no role'),
        (but(BAD, "conversations", 1, "from", "observation"), f"{LAST}.from", "tools are not supported"),
        (but(BAD, "conversations", 1, "from", "human"), LAST, "two turns of the user in a row"),
        (but(BAD, "conversations", 0, GONE), "conversations[0]", "the assistant speaks before the user"),
        (but(BAD, "conversations", 1, GONE), "conversations", "the last turn is not the assistant's"),
        (but(BAD, "conversations", []), "conversations", "the list of messages is empty"),
        (but(BAD, "conversations", "Hi"), "conversations", "it is a text, not a list of messages"),
        (but(BAD, "conversations", 0, "Hi"), FIRST, "the message is a text, not an object"),
        (but(BAD, "conversations", 1, None), LAST, "the message is null, not an object"),
        (but(BAD, "conversations", LATE), LAST, "the system message is not the first"),
        (but(LONG, "system", "Be kind."), "system", "the conversation has a system message of its own"),
        (but(SYSTEM, "system", 3), "system", "it is a number, not a text"),
        (but(SYSTEM, "tools", [{"name": "search"}]), "tools", "tools are not supported"),
        (but(ROLES, "conversation", 1, "content", ""), "conversation[1].content", "it is blank"),
        (but(ROLES, "conversation", 1, "role", "asistant"), "conversation[1].role", '"asistant" is no role'),
        (but(ROLES, "conversation", 1, "tool_calls", [{}]), "conversation[1].tool_calls", "not supported"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


def test_several_mistakes_in_the_words_of_the_row(tmp_path) -> None:
    turns = [{"from": "human", "value": 3}, {"from": "gpt"}]
    rows = [*rows_of(NAME), {"conversations": turns, "system": []}]
    assert [(line, field) for line, field, _ in problems_of(tmp_path, rows)] == [
        (5, "conversations[0].value"),
        (5, "conversations[1].value"),
        (5, "system"),
    ]
