"""Are the Ranker's results in a Label Studio export read, one ranking for every annotation that stands?"""

from pathlib import Path

import pytest
from asked import EXAMPLES, GONE, Row, but, example, orders, problems_of, read, rows_of, write

NAME = "label_studio"
ROWS = rows_of(NAME)
TASK = ROWS[0]
RANKER = ("annotations", 0, "result", 0, "value", "ranker")
PLACE = "annotations[0].result[0].value.ranker"


@pytest.mark.parametrize("path", [example(NAME), EXAMPLES / "label_studio.json"], ids=["lines", "array"])
def test_annotations_that_were_not_cancelled_are_rankings(path: Path) -> None:
    """Task 11 has two and a cancelled one, 12 a bare list of ids, 13 a bucket of two with one item outside; 14 was
    cancelled, 15 never annotated, 16 submitted empty."""
    loaded = read(path)
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (
        NAME,
        "rankings",
        "the first id of the ranker is best; left: the first answer, right: the second",
    )
    assert [(row.id, row.annotator, row.prompt) for row in loaded.rows] == [
        ("11-1", "5", "How is a boat built?"),
        ("11-2", "6", "How is a boat built?"),
        ("12", "5", "When is the shadow shortest?"),
        ("13", "6", "Who sails at night?"),
    ]
    assert orders(loaded) == [
        [["llm_3"], ["llm_1"], ["llm_2"]],
        [["llm_1"], ["llm_3"], ["llm_2"]],
        [["2"], ["1"]],
        [["llm_3"], ["llm_1"]],
    ]
    assert [one.text for one in loaded.rows[0].completions] == [item["body"] for item in TASK["data"]["items"]]
    assert [one.text for one in loaded.rows[2].completions] == ["At noon.", "When the sun is highest."]
    assert (loaded.read, loaded.account.used) == (6, 3)
    assert loaded.account.left_out == {"cancelled": 1, "nothing was ranked": 2} and loaded.problems == []


def test_a_pretty_printed_array_gives_the_line_of_each_task() -> None:
    """Read off the file: where the first three tasks open."""
    path = EXAMPLES / "label_studio.json"
    opening = [number for number, line in enumerate(path.read_text().splitlines(), 1) if line == "  {"]
    assert [row.source for row in read(path).rows] == [f"{path}:{opening[place]}" for place in (0, 0, 1, 2)]


def test_a_title_is_the_text_where_there_is_no_body(tmp_path) -> None:
    items = [{"id": "a", "title": "Yes."}, {"id": "b", "title": "No."}]
    task = but(but(TASK, "data", {"instruction": "May I?", "answers": items}), "annotations", TASK["annotations"][:1])
    (made,) = read(write(tmp_path, [but(task, *RANKER, ["b", "a"])])).rows
    assert [one.text for one in made.completions] == ["Yes.", "No."] and made.ranking == (("b",), ("a",))


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(TASK, *RANKER, "rank", 0, "llm_9"), f"{PLACE}.rank[0]", 'it names "llm_9", which is no item'),
        (but(TASK, *RANKER, "rank", 0, "llm_1"), f"{PLACE}.rank[1]", '"llm_1" stands twice in the ranking'),
        (but(TASK, *RANKER, "llm_1"), PLACE, "it is a text, not a list of ids"),
        (but(TASK, *RANKER, GONE), PLACE, "it is null, not a list of ids"),
        (but(TASK, *RANKER, {"good": ["llm_1"], "bad": ["llm_2"]}), PLACE, "the items lie in several buckets"),
        (
            but(TASK, "annotations", 0, "result", 0, "type", "choices"),
            "annotations[0].result",
            "there is no ranking in it",
        ),
        (
            but(TASK, "annotations", 0, "result", TASK["annotations"][0]["result"] * 2),
            "annotations[0].result",
            "two rankings",
        ),
        (but(TASK, "annotations", 0, "result", GONE), "annotations[0].result", "it is null, not a list"),
        (but(TASK, "annotations", 0, "was_cancelled", "si"), "annotations[0].was_cancelled", "not true or false"),
        (but(TASK, "annotations", 0, "completed_by", []), "annotations[0].completed_by", "it is a list, not a text"),
        (but(TASK, "annotations", 0, 7), "annotations[0]", "it is a number, not an object"),
        (but(TASK, "data", "items", 1, "body", ""), "data.items[1].body", "it is blank"),
        (but(TASK, "data", "items", 1, "id", "llm_1"), "data.items[1].id", 'the id "llm_1" stands twice'),
        (but(TASK, "data", "items", 1, "id", GONE), "data.items[1].id", "the item has no id"),
        (
            but(TASK, "data", "items", 1, "body", TASK["data"]["items"][0]["body"]),
            f"{PLACE}.rank",
            "the same text stands in two",
        ),
        (but(TASK, "data", "items", GONE), "data", "there is no list of items with an id"),
        (but(TASK, "data", "more", [{"id": 1}]), "data", "there are two lists of items"),
        (but(TASK, "data", "prompt", 3), "data.prompt", "it is a number, not a text"),
        (but(TASK, "data", "prompt", GONE), "data.prompt", "the key is missing"),
        (but(TASK, "data", []), "data", "it is a list, not an object"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    rows = [*ROWS, but(bad, "id", 99)]
    line, where, problem = problems_of(tmp_path, rows)[0]
    assert (line, where) == (7, field) and says in problem
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert orders(kept) == orders(read(example(NAME))) and [reject.line for reject in kept.rejects] == [7]
    assert kept.read == 7 == kept.account.used + kept.account.left_out.total() + kept.account.rejected.total()


PAIRS = rows_of("label_studio.pairwise")
CHOICE = ("annotations", 0, "result", 0)


def test_a_choice_of_two() -> None:
    """1: left, an oak; 2: right, a pike, and a cancelled choice; 3: two people who disagree."""
    loaded = read(EXAMPLES / "label_studio.pairwise.jsonl")
    better = [{one.id: one.text for one in row.completions}[row.ranking[0][0]] for row in loaded.rows]
    assert better == ["An oak.", "A pike.", "A gull.", "A hat."]
    assert [(row.id, row.annotator) for row in loaded.rows] == [("1", "1"), ("2", "1"), ("3-1", "2"), ("3-2", "3")]
    assert loaded.problems == []


def test_left_is_what_to_name_has_first(tmp_path) -> None:
    """Or, where it names no fields, the first of two that are counted."""
    turned = but(PAIRS[0], *CHOICE, "to_name", "answer2,answer1")
    tags = but(PAIRS[0], *CHOICE, "to_name", "tag-b,tag-a")
    assert orders(read(write(tmp_path, [turned]))) == [[["answer2"], ["answer1"]]]
    assert orders(read(write(tmp_path, [tags]))) == [[["answer1"], ["answer2"]]]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(PAIRS[0], *CHOICE, "value", "selected", "both"), "annotations[0].result[0].value.selected", "not left or right"),
        (but(PAIRS[0], *CHOICE, "value", {}), "annotations[0].result[0].value.selected", "it is null, not left or right"),
        (but(PAIRS[0], "data", "answer1", GONE), "data", "not certain which two"),
        (but(PAIRS[2], *CHOICE, "to_name", "answer2,answer1"), "data", "not certain which two"),
        (but(PAIRS[0], "data", "answer2", " "), "data.answer2", "it is blank"),
        (but(PAIRS[0], "data", "context", "A page."), "data.context", "nothing reads it"),
        (but(PAIRS[0], "annotations", 0, "result", PAIRS[0]["annotations"][0]["result"] * 2), "annotations[0].result", "two rankings"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_read_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    line, where, problem = problems_of(tmp_path, [*PAIRS, bad | {"id": 9}])[0]
    assert (line, where) == (4, field) and says in problem
