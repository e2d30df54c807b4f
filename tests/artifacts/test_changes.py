"""Is it said, before anything starts, which finished results a command replaces, and for what reason?"""

from pathlib import Path
from typing import Any

import pytest
from resealed import changed
from small_stage import make

from pipeline.artifacts.changes import announcement
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.graph import WALK
from pipeline.running import due
from pipeline.settings.config import PPO, Compare, Config, Data

KEPT = "; what was there is kept in runs/demo/.kept"


def coefficient(value: float, **more: Any) -> Config:
    return Config(ppo=PPO(kl_coef=value, **more))


@pytest.fixture
def whole(run: Run) -> Run:
    """All stages of the walk, made with kl_coef 0.1."""
    for stage in WALK:
        make(run, stage, coefficient(0.1))
    return run


def told(run: Run, config: Config, *stages: str, **more: Any) -> str | None:
    return announcement([(stage, config, run) for stage in stages or WALK], **more)


def test_the_setting_and_all_that_follows(whole: Run) -> None:
    assert told(whole, coefficient(0.05)) == f"ppo.kl_coef 0.1 → 0.05: ppo and compare are made again{KEPT}"
    assert told(whole, coefficient(0.1)) is None
    assert told(whole, coefficient(0.1, save_steps=1)) is None
    assert told(Run("new"), coefficient(0.1)) is None  # nothing is replaced there


def test_one_stage_alone_says_what_no_longer_fits(whole: Run) -> None:
    assert (
        told(whole, coefficient(0.05), "ppo")
        == f"ppo.kl_coef 0.1 → 0.05: ppo is made again{KEPT}, and compare still belongs to it"
    )
    sft = told(whole, coefficient(0.1).model_copy(update={"dtype": "bfloat16"}), "sft")
    assert sft == f"dtype auto → bfloat16: sft is made again{KEPT}, and compare, ppo and reward still belong to it"


def test_several_settings_are_named_and_many_counted(whole: Run) -> None:
    config = Config(seed=3, data=Data(max_length=99, eval_fraction=0.2, skip_bad=True), ppo=PPO(kl_coef=0.05))
    made = {"recipe": "recipes/other.yaml"}
    assert told(whole, config, command=made) == (
        "seed 0 → 3, data.skip_bad false → true, data.eval_fraction 0.1 → 0.2, data.max_length 512 → 99 and 1 more setting: "
        f"data, sft, reward, ppo and compare are made again{KEPT}"
    )


def test_another_recipe_is_named(run: Run) -> None:
    make(run)
    changed(Path("runs/demo/data"), command={"recipe": "recipes/a.yaml", "overrides": []})
    other = {"recipe": "recipes/b.yaml"}
    assert told(run, Config(seed=1), "data", command=other) == (
        f"recipe recipes/a.yaml → recipes/b.yaml and seed 0 → 1: data is made again{KEPT}"
    )
    assert told(run, Config(), "data", command=other) is None


def test_a_parent_that_was_made_again_meanwhile_is_the_reason(whole: Run) -> None:
    make(whole, "reward", text="another\n")
    assert told(whole, coefficient(0.1), "ppo") == (
        f"reward is not the one that ppo was made of: ppo is made again{KEPT}, and compare still belongs to it"
    )


def test_a_model_that_is_no_longer_compared_is_no_reason_of_its_own(whole: Run) -> None:
    config = coefficient(0.1).model_copy(update={"compare": Compare(models=["base", "sft"])})
    told_of = told(whole, config)
    assert told_of is not None and told_of.startswith("compare.models [base, few_shot, sft, ppo] → [base, sft]")


def test_a_file_that_changed_is_the_reason(run: Run) -> None:
    Path("mine.jsonl").write_text("{}\n")
    config = Config(data=Data(source="mine.jsonl"))
    make(run, config=config)
    Path("mine.jsonl").write_text("{} \n")
    assert told(run, config, "data") == f"what data reads has changed (mine.jsonl): data is made again{KEPT}"
    Path("mine.jsonl").write_text("{}\n")
    Path("runs/demo/data/rows.jsonl").unlink()
    assert told(run, config, "data") == f"runs/demo/data is not whole: data is made again{KEPT}"


def test_what_comes_back_is_not_said_to_be_made_again(whole: Run) -> None:
    for stage in ("ppo", "compare"):
        make(whole, stage, coefficient(0.05))
    assert told(whole, coefficient(0.1), "ppo") is None
    assert not due("ppo", coefficient(0.1), whole) and told(whole, coefficient(0.1)) is None


def test_models_of_further_seeds_are_named(whole: Run) -> None:
    steps = [("ppo", *with_seed("ppo", coefficient(0.1), whole, further)) for further in range(3)]
    make(steps[1][2], "ppo", steps[1][1])
    steps = [("ppo", *with_seed("ppo", coefficient(0.05), whole, further)) for further in range(3)]
    said = announcement(steps)
    assert said is not None and ": ppo and ppo_seed_1 are made again" in said  # the third is made for the first time
