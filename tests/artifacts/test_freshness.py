"""Is a stage up to date while what it was made from is the same, and no longer?"""

import ast
from pathlib import Path
from typing import Any

import pytest
from small_stage import make

from pipeline.artifacts.freshness import finished, function_files, parents, section_values
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import siblings, with_seed
from pipeline.graph import STAGES
from pipeline.settings.config import PPO, Compare, Config, Data, Reward
from pipeline.settings.recipe import fields

ROOT = Path(__file__).resolve().parents[2]


def test_finished_while_nothing_changed(run: Run) -> None:
    made = make(run)
    assert finished(run, "data", Config()) == made
    again = Config(force=True)  # going on past a gate changes nothing that is made
    assert finished(run, "data", again) == made
    assert finished(run, "data", Config(reward=Reward(margin=1.0), dtype="float32")) == made  # not what data reads
    assert finished(run, "sft", Config()) is None


def test_what_only_observes_makes_nothing_again(run: Run) -> None:
    """How often state is saved, or a tracker: neither what is published nor what was begun goes, and seeds stay together."""
    for stage in ("data", "sft", "reward", "ppo"):
        made = make(run, stage)
    watched = Config(ppo=PPO(save_steps=1, report_to=["tensorboard"]))
    assert finished(run, "ppo", watched) == made
    seeded, beside = with_seed("ppo", watched, run, 1)
    (working_folder(beside, "ppo", seeded) / "state").write_text("step 5")
    assert (working_folder(beside, "ppo", Config(seed=1)) / "state").read_text() == "step 5"
    make(beside, "ppo", seeded)
    assert [one.folder for one in siblings(run, "ppo")] == ["ppo", "ppo_seed_1"]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"model": "tiny-random"}, {"revision": "x"}, {"data": {"max_length": 99}}]
)
def test_not_finished_when_a_setting_changed(run: Run, change: dict[str, Any]) -> None:
    make(run)
    assert finished(run, "data", Config(**change)) is None


def test_not_finished_when_a_parent_changed(run: Run) -> None:
    make(run)
    made = make(run, "sft")
    assert finished(run, "sft", Config()) == made
    make(run)  # the same contents again, at another time
    assert finished(run, "sft", Config()) == made
    make(run, text="other rows\n")
    assert finished(run, "sft", Config()) is None


@pytest.mark.parametrize("field", ["source", "demonstrations", "prompts"])
@pytest.mark.parametrize("source", ["mine.jsonl", "folder", "folder#train"])
def test_not_finished_when_an_input_file_changed(run: Run, field: str, source: str) -> None:
    path = Path("folder/part.arrow") if "folder" in source else Path(source)
    path.parent.mkdir(exist_ok=True)
    path.write_text("one\n")
    settings: dict[str, Any] = {"source": "mine.jsonl", field: source}
    config = Config(data=Data(**settings))
    made = make(run, config=config)
    assert finished(run, "data", config) == made
    path.write_text("two\n")
    assert finished(run, "data", config) is None


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("data", {"data": {"source": "mine.rows:all"}}),
        ("data", {"data": {"source": "mine.jsonl", "map": "mine.rows:tidy"}}),
        ("data", {"data": {"mixture": [{"source": "a.jsonl"}, {"source": "b.jsonl", "map": "mine.rows:tidy"}]}}),
        ("compare", {"compare": {"judges": ["vader", "mine.rows:score"], "models": ["sft"]}}),
        ("ppo", {"ppo": {"reward_funcs": ["mine.rows:score", "reward"]}}),
        ("best_of_n", {"ppo": {"reward_funcs": ["mine.rows:score"]}}),
    ],
)
def test_a_function_of_the_users_decides_by_its_file(run: Run, stage: str, change: dict[str, Any]) -> None:
    """A change in the module makes the stages stale that call it, and no other; nothing of it runs to find out."""
    module = Path("mine/rows.py")
    module.parent.mkdir()
    module.write_text("raise SystemExit('imported')\n")
    config = Config(**change)
    before = {name: function_files(name, config) for name in STAGES}
    assert before[stage] == [Path.cwd() / module] and not before["sft"]
    for parent in parents(stage, config):
        make(run, parent, config)
    made = make(run, stage, config)
    assert finished(run, stage, config) == made
    module.write_text("raise SystemExit('imported again')\n")
    assert finished(run, stage, config) is None


READERS = {
    "data": ["stages/data"],
    "sft": ["stages/sft"],
    "reward": ["stages/reward"],
    "gold": ["stages/reward", "stages/gold"],
    "ppo": ["stages/ppo", "training/roles"],
    "compare": ["stages/compare", "comparison/contenders", "comparison/answers", "judges/panel"],
    "dpo": ["stages/dpo"],  # of training/baselines.py it takes what reads no settings of ppo
    "rloo": ["stages/rloo", "training/baselines"],
    "rft": ["stages/rft", "training/baselines"],
    "best_of_n": ["stages/best_of_n"],
}


@pytest.mark.parametrize("stage", READERS)
def test_every_setting_that_a_stage_reads_decides_whether_it_is_up_to_date(stage: str) -> None:
    """Else a changed setting would be answered with "up to date". Read off the modules' `config.a.b` by AST."""
    known, used = set(fields()), set()
    for module in READERS[stage]:
        for node in ast.walk(ast.parse((ROOT / "pipeline" / f"{module}.py").read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            parts = text.split(".")
            if parts[0] == "config" and text.replace(".", "").isidentifier() and len(parts) > 1:
                name = ".".join(parts[1:])
                used |= {name} if any(k == name or k.startswith(f"{name}.") for k in known) else set()
    used -= {"force"} | {name for name in used if name in ("data", "sft", "reward", "ppo", "compare") and name != stage}
    assert "seed" in used and len(used) >= 3
    missing = {n for n in used if not any(n == r or n.startswith(f"{r}.") for r in STAGES[stage].reads)}
    assert not missing


@pytest.mark.parametrize(
    ("functions", "stage", "expected"),
    [
        (["reward"], "ppo", ("data", "sft", "reward")),
        (["mine:length"], "ppo", ("data", "sft")),
        (["mine:length"], "compare", ("data", "sft", "ppo")),
        (["mine:length", "reward"], "compare", ("data", "sft", "reward", "ppo")),
        (["mine:length"], "reward", ("data", "sft")),
        (["mine:length"], "rloo", ("data", "sft")),
        (["mine:length", "reward"], "best_of_n", ("data", "sft", "reward")),
        (["reward"], "dpo", ("data", "sft")),
    ],
)
def test_the_reward_stage_is_a_parent_only_where_its_score_is_maximised(
    functions: list[str], stage: str, expected: tuple[str, ...]
) -> None:
    assert parents(stage, Config(ppo=PPO(reward_funcs=functions))) == expected


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["sft"], ("data", "sft", "reward")),
        (["base", "dpo", "rft"], ("data", "sft", "reward", "dpo", "rft")),
        (["best_of_4", "best_of_16", "ppo", "elsewhere/model"], ("data", "sft", "reward", "ppo", "best_of_n")),
    ],
)
def test_of_what_is_compared_only_what_is_named_is_a_parent(models: list[str], expected: tuple[str, ...]) -> None:
    assert parents("compare", Config(compare=Compare(models=models))) == expected


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("dpo", PPO(kl_coef=0.1)),  # DPO's beta, where it has none of its own
        ("rft", PPO(total_episodes=640)),  # how many completions it samples
        ("rloo", PPO(total_episodes=640)),
        ("rloo", PPO(kl_coef=0.1)),
        ("rloo", PPO(missing_eos_score=-2.0)),
        ("best_of_n", PPO(temperature=0.5)),
        ("best_of_n", PPO(response_length=5)),
    ],
)
def test_a_setting_of_ppo_that_a_baseline_takes_decides_too(stage: str, changed: PPO) -> None:
    """Some are read through methods of Config, where the search above does not see them."""
    before, after = (section_values(config, stage) for config in (Config(), Config(ppo=changed)))
    assert before != after
    assert before == section_values(Config(ppo=PPO(vf_coef=0.5)), stage)  # the critic's is none of theirs


def test_another_model_of_a_comparison_is_an_input(run: Run) -> None:
    """A folder that is compared decides what compare makes, as the files of a data source decide what data makes."""
    for stage in ("data", "sft", "reward"):
        make(run, stage)
    folder = Path("theirs")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    config = Config(compare=Compare(models=["sft", "theirs"]))
    made = make(run, "compare", config)
    assert finished(run, "compare", config) == made
    (folder / "model.safetensors").write_bytes(b"2")
    assert finished(run, "compare", config) is None
