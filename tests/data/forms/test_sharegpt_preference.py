"""Are dialogues with two answers read, as LLaMA-Factory and its DPO sets have them?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "sharegpt_preference"
SHORT, LONG, ROLES = rows_of(NAME)


def test_chosen_is_better() -> None:
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (NAME, "rankings", "chosen is better than rejected")
    assert account(loaded) == (3, 3, {})
    assert orders(loaded) == [[["c0"], ["c1"]]] * 3
    first, second, third = loaded.rows
    assert first.prompt == [{"role": "user", "content": "How do I boil an egg?"}]
    assert second.prompt == [
        {"role": "system", "content": "Be honest."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Do you like tea?"},
    ]
    assert [one.text for one in first.completions] == ["Eight minutes in boiling water.", "In a pan."]
    assert [one.text for one in third.completions] == ["主に岩石です。", "チーズです。"]


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, [SHORT, but(LONG, "system", GONE)], "parquet"))
    assert loaded.format == NAME and orders(loaded) == [[["c0"], ["c1"]]] * 2


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(SHORT, "chosen", "value", ""), "chosen.value", "it is blank"),
        (but(SHORT, "chosen", "value", GONE), "chosen.value", "the key is missing"),
        (but(SHORT, "chosen", "from", GONE), "chosen.from", "the key is missing"),
        (but(SHORT, "chosen", "from", "human"), "chosen.from", "it is not the assistant's message"),
        (but(SHORT, "rejected", "from", "tool"), "rejected.from", "tools are not supported"),
        (but(SHORT, "rejected", "In a pan."), "rejected", "it is a text, not an object"),
        (but(SHORT, "rejected", None), "rejected", "it is null, not an object"),
        (but(SHORT, "rejected", GONE), "rejected", "the key is missing"),
        (but(SHORT, "rejected", "value", SHORT["chosen"]["value"]), "rejected", "it equals chosen"),
        (but(LONG, "conversations", 2, GONE), "conversations", "the last turn is not the user's"),
        (but(LONG, "conversations", 0, "value", 7), "conversations[0].value", "it is a number, not a text"),
        (but(LONG, "system", []), "system", "it is a list, not a text"),
        (but(ROLES, "chosen", "role", "user"), "chosen.role", "it is not the assistant's message"),
        (but(ROLES, "chosen", "tool_calls", [{"id": 1}]), "chosen.tool_calls", "such messages are not supported"),
        (but(ROLES, "conversations", []), "conversations", "the list of messages is empty"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
