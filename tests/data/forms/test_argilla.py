"""Are the ranking questions of Argilla's flat export read, one ranking for everyone who submitted one?"""

from pathlib import Path

import pytest
from asked import EXAMPLES, GONE, Row, but, example, orders, problems_of, read, rows_of, write

NAME = "argilla"
ROWS = rows_of(NAME)
ONE, THREE, NAMES = ROWS[:3]
ANSWERS, USERS, STATUS = "order.responses", "order.responses.users", "order.responses.status"


@pytest.mark.parametrize("path", [example(NAME), EXAMPLES / "argilla.json"], ids=["lines", "array"])
def test_what_was_submitted_is_ranked(path: Path) -> None:
    """r1: second, first, third. r2: ann has 1, 1, 3, so a tie before first; bob 1, 2, 3; cem discarded his. r3 is bare
    names, best first. r4 is a draft, r5 tied throughout, r6 without an answer."""
    loaded = read(path)
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "the lowest rank is best, equal ranks tie; of bare names the first"
    assert [(row.id, row.annotator, row.prompt) for row in loaded.rows] == [
        ("r1", "ann", "Describe snow."),
        ("r2-1", "ann", "Describe fire."),
        ("r2-2", "bob", "Describe fire."),
        ("r3", "bob", "Describe wind."),
    ]
    assert orders(loaded) == [
        [["second"], ["first"], ["third"]],
        [["second", "third"], ["first"]],
        [["first"], ["second"], ["third"]],
        [["second"], ["first"], ["third"]],
    ]
    assert [one.text for one in loaded.rows[3].completions] == ["Moving air.", "It blows.", "Wind."]
    assert (loaded.read, loaded.account.used) == (6, 3)
    assert loaded.account.left_out == {"nothing was submitted": 2, "tie": 1} and loaded.problems == []


def test_the_annotators_together() -> None:
    """Fire: ann has second and third at 0.5 each, first at 2; bob 0, 1, 2 for first, second, third. Sums: second 1.5,
    first 2, third 2.5."""
    merged = read(example(NAME), aggregate="mean")
    assert [(row.id, row.annotator) for row in merged.rows] == [("r1", "ann"), ("r2-1", None), ("r3", "bob")]
    assert orders(merged)[1] == [["second"], ["first"], ["third"]]
    assert merged.account.used == 3


def test_parquet(tmp_path) -> None:
    """The text question and the row of bare names, whose column would have two types, are not in this one."""
    rows = [row for row in ROWS if row["id"] != "r3"]
    loaded, plain = read(write(tmp_path, rows, "parquet")), read(write(tmp_path, rows))
    assert loaded.format == NAME
    assert [(row.id, row.ranking) for row in loaded.rows] == [(row.id, row.ranking) for row in plain.rows]


def test_a_list_of_objects_turned_into_an_object_of_lists(tmp_path) -> None:
    """What `datasets` makes of a Sequence of objects."""
    row = but(ONE, ANSWERS, 0, {"value": ["first", "second"], "rank": [2, 1]})
    assert orders(read(write(tmp_path, [row]))) == [[["second"], ["first"]]]


def test_another_prompt_and_no_users(tmp_path) -> None:
    row = {"prompt": ONE["instruction"], **but(but(ONE, USERS, GONE), "instruction", GONE)}
    (made,) = read(write(tmp_path, [row])).rows
    assert (made.prompt, made.annotator) == ("Describe snow.", None)


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ONE, ANSWERS, 0, 0, "value", "fourth"), "fourth", "the key is missing"),
        (but(ONE, ANSWERS, 0, 1, "value", "first"), f"{ANSWERS}[0][1]", '"first" stands twice in the ranking'),
        (but(ONE, ANSWERS, 0, 1, "rank", 1.5), f"{ANSWERS}[0][1].rank", "1.5 is a score, not a rank"),
        (but(ONE, ANSWERS, 0, 1, "rank", None), f"{ANSWERS}[0][1].rank", "it is null, not a number"),
        (but(ONE, ANSWERS, 0, 1, "rank", GONE), f"{ANSWERS}[0]", "some have a rank and some have none"),
        (but(ONE, ANSWERS, 0, 1, "value", 2), f"{ANSWERS}[0][1].value", "it is a number, not a text"),
        (but(ONE, ANSWERS, 0, ONE[ANSWERS][0][:1]), f"{ANSWERS}[0]", "there are fewer than two in the ranking"),
        (but(ONE, USERS, []), USERS, "it has 0 entries for 1 answers"),
        (but(ONE, STATUS, None), STATUS, "it is null, not a list"),
        (but(ONE, STATUS, 0, "finished"), f"{STATUS}[0]", '"finished" is no status'),
        (but(ONE, "second", " "), "second", "it is blank"),
        (but(ONE, "second", "White and cold."), f"{ANSWERS}[0]", "the same text stands in two ranks"),
        (but(ONE, "instruction", None), "instruction", "it is null"),
        (
            but(ONE, "why.responses", [["first", "third"]]),
            "why.responses",
            '"order" and "why" are both ranking questions',
        ),
        (but(ONE, ANSWERS, ["first"]), ANSWERS, "no question of the record is a ranking"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    rows = [*ROWS, but(bad, "id", "bad")]
    line, where, problem = problems_of(tmp_path, rows)[0]
    assert (line, where) == (7, field) and says in problem
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert orders(kept) == orders(read(example(NAME))) and [reject.line for reject in kept.rejects] == [7]
    assert kept.read == 7 == kept.account.used + kept.account.left_out.total() + kept.account.rejected.total()


def test_options_that_are_no_field_names_are_mapped_or_refused(tmp_path) -> None:
    """C is the place of text-3, which ann has first, then A, then B; of "good" and "bad" nobody knows what they mean."""
    texts = {"text-1": "White.", "text-2": "Cold.", "text-3": "Frozen water."}
    ranks = [{"value": name, "rank": rank} for name, rank in (("A", 2), ("B", 3), ("C", 1))]
    given = {"order.responses": [ranks], USERS: ["ann"], STATUS: ["submitted"]}
    row = {"id": "o1", "instruction": "Describe snow.", **texts, **given}
    loaded = read(write(tmp_path, [row]))
    assert orders(loaded) == [[["text-3"], ["text-1"], ["text-2"]]] and "text-1" not in loaded.account.unread
    unsure = [{"value": name, "rank": rank} for name, rank in (("good", 1), ("bad", 2))]
    ((_, field, says),) = problems_of(tmp_path, [but(row, ANSWERS, 0, unsure)])
    assert field == ANSWERS and 'its values "good", "bad" do not say which fields they mean' in says
