"""Does the reward model's page say what its numbers are, and does it show text as text?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import Page

from data.schema import Completion, Ranking
from pipeline.pages.drawing import ACCENT, draw
from pipeline.report import reward_model as reward_page
from reward.metrics import calibration_error


def ranking(name: str, ratings: list[list[float]], source: str = "a.jsonl:1", tag: str | None = None) -> Ranking:
    """Completions c0, c1, … ordered by mean rating, no ties."""
    completions = tuple(Completion(f"c{i}", f"text {name} {i}", None, tuple(own)) for i, own in enumerate(ratings))
    order = sorted(completions, key=lambda c: -(c.rating or 0))
    return Ranking(name, f"prompt {name}", completions, tuple((c.id,) for c in order), source, None, tag)


# Two rankings of three and two, and eleven alike.
HELD_OUT = [
    ranking("r0", [[3, 3], [1, 3], [0, 0]], "a.jsonl:1"),
    ranking("r1", [[-1, -1], [2, 2]], "a.jsonl:2", "jokes"),
    *(ranking(f"r{i}", [[1, 1], [0, 0]], f"b.jsonl:{i}") for i in range(2, 13)),
]
SCORED: list[dict[str, Any]] = [
    {"scores": [2.0, 1.0, 3.0], "lengths": [5.0, 4.0, 4.0]},
    {"scores": [0.0, 1.0], "lengths": [9.0, 2.0]},
    *({"scores": [1.0, 0.0], "lengths": [3.0, 3.0]} for _ in range(2, 13)),
]


def detail() -> dict[str, Any]:
    ranks = [r.ranks() for r in HELD_OUT]
    return {"held_out": SCORED, "calibration": calibration_error([s["scores"] for s in SCORED], ranks)}


def written(folder: Path, held_out: list[Ranking] | None = None, **provenance: str) -> tuple[dict[str, Any], str]:
    rows = [{"step": 5, "loss": 0.7, "accuracy": 0.5}, {"step": 10, "loss": 0.6, "accuracy": 0.75}, {"train_loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = reward_page.write(folder, held_out or HELD_OUT, detail(), provenance)
    return numbers, (folder / "report.html").read_text(encoding="utf-8")


def test_numbers_are_those_of_pencil_and_paper() -> None:
    """Pairs: r0 (0,1) right, (0,2) wrong, (1,2) wrong; r1 right; eleven right: 13 of 15.

    Longer: (0,1) yes, (0,2) yes, (1,2) equal, r1 no, eleven equal: (2 + ½·12) / 15 = 8/15, so longer wins. One person: (0,1): 3 3
    against 1 3: of four two above and two equal: ¾; (0,2) 1; (1,2) 1; the others 1: 14.75/15.
    Brier: margins 1, -1, -2, 1 and eleven times 1: with σ(1) = .731059, σ(2) = .880797:
    (13·.268941² + .731059² + .880797²) / 15 = (.940281 + .534447 + .775803) / 15 = .150035.
    """
    found = reward_page.summarise(HELD_OUT, SCORED, [])
    overall = found["overall"]
    assert overall["mean"] == pytest.approx(13 / 15) and (overall["pairs"], overall["groups"]) == (15, 13)
    assert overall["length_only"] == pytest.approx(8 / 15) and overall["human"] == pytest.approx(14.75 / 15)
    assert found["brier"] == pytest.approx(0.150035, abs=1e-6)
    assert overall["low"] < 13 / 15 < overall["high"]
    assert (
        found["margins"]["edges"][0] <= -2 and 0.0 in found["margins"]["edges"] and sum(found["margins"]["pairs"]) == 15
    )
    below = [n for n, edge in zip(found["margins"]["pairs"], found["margins"]["edges"], strict=False) if edge < -1e-9]
    assert sum(below) == 2
    # best tiers: 2, 1, 1 × 11; worst: 3, 0, 0 × 11
    assert found["scores"]["chosen_mean"] == pytest.approx(14 / 13)
    assert found["scores"]["rejected_mean"] == pytest.approx(3 / 13)
    assert sum(found["scores"]["chosen"]) == sum(found["scores"]["rejected"]) == 13


def test_slices_are_by_what_people_said_and_by_length() -> None:
    """Gaps: r0 1, 3, 2; r1 3; eleven of 1. Twelve of 15 pairs have gap 1, so the lower quintiles fall together."""
    slices = reward_page.summarise(HELD_OUT, SCORED, [])["slices"]
    gaps = slices["rating gap"]
    assert {name: own["pairs"] for name, own in gaps.items()} == {"1.00": 12, "2.00 to 3.00": 3}
    assert gaps["2.00 to 3.00"]["mean"] == pytest.approx(1 / 3) and gaps["2.00 to 3.00"]["low"] is None
    assert {name: own["pairs"] for name, own in slices["which is longer"].items()} == {
        "the better one": 2,
        "neither": 12,
        "the worse one": 1,
    }
    assert {name: own["pairs"] for name, own in slices["tag or source"].items()} == {
        "b.jsonl": 11,
        "a.jsonl": 3,
        "jokes": 1,
    }
    for found in slices.values():
        assert sum(own["pairs"] for own in found.values()) == 15
        right = sum(own["mean"] * own["pairs"] for own in found.values())
        assert right == pytest.approx(13)


def test_without_ratings_the_places_apart_are_the_gap_and_nobody_is_a_ceiling() -> None:
    bare = [
        Ranking(r.id, r.prompt, tuple(Completion(c.id, c.text) for c in r.completions), r.ranking, r.source)
        for r in HELD_OUT
    ]
    found = reward_page.summarise(bare, SCORED, [])
    assert {name: own["pairs"] for name, own in found["slices"]["places apart"].items()} == {"1": 14, "2": 1}
    assert found["overall"]["human"] is None and "one person" not in reward_page.verdict(found["overall"])
    single = [ranking(r.id, [[c.rating or 0.0] for c in r.completions]) for r in HELD_OUT]
    assert reward_page.summarise(single, SCORED, [])["overall"]["human"] is None  # one rater agrees with himself


def test_many_sources_are_a_dozen_and_the_rest() -> None:
    many = [ranking(f"r{i}", [[1, 1], [0, 0]], f"file{i}:1") for i in range(20)]
    scored = [{"scores": [1.0, 0.0], "lengths": [1.0, 1.0]}] * 20
    found = reward_page.summarise(many, scored, [])["slices"]["tag or source"]
    assert len(found) == 13 and found["all others"]["pairs"] == 8


def test_mistakes_are_the_surest_first() -> None:
    """Margins -2 (0 under 2) and -1 (0 under 1 … r0's 2.0 against 3.0): σ(2) = .8808, σ(1) = .7311."""
    found = reward_page.summarise(HELD_OUT, SCORED, [])["mistakes"]
    assert [round(m["confidence"], 4) for m in found] == [0.8808, 0.7311]
    assert (found[0]["better"]["text"], found[0]["worse"]["text"]) == ("text r0 1", "text r0 2")
    assert (found[0]["better"]["score"], found[0]["worse"]["score"], found[0]["better"]["rating"]) == (1.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "said", "unsaid"),
    [
        (0.7, 0.9, "(95% interval 70.0 to 90.0%)", "coin"),
        (0.45, 0.9, "not shown to be more than a coin does", "nothing"),
        (None, None, "nothing can be concluded", "interval 7"),
    ],
)
def test_the_verdict_claims_what_the_interval_allows(
    low: float | None, high: float | None, said: str, unsaid: str
) -> None:
    own = {"mean": 0.8, "low": low, "high": high, "pairs": 1200, "groups": 300, "length_only": 0.6, "human": 0.9}
    sentence = reward_page.verdict(own)
    assert said in sentence and unsaid not in sentence
    assert "1,200 held-out pairs of 300 rankings" in sentence and "one person 90.0%" in sentence


def test_slices_of_equal_values_are_never_parted() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 7, 500).astype(float)
    slices = reward_page.by_quantile(values, 5, "{:.0f}")
    whole = np.stack(list(slices.values()))
    assert (whole.sum(0) == 1).all()
    for value in np.unique(values):
        assert sum(which[values == value].any() for which in slices.values()) == 1
    assert list(reward_page.by_quantile(np.ones(4), 5, "{:.0f}")) == ["1"]


EVIL = '<script>alert(1)</script><img src=http://x.example/y>$\\frac{1}{0}$ "&\u202e\x00'


def test_the_page_holds_text_as_text_and_fetches_nothing(tmp_path: Path) -> None:
    spoilt = ranking("r0", [[3, 3], [1, 3], [0, 0]], EVIL, EVIL)
    texts = tuple(Completion(c.id, EVIL, None, c.ratings) for c in spoilt.completions)
    spoilt = Ranking(EVIL, EVIL, texts, spoilt.ranking, EVIL, None, EVIL)
    _, page = written(tmp_path, [spoilt, *HELD_OUT[1:]], base=EVIL)
    seen = Page(page)
    assert "script" not in seen.tags and "img" not in seen.tags and seen.fetched == []
    assert seen.text.count("<script>alert(1)</script>") >= 4 and "\u202e" not in page and "\x00" not in page
    assert len(seen.ids) == len(set(seen.ids)) > 20
    assert seen.tags.count("svg") > 4 and seen.tags.count("details") == 4
    assert len(page) < 500_000


def test_the_page_and_its_numbers_are_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = written(tmp_path / "a", base="sft"), written(tmp_path / "b", base="sft")
    assert first == second
    assert json.loads(json.dumps(first[0], allow_nan=False)) == first[0]
    assert first[0]["training"] == [
        {"step": 5, "loss": 0.7, "accuracy": 0.5},
        {"step": 10, "loss": 0.6, "accuracy": 0.75},
    ]
    shown = Page(first[1]).text
    assert "86.7%" in shown and "Brier score 0.150" in shown and "text r0 2" in shown


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    with pytest.raises(ValueError, match="evaluation.training"):
        reward_page.write(tmp_path, HELD_OUT, detail(), {})
    assert not (tmp_path / "report.html").exists()


def test_drawings_have_the_colours_of_the_page_and_names_of_their_own() -> None:
    one = draw("one", 'a "label" <', lambda axes: axes.plot([1, 2], [3, 4], color=ACCENT, label="$x$"))
    assert one.startswith('<svg viewBox="') and 'aria-label="a &#34;label&#34; &lt;"' in one
    assert "var(--accent)" in one and ACCENT not in one and "<style" not in one
    assert all(name.startswith("one-") for name in Page(one).ids)
    assert one == draw("one", 'a "label" <', lambda axes: axes.plot([1, 2], [3, 4], color=ACCENT, label="$x$"))
