"""Are hh-rlhf's transcripts split before the last answer, and refused where the two dialogues part earlier?"""

import gzip

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write
from hypothesis import given, settings
from hypothesis import strategies as st

from data.forms import transcripts
from data.forms.place import Place

NAME = "hh_rlhf"
ROW = rows_of(NAME)[1]
START = "\n\nHuman: Hi\n\nAssistant: Hello!"


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def test_dialogues_become_messages_and_the_last_answer() -> None:
    """Read off the example by eye; the answers lose the white space around them and keep what is inside."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (NAME, "rankings", "chosen is better than rejected")
    assert account(loaded) == (4, 4, {})
    assert orders(loaded) == [[["c0"], ["c1"]]] * 4
    first, second, third, fourth = loaded.rows
    assert first.prompt == [user("How do I get ink out of a shirt?")]
    assert second.prompt == [
        user("My cat will not eat."),
        assistant("Since when?"),
        user("Since yesterday."),
        assistant("A day is short, but call the vet if it goes on."),
        user("She drinks, though."),
    ]
    assert [one.text for one in second.completions] == [
        "That is a good sign.\n\nGo on offering her water.",
        "Cats are like that.",
    ]
    assert len(third.prompt) == 3 and third.completions[1].text == "Sure, take two hairpins."
    assert fourth.completions[0].text == "Das ist der Rhein."
    assert fourth.id == f"{example(NAME)}:4"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded, plain = read(write(tmp_path, rows_of(NAME), ending)), read(example(NAME))
    assert loaded.format == NAME
    assert [(row.prompt, row.completions, row.ranking) for row in loaded.rows] == [
        (row.prompt, row.completions, row.ranking) for row in plain.rows
    ]


def test_as_it_is_published(tmp_path) -> None:
    """harmless-base/test.jsonl.gz is JSON lines in gzip."""
    path = tmp_path / "test.jsonl.gz"
    path.write_bytes(gzip.compress(example(NAME).read_bytes()))
    assert [row.prompt for row in read(path).rows] == [row.prompt for row in read(example(NAME)).rows]


def test_a_transcript_without_leading_lines_and_spaces(tmp_path) -> None:
    rows = [{"chosen": f"Human:a\n\nAssistant:{said}", "rejected": "\n\nHuman: a \n\nAssistant: z"} for said in "xyw"]
    loaded = read(write(tmp_path, rows))
    assert [(row.prompt, row.completions[0].text) for row in loaded.rows] == [([user("a")], said) for said in "xyw"]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "rejected", START.replace("Hi", "Ho")), "rejected", "part before their last answer"),
        (
            but(ROW, "rejected", ROW["rejected"].replace("My cat", "My dog")),
            "rejected",
            "part before their last answer",
        ),
        (but(ROW, "chosen", f"{ROW['chosen']}\n\nHuman: So?\n\nAssistant: Yes."), "rejected", "part before their last"),
        (but(ROW, "rejected", ROW["chosen"] + " "), "rejected", "it equals chosen"),
        (but(ROW, "rejected", GONE), "rejected", "the key is missing"),
        (but(ROW, "rejected", None), "rejected", "it is null"),
        (but(ROW, "rejected", "Cats are like that."), "rejected", "it is no transcript"),
        (but(ROW, "rejected", f"Said: {START}"), "rejected", "it is no transcript"),
        (but(ROW, "chosen", "\n\nHuman: Hi\n\nAssistant: \n"), "chosen[1].content", "it is blank"),
        (but(ROW, "chosen", f"{START}\n\nHuman: Why?"), "chosen", "the last turn is not the assistant's"),
        (but(ROW, "chosen", f"{START}\n\nAssistant: Well."), "chosen[2]", "two turns of the assistant in a row"),
        (but(ROW, "chosen", f"{START}\n\nHuman: So?\n\nHuman: Well?"), "chosen[3]", "two turns of the user in a row"),
        (but(ROW, "chosen", "\n\nAssistant: Hello!"), "chosen[0]", "the assistant speaks before the user"),
        (but(ROW, "chosen", [user("Hi"), assistant("Hello!")]), "chosen", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


PIECES = st.lists(
    st.sampled_from(
        ["\n\nHuman: a", "\n\nHuman: b", "\n\nAssistant: a", "\n\nAssistant: c", " d", "\n", "\n\nAssistant:"]
    ),
    max_size=6,
).map("".join)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(PIECES, PIECES, PIECES)
def test_two_dialogues_read_at_once_are_each_read_alone(begin: str, one: str, other: str) -> None:
    """The same answers and the same problems, whether the common part is read once or twice."""
    row = {"chosen": f"\n\nHuman: a{begin}{one}", "rejected": f"\n\nHuman: a{begin}{other}"}
    together, apart = Place("f", 1, []), Place("f", 1, [])
    made = transcripts.dialogues(row, "chosen", "rejected", together)
    assert made == {key: transcripts.dialogue(row, key, apart) for key in row}
    assert together.problems == apart.problems
    assert (len(apart.problems) > 0) == (None in made.values())
