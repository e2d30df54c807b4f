"""Does the page from the inside work in a real browser, offline, and do its sliders leave what the policy's own decoding leaves?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from pipeline.artifacts.run import Run
from pipeline.inspect import look, stepping
from pipeline.running import run_stage
from pipeline.settings.recipe import load
from pipeline.settings.sections import Resolved
from policies.decoding import warpers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
EVIL = "<b>bold</b> When the neighbour knocked"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of a tiny run's ppo model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("inside"))
        changes = [f"data.source={ROOT / 'data' / 'smoke.jsonl'}", "ppo.total_episodes=32", "reward.max_steps=2"]
        config = load(ROOT / "recipes" / "smoke.yaml", changes)
        for stage in ("data", "sft", "reward", "ppo"):
            run_stage(stage, config, "made")
        yield look.run(config, Run("made"), EVIL, completion=" smiled. I saw <i>it</i>.").resolve()


@pytest.fixture
def page(chromium: Any, path: Path) -> Iterator[Any]:
    """The page, opened offline; whatever the browser complains of or asks for fails the test."""
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    context.close()


def test_sliders_leave_what_decoding_leaves(page: Any) -> None:
    """Against transformers' own cutting, through policies.decoding, over the whole vocabulary, of which the page holds 40 tokens."""
    generator = torch.Generator().manual_seed(4)
    cases = [(t, k, p, m) for t in (0, 9, 13) for k in (0, 5, 39) for p in (1.0, 0.9, 0.3) for m in (0.0, 0.02, 0.3)]
    whole, part = 0, 0
    for place, top_k, top_p, min_p in cases:
        t = stepping.TEMPERATURES[place]
        logprobs = torch.log_softmax(torch.randn(1, 200, generator=generator), -1)
        best, ids = logprobs.topk(40, -1)
        rest = stepping.of_the_rest(logprobs, ids)[0, place].item()
        how = Resolved(
            do_sample=True, num_beams=1, temperature=t, top_k=top_k, top_p=top_p, min_p=min_p, max_new_tokens=1
        )
        scores = warpers(how)(torch.empty((1, 0), dtype=torch.long), logprobs / t)  # type: ignore[arg-type]
        expected = torch.softmax(scores, -1)[0]
        count = int((expected > 0).sum())
        found = page.evaluate(
            "([a, b, c, d, e, f]) => left(a, b, c, d, e, f)", [best[0].tolist(), rest, t, top_k, top_p, min_p]
        )
        assert len(found["kept"]) == min(count, 40) and found["more"] == (count > 40), (t, top_k, top_p, min_p)
        own = expected[ids[0][: len(found["kept"])]].tolist()
        if found["more"] and (top_p < 1 or min_p):
            part += 1
            assert all(shown <= share * (1 + 1e-6) for shown, share in zip(found["kept"], own, strict=True))
        else:
            whole += 1
            assert found["kept"] == pytest.approx(own, rel=1e-4)
    assert whole > 20 and part > 3


def test_what_is_as_likely_as_the_last_one_stays(page: Any) -> None:
    """Logits in bfloat16 tie: the k-th has equals beyond the tokens that the page holds, and transformers keeps them."""
    logits = (torch.randn(1, 300, generator=torch.Generator().manual_seed(2)) * 4 + 20).bfloat16().float()
    logprobs = torch.log_softmax(logits, -1)
    best, ids = logprobs.topk(40, -1)
    rest = stepping.of_the_rest(logprobs, ids)[0, 9].item()
    tied = int((logprobs == best[:, -1:]).sum() - (best == best[:, -1:]).sum())
    assert tied > 0
    for top_k in (39, 40):
        how = Resolved(
            do_sample=True, num_beams=1, temperature=1.0, top_k=top_k, top_p=1.0, min_p=0.0, max_new_tokens=1
        )
        expected = torch.softmax(warpers(how)(torch.empty((1, 0), dtype=torch.long), logprobs), -1)[0]  # type: ignore[arg-type]
        given = [[round(x, stepping.DIGITS) for x in best[0].tolist()], rest, 1.0, top_k, 1.0, 0.0, tied]
        found = page.evaluate("([a, b, c, d, e, f, g]) => left(a, b, c, d, e, f, g)", given)
        kept = int((expected > 0).sum())
        assert (len(found["kept"]), found["more"]) == (min(kept, 40), kept > 40)
        assert found["kept"] == pytest.approx(expected[ids[0][: len(found["kept"])]].tolist(), rel=1e-4)


def test_texts_stay_texts_and_the_completion_can_be_walked_through(page: Any) -> None:
    assert page.eval_on_selector_all("b", "all => all.filter((one) => one.textContent === 'bold').length") == 0
    assert page.eval_on_selector_all("i", "all => all.length") == 0
    before = page.text_content("#step-at")
    page.press("#step-on", "Enter")
    assert before != page.text_content("#step-at")
    page.fill("#temperature", "1")
    sharp = page.text_content("#step-shares li:first-child small")
    page.fill("#temperature", "20")
    assert sharp != page.text_content("#step-shares li:first-child small")
    page.fill("#top-k", "1")
    assert "1 token is left" in page.text_content("#step-left") and page.locator("#step-shares li").count() == 1


def test_a_pair_of_tokens_shows_query_key_and_their_products(page: Any) -> None:
    data = json.loads(page.text_content("#inside-data"))["heads"]
    page.select_option("#head", "1")
    page.locator("#looks button").nth(4).press("Enter")
    assert page.locator("#seen button:disabled").count() == len(data["tokens"]) - 5
    page.locator("#seen button").nth(1).press("Enter")
    assert page.locator("#neurons svg").count() == 3
    assert page.locator("#neurons svg").first.locator("rect").count() == data["layers"][-1]["width"]
    page.locator("summary", has_text="the maps").click()
    page.locator("button.map").first.press("Enter")
    assert "Layer 1, head 1" in page.text_content("#seen-note")


def test_layers_of_the_map_can_be_chosen(page: Any) -> None:
    places = page.eval_on_selector_all("#land-map circle", "all => all.map((one) => one.getAttribute('cx'))")
    page.fill("#land-layer", "1")
    assert places != page.eval_on_selector_all("#land-map circle", "all => all.map((one) => one.getAttribute('cx'))")
    page.select_option("#land-kind", "tsne")
    assert "own kind" in page.text_content("#land-note")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_and_fits_a_phone(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 700})
    page.locator("#seen button").nth(1).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
