"""Does the pipeline read exactly what people did? Ties, partial orders, all bad, last words; and nothing that was no answer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.loading import to_rows
from data.schema import Completion, Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.people import export as exporting
from pipeline.people.export import AGAINST_ITSELF, ORDERS_NOTHING, Made, export, told
from pipeline.people.store import Item, Store, new_item, open_store

TEXTS = [("eins", "sft"), ("zwei\u2028\x85", "sft"), ("drei 👍", "ppo"), ("vier", None)]
ITEM, OTHER = new_item("Wie?", TEXTS), new_item([{"role": "user", "content": "Hi"}], [("a", "sft"), ("b", "ppo")])
PRACTICE = new_item("practice", [("good", None), ("bad", None)], "practice", {"order": [["c0"], ["c1"]]})
PROMPT = {"prompt": "Was?"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("demo", tmp_path)


@pytest.fixture
def kept(run: Run) -> Store:
    made = open_store(run)
    made.add_items([ITEM, OTHER, PRACTICE])
    return made


def said(kept: Store, id: str, person: str, item: Item, *tiers: list[str], **changes: Any) -> None:
    placed = [one for tier in tiers for one in tier]
    ids = [one.id for one in item.completions]
    body = {
        "item": item.id,
        "tiers": list(tiers),
        "unranked": [one for one in ids if one not in placed],
        "all_bad": False,
    }
    kept.add(id, person, "ranking", body | {"note": "", "seconds": 1.5, "shown": ids[::-1], "repeat": 0} | changes)


def lines(made: Made, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.folder / name).read_text(encoding="utf-8").split("\n")[:-1]]


def read(made: Made) -> list[Ranking]:
    """As `make all DATA=…` reads it: the form is recognised, nothing is set."""
    loaded = to_rows(str(made.folder / "rankings.jsonl"))
    assert loaded.format == "ranking" and loaded.problems == []
    return loaded.rows


def test_rankings_come_out_as_people_made_them(run: Run, kept: Store) -> None:
    said(kept, "e1", "Anna", ITEM, ["c2"], ["c0", "c3"], note="gut", all_bad=True, seconds=12.25)
    said(kept, "e2", "Ben Å", ITEM, ["c1"], ["c0"], ["c3"], ["c2"])
    said(kept, "e3", "Anna", OTHER, ["c1"], ["c0"])
    made = export(run)
    first, second, third = read(made)
    assert [first.all_bad, second.all_bad, third.all_bad] == [True, False, False]
    assert first.ranking == (("c2",), ("c0", "c3")) and first.annotator == "Anna" and first.id == "e1"
    assert first.completions == (
        Completion("c0", "eins", "sft"),
        Completion("c2", "drei 👍", "ppo"),
        Completion("c3", "vier"),
    )
    assert second.ranking == (("c1",), ("c0",), ("c3",), ("c2",)) and second.annotator == "Ben Å"
    assert third.prompt == [{"role": "user", "content": "Hi"}] and third.ranks() == [1, 0]
    row = lines(made, "rankings.jsonl")[0]
    assert row["unranked"] == [{"id": "c1", "text": "zwei\u2028\x85", "model": "sft"}] and row["all_bad"] is True
    assert (row["note"], row["seconds"], row["item_id"]) == ("gut", 12.25, ITEM.id)
    assert row["shown_order"] == ["c3", "c2", "c1", "c0"] and lines(made, "set_aside.jsonl") == [] == lines(
        made, "votes.jsonl"
    )
    assert told(made).endswith(
        "3 rankings (1 with ties, 1 of a part of the completions) of 2 people; next: python -m pipeline all "
        f"recipes/own_data.yaml data.source={made.folder}/rankings.jsonl --run demo_people"
    )


def test_only_last_words_on_real_items_count(run: Run, kept: Store) -> None:
    said(kept, "old", "Anna", OTHER, ["c1"], ["c0"])
    said(kept, "e1", "Anna", OTHER, ["c0"], ["c1"])
    said(kept, "back", "Anna", OTHER, ["c1"], ["c0"])
    kept.add("undo", "Anna", "undo", {"event": "back"})
    said(kept, "again", "Anna", OTHER, ["c1"], ["c0"], repeat=1)
    said(kept, "practice", "Anna", PRACTICE, ["c1"], ["c0"])
    kept.add("skip", "Ben", "skip", {"item": ITEM.id, "seconds": 1})
    made = export(run)
    assert [one.id for one in read(made)] == ["e1"] and made.aside == []


def test_what_orders_nothing_and_what_was_reported_is_set_aside(run: Run, kept: Store) -> None:
    said(kept, "tied", "Anna", ITEM, ["c0", "c1", "c2", "c3"])
    said(kept, "best", "Ben", ITEM, ["c2"])
    said(kept, "bad", "Cleo", ITEM, all_bad=True)
    said(kept, "good", "Dora", ITEM, ["c2"], ["c0"])
    said(kept, "e5", "Anna", OTHER, ["c0"], ["c1"])
    kept.add("report", "Ben", "report", {"item": OTHER.id, "reason": "names somebody"})
    said(kept, "none", "Anna", new_item("gone", TEXTS), ["c0"], ["c1"])
    made = export(run)
    assert [one.id for one in read(made)] == ["good"]
    aside = {row["id"]: row["why"] for row in lines(made, "set_aside.jsonl")}
    reason = "the item was reported (Ben: names somebody)"
    assert aside == dict.fromkeys(("tied", "best", "bad"), ORDERS_NOTHING) | {
        "e5": reason,
        "none": "its item is not in the store",
    }
    said_so = told(made).splitlines()
    assert f"rankings: 3 set aside in {made.folder}/set_aside.jsonl: {ORDERS_NOTHING}" in said_so and len(said_so) == 4
    kept.add("undo", "Ben", "undo", {"event": "report"})
    assert {one.id for one in read(export(run))} == {"good", "e5"}


def test_of_two_orders_against_each_other_the_later_is_taken(run: Run, kept: Store) -> None:
    """Two items may share a prompt and two texts; the reader takes no two rows of one person that cannot both be right."""
    kept.add_items([new := new_item("Wie?", [("eins", "sft"), ("drei 👍", "ppo"), ("neu", "ppo")])])
    said(kept, "e1", "Anna", ITEM, ["c0"], ["c2"])
    said(kept, "e2", "Ben", ITEM, ["c0"], ["c2"])
    said(kept, "e3", "Anna", new, ["c1"], ["c0"], ["c2"])
    made = export(run)
    assert [one.id for one in read(made)] == ["e2", "e3"]
    assert [(row["id"], row["why"]) for row in made.aside] == [("e1", AGAINST_ITSELF)]


def test_what_the_reader_refuses_is_set_aside_with_its_reason(run: Run, kept: Store) -> None:
    blank, twice = new_item("p", [("a", None), (" ", None)]), new_item("q", [("a", None), ("a ", None)])
    kept.add_items([blank, twice])
    said(kept, "e1", "Anna", blank, ["c0"], ["c1"])
    said(kept, "e2", "Anna", twice, ["c0"], ["c1"])
    said(kept, "e3", "Anna", OTHER, ["c0"], ["c1"])
    made = export(run)
    assert [one.id for one in read(made)] == ["e3"] and [row["id"] for row in made.aside] == ["e1", "e2"]
    assert "blank" in made.aside[0]["why"] and "the same text stands in two ranks" in made.aside[1]["why"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        min_size=2,
        max_size=5,
        unique_by=str.strip,
    ),
    places=st.lists(st.sampled_from([0, 1, 2, None]), min_size=5, max_size=5),
    note=st.text(max_size=20),
)
def test_any_texts_in_any_order_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], places: list[int | None], note: str
) -> None:
    """Whatever is not set aside comes back to the letter; what is, is told."""
    run = Run("demo", tmp_path_factory.mktemp("texts"))
    kept, item = open_store(run), new_item("prompt", [(text, None) for text in texts])
    kept.add_items([item])
    at = dict(zip([one.id for one in item.completions], places, strict=False))
    tiers = [tier for place in range(3) if (tier := [one for one, own in at.items() if own == place])]
    said(kept, "e", "Anna", item, *tiers, note=note, all_bad=not tiers)
    made = export(run)
    if made.aside:
        blank = any(not one.text.strip() for one in item.completions if at[one.id] is not None)
        assert len(tiers) < 2 or blank
        return
    (row,) = read(made)
    assert row.ranking == tuple(map(tuple, tiers)) and row.id == "e"
    assert row.completions == tuple(one for one in item.completions if at[one.id] is not None)
    assert lines(made, "rankings.jsonl")[0]["note"] == note


def test_half_of_a_surrogate_pair_is_set_aside_and_kept_as_json_has_it(run: Run, kept: Store) -> None:
    said(kept, "e1", "Anna", OTHER, ["c0"], ["c1"], note="\ud83d half")
    made = export(run)
    assert made.rankings == [] and lines(made, "set_aside.jsonl")[0]["note"] == "\ud83d half"
    assert "surrogate" in made.aside[0]["why"]


def test_preferences_of_a_chat_are_rankings_too(run: Run, kept: Store) -> None:
    sides = {"chosen": {"text": "yes", "model": "ppo"}, "rejected": {"text": "no", "model": "sft"}}
    kept.add("e1", "Anna", "preference", PROMPT | sides)
    kept.add("e2", "Anna", "preference", PROMPT | {"chosen": {"text": "x", "model": None}, "rejected": {"text": "y"}})
    kept.add("undo", "Anna", "undo", {"event": "e2"})
    (row,) = read(export(run))
    assert row.completions == (Completion("c0", "yes", "ppo"), Completion("c1", "no", "sft")) and row.ranking == (
        ("c0",),
        ("c1",),
    )


def test_votes_are_of_texts_and_the_first_counts(run: Run, kept: Store) -> None:
    """The names came behind the first, so that a second one on the same two answers is not blind."""
    a, b = {"model": "sft", "text": "x"}, {"model": "ppo", "text": "y"}
    kept.add("e1", "Anna", "vote", PROMPT | {"a": a, "b": b, "outcome": "a", "why": "short"})
    kept.add("e2", "Ben", "vote", PROMPT | {"a": b, "b": a, "outcome": "bad", "why": ""})
    kept.add("e3", "Anna", "vote", PROMPT | {"a": b, "b": a, "outcome": "a"})
    votes = lines(export(run), "votes.jsonl")
    assert [(one["id"], one["winner"], one["both_bad"], one["annotator"]) for one in votes] == [
        ("e1", "a", False, "Anna"),
        ("e2", "tie", True, "Ben"),
    ]
    assert votes[1]["a"] == b and votes[1]["prompt"] == "Was?" and votes[1]["comment"] == ""


def test_nothing_said_makes_empty_files_and_says_what_to_do(run: Run, kept: Store) -> None:
    said(kept, "e1", "Anna", OTHER, ["c0"], ["c1"])
    export(run)
    kept.add("undo", "Anna", "undo", {"event": "e1"})
    made = export(run)
    assert (made.folder / "rankings.jsonl").read_bytes() == b""
    assert told(made).endswith("next: python -m pipeline web --run demo")


def test_an_export_that_fails_leaves_the_former_one(run: Run, kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said(kept, "e1", "Anna", OTHER, ["c0"], ["c1"])
    made = export(run)
    before = (made.folder / "rankings.jsonl").read_bytes()
    said(kept, "e2", "Anna", ITEM, ["c0"], ["c1"])

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export(run)
    monkeypatch.undo()
    assert (made.folder / "rankings.jsonl").read_bytes() == before
    names = {path.name for path in made.folder.iterdir()} - {"people.sqlite-wal", "people.sqlite-shm"}
    assert names == {"people.sqlite", "rankings.jsonl", "votes.jsonl", "set_aside.jsonl"}


def test_what_reads_back_otherwise_is_a_mistake_of_ours(run: Run, kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said(kept, "e1", "Anna", OTHER, ["c0"], ["c1"])
    write = exporting.write_lines

    def turned(path: Path, rows: list[dict[str, Any]]) -> None:
        write(path, [row | {"ranking": row["ranking"][::-1]} if "ranking" in row else row for row in rows])

    monkeypatch.setattr(exporting, "write_lines", turned)
    with pytest.raises(RuntimeError, match="ranking e1 does not read back"):
        export(run)


def test_a_link_is_not_written_through(run: Run, kept: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (kept.path.parent / "rankings.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="a link to"):
        export(run)
    assert (tmp_path / "elsewhere").read_text() == "mine"
