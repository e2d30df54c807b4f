"""Are settings that do not go together refused, and do those that do come to the sums that are meant?"""

from pathlib import Path
from typing import Any

import pytest
from recipe_mistakes import told

from pipeline.settings.config import PPO, SFT, Config, ConfigError, Reward
from pipeline.settings.recipe import load


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("reward:\n  loss: plackett_luce\n  label_smoothing: 0.1",
         ["r.yaml:2: reward: label_smoothing and margin belong to loss k_wise"]),
        ("ppo:\n  reward_weights: [1, 2]", ["r.yaml:2: ppo: reward_weights: 2 for 1 reward_funcs"]),
        ("ppo:\n  reward_funcs: [m:f, m:f]", ["r.yaml:2: ppo: reward_funcs: ['m:f', 'm:f'] names one twice"]),
        ("ppo:\n  missing_eos_penalty: 1.0", ["r.yaml:2: ppo: missing_eos_penalty and missing_eos_score exclude"]),
        ("ppo:\n  num_mini_batches: 3", ["r.yaml:2: ppo: num_mini_batches: 3 does not divide batch_size 64; use 2 or 4"]),
        ("ppo:\n  value: shared\n  total_episodes: 100", ["r.yaml:3: ppo: total_episodes: 100 is no multiple of"]),
        ("ppo:\n  num_mini_batches: 5\n  total_episodes: 100",
         ["r.yaml:2: ppo: num_mini_batches: 5 does not divide", "r.yaml:3: ppo: total_episodes: 100 is no multiple"]),
        ("ppo:\n  reward_funcs: [vader]", ["r.yaml:2: compare.judges: vader is what ppo.reward_funcs maximises"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(recipe: Any, text: str, lines: list[str]) -> None:
    found = told(recipe(text))
    assert len(found) == len(lines)
    for got, wanted in zip(found, lines, strict=True):
        assert got.startswith(wanted)


MIXTURE = (
    "data:\n  mixture:\n    - {source: a.jsonl, weight: 2}\n    - source: b.jsonl\n      tag: code\n      weight: 1\n"
)


def test_a_mixture_is_a_list_of_sources(recipe: Any) -> None:
    data = load(recipe(MIXTURE)).data
    assert [(part.source, part.tag, part.weight, part.name) for part in data.parts()] == [
        ("a.jsonl", None, 2.0, "a.jsonl"),
        ("b.jsonl", "code", 1.0, "code: b.jsonl"),
    ]
    assert [part.task for part in data.parts()] == ["a.jsonl", "code"]
    more = load(recipe(MIXTURE), ["data.prompts=p.jsonl", "data.eval_prompts=e.jsonl"]).data
    assert more.sources() == ["a.jsonl", "b.jsonl", "p.jsonl", "e.jsonl"]
    assert not data.embedded() and Config().data.embedded()
    assert load(recipe(MIXTURE)).judges() == [] != Config().judges()


def test_one_source_is_a_mixture_of_one(recipe: Any) -> None:
    data = load(recipe("data:\n  source: a.csv\n  columns: {prompt: q}\n  reverse: true\n  max_rows: 5")).data
    (part,) = data.parts()
    assert (part.source, part.columns, part.reverse, part.max_rows) == ("a.csv", {"prompt": "q"}, True, 5)
    assert (part.tag, part.weight, part.task, part.name) == (None, None, "a.csv", "a.csv")


@pytest.mark.parametrize(
    ("text", "overrides", "lines"),
    [
        (MIXTURE, ["data.source=x.jsonl"], ["data.source=x.jsonl: data: mixture: it stands beside source; keep"]),
        (MIXTURE.replace("      weight: 1\n", ""), [], ["r.yaml:2: data: mixture: some sources have a weight"]),
        (MIXTURE.replace("a.jsonl", "film_reviews"), [], ["r.yaml:2: data: mixture: film_reviews cannot be mixed"]),
        (MIXTURE.replace("      tag: code\n", "").replace("b.", "a."), [],
         ['r.yaml:2: data: mixture: "a.jsonl" stands twice; keep one, or give each its own tag']),
        (MIXTURE + "  format: preference\n  max_rows: 3\n", [],
         ["r.yaml:7: data: format: it belongs to a single source; write it below each of them",
          "r.yaml:8: data: max_rows: it belongs to a single source; write it below each of them"]),
        (MIXTURE.replace("weight: 1", "wieght: 1"), [], ["r.yaml:6: data.mixture.1.wieght: no such setting"]),
        (MIXTURE.replace("weight: 1", "weight: 0"), [], ["r.yaml:6: data.mixture.1.weight: is 0; set it to above 0"]),
        (MIXTURE.replace("tag: code", "tag: ' '"), [], ["r.yaml:5: data.mixture.1.tag: "]),
        ("data:\n  mixture:\n    - tag: code", [], ["r.yaml:3: data.mixture.0.source: is needed too"]),
        ("data:\n  demonstrations: d.jsonl\n  axis: safer", [],
         ["r.yaml:3: data: axis: film_reviews has no use for it; leave it out",
          "r.yaml:2: data: demonstrations: film_reviews has no use for it; leave it out"]),
        ("seed: 1", ["data.eval_prompts=e.jsonl"],
         ["data.eval_prompts=e.jsonl: data: eval_prompts: film_reviews has no use for it; leave it out"]),
        ("data:\n  clean:\n    near_duplicates: 1.5\n    decontaminate: 0\n    too_long: cut", [],
         ["r.yaml:3: data.clean.near_duplicates: ", "r.yaml:4: data.clean.decontaminate: ",
          "r.yaml:5: data.clean.too_long: "]),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_meant(recipe: Any, text: str, overrides: list[str], lines: list[str]) -> None:
    found = told(recipe(text), *overrides)
    assert len(found) == len(lines), found
    for got, wanted in zip(found, lines, strict=True):
        assert got.startswith(wanted), got


def test_cleaning_steps_are_switches(recipe: Any) -> None:
    clean = load(
        recipe("data:\n  clean:\n    html: true\n    near_duplicates: 0.8\n    decontaminate: null")
    ).data.clean
    assert (clean.nfc, clean.html, clean.near_duplicates, clean.decontaminate) == (True, True, 0.8, None)


@pytest.mark.parametrize(
    ("section", "world", "steps"),
    [
        (SFT(batch_size=16, per_device_train_batch_size=8), 1, 2),
        (SFT(batch_size=16, per_device_train_batch_size=8), 2, 1),
        (Reward(batch_size=24, per_device_train_batch_size=2), 3, 4),
    ],
)
def test_batch_arithmetic(section: Any, world: int, steps: int) -> None:
    """micro-batches a process and optimizer step = rows of the step / (processes x rows of a micro-batch), by hand."""
    assert section.accumulation(world) == steps


def test_each_process_takes_its_share_of_a_minibatch() -> None:
    assert PPO(batch_size=64).share(1) == 64
    assert PPO(batch_size=64, num_mini_batches=2).share(2) == 16
    assert PPO(batch_size=12, total_episodes=24).share(3) == 4


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^sft\.batch_size: 16 rows .* by 3 process.* of 8; use 24"):
        SFT(batch_size=16, per_device_train_batch_size=8).accumulation(3)
    with pytest.raises(ConfigError, match=r"^reward\.batch_size: 8 .* use 16"):
        Reward().accumulation(4)
    with pytest.raises(ConfigError, match=r"^ppo\.batch_size: a minibatch of 32 episodes .* 3 process.* use 60 or 66"):
        PPO(num_mini_batches=2).share(3)


def test_models_of_a_comparison_are_told_together(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    lines = told(recipe("compare:\n  models: [sft, sft, best_of_0, gpt2, rlo, org/name]\n"))
    assert [line.partition("models: ")[2] for line in lines] == [
        '"sft" stands twice; keep one',
        '"best_of_0" is no model of this project; did you mean best_of_16?',
        '"gpt2" is no model of this project; write a folder, or a Hub id as owner/name',
        '"rlo" is no model of this project; did you mean rloo?',
    ]
    models = [
        "base",
        "few_shot",
        "sft",
        "ppo",
        "dpo",
        "kto",
        "rloo",
        "rft",
        "best_of_64",
        "org/name",
        str(tmp_path / "mine"),
    ]
    assert load(recipe(f"compare:\n  models: {models}\n")).compare.foreign() == models[-2:]


def test_best_of_n_needs_its_samples(recipe: Any) -> None:
    (line,) = told(recipe("best_of_n:\n  n: 8\ncompare:\n  models: [sft, best_of_4, best_of_16]\n"))
    assert "best_of_16 need 16 samples of a prompt, and best_of_n.n is 8; raise it" in line
    text = "best_of_n:\n  n: 8\ncompare:\n  models: [sft, best_of_4]\n  samples_per_prompt: "
    assert load(recipe(f"{text}2\n")).best_of_n.n == 8
    (line,) = told(recipe(f"{text}3\n"))
    assert "best_of_4 and compare.samples_per_prompt 3 need 12 samples" in line
