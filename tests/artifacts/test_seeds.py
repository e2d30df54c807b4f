"""Is what stage gold learns from really set aside, and are training seeds made, found and kept apart?"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from resealed import changed, refilled
from transformers import AutoModelForSequenceClassification

import pipeline.stages.ppo
from data.refining import split
from data.schema import Ranking, prompt_key
from pipeline import ranks, running
from pipeline.artifacts import lineage, seeds
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows, sha256
from pipeline.artifacts.freshness import inputs_of, read_by
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.comparison.pairing import Opinion
from pipeline.judges import panel
from pipeline.report import exports, numbers
from pipeline.running import run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",
    "data.gold_fraction=0.5",
    "sft.max_steps=4",
    "reward.max_steps=4",
    "reward.normalise_samples=8",
    "ppo.total_episodes=32",
    "ppo.batch_size=16",
    "ppo.response_length=8",
    "ppo.eval_steps=1",
    "ppo.save_steps=1",
    "ppo.learning_rate=1e-2",
    "compare.models=[sft, ppo]",
    "compare.prompts=8",
    "compare.perplexity_rows=4",
]


class Stop(Exception):
    """An interruption."""


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """runs/whole: all stages with a gold model and three seeds of ppo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("seeds"))
        for stage in ("data", "sft", "reward", "gold", "ppo"):
            run_stage(stage, settings(), "whole")
        for further in (1, 2):
            run_stage("ppo", settings(), "whole", further=further)
        run_stage("compare", settings(), "whole")
        yield Path("runs/whole")


def again(name: str, *stages: str) -> Path:
    """A run that has only some stages of the whole one."""
    for stage in stages:
        shutil.copytree(Path("runs/whole") / stage, Path("runs") / name / stage)
    return Path("runs") / name


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare" / "report.json").read_text())  # type: ignore[no-any-return]


# Rankings for the gold model


def ranking(name: str, prompt: str, tag: str | None = None) -> Ranking:
    ranked = {"id": name, "prompt": prompt, "source": "s", "completions": [], "ranking": [["a"], ["b"]]}
    ranked["completions"] = [{"id": "a", "text": " yes"}, {"id": "b", "text": " no"}]
    return Ranking.from_json(ranked | ({} if tag is None else {"tag": tag}))


def test_whole_prompts_are_set_aside_in_each_task() -> None:
    """Task x has 10 prompts of 3 rankings and y 20 of one, so half is 15 and 10; 15 is 5 prompts of 3. Order stays."""
    rows = [ranking(f"x{p}.{n}", f"Prompt number {p} of the first task", "x") for n in range(3) for p in range(10)]
    rows += [ranking(f"y{p}", f"Something else is asked, {p * 7919}", "y") for p in range(20)]
    kept, aside = split.set_aside(rows, None, 0.5, seed=3)
    assert [sum(row.tag == tag for row in aside) for tag in "xy"] == [15, 10]
    assert not {row.prompt for row in kept} & {row.prompt for row in aside}
    assert [row for row in rows if row in kept] == kept and [row for row in rows if row in aside] == aside
    assert len(kept) + len(aside) == len(rows)
    assert split.set_aside(rows, None, 0.5, seed=3) == (kept, aside) != split.set_aside(rows, None, 0.5, seed=4)


def test_prompts_that_are_alike_stay_together() -> None:
    long = (
        "the quick brown fox jumps over the lazy dog while nobody at all is watching from the old wooden fence number"
    )
    rows = [ranking(f"{i}", f"{long} {i % 2}") for i in range(4)]
    rows += [ranking(f"o{i}", f"{i} entirely other words {i * 31} here, {i * i} times") for i in range(4)]
    for seed in range(5):
        kept, aside = split.set_aside(rows, 0.8, 0.5, seed)
        assert len({row in aside for row in rows[:4]}) == 1 and kept and aside


def test_what_is_set_aside_is_missing_from_the_reward_stage_alone(walk: Path) -> None:
    """Beside the same data without gold_fraction: the two files are a partition by prompt of what was one; all else is equal."""
    run_stage("data", settings("data.gold_fraction=0"), "undivided")
    before = Path("runs/undivided/data")
    assert not (before / "rankings.gold.jsonl").exists()
    whole, kept, aside = (
        read_rows(folder / f"rankings.{side}.jsonl")
        for folder, side in ((before, "train"), (walk / "data", "train"), (walk / "data", "gold"))
    )
    assert sorted(row["id"] for row in [*kept, *aside]) == sorted(row["id"] for row in whole)
    assert not {prompt_key(row["prompt"]) for row in kept} & {prompt_key(row["prompt"]) for row in aside}
    assert len(aside) == len(whole) // 2
    for name in ("demonstrations.train", "demonstrations.eval", "prompts.train", "prompts.eval", "rankings.eval"):
        assert (before / f"{name}.jsonl").read_bytes() == (walk / "data" / f"{name}.jsonl").read_bytes()
    manifest = json.loads((walk / "data" / "manifest.json").read_text())
    assert manifest["metrics"]["rankings_gold"] == manifest["data"]["rankings.gold"]["rows"] == len(aside)


def test_the_gold_model_is_a_reward_model_of_other_rankings_and_another_seed(walk: Path) -> None:
    own, other = (json.loads((walk / stage / "manifest.json").read_text()) for stage in ("gold", "reward"))
    aside = read_rows(walk / "data" / "rankings.gold.jsonl")
    assert (own["stage"], own["seed"], other["seed"]) == ("gold", 1, 0) and own["metrics"]["rankings"] == len(aside)
    names = [{item["path"] for item in manifest["files"]} for manifest in (own, other)]
    assert names[0] == names[1]
    model, info = AutoModelForSequenceClassification.from_pretrained(walk / "gold", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sha256(walk / "gold" / "model.safetensors") != sha256(walk / "reward" / "model.safetensors")
    assert "rankings that stage reward never saw" in (walk / "gold" / "README.md").read_text()


def test_gold_judges_by_itself_and_over_training(walk: Path) -> None:
    found = told(walk)
    rows = len(read_rows(walk / "data" / "rankings.gold.jsonl"))
    trained_on = f"{rows} rankings of this run that the optimised reward never saw"
    gold = found["panel"]["gold"]
    assert (gold["label"], gold["scores"], gold["summary"]["trained on"]) == ("gold", True, trained_on)
    assert gold["summary"]["cut"] == 0 < gold["summary"]["texts"]
    assert "gold" in found["pairs"]["ppo vs sft"] and "By gold, " in found["verdict"]
    assert [set(at["scores"]) for at in found["training"]["steps"]] == [{"reward", "gold"}] * 3
    for name in ("report.html", "report.md"):
        assert f"trained on {trained_on}" in (walk / "compare" / name).read_text()


def test_without_a_share_there_is_no_gold_stage(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^data\.gold_fraction: it is 0"):
        run_stage("gold", settings("data.gold_fraction=0"), "nothing made yet")
    run = again("late", "data", "sft")
    (run / "data" / "rankings.gold.jsonl").unlink()  # as it is where the data was made without
    refilled(run / "data")
    monkeypatch.setattr(lineage, "check", lambda *args, **more: None)  # sft was made from the data as it was
    with pytest.raises(ArtifactError, match="no rankings are set aside"):
        run_stage("gold", settings("reward.max_steps=5"), "late")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: None, None),
        (
            lambda run: changed(run / "reward", parents=[{"role": "data", "path": "", "sha256": "0" * 64}]),
            "stage reward was",
        ),
        (lambda run: changed(run / "gold", gate={"result": "fail", "checks": []}), "failed its gate"),
        (lambda run: (run / "gold" / "scoring.json").unlink(), "missing though the manifest lists it"),
    ],
)
def test_a_gold_model_that_may_not_be_gold_is_left_out(walk: Path, spoil: Any, said: str | None) -> None:
    """A reward model trained before the rankings were divided has seen them all."""
    shutil.rmtree("runs/doubt", ignore_errors=True)
    run = again("doubt", "data", "sft", "reward", "gold", "ppo")
    spoil(run)
    device = torch.device("cpu")
    config = settings("force=false")
    if said is None:  # the tiny models fail their gates
        changed(run / "gold", gate={"result": "pass", "checks": []})
    elif "gate" not in said:
        config = settings()
    found, problems = panel.seated(config, lambda p, c: [0.0] * len(c), [], [], torch.float32, device, Run("doubt"))
    assert [judge.name for judge in found] == (["reward", "gold"] if said is None else ["reward"])
    assert len(problems) == (said is not None) and all(str(said) in problem for problem in problems)


def test_what_training_maximised_is_not_gold(walk: Path) -> None:
    config = settings("ppo.reward_funcs=[runs/whole/gold]")
    _, problems = panel.seated(config, lambda p, c: [], [], [], torch.float32, torch.device("cpu"), Run("whole"))
    assert len(problems) == 1 and "training maximised it" in problems[0]


# Training with further seeds


def test_a_further_seed_is_the_stage_with_that_seed(walk: Path) -> None:
    """ppo_seed_1 beside a run of its own with seed=1 from the same parents: the same bits; and another model than seed 0's."""
    again("one", "data", "sft", "reward")
    run_stage("ppo", settings("seed=1"), "one")
    alone, beside = Path("runs/one/ppo"), walk / "ppo_seed_1"
    names = {item["path"] for item in json.loads((alone / "manifest.json").read_text())["files"]}
    assert names == {str(p.relative_to(beside)) for p in beside.rglob("*") if p.is_file()} - {"manifest.json"}
    for name in ("model.safetensors", "critic/critic.safetensors"):
        assert sha256(alone / name) == sha256(beside / name) != sha256(walk / "ppo" / name)
    assert str(beside) in (beside / "README.md").read_text()


def test_each_seed_is_up_to_date_by_itself(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in walk.rglob("*") if p.name != "index.html"}

    before = times()
    for further in (0, 1, 2):
        run_stage("ppo", settings(), "whole", further=further)
    for stage in ("gold", "compare"):
        run_stage(stage, settings(), "whole")
    lines = capsys.readouterr().out.splitlines()
    expected = ["ppo", "ppo_seed_1", "ppo_seed_2", "gold", "compare"]
    assert [line.partition(" is up")[0].rpartition("/")[2] for line in lines] == expected
    assert times() == before


def test_an_interrupted_seed_goes_on_where_it_was(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = again("cut", "data", "sft", "reward", "ppo")
    right = pipeline.stages.ppo.Watching.progress

    def stopping(self: Any, done: int) -> None:
        right(self, done)
        if done == 1:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.stages.ppo.Watching, "progress", stopping)
        with pytest.raises(Stop):
            run_stage("ppo", settings(), "cut", further=1)
    assert (run / "ppo_seed_1.partial" / "state").is_dir() and not (run / "ppo_seed_1").exists()
    started = (run / "ppo_seed_1.partial" / "inputs.json").read_text()
    run_stage("ppo", settings(), "cut", further=1)
    assert json.loads(started)["started"] == json.loads((run / "ppo_seed_1" / "manifest.json").read_text())["started"]
    assert sha256(run / "ppo_seed_1" / "model.safetensors") == sha256(walk / "ppo_seed_1" / "model.safetensors")
    assert sha256(run / "ppo" / "model.safetensors") == sha256(walk / "ppo" / "model.safetensors")


def test_only_seeds_that_fit_are_found(walk: Path) -> None:
    """Not one of other settings, of other parents, of the first seed again, or what a killed process left behind. One that
    failed its gate is found: without it the spread would look smaller than it is."""
    run = again("odd", "ppo", "ppo_seed_1", "ppo_seed_2")
    for name in ("ppo_seed_3", "ppo_seed_4", "ppo_seed_5", "ppo_seed_6.partial"):
        shutil.copytree(run / "ppo_seed_1", run / name)
    manifest = json.loads((run / "ppo_seed_1" / "manifest.json").read_text())
    given = manifest["config"]["settings"]
    changed(
        run / "ppo_seed_3",
        seed=3,
        config={"settings": given | {"ppo": given["ppo"] | {"kl_coef": 9.0}}, "sha256": "0" * 64},
    )
    changed(
        run / "ppo_seed_4", seed=4, parents=[*manifest["parents"][:-1], manifest["parents"][-1] | {"sha256": "0" * 64}]
    )
    changed(run / "ppo_seed_5", seed=0)
    changed(run / "ppo_seed_6.partial", seed=6)
    changed(run / "ppo_seed_2", gate={"result": "fail", "checks": []})
    found = seeds.siblings(Run("odd"), "ppo")
    assert [(one.folder, one.seed) for one in found] == [("ppo", 0), ("ppo_seed_1", 1), ("ppo_seed_2", 2)]
    assert seeds.strays(Run("odd"), settings()) == ["ppo_seed_3", "ppo_seed_4", "ppo_seed_5"]
    assert found[2].gate == "fail" and seeds.siblings(Run("odd"), "sft") == seeds.siblings(Run("nothing"), "ppo") == []


def test_a_comparison_is_up_to_date_for_the_seeds_and_the_gold_model_it_read(walk: Path) -> None:
    run = again("whole2", "data", "sft", "reward", "ppo")
    one = Run("whole2")
    bare = inputs_of(one, "compare", settings())
    shutil.copytree(walk / "ppo_seed_1", run / "ppo_seed_1")
    with_seed = inputs_of(one, "compare", settings())
    shutil.copytree(walk / "gold", run / "gold")
    with_gold = inputs_of(one, "compare", settings())
    assert len({bare, with_seed, with_gold, inputs_of(Run("whole"), "compare", settings())}) == 4
    assert read_by(one, "compare", settings()) == ("data", "sft", "reward", "ppo", "gold", "ppo_seed_1")
    assert read_by(one, "compare", settings("compare.gold=elsewhere", "compare.models=[sft, base]")) == (
        "data",
        "sft",
        "reward",
    )
    made = json.loads((walk / "compare" / "manifest.json").read_text())
    assert [parent["role"] for parent in made["parents"]][-3:] == ["gold", "ppo_seed_1", "ppo_seed_2"]


def test_the_remedy_for_a_damaged_seed_makes_that_seed(walk: Path) -> None:
    run = again("hurt", "ppo_seed_1")
    (run / "ppo_seed_1" / "critic" / "critic.safetensors").unlink()
    with pytest.raises(ArtifactError, match="; remove runs/hurt/ppo_seed_1 and make its stage ppo_seed_1"):
        Run("hurt").require("ppo_seed_1", force=True)


def test_the_command_line_trains_each_seed_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(running, "in_a_process", lambda work, *arguments: calls.append(arguments) or 0)
    monkeypatch.setattr(running, "due_seed", lambda *_: True)
    monkeypatch.setattr(running, "_check_made", lambda *_: None)
    call = Call("r.yaml", "x", ("a=1",), nproc=2, seeds=3)
    running.chain(["reward", "ppo", "compare"], call, Config())
    given = [("reward", 0), ("ppo", 0), ("ppo", 1), ("ppo", 2), ("compare", 0)]
    assert calls == [(stage, call, further, True) for stage, further in given]


def test_several_processes_are_told_which_seed(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, which torchrun hands on; and a process that is so started takes that seed's folder."""
    given: dict[str, str] = {}
    started = SimpleNamespace(wait=lambda: 0, pid=0)
    monkeypatch.setattr(ranks.subprocess, "Popen", lambda call, env: given.update(env) or started)
    assert ranks.launch("ppo", Call("r.yaml", "whole", nproc=2, asked="all"), further=2) == 0
    assert (given["PIPELINE_FURTHER_SEED"], given["PIPELINE_RUN"]) == ("2", "whole")
    monkeypatch.undo()
    call = [sys.executable, "-m", "pipeline", "ppo", str(ROOT / "recipes" / "smoke.yaml"), *SHRUNK]
    here = {"PYTHONPATH": str(ROOT), "PIPELINE_RUN": "whole", "PIPELINE_FURTHER_SEED": "2"}
    cwd = walk.resolve().parent.parent
    done = subprocess.run(call, cwd=cwd, env=os.environ | here, capture_output=True, text=True)
    assert done.stdout.startswith("ppo: runs/whole/ppo_seed_2 is up to date"), done.stderr


@pytest.mark.parametrize("target", ["ppo", "all", "dpo", "kto", "rloo", "rft", "demo"])
def test_make_names_the_seeds(target: str) -> None:
    call = ["make", "-n", "-C", str(ROOT), target, "-o", ".venv/ready", "SEEDS=3", "RUN=x"]
    assert "--seeds 3" in subprocess.run(call, capture_output=True, text=True, check=True).stdout
    call[call.index("SEEDS=3")] = "SEEDS=1"
    assert "--seeds" not in subprocess.run(call, capture_output=True, text=True, check=True).stdout


# What they say together


def test_the_block_agrees_with_the_samples(walk: Path) -> None:
    """Every seed's win rate counted anew from the two files of samples; the first seed's is that of the pairs."""
    found = told(walk)
    assert set(found["seeds"]) == {"ppo"} and set(found["seeds"]["ppo"]) == {"reward", "gold"}
    rows = read_rows(walk / "compare" / "samples.jsonl") + read_rows(walk / "compare" / "samples.seeds.jsonl")
    assert {row["model"] for row in rows} == {"sft", "ppo", "ppo_seed_1", "ppo_seed_2"}
    for judge, own in found["seeds"]["ppo"].items():
        rates = []
        for folder in ("ppo", "ppo_seed_1", "ppo_seed_2"):
            of = {
                name: {r["prompt_id"]: r["scores"][judge] for r in rows if r["model"] == name}
                for name in (folder, "sft")
            }
            gaps = [of[folder][p] - of["sft"][p] for p in of["sft"]]
            rates.append(sum(0.5 if abs(gap) <= 1e-9 else float(gap > 0) for gap in gaps) / 8)
        assert [one["win_rate"] for one in own["per_seed"]] == rates and own["against"] == "sft"
        assert own["mean"] == pytest.approx(sum(rates) / 3) and own["sd"] == pytest.approx(np.std(rates, ddof=1))
        pair = found["pairs"]["ppo vs sft"][judge]
        assert all(own["per_seed"][0][name] == pair[name] for name in ("win_rate", "low", "high", "wins", "prompts"))
        assert [one["seed"] for one in own["per_seed"]] == [0, 1, 2]
    about = found["provenance"]["training seeds"]["ppo"]
    assert "data, sft, reward" in about["shared by all seeds"] and about["ppo_seed_2"]["seed"] == 2
    assert list(found["models"]) == ["sft", "ppo"]  # the columns stay those of compare.models
    assert "Over 3 training seeds, the win rate of ppo against sft by gold is" in found["verdict"]
    page = (walk / "compare" / "report.html").read_text()
    assert "Training seeds" in page and "shared" in page
    assert "| training seeds | judge |" in (walk / "compare" / "report.md").read_text()


def test_a_report_without_further_seeds_says_nothing_of_them(walk: Path) -> None:
    rows = read_rows(walk / "compare" / "samples.jsonl")
    opinions = [Opinion("reward", "optimised"), Opinion("gold", "gold")]
    found = numbers.summarise(rows, {"sft": {}, "ppo": {}}, opinions, provenance={}, draws=50)
    assert found.seeds == {} and "training seed" not in found.verdict
    assert "training seeds" not in exports.markdown(found)
