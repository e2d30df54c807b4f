"""Does the winner of Chatbot Arena come first, for the judge who said so, where both were asked the same?"""

import json

import pytest
from asked import EXAMPLES, GONE, Row, account, but, example, orders, problems_of, read, rows_of, told, write

NAME = "chatbot_arena"
ROWS = rows_of(NAME)
ROW = but(ROWS[4], "question_id", "new")
FIRST, SECOND = [["c0"], ["c1"]], [["c1"], ["c0"]]


def test_the_example() -> None:
    """model_a, model_b, tie, tie (bothbad), model_a."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "winner names the better one, tie, both_bad and tie (bothbad) are ties"
    assert account(loaded) == (5, 3, {"tie": 2})
    assert orders(loaded) == [FIRST, SECOND, FIRST]
    assert [row.annotator for row in loaded.rows] == ["arena_user_1", "arena_user_2", "arena_user_2"]
    assert loaded.rows[0].id == f"{1:032x}"
    assert loaded.rows[0].prompt == [{"role": "user", "content": "What rhymes with month?"}]
    assert [turn["content"] for turn in loaded.rows[2].prompt] == ["Pick a colour.", "Blue.", "Why?"]
    assert [(one.text, one.model) for one in loaded.rows[2].completions] == [
        ("It is calm.", "m-one"),
        ("Because.", "m-two"),
    ]


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, ROWS, "parquet"))
    assert (loaded.format, orders(loaded)) == (NAME, [FIRST, SECOND, FIRST])


def test_two_judges_may_disagree_and_one_may_not(tmp_path) -> None:
    other = but(but(ROWS[0], "winner", "model_b"), "question_id", "other")
    assert len(read(write(tmp_path, [ROWS[0], but(other, "judge", "arena_user_9")])).rows) == 2
    assert [(line, field) for line, field, _ in problems_of(tmp_path, [ROWS[0], other])] == [(2, "ranking")]


def test_whole_conversations_that_part_early_are_left_out(tmp_path) -> None:
    """The winner is then of both turns, and nobody said which of the last answers is better."""
    loaded = read(write(tmp_path, [ROWS[0], but(ROW, "conversation_b", 1, "content", "Red.")]))
    assert account(loaded) == (2, 1, {"the answers part before the last turn": 1})


def test_the_140k_whose_messages_lie_in_parts(tmp_path) -> None:
    """model_a, model_b, both_bad, tie."""
    path = EXAMPLES / f"{NAME}.140k.jsonl"
    loaded = read(path)
    assert account(loaded) == (4, 2, {"tie": 2})
    assert [next(one for one in row.completions if (one.id,) == row.ranking[0]).text for row in loaded.rows] == [
        "An oak.",
        "A pike.",
    ]
    assert loaded.rows[0].prompt == [{"role": "user", "content": "Name a tree."}]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    shown = but(rows[0], "conversation_a", 0, "content", 0, "image", {"path": "oak.png"})
    assert [(line, field) for line, field, _ in problems_of(tmp_path, [shown])] == [(1, "conversation_a[0].content[0]")]


def test_a_question_id_given_twice_is_told(tmp_path) -> None:
    again = but(ROWS[1], "question_id", ROWS[0]["question_id"])
    assert [(line, field) for line, field, _ in problems_of(tmp_path, [ROWS[0], again])] == [(2, "id")]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "conversation_b", 2, "content", "How so?"), "conversation_b", "part before their last answer"),
        (but(ROW, "conversation_b", ROW["conversation_b"][:2]), "conversation_b", "part before their last answer"),
        (but(ROW, "conversation_b", ROW["conversation_a"]), "conversation_b", "it equals conversation_a"),
        (but(ROW, "conversation_a", "Blue."), "conversation_a", "it is a text, not a list of messages"),
        (but(ROW, "conversation_a", 3, "content", ""), "conversation_a[3].content", "it is blank"),
        (but(ROW, "conversation_a", 3, "role", "user"), "conversation_a[3]", "two turns of the user in a row"),
        (
            but(ROW, "winner", "model_c"),
            "winner",
            '"model_c" is none of model_a, model_b, tie, tie (bothbad), both_bad',
        ),
        (but(ROW, "winner", None), "winner", "it is null"),
        (but(ROW, "winner", 1), "winner", "it is a number, not a text"),
        (but(ROW, "judge", 1.5), "judge", "it is a number, not a text"),
        (but(ROW, "question_id", []), "question_id", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


def test_a_row_without_the_key_of_the_winner_is_told(tmp_path) -> None:
    assert told(tmp_path, NAME, but(ROW, "winner", GONE)) == ("winner", "the key is missing")
