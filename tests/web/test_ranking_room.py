"""Is what people do on the page what the disk has? Orders, ties, partial orders, all bad, skips, reports, taken back."""

import re
from pathlib import Path
from typing import Any

import pytest
from rooms import Page

from pipeline.artifacts.run import Run
from pipeline.people.store import new_item, open_store

TEXTS = ("good", "fine", "<b>bad</b>", "worse")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run("demo", tmp_path)
    (tmp_path / "demo").mkdir()
    known = {"order": [["c0"], ["c1"]]}
    items = [new_item("practice?", [("yes", "sft"), ("no", "ppo")], "practice", known)]
    items += [new_item(f"prompt {n}", [(f"{text} {n}", "ppo") for text in TEXTS]) for n in range(3)]
    open_store(run).add_items(items)
    return run


def asked(page: Page, person: str = "Anna", id: str = "n0") -> Any:
    answer = page.post("/api/rank/next", {"person": person, "id": id})
    assert answer.status_code == 200, answer.text
    return answer.json()


def order(item: Any, tiers: Any, unranked: Any = (), **more: Any) -> dict[str, Any]:
    shown = [card["id"] for card in item["cards"]]
    told = {
        "item": item["id"],
        "tiers": tiers,
        "unranked": list(unranked),
        "all_bad": False,
        "note": "",
        "seconds": 3.5,
    }
    return told | {"shown": shown, "repeat": item["repeat"]} | more


def did(page: Page, kind: str, body: Any, id: str = "e0", person: str = "Anna") -> Any:
    return page.post("/api/rank/done", {"person": person, "id": id, "kind": kind, "body": body})


def practised(page: Page, person: str = "Anna") -> Any:
    """The first real item, behind the practice."""
    first = asked(page, person, f"{person}-p")["item"]
    assert first["practice"]
    did(page, "ranking", order(first, [["c0"], ["c1"]]), f"{person}-practice", person)
    return asked(page, person, f"{person}-n1")["item"]


def test_practice_comes_first_and_tells_how_it_compares(run: Run) -> None:
    page = Page(run)
    item = asked(page)["item"]
    assert item["practice"] and item["prompt"] == [{"role": "user", "content": "practice?"}]
    told = did(page, "ranking", order(item, [["c1"], ["c0"]])).json()["practice"]
    assert told == {
        "agrees": False,
        "sentence": "Practice: 0 of 1 comparisons are as they were known to be, 1 the other way round.",
    }
    page = Page(run)
    right = did(page, "ranking", order(item, [["c0"], ["c1"]]), "e1", "Ben").json()["practice"]
    assert right == {"agrees": True, "sentence": "Practice: 1 of 1 comparisons are as they were known to be."}


def test_no_models_name_is_on_the_page(run: Run) -> None:
    page = Page(run)
    item = practised(page)
    assert set(item) == {"id", "prompt", "cards", "repeat", "practice"}
    assert all(set(card) == {"id", "text"} for card in item["cards"]) and "ppo" not in str(item)


@pytest.mark.parametrize(
    "tiers, unranked, more",
    [
        ([["c2"], ["c0", "c3"], ["c1"]], [], {}),
        ([["c1"], ["c3"]], ["c0", "c2"], {"note": "the others are alike"}),
        ([], ["c0", "c1", "c2", "c3"], {"all_bad": True}),
        ([["c0", "c1", "c2", "c3"]], [], {"all_bad": True}),
    ],
)
def test_what_is_shown_as_stored_is_what_the_disk_has(run: Run, tiers: Any, unranked: Any, more: Any) -> None:
    page = Page(run)
    item = practised(page)
    body = order(item, tiers, unranked, **more)
    stored = did(page, "ranking", body).json()["stored"]
    assert stored["body"] == body and stored["texts"]["c2"].startswith("<b>bad</b>")
    event = open_store(run).events("ranking", "Anna")[-1]
    assert event.body == body and event.id == "e0" == stored["id"] and event.at == stored["at"]
    assert asked(page, id="n9")["last"] == stored


def test_what_is_sent_twice_is_stored_once_and_other_content_is_refused(run: Run) -> None:
    page = Page(run)
    body = order(practised(page), [["c2"], ["c0", "c3"], ["c1"]])
    one, two = did(page, "ranking", body), did(page, "ranking", body)
    assert one.json() == two.json() and len(open_store(run).events("ranking", "Anna")) == 2
    other = did(page, "ranking", body | {"note": "another"})
    assert other.status_code == 400 and "other content" in other.json()["error"]
    assert did(page, "ranking", body, person="Ben").status_code == 400, "nor under another name"


@pytest.mark.parametrize(
    "change",
    [
        {"tiers": [["c0"]]}, {"tiers": [["c0"], ["c0"], ["c1"], ["c2"], ["c3"]]}, {"tiers": [["c9"], ["c0"], ["c1"], ["c2"], ["c3"]]},
        {"tiers": []}, {"tiers": "c0"}, {"tiers": [[["c0"]]]}, {"all_bad": "yes"}, {"seconds": -1}, {"seconds": True}, {"note": 1},
        {"shown": ["c0"]}, {"repeat": 2}, {"more": 1}, {"item": "../../etc/passwd"}, {"item": None}, {"score": 5},
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused_and_nothing_is_stored(run: Run, change: Any) -> None:
    page = Page(run)
    item = practised(page)
    before = open_store(run).events()
    answer = did(page, "ranking", order(item, [["c0"], ["c1"], ["c2"], ["c3"]]) | change)
    assert answer.status_code in (400, 404) and set(answer.json()) == {"error"}
    assert open_store(run).events() == before


def test_skips_and_reports_are_stored_and_can_be_taken_back(run: Run) -> None:
    page = Page(run)
    item = practised(page)
    assert did(page, "skip", {"item": item["id"], "seconds": 1}, "s").status_code == 200
    second = asked(page, id="n2")["item"]
    assert second["id"] != item["id"]
    assert did(page, "report", {"item": second["id"], "seconds": 1}, "r").status_code == 400, "a reason is needed"
    assert did(page, "report", {"item": second["id"], "seconds": 1, "reason": "a name"}, "r").status_code == 200
    third = asked(page, id="n3")
    assert third["item"]["id"] not in (item["id"], second["id"]) and third["last"]["body"]["reason"] == "a name"
    assert page.post("/api/rank/undo", {"person": "Anna", "id": "u", "event": "s"}).status_code == 409, "only the last"
    assert page.post("/api/rank/undo", {"person": "Ben", "id": "u", "event": "r"}).status_code == 409, "only one's own"
    assert page.post("/api/rank/undo", {"person": "Anna", "id": "u", "event": "r"}).json() == {"undone": "r"}
    assert asked(page, id="n4")["item"]["id"] == second["id"]
    assert {event.id for event in open_store(run).events()} >= {"s", "r", "u"}, "nothing goes from the store"


def test_the_page_says_how_to_fill_an_empty_queue(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    answer = Page(Run("demo", tmp_path)).get("/rank")
    assert answer.status_code == 200 and "make rank RUN=demo" in answer.text


@pytest.mark.parametrize("room", ["/rank", "/arena", "/chat"])
def test_pages_have_no_inline_script_or_style(run: Run, room: str) -> None:
    text = Page(run).get(room).text
    assert not re.search(r"<style|style=|\son\w+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_scripts_write_text_and_never_markup() -> None:
    scripts = sorted((Path(__file__).parents[2] / "pipeline/web/static").glob("*.js"))
    assert scripts
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc", text
        ), script.name
