"""Is every column of a row read, put where it belongs, or told, and nothing lost without a word?"""

from typing import Any

import pytest
from asked import EXAMPLES, Row, read, rows_of, write

from data.forms import columns
from data.forms.table import FORMATS

PAIR = {"prompt": "Name a lake.", "chosen": "Loch Ness.", "rejected": "A puddle."}
SYSTEM = {"role": "system", "content": "Speak like a sailor."}
ASKS = {"role": "user", "content": "Name a lake."}
LOOKED_AT = {name: rows_of(name) for name in FORMATS}
AXIS = {"pku_saferlhf": "better"}


def told(folder: Any, rows: list[Row], **options: Any) -> list[tuple[str, str]]:
    return [(problem.field, f"{problem.problem}; {problem.fix}") for problem in problems(folder, rows, **options)]


def problems(folder: Any, rows: list[Row], **options: Any) -> list[Any]:
    from data.loading import scan
    from data.reading.options import Options

    return scan(str(write(folder, rows)), Options(**options), lambda number, row: None).problems


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "argilla"])
def test_a_text_in_a_column_that_no_form_reads_is_told(tmp_path, name: str) -> None:
    """The rows of every form's example, with the same strange column in each. In Argilla's records it may be an answer."""
    found = told(
        tmp_path, [row | {"remark": "This was said in passing."} for row in LOOKED_AT[name]], axis=AXIS.get(name)
    )
    if name == "text":
        assert found[0][0] == "keys"
    else:
        assert {field for field, _ in found} == {"remark"}
        assert "nothing reads it, and it says something" in found[0][1] and "data.ignore=[remark]" in found[0][1]


def test_a_field_of_argilla_that_belongs_to_the_prompt_is_told(tmp_path) -> None:
    rows = [row | {"context": "A page about it."} for row in LOOKED_AT["argilla"]]
    assert {field for field, _ in told(tmp_path, rows)} == {"context"}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text"])
def test_a_column_may_go_where_the_user_says_so(tmp_path, name: str) -> None:
    plain = read(write(tmp_path, LOOKED_AT[name]), axis=AXIS.get(name))
    rows = [row | {"remark": "Said in passing."} for row in LOOKED_AT[name]]
    loaded = read(write(tmp_path, rows), axis=AXIS.get(name), ignore=("remark",))
    assert [row.to_json() for row in loaded.rows] == [row.to_json() for row in plain.rows]


def test_a_form_says_which_columns_it_looks_at(tmp_path) -> None:
    """What `reads` names is what `parse` asks a row for, over the rows of its example."""

    class Asked(dict):  # type: ignore[type-arg]
        def __init__(self, row: Row):
            super().__init__(row)
            self.keys_asked: set[str] = set()

        def get(self, key: str, default: Any = None) -> Any:
            self.keys_asked.add(key)
            return super().get(key, default)

        def __getitem__(self, key: str) -> Any:
            self.keys_asked.add(key)
            return super().__getitem__(key)

    from data.forms.place import Place

    for name, format in FORMATS.items():
        if name in (
            "argilla",
            "side_by_side",
            "alpaca_preference",
        ):  # the names depend on the row, or the row is copied
            continue
        asked: set[str] = set()
        for row in LOOKED_AT[name]:
            seen = Asked(row)
            format.parse(seen, Place("f", 1, [], AXIS.get(name, format.default_axis)))
            asked |= seen.keys_asked & row.keys()
        named = {*format.reads.split(), "id", "annotator"}
        named |= set() if format.reads_of is None else format.reads_of(LOOKED_AT[name][0])
        assert asked <= named, name


def test_harmless_columns_are_named_with_a_sample(tmp_path) -> None:
    loaded = read(write(tmp_path, [PAIR | {"source": "a forum", "prompt_id": "p7", "num_turns": 3, "is_new": True}]))
    assert loaded.account.unread == {"source": '"a forum"', "prompt_id": '"p7"', "num_turns": "3", "is_new": "True"}


def test_a_long_text_under_a_harmless_name_is_told(tmp_path) -> None:
    """`source` may name a file, or be the article that is to be summed up."""
    article = "The lake lies between two hills. " * 10
    assert [field for field, _ in told(tmp_path, [PAIR | {"source": article}])] == ["source"]


def test_a_text_that_repeats_what_was_read_is_not_lost(tmp_path) -> None:
    talk = [ASKS, {"role": "assistant", "content": "Loch Ness."}]
    assert read(write(tmp_path, [{"messages": talk, "prompt": "Name a lake."}])).format == "messages"
    assert read(write(tmp_path, [PAIR | {"messages": talk}])).format == "preference"
    assert told(tmp_path, [PAIR | {"messages": [ASKS, {"role": "assistant", "content": "No."}]}])[0][0] == "messages"


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": "Name a lake.", "completion": "Loch Ness."},
        {"prompt": "Name a lake.", "completion": "Loch Ness.", "label": True},
        {"prompt": "Name a lake.", "completions": ["Loch Ness.", "A puddle."], "ranking": [[0], [1]]},
        {"prompt": "Name a lake.", "completions": ["Loch Ness.", "A puddle."], "ratings": [4, 1]},
        {"prompt": "Name a lake."},
        {"messages": [ASKS, {"role": "assistant", "content": "Loch Ness."}]},
        {"messages": [ASKS, {"role": "assistant", "content": "Loch Ness."}], "rejected_response": "A puddle."},
        {"prompt": "Name a lake.", "response_a": "Loch Ness.", "response_b": "A puddle.", "winner": "a"},
        {
            key: f"\n\nHuman: Name a lake.\n\nAssistant: {said}"
            for key, said in (("chosen", "Ness."), ("rejected", "No."))
        },
    ],
    ids=["pair", "demonstration", "judgement", "ranking", "ratings", "prompt", "messages", "rejected", "sides", "hh"],
)
def test_a_system_text_stands_before_the_prompt(tmp_path, row: Row, key: str) -> None:
    loaded = read(write(tmp_path, [row | {key: SYSTEM["content"]}]))
    assert loaded.rows[0].prompt == [SYSTEM, ASKS]
    assert key not in loaded.account.unread


def test_a_system_text_beside_another_is_told(tmp_path) -> None:
    row = {"prompt": [SYSTEM, ASKS], "chosen": "Ness.", "rejected": "No."}
    same = read(write(tmp_path, [{**row, "system": SYSTEM["content"]}]))
    assert same.rows[0].prompt == [SYSTEM, ASKS]
    assert told(tmp_path, [{**row, "system": "Be brief."}])[0][0] == "system"


@pytest.mark.parametrize(
    "history",
    [
        [["What is a lake?", "Still water."]],
        [{"role": "user", "content": "What is a lake?"}, {"role": "assistant", "content": "Still water."}],
    ],
)
def test_a_history_stands_before_the_prompt(tmp_path, history: Any) -> None:
    loaded = read(write(tmp_path, [PAIR | {"history": history, "system": "Speak like a sailor."}]))
    assert [turn["content"] for turn in loaded.rows[0].prompt] == [
        *("Speak like a sailor.", "What is a lake?", "Still water.", "Name a lake."),
    ]


def test_a_history_that_cannot_be_read_is_told(tmp_path) -> None:
    assert told(tmp_path, [PAIR | {"history": "earlier"}])[0][0] == "history"
    assert told(tmp_path, [PAIR | {"history": [["only one"]]}])[0][0] == "history[0]"


@pytest.mark.parametrize("key", ["question", "query"])
def test_a_question_is_the_prompt_where_there_is_no_other(tmp_path, key: str) -> None:
    row = {key: "Name a lake.", "chosen": "It is Loch Ness.", "rejected": "It is a puddle."}
    loaded = read(write(tmp_path, [row]))
    assert (loaded.format, loaded.rows[0].prompt) == ("preference", "Name a lake.")
    assert told(tmp_path, [row | {key: " "}])[0][0] == key
    assert told(tmp_path, [row | {"prompt": "Say it."}])[0][0] == key


@pytest.mark.parametrize("key", ["instructions", "input", "context", "thinking", "reasoning", "title"])
def test_other_parts_of_a_prompt_or_an_answer_are_told(tmp_path, key: str) -> None:
    assert [field for field, _ in told(tmp_path, [PAIR | {key: "Think of Scotland first."}])] == [key]


@pytest.mark.parametrize("key", ["images", "image", "tools", "audio", "videos"])
@pytest.mark.parametrize(
    "row", [PAIR, {"prompt": "Name a lake."}, {"messages": [ASKS, {"role": "assistant", "content": "a"}]}]
)
def test_what_is_no_text_is_refused(tmp_path, row: Row, key: str) -> None:
    found = told(tmp_path, [row | {key: ["lake.png"]}])
    assert found[0][0] == key and f"{key} are not supported" in found[0][1]
    assert read(write(tmp_path, [row | {key: []}])).rows


@pytest.mark.parametrize(
    "key", ["score", "rating", "preference", "is_better", "label_2", "upvotes", "quality_score", "reward"]
)
@pytest.mark.parametrize(
    "row", [{"prompt": "Name a lake."}, {"prompt": "a", "completion": "b"}, PAIR, {"text": "A lake."}]
)
def test_a_judgement_that_no_form_reads_is_told(tmp_path, row: Row, key: str) -> None:
    found = told(tmp_path, [row | {key: 0.5}])
    assert found[0][0] in (key, "keys")


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_score", "rejected_score"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("reward_chosen", "reward_rejected"),
        ("chosenScore", "rejectedScore"),
    ],
)
def test_scores_are_held_against_the_labels(tmp_path, names: tuple[str, str]) -> None:
    high, low = names
    assert len(read(write(tmp_path, [PAIR | {high: 4.5, low: 1}])).rows) == 1
    assert len(read(write(tmp_path, [PAIR | {high: "4.5", low: "1"}], "csv")).rows) == 1
    equal = read(write(tmp_path, [PAIR | {high: 3, low: 3.0}]))
    assert (equal.rows, equal.account.left_out) == ([], {"tie": 1})
    near = read(write(tmp_path, [PAIR | {high: 3.2, low: 3.0}]), tie_gap=0.5)
    assert near.account.left_out == {"tie": 1}
    found = told(tmp_path, [PAIR | {high: 1, low: 9}])
    assert found[0][0] == high and f"it is below {low}, 1 to 9" in found[0][1] and "data.ignore=[" in found[0][1]
    assert told(tmp_path, [PAIR | {high: None, low: 9}])[0][0] == high
    assert len(read(write(tmp_path, [PAIR | {high: None, low: None}])).rows) == 1
    assert len(read(write(tmp_path, [PAIR | {high: 1, low: 9}]), ignore=names).rows) == 1


def test_a_margin_is_held_against_the_labels(tmp_path) -> None:
    assert len(read(write(tmp_path, [PAIR | {"margin": 1.5}])).rows) == 1
    assert read(write(tmp_path, [PAIR | {"margin": 0.0}])).account.left_out == {"tie": 1}
    assert told(tmp_path, [PAIR | {"margin": -2}])[0][0] == "margin"


@pytest.mark.parametrize("key", columns.LEARNED)
def test_a_weight_of_nothing_leaves_a_row_out(tmp_path, key: str) -> None:
    rows = [{"prompt": "a", "completion": "b", key: value} for value in (1, 0, True, False)]
    loaded = read(write(tmp_path, rows))
    assert [row.source.rpartition(":")[2] for row in loaded.rows] == ["1", "3"]
    assert loaded.account.left_out == {f"{key} 0": 2}
    assert told(tmp_path, [{"prompt": "a", "completion": "b", key: 0.5}])[0][0] == key


def test_a_message_loses_nothing(tmp_path) -> None:
    talk = [ASKS, {"role": "assistant", "content": "Ness.", "thinking": "Which lake?"}]
    assert told(tmp_path, [{"messages": talk}])[0][0] == "messages[1].thinking"
    talk = [ASKS | {"id": "m1", "timestamp": 3}, {"role": "assistant", "content": "Ness.", "images": []}]
    assert len(read(write(tmp_path, [{"messages": talk}])).rows) == 1


def test_prompts_are_read_beside_labels_and_ids(tmp_path) -> None:
    loaded = read(
        write(tmp_path, [{"prompt": "Name a lake.", "prompt_id": "1", "category": "water", "language": "en"}])
    )
    assert (loaded.format, len(loaded.rows)) == ("prompt", 1)


def test_every_example_is_read_without_a_problem() -> None:
    for path in sorted(EXAMPLES.iterdir()):
        assert read(path, axis=AXIS.get(path.name.split(".")[0])).rows
