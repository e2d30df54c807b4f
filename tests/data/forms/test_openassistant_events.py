"""Do the orders of several people, in OpenAssistant's ranking events, become a ranking each in the place of `rank`?"""

import json
from typing import Any

import pytest
from asked import EXAMPLES, GONE, Row, but, orders, problems_of, read, write

PATH = EXAMPLES / "openassistant.events.jsonl"
FIRST = ("events", "ranking", 0)
IDS = (*FIRST, "ranked_message_ids")


def rows() -> list[Row]:
    return [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def test_every_persons_order_is_a_ranking() -> None:
    """u1 has an oak, a bush, a stone; u2 ranked two, a bush first, though the rank of all says an oak. e, f: events; g: ranks."""
    loaded = read(PATH)
    assert [(row.id, row.annotator) for row in loaded.rows] == [
        ("e1-1", "u1"), ("e1-2", "u2"), ("f1", "u1"), ("g1", None),
    ]  # fmt: skip
    assert orders(loaded) == [[["e3"], ["e4"], ["e2"]], [["e4"], ["e3"]], [["f3"], ["f2"]], [["g3"], ["g2"]]]
    assert loaded.rows[1].prompt == [{"role": "user", "content": "Name a tree."}]
    assert loaded.account.left_out == {} and (loaded.read, loaded.account.used) == (10, 10)


def test_a_row_a_tree(tmp_path) -> None:
    trees = [
        {"message_tree_id": root["message_id"],
         "prompt": root | {"replies": [one for one in rows() if one["parent_id"] == root["message_id"]]}}
        for root in rows() if root["parent_id"] is None
    ]  # fmt: skip
    plain, loaded = read(PATH), read(write(tmp_path, trees))
    assert loaded.format == "openassistant_tree"
    assert [(row.id, row.ranking, row.annotator) for row in loaded.rows] == [
        (row.id, row.ranking, row.annotator) for row in plain.rows
    ]


def changed(number: int, *where: Any) -> list[Row]:
    made = rows()
    made[number] = but(made[number], *where)
    return made


def test_what_could_not_be_ranked_and_what_names_its_parent(tmp_path) -> None:
    """u1's event of e1 is void; f's event stands with a reply that it ranks; a deleted stone is in no order."""
    void = changed(0, *FIRST, "not_rankable", True)
    assert [(row.id, row.annotator) for row in read(write(tmp_path, void)).rows][0] == ("e1", "u2")
    moved = rows()
    event = moved[4]["events"]["ranking"][0] | {"ranking_parent_id": "f1"}
    moved[4], moved[5] = moved[4] | {"events": None}, moved[5] | {"events": {"ranking": [event]}}
    assert orders(read(write(tmp_path, moved)))[2] == [["f3"], ["f2"]]
    assert orders(read(write(tmp_path, changed(1, "deleted", True))))[0] == [["e3"], ["e4"]]


def test_a_reply_said_twice_stands_where_it_is_better(tmp_path) -> None:
    assert orders(read(write(tmp_path, changed(1, "text", "An oak."))))[0] == [["e3"], ["e4"]]


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        ((*IDS, ["e3", "e9"]), "events.ranking[0].ranked_message_ids", 'it names "e9"'),
        ((*IDS, ["e3", "f2"]), "events.ranking[0].ranked_message_ids", 'it names "f2"'),
        ((*IDS, ["e3", "e3"]), "events.ranking[0].ranked_message_ids", "an id stands twice"),
        ((*IDS, GONE), "events.ranking[0].ranked_message_ids", "not a list of ids"),
        ((*FIRST, "ranking_parent_id", "x"), "events.ranking[0].ranked_message_ids", 'no sound reply to "x"'),
        (("events", "ranking", "e3"), "events.ranking", "not a list of events by kind"),
        (("events", ["e3"]), "events", "not a list of events by kind"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: tuple[Any, ...], field: str, says: str) -> None:
    line, where, problem = problems_of(tmp_path, changed(0, *bad))[0]
    assert (line, where) == (1, field) and says in problem
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert [row.id for row in kept.rows] == ["f1", "g1"]
    assert kept.read == 10 == kept.account.used + kept.account.left_out.total() + kept.account.rejected.total()
