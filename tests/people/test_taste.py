"""Does a simulated person rank by its taste, ties too, and is what a round gained counted on the same texts for all?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny

from data.schema import Prompt
from pipeline.artifacts.run import Run
from pipeline.people import taste
from pipeline.people.store import new_item, open_store
from pipeline.settings.recipe import load

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


def longer(prompts: Any, texts: Any) -> torch.Tensor:
    """The taste: longer is better."""
    return torch.tensor([float(len(text)) for text in texts])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(taste, "scores", lambda config, run, device: longer)
    (tmp_path / "demo").mkdir()
    return Run("demo", tmp_path)


def test_the_queue_is_put_in_the_order_of_the_taste_with_its_ties_and_no_item_twice(run: Run) -> None:
    store = open_store(run)
    answers = [("aa", "ppo"), ("aaaa", "ppo"), ("bb", "sft"), ("c", "sft")]
    store.add_items([new_item("one", answers), new_item("two", answers[::-1]), new_item("p", answers, "practice")])
    ranked = store.items()[1]
    body = {"item": ranked.id, "tiers": [["c0"]], "unranked": ["c1", "c2", "c3"], "all_bad": False, "note": ""}
    store.add("hers", "Anna", "ranking", body | {"seconds": 1, "shown": ["c0", "c1", "c2", "c3"], "repeat": 0})
    assert taste.answer_queue(load(RECIPE), run) == 1, "neither what Anna has ranked, nor practice"
    (event,) = store.events(person=taste.NAME)
    assert event.body["tiers"] == [["c1"], ["c0", "c2"], ["c3"]] and event.body["unranked"] == []
    assert taste.answer_queue(load(RECIPE), run) == 0


class Judge:
    """A reward model that is of the taste, or against it."""

    def __init__(self, sign: float):
        self.sign = sign

    def raw(self, prompts: Any, texts: Any) -> torch.Tensor:
        return self.sign * longer(prompts, texts)


def test_reward_models_are_held_against_the_taste_on_the_answers_of_all_policies(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first run sft and ppo, of later ones ppo: what each says is scored by the taste, and every reward model judges all of it."""
    after = Run("demo-round-1", tmp_path)
    for folder in (run.folder("sft"), run.folder("ppo"), after.folder("ppo")):
        save_tiny(folder)
    monkeypatch.setattr(Run, "require", lambda self, stage, **how: None)
    monkeypatch.setattr(
        taste, "prompts", lambda run, side: [Prompt(f"p{n}", "ab"[: n % 2 + 1], f"x:{n}") for n in range(6)]
    )
    monkeypatch.setattr(taste, "load_scorer", lambda folder, *how: Judge(1.0 if "round" in str(folder) else -1.0))
    found = taste.gains(load(RECIPE, ["ppo.response_length=12"]), [run, after], 4)
    assert found["prompts"] == 4 and [one["model"] for one in found["policies"]] == [
        "demo/sft",
        "demo/ppo",
        "demo-round-1/ppo",
    ]
    assert [(one["run"], one["pairwise_accuracy"]) for one in found["rewards"]] == [
        ("demo", 0.0),
        ("demo-round-1", 1.0),
    ]
    assert len({one["pairs"] for one in found["rewards"]}) == 1, "the same pairs"
    means = [one["score"]["mean"] for one in found["policies"]]
    assert means[0] == means[1] == means[2] > 0, "one model under three names, with the same noise"
