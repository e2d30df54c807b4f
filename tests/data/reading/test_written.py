"""Is a transcript of whatever speakers taken apart, and a printed structure unfolded, and is anything else left as it is?"""

import json
from typing import Any

import pytest

from data.forms.shapes import signature
from data.loading import to_rows
from data.reading.written import PAIRS, broken, canonical, kind_of, parsed, unfolded

TURNS = [
    ("user", "What is a fjord?"),
    ("assistant", "An arm of the sea."),
    ("user", "Where?"),
    ("assistant", "In Norway."),
]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
SPEAKERS = [(asks, answers) for asks, several in PAIRS.items() for answers in several]


def transcript(asks: str, answers: str, end: str, mark: str = "", shut: str = ":") -> str:
    said = [f"{mark}{asks if role == 'user' else answers}{shut} {text}" for role, text in TURNS]
    return end.join(said)


@pytest.mark.parametrize("end", ["\n\n", "\n", "\r\n\r\n", "\r\n", "\r\r", "\n\n\n"])
@pytest.mark.parametrize("names", SPEAKERS, ids="-".join)
def test_whoever_speaks_and_however_lines_end(tmp_path, names: tuple[str, str], end: str) -> None:
    path = tmp_path / "rows.jsonl"
    for case in (str.capitalize, str.upper):
        asks, answers = map(case, names)
        chosen = transcript(asks, answers, end)
        rejected = chosen.replace("In Norway.", "In Paris.")
        path.write_text(json.dumps({"chosen": chosen, "rejected": rejected}))
        loaded = to_rows(str(path))
        (row,) = loaded.rows
        assert (loaded.format, row.prompt) == ("hh_rlhf", MESSAGES[:3])
        assert [one.text for one in row.completions] == ["In Norway.", "In Paris."]


@pytest.mark.parametrize(
    "text",
    [
        "### Instruction:\nName a lake.\n\n### Response:\nLoch Ness.",
        "**User:** Name a lake.\n**Assistant:** Loch Ness.",
        "Q: Name a lake.\nA: Loch Ness.",
    ],
)
def test_other_marks(text: str) -> None:
    assert canonical(text) == "\n\nHuman: Name a lake.\n\nAssistant: Loch Ness."


@pytest.mark.parametrize(
    "text",
    [
        "User: only a question",
        "Human beings: a study",
        "Question: is A: B?",
        "Quiz",
        "I: me\nYou: you",
        "",
        "Human rights\nAI: x",
    ],
)
def test_what_is_no_transcript(text: str) -> None:
    assert canonical(text) is None


def test_words_that_two_answers_begin_with_stay_theirs(tmp_path) -> None:
    """A preface stands before the first mark: the prompt ends behind the last mark, not inside the answers."""
    before = "Below is a task.\n\n### Instruction:\nName a lake.\n\n### Response:"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chosen": f"{before}\nIt is Loch Ness.", "rejected": f"{before}\nIt is a puddle."}))
    (row,) = to_rows(str(path)).rows
    assert row.prompt == before and [one.text.strip() for one in row.completions] == [
        "It is Loch Ness.",
        "It is a puddle.",
    ]


NUMPY = "[{'role': 'user', 'content': \"Don't } { stop\"}\n {'role': 'assistant', 'content': 'No.'}]"
TALK = [{"role": "user", "content": "Don't } { stop"}, {"role": "assistant", "content": "No."}]


@pytest.mark.parametrize("written", [json.dumps(TALK), repr(TALK), NUMPY, f" {NUMPY}\n"])
def test_messages_that_were_printed_are_messages_again(tmp_path, written: str) -> None:
    assert unfolded("chosen", written) == TALK and not broken(written)
    for value in (written, {"messages": TALK}, json.dumps({"messages": TALK}), {"conversations": TALK}):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps({"messages": value}))
        assert [row.completion for row in to_rows(str(path)).rows] == ["No."]


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '["b", "c"]', "[1]", "[x]", "{not json}", "['it', 'them']", "[" * 300, "{'a': "]
)
def test_an_answer_that_is_json_stays_a_text(text: str) -> None:
    assert unfolded("chosen", text) == text


def test_a_list_is_read_where_one_is_due() -> None:
    assert unfolded("completions", '["b", "c"]') == unfolded("completions", "['b'\n 'c']") == ["b", "c"]
    assert unfolded("scores", "[4.5 1. ]") == [4.5, 1.0]
    assert parsed("['a' 'b']") == ["a", "b"]  # Python itself would make one text of the two


def test_messages_that_cannot_be_read_are_told(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "[{'role': 'user', 'content': 'It's'}]"
    rows: list[Any] = [{"prompt": "a", "completion": "b"}, {"prompt": text, "completion": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert broken(text)
    with pytest.raises(Exception, match=r"rows.jsonl:2: prompt: it seems a list of messages that was printed"):
        to_rows(str(path))


def test_most_texts_are_not_looked_at_twice() -> None:
    assert signature({"prompt": "Name a lake."}) == (("prompt", "text"),)
    assert [kind_of(text) for text in ("\n\nHuman: a", "[1", "[1]", "  \n", "Hello: you")] == [
        *("transcript", "text", "structure", "text", "text"),
    ]
