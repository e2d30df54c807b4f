"""Do the recipes for published sets parse, and do they read rows of their sets' shape, by the Hub id they name?"""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from data.loading import Loaded, to_rows
from data.reading.options import Options
from data.reading.sources import HUB
from data.schema import Ranking
from pipeline.settings.config import Config
from pipeline.settings.data import Source
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests" / "data" / "forms" / "examples"
# name, config, revision, split; the form of its rows; whether it is streamed
PUBLISHED: dict[str, tuple[tuple[str, str | None, str | None, str], str, bool]] = {
    "hh_rlhf": (("Anthropic/hh-rlhf", None, None, "train"), "hh_rlhf", True),
    "ultrafeedback": (("openbmb/UltraFeedback", None, None, "train"), "ultrafeedback", True),
    "openassistant": (("OpenAssistant/oasst1", None, None, "train"), "openassistant", False),
    "tldr": (("openai/summarize_from_feedback", None, "refs/convert/parquet", "train"), "tldr", True),
    "shp": (("stanfordnlp/SHP", None, None, "train"), "shp", True),
    "pku_saferlhf": (("PKU-Alignment/PKU-SafeRLHF", "default", None, "train"), "pku_saferlhf", True),
    "chinese": (("llamafactory/DPO-En-Zh-20k", "zh", None, "train"), "sharegpt_preference", True),
}


def rows(form: str) -> list[dict[str, Any]]:
    """Rows that we wrote in the shape of a set."""
    return [json.loads(line) for line in (EXAMPLES / f"{form}.jsonl").read_text(encoding="utf-8").splitlines()]


def read(config: Config, monkeypatch: pytest.MonkeyPatch, found: list[dict[str, Any]], asked: dict[str, Any]) -> Loaded:
    """What the recipe's own settings make of `found`, given in place of the Hub's; `asked` is told what the Hub was asked."""

    def load_dataset(path: str, name: str | None, **more: Any) -> list[dict[str, Any]]:
        asked.update(path=path, name=name, **more)
        return found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (part,) = config.data.parts()
    same = {name: getattr(part, name) for name in (*Source.model_fields, "max_rows")}
    return to_rows(part.source, Options(**same))


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_recipe_parses_and_its_batches_go_up(recipe: str) -> None:
    config = load(ROOT / "recipes" / f"{recipe}.yaml")
    assert config.sft.accumulation(1) > 0 and config.reward.accumulation(1) > 0 and config.ppo.share(1) > 0
    assert config.ppo.response_length < config.data.max_length


def test_every_published_set_has_its_test() -> None:
    others = {"arithmetic", "chinese_reviews", "code", "film_reviews", "latex", "own_data", "smoke"}
    found = {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - others
    assert found == PUBLISHED.keys()


@pytest.mark.parametrize("recipe", sorted(PUBLISHED))
def test_rows_of_the_set_are_read(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is asked for the right thing, and rows in its shape are recognised with nothing but the recipe's settings."""
    expected, form, streamed = PUBLISHED[recipe]
    config, asked = load(ROOT / "recipes" / f"{recipe}.yaml"), dict[str, Any]()
    assert HUB.fullmatch(config.data.source)
    loaded = read(config, monkeypatch, rows(form), asked)
    assert (asked["path"], asked["name"], asked["revision"], asked["split"]) == expected
    assert asked["streaming"] is streamed is (config.data.max_rows is not None)
    assert loaded.format == form and loaded.kind == "rankings" and len(loaded.rows) > 1
    assert loaded.account.read == len(rows(form)) and not loaded.account.rejected
    assert all(isinstance(row, Ranking) and len(row.ranking) > 1 for row in loaded.rows)


def best(ranking: Ranking) -> list[str]:
    texts = {one.id: one.text for one in ranking.completions}
    return [texts[name] for name in ranking.ranking[0]]


def test_the_helpful_answer_is_the_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """PKU-SafeRLHF has two judgements. Where they differ, the recipe learns the more helpful answer, and data.axis turns that."""
    row = next(r for r in rows("pku_saferlhf") if r["better_response_id"] != r["safer_response_id"])
    path = ROOT / "recipes" / "pku_saferlhf.yaml"
    for axis, chosen in (("better", row["better_response_id"]), ("safer", row["safer_response_id"])):
        loaded = read(load(path, [f"data.axis={axis}"]), monkeypatch, [row], {})
        assert best(loaded.rows[0]) == [row[f"response_{chosen}"]]
    assert load(path).data.axis == "better"


def test_near_ratings_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """UltraFeedback's overall scores less than half a point apart are one tier; half a point is none."""
    scores = {"Oak.": 8.0, "Ash.": 7.6, "Elm.": 7.5, "No.": 2.0}
    completions = [
        {"response": text, "model": "m", "overall_score": n, "annotations": {}} for text, n in scores.items()
    ]
    row = {"instruction": "Name a tree.", "completions": completions}
    loaded = read(load(ROOT / "recipes" / "ultrafeedback.yaml"), monkeypatch, [row], {})
    assert best(loaded.rows[0]) == ["Oak.", "Ash."] and [len(tier) for tier in loaded.rows[0].ranking] == [2, 1, 1]


@pytest.mark.parametrize("recipe", sorted(PUBLISHED))
def test_figures_name_their_source(recipe: str) -> None:
    """Every recipe says what to compare with, or that there is nothing; a figure's line or the heading names where it stands."""
    text = (ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    figures = text.partition("Published figures to compare with")[2].partition("\nmodel:")[0]
    assert figures and ("none" in figures or any(str(year) in figures for year in range(2020, 2026)))
    assert "max_rows" in text
