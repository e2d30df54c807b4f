"""Do rounds go on from what people said? Each from the last one's policy, with all that was said so far, and never past what is unranked."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import rounds
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.people.store import new_item, open_store
from pipeline.rounds import Asked, iterate
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load

RECIPE = str(Path(__file__).resolve().parents[1] / "recipes" / "smoke.yaml")


def asked(count: int = 2, *overrides: str, person: str = "") -> Asked:
    return Asked(Call.of(RECIPE, "demo", overrides, asked="iterate"), count, 2, 3, person)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was made, in a place where every stage is there at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    done: list[Any] = []

    def ask(asked: Asked, number: int) -> None:
        run = asked.run(number - 1)
        (run.root / run.name).mkdir(parents=True, exist_ok=True)
        answers = [("good", "ppo"), ("bad", "ppo")]
        open_store(run).add_items([new_item(f"prompt {n} of round {number}", answers) for n in range(3)])
        done.append(("ask", run.name))

    monkeypatch.setattr(rounds, "_ask", ask)
    monkeypatch.setattr(rounds, "_in_a_process", lambda work, *given: work(*given) if work is ask else None)
    monkeypatch.setattr(rounds, "chain", lambda stages, call, config: done.append((call.run, config)))
    monkeypatch.setattr(rounds, "_show", lambda asked, number: done.append(("show", number)))
    monkeypatch.setattr(Run, "require", lambda self, stage, **how: None)
    return done


def rank(name: str, count: int = 3) -> None:
    """A person puts the first answers of so many items first."""
    store = open_store(Run(name))
    for item in store.items()[:count]:
        body = {"item": item.id, "tiers": [["c0"], ["c1"]], "unranked": [], "all_bad": False, "note": "", "seconds": 1}
        store.add(f"e-{item.id}", "Anna", "ranking", body | {"shown": ["c0", "c1"], "repeat": 0})


def test_a_round_asks_and_waits_until_all_is_ranked(made: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    iterate(asked())
    assert made == [("ask", "demo")]
    assert "3 of 3 items are not ranked yet" in capsys.readouterr().out
    rank("demo", 2)
    iterate(asked())
    assert made == [("ask", "demo")] and "1 of 3 items" in capsys.readouterr().out, "nobody is asked twice"


def test_rounds_go_on_from_the_last_policy_with_all_that_was_said(made: list[Any]) -> None:
    iterate(asked())
    rank("demo")
    iterate(asked())
    (_, (name, first), shown, again) = made
    assert (name, shown, again) == ("demo-round-1", ("show", 1), ("ask", "demo-round-1"))
    assert (first.model, first.sft.max_steps) == ("runs/demo/ppo", 0)
    assert first.data.source == "runs/demo/people/rounds/round-1.jsonl"
    assert first.data.prompts == "runs/demo/data/prompts.train.jsonl", "round after round the first run's prompts"
    rank("demo-round-1")
    iterate(asked())
    name, second = made[-2]
    assert name == "demo-round-2" and second.model == "runs/demo-round-1/ppo" and made[-1] == ("show", 2)
    rows = list(read_rows(Path(second.data.source)))
    prompts = [row["prompt"] for row in rows]
    assert sorted(prompts) == sorted(f"prompt {n} of round {number}" for n in range(3) for number in (1, 2))
    assert len({row["id"] for row in rows}) == 6
    assert json.loads(Path("runs/demo/people/rounds/round-1.jsonl").read_text().splitlines()[0])["annotator"] == "Anna"


def test_what_a_round_learned_from_stays_as_it_was(made: list[Any]) -> None:
    """A ranking that comes later belongs to no round that is made: the file is that of the run's manifest."""
    iterate(asked(1))
    rank("demo")
    iterate(asked(1))
    path = Path("runs/demo/people/rounds/round-1.jsonl")
    before = path.read_bytes()
    open_store(Run("demo")).add_items([new_item("late", [("good", "ppo"), ("bad", "ppo")])])
    rank("demo", 4)
    iterate(asked(1))
    assert path.read_bytes() == before


def test_settings_of_the_recipe_hold_in_every_round_but_for_what_a_round_is(made: list[Any]) -> None:
    config = load(RECIPE, asked(1, "ppo.kl_coef=0.5", "sft.max_steps=9", "model=elsewhere").settings(1))
    assert (config.ppo.kl_coef, config.sft.max_steps, config.model) == (0.5, 0, "runs/demo/ppo")


def test_mistakes_are_told(made: list[Any]) -> None:
    with pytest.raises(ConfigError, match="ROUNDS=0"):
        iterate(asked(0))
    iterate(asked(1))
    store = open_store(Run("demo"))
    for item in store.items():
        body = {"item": item.id, "tiers": [["c0", "c1"]], "unranked": [], "all_bad": False, "note": "", "seconds": 1}
        store.add(f"e-{item.id}", "Anna", "ranking", body | {"shown": ["c0", "c1"], "repeat": 0})
    with pytest.raises(ArtifactError, match="nobody put one answer above another"):
        iterate(asked(1))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_rounds_is_made_in_every_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    monkeypatch.chdir(tmp_path)
    share = {"pairwise_accuracy": 0.75, "low": 0.5, "high": 0.875, "pairs": 40}
    score = {"model": "demo/ppo", "score": {"mean": 1.25, "low": 1.0, "high": 1.5}}
    taste = {
        "prompts": 100,
        "policies": [score],
        "rewards": [{"run": "demo", **share}, {"run": "demo-round-1", **share}],
    }
    taste |= {"shown": [{"prompt": "The film", "said": {"demo/ppo": "is good."}}]}
    path = tmp_path / "runs" / "demo" / "people" / "rounds" / "rounds.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(taste))
    known = {"name": "demo", "rankings": 3, "people": 1, "accuracy": 0.7, "pairs": 40, "score": 0.5, "kl": 3.0}
    known |= {"length": 12.0, "gates": {"ppo": "warn"}}
    monkeypatch.setattr(rounds, "_in_a_process", lambda work, *given: None)
    monkeypatch.setattr(rounds, "_figures", lambda asked, number: known | {"number": number})
    rounds._show(asked(1, f"report.language={language}", person="runs/taste/reward"), 1)
    english, chinese = ((tmp_path / "runs" / "demo" / name).read_text() for name in ("rounds.html", "rounds.zh.html"))
    assert "75.0% of held-out pairs" in english and "of 40 pairs" in english and "ppo warn" in english
    assert 'lang="zh-CN"' in chinese and "有 75.0% 的留出对与隐藏喜好的次序一致" in chinese and "ppo 警告" in chinese
    assert ("rounds.zh.html" in capsys.readouterr().out) == (language == "zh")
