"""Does the page work in a real browser, offline, by mouse and keyboard, and for people who see little?

Chromium is the system's (apt install chromium), driven by playwright, which downloads nothing here; axe-core is the
accessibility checker. Run with: make test SLOW=1, or pytest -m slow tests/report/test_report_browser.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison import healthy, models, opinions, sample

from pipeline.comparison.pairing import Opinion
from pipeline.report import exports, numbers
from pipeline.report.curves import Evaluations

pytestmark = pytest.mark.slow
TAGS = ("drama", "comedy")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 prompts, as `healthy` has them: by vader ppo gains 0.6 over sft on 1, 3, …; loses 0.6 on 0, 10, 20, 30."""
    folder = tmp_path_factory.mktemp("page")
    rows = healthy() + [sample("few_shot", i, 0.2) for i in range(40)]
    rows = [row | {"tag": TAGS[int(row["prompt_id"][1:]) % 2], "entropy": 2.0} for row in rows]
    rows = [row | {"completion": "<b>bold</b> sft 0"} if row["completion"] == " sft 0" else row for row in rows]
    said = {(f"p{i:02}", 0): 1.0 for i in range(5)}
    judges = [*opinions(), Opinion("people", "human", {("ppo", "sft"): said})]
    point = {"mean": 0.1, "low": 0.0, "high": 0.2}
    steps = [{"step": s, "kl": s / 10, "scores": {"reward": point, "vader": point}} for s in (0, 10)]
    training = {"steps": steps, "since_peak": {}}
    result = numbers.summarise(
        rows,
        models("base", "few_shot", "sft", "ppo"),
        judges,
        provenance={"made": "today", "run": {"name": "demo", "data": "film_reviews", "model": "SmolLM2"}},
        training=training,
        curves={"step": [1, 2, 3], "reward": [0.0, 0.4, 0.5], "KL to sft": [0.0, 1.0, 2.0]},
        draws=200,
    )
    said = {"prompt": "Opening", "before": " a", "after": " b", "score_before": 0.0, "score_after": 1.0}
    exports.write(result, rows, judges, folder, Evaluations(0, 10, [said]))
    return folder / "report.html"


@pytest.fixture
def page(chromium: Any, page_path: Path) -> Iterator[Any]:
    """The page, opened offline; whatever the browser complains of or asks for fails the test."""
    context = chromium.new_context(offline=True, accept_downloads=True)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    opened.goto(page_path.as_uri())
    yield opened
    assert complaints == []
    assert {url for url in asked if not url.startswith("blob:")} == {page_path.as_uri()}
    context.close()


def count(page: Any) -> str:
    return page.text_content("#count")


def prompts(page: Any) -> list[str]:
    return page.eval_on_selector_all("#example .prompt", "all => all.map(one => one.textContent)")


def prompt(page: Any) -> str:
    return prompts(page)[0]


def focused(page: Any) -> int:
    """The place, from 1, of the example that has the focus; 0 where none has."""
    return page.evaluate("[...document.querySelectorAll('#example > li')].indexOf(document.activeElement) + 1")


def test_wins_losses_and_random_are_ordered_by_the_judge(page: Any) -> None:
    page.select_option("#judge", "vader")
    assert count(page) == "10 of 40 shown" and prompts(page)[:2] == ["Opening 1", "Opening 3"]
    assert "ppo wins against sft by vader (+0.6)" in page.text_content("#example .note")
    page.select_option("#order", "losses")
    assert prompt(page) == "Opening 0" and "loses" in page.text_content("#example .note")
    page.select_option("#order", "random")
    first = prompt(page)
    page.reload()
    page.select_option("#order", "random")
    assert prompt(page) == first  # random, and the same at every visit


def test_filters_narrow_the_list(page: Any) -> None:
    """Losses to sft by vader: 0, 10, 20, 30, all even and so drama; people judged the first five."""
    page.select_option("#judge", "vader")
    page.select_option("#outcome", "loss")
    assert count(page) == "4 of 4 shown"
    page.select_option("#slice", "tag: comedy")
    assert count(page) == "nothing fits these filters" and page.text_content("#example") == ""
    page.select_option("#outcome", "")
    assert count(page) == "10 of 20 shown"
    page.select_option("#slice", "")
    page.fill("#search", "ppo 17")
    assert count(page) == "1 of 1 shown" and prompt(page) == "Opening 17"
    page.fill("#search", "")
    page.select_option("#judge", "people")
    page.select_option("#outcome", "unjudged")
    assert count(page) == "10 of 35 shown"
    page.select_option("#outcome", "win")
    assert count(page) == "5 of 5 shown"
    # the same pair the other way round
    page.select_option("#left", "sft")
    page.select_option("#right", "ppo")
    page.select_option("#outcome", "loss")
    assert count(page) == "5 of 5 shown"


def test_the_list_grows_until_all_are_shown(page: Any) -> None:
    for shown in (20, 30, 40):
        page.click("#more")
        assert count(page) == f"{shown} of 40 shown" and len(set(prompts(page))) == shown
    assert not page.is_visible("#more")
    page.fill("#search", "ppo 17")
    assert count(page) == "1 of 1 shown" and not page.is_visible("#more")


def test_keys_walk_and_search(page: Any) -> None:
    for key, expected in [("j", 1), ("ArrowRight", 2), ("j", 3), ("k", 2), ("ArrowLeft", 1), ("k", 1)]:
        page.keyboard.press(key)
        assert focused(page) == expected
    for _ in range(11):
        page.keyboard.press("j")
    assert focused(page) == 12 and count(page) == "20 of 40 shown"  # the list grows on the way
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("ppo jk/")  # letters in a field are text
    assert page.input_value("#search") == "ppo jk/" and count(page) == "nothing fits these filters"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body") and page.input_value("#search") == "ppo jk/"


def test_letter_keys_can_be_turned_off(page: Any) -> None:
    """WCAG 2.1.4: j, k and / then do nothing, arrows still walk; the choice lasts as long as the page."""
    page.uncheck("#keys")
    for key, expected in [("j", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("k", 2), ("/", 2), ("ArrowLeft", 1)]:
        page.keyboard.press(key)
        assert focused(page) == expected
    assert page.evaluate("document.activeElement.id") != "search"
    page.check("#keys")
    page.keyboard.press("j")
    assert focused(page) == 2
    page.uncheck("#keys")
    page.reload()
    assert page.is_checked("#keys") and page.evaluate("localStorage.length") == 0


def test_words_that_differ_are_marked_and_text_stays_text(page: Any) -> None:
    """sft wrote "<b>bold</b> sft 0" and ppo " ppo 0": the 0 is common, all else differs."""
    page.select_option("#judge", "vader")
    page.select_option("#order", "losses")
    assert page.text_content("#example .entry .right .text") == "<b>bold</b> sft 0"
    assert page.query_selector("#example b") is None
    page.fill("#search", "<b>")
    assert page.eval_on_selector_all("#example del", "all => all.map(one => one.textContent)") == ["<b>bold</b>", "sft"]
    assert page.eval_on_selector_all("#example ins", "all => all.map(one => one.textContent)") == ["ppo"]
    page.uncheck("#diff")
    assert page.query_selector("#example ins") is None
    page.check("#all")
    assert page.eval_on_selector_all("#example h3", "all => all.map(one => one.textContent)") == [
        "ppo",
        "sft",
        "base",
        "few_shot",
    ]


def test_downloads_are_the_files(page: Any, page_path: Path) -> None:
    for name in ("report.json", "report.csv"):
        with page.expect_download() as started:
            page.click(f"button[data-file='{name}']")
        text = Path(started.value.path()).read_text("utf-8")
        kept = page_path.with_name(name).read_text("utf-8")
        assert started.value.suggested_filename == name
        assert json.loads(text) == json.loads(kept) if name.endswith("json") else text == kept


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_and_nothing_overflows(chromium: Any, page_path: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.goto(page_path.as_uri())
    for summary in opened.query_selector_all("summary"):
        summary.click()
    opened.check("#all")
    found = Axe().run(opened).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (400, 800)])
def test_the_first_screen_has_all_that_a_colleague_needs(
    chromium: Any, page_path: Path, width: int, height: int
) -> None:
    """Run, answer, bars, example and warnings without scrolling."""
    opened = chromium.new_page(viewport={"width": width, "height": height})
    opened.goto(page_path.as_uri())
    for what in (".where a", ".answer", ".bars li:last-child", ".badges", ".shown .note a"):
        assert opened.locator(what).first.bounding_box()["y"] + 10 < height, what
    assert opened.text_content(".answer") == "Cannot tell. Not every judge finds it better than its fine-tuned start."
    assert opened.locator(".bars li").count() == 3
    opened.click(".shown .note a")
    assert opened.evaluate("document.querySelector('#examples').getBoundingClientRect().top") < height
    opened.close()


def test_the_main_model_stays_in_sight_on_a_phone(chromium: Any, page_path: Path) -> None:
    opened = chromium.new_page(viewport={"width": 400, "height": 800})
    opened.goto(page_path.as_uri())
    heads = ".models thead th"
    at = "all => all.map(one => Math.round(one.getBoundingClientRect().left))"
    before = opened.eval_on_selector_all(heads, at)
    assert opened.text_content(heads) == "ppo"
    opened.eval_on_selector(".wide:has(.models)", "one => { one.scrollLeft = 1000 }")
    after = opened.eval_on_selector_all(heads, at)
    assert after[0] == before[0] and after[1] < before[1]
    opened.close()


def test_a_foreign_script_cannot_run(chromium: Any, page_path: Path, tmp_path: Path) -> None:
    """The policy holds even if a text did become markup."""
    text = page_path.read_text("utf-8").replace("<main>", "<main><script>window.hacked = 1</script>", 1)
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(text, encoding="utf-8")
    opened = chromium.new_page()
    opened.goto(spoilt.as_uri())
    assert opened.evaluate("window.hacked") is None and count(opened) == "10 of 40 shown"
    opened.close()
