"""Do comparisons stand beside each other by name, and do they take models of other runs with their lineage?"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from resealed import rewritten
from small_stage import BAD, make, refused

from data.schema import Demonstration, Prompt
from pipeline.artifacts.changes import announcement
from pipeline.artifacts.files import sha256, write_rows
from pipeline.artifacts.freshness import finished, inputs_of
from pipeline.artifacts.other_runs import of_other_runs, open_models
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.comparison.leaks import seen_elsewhere
from pipeline.graph import WALK
from pipeline.running import due
from pipeline.settings.config import Compare, Config, ConfigError
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]


def compared(*models: str, **more: Any) -> Config:
    return Config(compare=Compare(models=list(models), **more))


@pytest.fixture
def runs(run: Run) -> Run:
    """Run demo with the walk, and run other with data, sft and a ppo of two seeds."""
    for stage in WALK:
        make(run, stage, compared("base", "sft", "ppo"))
    for stage in ("data", "sft", "reward", "ppo"):
        make(Run("other"), stage, Config(seed=7), text=f"other {stage}\n")
    config, seeded = with_seed("ppo", Config(seed=7), Run("other"), 1)
    make(seeded, "ppo", config, text="other ppo, another seed\n")
    return run


def named(run: Run, name: str | None, *models: str, **more: Any) -> tuple[Config, Run]:
    return with_seed("compare", compared(*(models or ("base", "sft", "ppo")), name=name, **more), run)


def test_comparisons_with_names_stand_beside_each_other(runs: Run) -> None:
    greedy = {"generation": {"do_sample": False}}
    config, there = named(runs, "greedy", **greedy)
    assert due("compare", config, there)
    before = Path("runs/demo/compare/manifest.json").read_bytes()
    assert announcement([("compare", config, there)]) is None  # it replaces nothing
    made = make(there, "compare", config, text="greedy\n")
    assert Path("runs/demo/compare-greedy/rows.jsonl").read_text() == "greedy\n" and made.stage == "compare"
    assert Path("runs/demo/compare/manifest.json").read_bytes() == before and not Path("runs/demo/.kept").exists()
    assert not due("compare", config, there) and not due("compare", *named(runs, None))
    make(there, "compare", named(runs, "greedy", prompts=9, **greedy)[0], text="greedy, nine\n")
    assert sorted(path.name[:15] for path in Path("runs/demo/.kept").iterdir()) == ["compare-greedy-"]
    assert not due("compare", config, there) and Path("runs/demo/compare-greedy/rows.jsonl").read_text() == "greedy\n"
    assert there.remedy("compare") == 'make its stage compare with compare.name="greedy"'


def test_the_name_says_where_and_not_what(runs: Run) -> None:
    assert inputs_of(runs, "compare", compared("sft", name="a")) == inputs_of(runs, "compare", compared("sft"))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.partial", "two words", "-" * 101, "a'b"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="compare.name: .*a comparison is named with letters.*NAME=greedy"):
        load(ROOT / "recipes" / "smoke.yaml", [f"compare.name={json.dumps(name)}"])


@pytest.mark.parametrize(("name", "told"), [("1", "1"), ("gefräßig", "gefräßig"), ("a-b_2", "a-b_2")])
def test_make_hands_a_name_on(tmp_path: Path, name: str, told: str) -> None:
    """1 is no number there, and a NAME of the environment is none of ours."""
    quiet = [
        "make",
        "--no-print-directory",
        "-n",
    ]  # make test is make too, and says which folder a make within it enters
    call = [*quiet, "-f", str(ROOT / "Makefile"), "-o", ".venv/ready", "compare"]
    done = subprocess.run([*call, f"NAME={name}"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {done.stdout.strip().lstrip('@')}"], capture_output=True, text=True
    )
    (override,) = [word for word in words.stdout.splitlines() if word.startswith("compare.name=")]
    assert load(ROOT / "recipes" / "smoke.yaml", [override]).compare.name == told
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"NAME": name})
    assert "compare.name" not in done.stdout


def test_a_model_of_another_run_is_taken_with_its_lineage(runs: Run) -> None:
    config = compared("sft", "ppo", "other/ppo", "other/ppo_seed_8")
    assert of_other_runs(runs, config) == ("other/ppo", "other/ppo_seed_8")
    made = make(runs, "compare", config)
    parents = {parent["role"]: parent for parent in made.parents}
    assert parents["other/ppo"] == {
        "role": "other/ppo", "path": "../../other/ppo", "sha256": Run("other").identity("ppo"),
    }  # fmt: skip
    runs.require("compare")
    assert finished(runs, "compare", config) == made
    make(Run("other"), "ppo", Config(seed=9), text="another\n")
    assert finished(runs, "compare", config) is None
    said = announcement([("compare", config, runs)])
    assert said is not None and said.startswith(
        "other/ppo is not the one that compare was made of: compare is made again"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other/dpo", "no finished model of that name in runs"),
        ("other/reward", "no finished model of that name in runs"),
        ("other/pqo", "no finished model of that name in runs"),
        ("others/ppo", "no run others in runs"),
    ],
)
def test_one_that_is_not_there_is_told_with_what_is(runs: Run, name: str, told: str) -> None:
    refused(
        lambda: due("compare", compared("sft", name), runs),
        f"compare.models: {name}: {told}; there are demo/ppo, demo/sft, other/ppo, other/ppo_seed_8, other/sft; ",
    )


def test_a_folder_and_a_hub_id_are_what_they_were(runs: Run) -> None:
    """owner/name stays a Hub id, unless the name is a stage's or the owner a run's; a folder is a folder."""
    Path("mine/ppo").mkdir(parents=True)
    assert of_other_runs(runs, compared("sft", "mine/ppo", "gpt/two", "runs/other/ppo", "a/b/ppo")) == ()


def test_one_that_failed_its_gate_or_changed_is_refused(runs: Run) -> None:
    make(Run("other"), "ppo", Config(seed=7), gate=BAD)
    refused(lambda: open_models(runs, compared("sft", "other/ppo")), "runs/other/ppo: failed its gate")
    forced = compared("sft", "other/ppo", "other/sft").model_copy(update={"force": True})
    assert set(open_models(runs, forced)) == {"other/ppo", "other/sft"}
    Path("runs/other/sft/rows.jsonl").write_text("changed\n")
    refused(
        lambda: open_models(runs, forced),
        "runs/other/sft/rows.jsonl: changed",
        "; remove runs/other/sft and make its stage sft",
    )


def test_what_it_was_made_of_need_not_be_there(runs: Run) -> None:
    make(Run("other"), "sft", Config(seed=9), text="another sft\n")
    assert set(open_models(runs, compared("sft", "other/ppo"))) == {"other/ppo"}


def rows(run: Run, held_out: list[str], trained: list[str]) -> list[Prompt]:
    """Stage data of a run whose rows have these prompts."""
    made = Path("runs") / run.name / "data"
    kinds = {
        "prompts.eval": [Prompt(p, p, "x:1").to_json() for p in held_out],
        "prompts.train": [],
        "demonstrations.train": [Demonstration(p, p, "said", "x:1").to_json() for p in trained],
        "rankings.train": [],
    }
    make(run, "data", Config(seed=len(trained)), text="".join(trained))
    manifest = json.loads((made / "manifest.json").read_text())
    for name, lines in kinds.items():
        write_rows(made / f"{name}.jsonl", lines)
        manifest["files"].append({"path": f"{name}.jsonl", "size": 1, "sha256": sha256(made / f"{name}.jsonl")})
    rewritten(made / "manifest.json", manifest)
    return [Prompt(p, p, "x:1") for p in held_out]


def test_a_model_that_was_trained_on_what_it_is_asked_is_a_warning(run: Run) -> None:
    """Another run may have split its rows otherwise: its model would be asked what it has learned."""
    held_out = rows(run, ["a", "b", "c"], ["d", "c"])
    other = Run("other")
    for stage, kind in (("same", ["d", "c"]), ("other", ["d", "a", "b", "c"])):
        rows(Run(stage), ["a", "b", "c"] if stage == "same" else ["c"], kind)
        for name in ("sft", "reward", "ppo"):
            make(Run(stage), name)
    assert seen_elsewhere(run, "same/ppo", held_out) is None
    assert seen_elsewhere(run, "other/ppo", held_out) == (
        "other/ppo was trained on 2 of the 3 held-out prompts, which were not held out in run other."
    )
    assert seen_elsewhere(run, "other/ppo", held_out[2:]) is None
    rows(other, ["c"], ["e"])
    assert seen_elsewhere(run, "other/ppo", held_out) == (
        "other/ppo was made of data that is no longer in runs/other, so it may have seen the held-out prompts."
    )
