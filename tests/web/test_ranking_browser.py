"""Do two people rank fifty items through a real browser, by keyboard alone, and does the export say what they did? Ties, partial orders, all bad.

Chromium is the system's (apt install chromium), driven by playwright.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from rooms import served

from data.refining.agreement import alpha
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.run import Run
from pipeline.people import choosing, export
from pipeline.people.agreement import agreements
from pipeline.people.store import new_item, open_store
from pipeline.web.asking import State

pytestmark = pytest.mark.slow
ITEMS = 50
WORDS = ("good", "fine", "<b>bad</b>", "worse")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Fifty items that everybody is asked, and one of practice."""
    chance = choosing.chance
    fixed = {"overlap": 0.0, "repeat": 1.0}  # everybody is asked all, and nothing twice
    monkeypatch.setattr(choosing, "chance", lambda *of: fixed.get(of[0], chance(*of)))
    (tmp_path / "demo").mkdir()
    run = Run("demo", tmp_path)
    items = [new_item("practice", [("yes", "sft"), ("no", "ppo")], "practice", {"order": [["c0"], ["c1"]]})]
    items += [new_item(f"prompt {n}", [(f"{word} {n}", "ppo") for word in WORDS]) for n in range(ITEMS)]
    open_store(run).add_items(items)
    return run


@pytest.fixture
def address(run: Run) -> Iterator[str]:
    state = State(run, run.root, "t0ken-that-is-long")
    with served(state) as there:
        yield f"{there}/rank?token={state.token}"


def wish(person: str, prompt: str) -> tuple[list[list[str]], list[str], bool]:
    """(tiers, unranked, all bad) of words that a person wants for an item: whole orders, ties, partial ones."""
    chance = random.Random(f"{person} {prompt}")
    words = list(WORDS)
    if chance.random() < 0.5:
        chance.shuffle(words)
    kind = chance.choice(["whole", "whole", "ties", "partial", "bad"])
    if kind == "ties":
        return [[words[0]], [words[1], words[2]], [words[3]]], [], False
    if kind == "partial":
        return [[words[0]], [words[1]]], words[2:], False
    return [[word] for word in words], [], kind == "bad"


def rank(page: Any, person: str, count: int) -> dict[str, Any]:
    """Rank `count` items as `wish` says, by keyboard; what was wanted by prompt."""
    wanted = {}
    for _ in range(count):
        page.locator(".answer").first.wait_for()
        prompt = page.locator(".asked").inner_text().strip()
        tiers, unranked, bad = wish(person, prompt) if prompt != "practice" else ([["yes"], ["no"]], [], False)
        wanted[prompt] = (tiers, unranked, bad)
        for place, tier in enumerate(tiers, 1):
            for number, word in enumerate(tier):
                loose = page.locator(".cards .answer .text").all_inner_texts()
                texts = [text.split(" ")[0] for text in loose]
                for _ in range(texts.index(word) - _marked(page)):
                    page.keyboard.press("ArrowDown")
                for _ in range(_marked(page) - texts.index(word)):
                    page.keyboard.press("ArrowUp")
                assert _marked(page) == texts.index(word)
                page.keyboard.press("=" if number else str(place))
        if bad:
            page.keyboard.press("b")
        page.keyboard.press("Enter")
        expect(page.locator(".asked", has_text=re.compile(f"^{prompt}$"))).to_have_count(0)
    return wanted


def _marked(page: Any) -> int:
    """Which of the cards without a place is marked."""
    states = [one.get_attribute("aria-current") for one in page.locator(".cards .answer").all()]
    return states.index("true")


def test_two_people_rank_fifty_items_and_the_rows_say_what_they_did(chromium: Any, address: str, run: Run) -> None:
    wanted: dict[str, dict[str, Any]] = {}
    for person in ("Anna", "Ben"):
        page = chromium.new_context().new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))  # noqa: B023
        page.goto(address)
        page.fill("#person", person)
        page.keyboard.press("Enter")
        wanted[person] = rank(page, person, ITEMS + 1)
        page.get_by_text("Nothing is left for you").wait_for()
        assert errors == [] and page.title() != "ran"
    made = export.export(run)
    rows = list(read_rows(made.folder / export.RANKINGS))
    assert len(rows) == 2 * ITEMS
    for row in rows:
        tiers, unranked, bad = wanted[row["annotator"]][row["prompt"]]
        said = {one["id"]: one["text"].split(" ")[0] for one in row["completions"]}
        assert [sorted(said[name] for name in tier) for tier in row["ranking"]] == [sorted(tier) for tier in tiers]
        assert sorted(one["text"].split(" ")[0] for one in row["unranked"]) == sorted(unranked)
        assert row["all_bad"] is bad
    _agrees_by_hand(run, wanted)


def _agrees_by_hand(run: Run, wanted: dict[str, dict[str, Any]]) -> None:
    """α over the answers that both ranked, at mean ranks of ties, as it is computed from what was wanted."""
    units = []
    for prompt in (f"prompt {n}" for n in range(ITEMS)):
        both = [wanted[person][prompt] for person in ("Anna", "Ben")]
        shared = [word for word in WORDS if all(any(word in tier for tier in tiers) for tiers, _, _ in both)]
        if len(shared) < 2:
            continue
        ranks = []
        for tiers, _, _ in both:
            kept = [[word for word in tier if word in shared] for tier in tiers]
            kept = [tier for tier in kept if tier]
            mean, before = {}, 0
            for tier in kept:
                mean |= dict.fromkeys(tier, before + (len(tier) - 1) / 2)
                before += len(tier)
            ranks.append(mean)
        units += [[mean[word] for mean in ranks] for word in shared]
    store = open_store(run)
    every, _ = agreements(store.items(), store.events())
    found = alpha(units)
    assert found is not None and every.alpha.value == pytest.approx(found, abs=1e-12)


def test_every_word_of_the_help_is_a_key(chromium: Any, address: str) -> None:
    page = chromium.new_context().new_page()
    page.goto(address)
    page.fill("#person", "Cleo")
    page.keyboard.press("Enter")
    page.locator(".answer").first.wait_for()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("1")
    page.keyboard.press("=")
    expect(page.locator(".tier")).to_have_count(1)
    expect(page.locator(".tier .answer")).to_have_count(2)
    page.keyboard.press("u")
    expect(page.locator(".tier .answer")).to_have_count(1)
    page.keyboard.press("0")
    page.keyboard.press("d")
    page.keyboard.press("b")
    assert (
        page.locator("#differ").get_attribute("aria-pressed")
        == page.locator("#bad").get_attribute("aria-pressed")
        == "true"
    )
    page.keyboard.press("f")
    page.fill("#reason", "no answers")
    page.get_by_role("button", name="Report", exact=True).click()
    page.locator(".stored", has_text="no answers").wait_for()
    page.keyboard.press("s")
    page.locator(".stored", has_text="Skipped").wait_for()
    page.keyboard.press("n")
    expect(page.locator("#note")).to_be_focused()


def begun(chromium: Any, address: str, person: str) -> Any:
    """The room with the first item, behind the name."""
    page = chromium.new_context().new_page()
    page.goto(address)
    page.fill("#person", person)
    page.keyboard.press("Enter")
    page.locator(".answer").first.wait_for()
    return page


def test_what_was_stored_without_the_page_knowing_is_stored_once(chromium: Any, address: str, run: Run) -> None:
    """The answer to a submit is lost; a second later the same is sent again, with the same id and the same time."""
    page = begun(chromium, address, "Anna")

    def lost(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/rank/done", lost)
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("does not answer")
    assert page.locator(".tier").count() == 2, "the order stays on the screen"
    page.unroute("**/api/rank/done")
    page.wait_for_timeout(1200)  # the time of the item goes on meanwhile
    page.keyboard.press("Enter")
    page.locator(".stored").wait_for()
    assert [event.person for event in open_store(run).events("ranking")] == ["Anna"]


def test_words_that_differ_are_marked_in_long_answers_too(chromium: Any, address: str, run: Run) -> None:
    """Of 40,000 words each, in time that a person waits: before, every word was looked up in every text anew."""
    words = [" ".join(f"{side if n % 2 else 'w'}{n}" for n in range(40_000)) for side in "ab"]
    open_store(run).add_items([new_item("long", [(text, "ppo") for text in words], body={"unsure": 1.0})])
    page = begun(chromium, address, "Anna")
    page.keyboard.press("s")  # of practice
    expect(page.locator(".asked")).to_have_text("long")
    page.keyboard.press("d")
    expect(page.locator("mark")).to_have_count(40_000, timeout=30_000)
    assert page.locator("mark").first.text_content() in ("a1", "b1")
