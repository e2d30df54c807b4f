"""Does the room that watches work in a real browser while a run is written: curves that grow, limits, keys, a report that is sealed off?

Chromium is the system's (apt install chromium), driven by playwright; axe-core is the accessibility checker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from rooms import served
from watched import attempt, compared, row, sample, stage, text

from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.web import runs_now
from pipeline.web.asking import State

pytestmark = pytest.mark.slow
SMOKE = str(Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml")
EVIL = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run demo up to reward; other, which is compared; whoever a lock names is at work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs_now, "at_work", lambda partial: "somebody")
    config = load(SMOKE)
    for run in (Run("other", call=Call(SMOKE, "other")), Run("demo", call=Call(SMOKE, "demo"))):
        for name in ("data", "sft", "reward"):
            stage(run, name, config=config)
    stage(Run("other"), "ppo", {"metrics.jsonl": text([row(1), row(2), row(3)])}, config=config)
    compared(Run("other"), f"Yes. Preferred {EVIL}")
    return Run("demo", call=Call(SMOKE, "demo"))


@pytest.fixture
def address(run: Run) -> Iterator[str]:
    with served(State(run, token="t" * 40)) as there:
        yield there


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The room, opened; whatever the browser complains of, or asks of anybody else, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened, complaints, asked = context.new_page(), list[str](), list[str]()
    opened.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    opened.goto(f"{address}/?token={'t' * 40}")
    yield opened
    complaints = [one for one in complaints if "net::ERR_FAILED" not in one]  # of a test that cuts the line
    assert complaints == [] and all(url.startswith((address, "data:")) for url in asked)
    context.close()


def named(page: Any, name: str) -> Any:
    return page.locator(".plot", has=page.locator(f'.name:text-is("{name}")'))


def test_curves_grow_while_the_page_is_open(page: Any, run: Run) -> None:
    page.wait_for_selector("text=Not compared yet.")
    partial = attempt(Run("demo"), "ppo", load(SMOKE))
    log = partial / "metrics.jsonl"
    log.write_text(text([row(1)]))
    (partial / "samples.jsonl").write_text(text([sample(0, "a", EVIL, 1.0)]))
    page.wait_for_selector("text=step 1 of 4", timeout=10_000)  # nobody reloads
    page.wait_for_selector('.plot:visible .name:text-is("KL to sft")')
    with log.open("a") as file:
        file.write(text([row(2, **{"objective/kl": 20.0}), row(3, **{"objective/kl": 24.0})]))
    page.wait_for_selector("text=step 3 of 4", timeout=10_000)
    kl = named(page, "KL to sft")
    assert kl.locator("circle").count() == 3 and "halts above 25" in kl.locator("text.limit").text_content()
    assert kl.locator("line.limit:not(.far)").count() == 1, "the limit is near: a line within the scale"
    assert named(page, "length").locator("line.limit.far").count() == 1
    kl.locator(".area").focus()
    page.keyboard.press("Home")
    assert "step 1: ppo 1" in kl.locator("[role=status]").text_content()
    page.keyboard.press("ArrowRight")
    assert "20" in kl.locator(".reading").text_content()
    with (partial / "samples.jsonl").open("a") as file:
        file.write(text([sample(4, "a", "Friendlier.", 2.5)]))
    page.wait_for_selector("text=Friendlier.", timeout=10_000)
    assert (
        EVIL in page.locator(".pairs .two p.text").first.text_content()
        and "1.5" in page.locator(".pairs .up").text_content()
    )
    stage(Run("demo"), "ppo", {"metrics.jsonl": log.read_text() + text([row(4)])}, config=load(SMOKE))
    (partial / "lock").unlink()
    partial.rmdir()
    page.wait_for_selector("#stage-ppo .badge.pass", timeout=10_000)
    expect(named(page, "reward").locator("circle")).to_have_count(4, timeout=10_000)  # once each over the renaming
    compared(Run("demo"))
    page.wait_for_selector(".verdict.yes >> text=Preferred to the original in 9 of 10 answers.", timeout=10_000)
    assert page.locator(".said-by li").count() == 3 and "ran" not in page.title()


def test_several_seeds_and_runs_in_one_plot(page: Any, run: Run) -> None:
    config = load(SMOKE)
    stage(Run("demo"), "ppo", {"metrics.jsonl": text([row(1), row(2)])}, config=config)
    seed = Run("demo", beside={"ppo": "ppo_seed_1"})
    stage(seed, "ppo", {"metrics.jsonl": text([row(1), row(2)])}, config=config.model_copy(update={"seed": 1}))
    page.locator(".tabs").get_by_text("ppo", exact=True).click()
    page.wait_for_selector(".series >> text=ppo_seed_1", timeout=10_000)
    page.get_by_role("checkbox", name="ppo of other").check()
    for box in page.get_by_role("checkbox").all():
        box.check()
    expect(page.locator(".plot:first-child polyline")).to_have_count(3, timeout=10_000)
    kinds = page.eval_on_selector_all(
        ".plot:first-child polyline",
        "all => all.map(one => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray].join())",
    )
    assert len(set(kinds)) == 3 and len({kind.partition(",")[2] for kind in kinds}) == 3
    page.locator(".numbers summary").click()
    expect(page.locator(".numbers tbody tr")).to_have_count(2 + 2 + 3)
    page.get_by_role("checkbox", name="ppo of other").uncheck()
    expect(page.locator(".plot:first-child polyline")).to_have_count(2, timeout=10_000)


def test_a_report_opens_sealed_off(page: Any, address: str) -> None:
    page.select_option("#run", "other")
    page.wait_for_selector(".verdict.yes")
    assert "<script>" in page.locator(".verdict .big").text_content(), "an answer is text"
    with page.context.expect_page() as opened:
        page.click("text=Read the whole report")
    report = opened.value
    report.wait_for_load_state()
    assert report.title() == "ran", "its own script runs"
    got = report.evaluate(
        f"fetch('{address}/api/runs', {{credentials: 'include'}}).then(a => a.status, e => 'refused')"
    )
    assert got in ("refused", 403) and report.evaluate("self.origin") == "null"
    report.click("text=all of this run")  # of an origin of its own, so that the browser sends no cookie
    report.click("text=On to the page")
    report.wait_for_selector(".walk li")
    assert report.url == f"{address}/runs"
    report.close()


def test_a_server_that_ends_is_told(page: Any, run: Run) -> None:
    page.wait_for_selector(".line.on")
    page.route("**/api/runs/live*", lambda route: route.abort())
    page.evaluate("location.hash = 'other/ppo'")
    page.wait_for_selector(".line.off", timeout=10_000)
    page.unroute("**/api/runs/live*")
    page.wait_for_selector(".line.on", timeout=15_000)
    assert page.locator(".line.off").count() == 0 and page.locator(".walk li").count() > 0


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, run: Run, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    attempt(Run("demo"), "ppo", Config(seed=5)).joinpath("metrics.jsonl").write_text(text([row(1), row(2)]))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("demo", "other"):
        page.select_option("#run", name)
        page.wait_for_selector(".plot:visible", timeout=10_000)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
