"""Does a stage whose weights are shared out among two processes publish what one process does?"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interruption import Stop
from safetensors.torch import load_file
from small_walk import SHRUNK, manifest

import pipeline.training.trainers
from pipeline.running import run_stage
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "smoke.yaml")
BASE = ("data", "sft", "reward")
OURS = [*SHRUNK, "sft.tuning=lora", "sft.save_steps=2", "sft.learning_rate=1e-2", "kto.max_steps=4"]
CLOSE = 1e-6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/whole with what the others are made from, by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sharded"))
        for stage in BASE:
            run_stage(stage, load(RECIPE, OURS), "whole")
        yield Path("runs/whole")


def again(name: str, stage: str) -> Path:
    """A run that has what `stage` is made from."""
    for one in BASE[: BASE.index(stage)] if stage in BASE else BASE:
        shutil.copytree(Path("runs/whole") / one, Path("runs") / name / one)
    return Path("runs") / name


def two(stage: str, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command in two processes."""
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN"}
    environment = {k: v for k, v in os.environ.items() if k not in single} | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "pipeline", stage, RECIPE, *OURS, *more, "--run", run.name, "--nproc", "2"]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300)


def same(stage: str, one: Path, other: Path) -> None:
    """Weights, and figures but for times, of `stage` in both runs; the second has layers shared out."""
    for path in sorted((one / stage).glob("*.safetensors")):
        ours, theirs = load_file(path), load_file(other / stage / path.name)
        assert ours.keys() == theirs.keys()
        assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < CLOSE, path.name
    ours, theirs = (manifest(run / stage)["metrics"] for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        if not name.startswith("time/") and "second" not in name and "scored/" not in name:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4, abs=1e-4), name
    notes = manifest(other / stage)["notes"]["sharding"]
    whole = sum(weight.nbytes for weight in load_file(other / stage / "model.safetensors").values())
    assert notes["sharding"] != "none" and len(set(notes["weights_bytes"])) == 1
    if stage != "ppo":  # which has a critic too
        assert notes["weights_bytes"][0] < whole * (2 if notes["sharding"] == "full" and stage in ("dpo", "kto") else 1)


@pytest.mark.parametrize("stage", ["reward", "dpo", "kto", "rft"])
def test_frozen_layers_shared_out(walk: Path, stage: str) -> None:
    one, other = walk, again(f"two-{stage}", stage)
    if stage not in BASE:
        one = again(f"one-{stage}", stage)
        run_stage(stage, load(RECIPE, OURS), one.name)
    done = two(stage, other, f"{stage}.sharding=frozen")
    assert done.returncode == 0, done.stderr[-3000:]
    same(stage, one, other)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "kto", "rft"])
def test_all_layers_shared_out(walk: Path, stage: str) -> None:
    """What is trained too, and a reference: in micro-batches that are accumulated, with activations that are recomputed."""
    one, other = again(f"one-full-{stage}", stage), again(f"two-full-{stage}", stage)
    own, rows = (f"{stage}.tuning=full", f"{stage}.learning_rate=3e-4"), f"{stage}.per_device_train_batch_size="
    # kto estimates a KL of as many rows as are at work at once
    run_stage(stage, load(RECIPE, [*OURS, *own, f"{rows}{4 if stage == 'kto' else 2}"]), one.name)
    done = two(stage, other, *own, f"{rows}2", f"{stage}.sharding=full", f"{stage}.gradient_checkpointing=true")
    assert done.returncode == 0, done.stderr[-3000:]
    same(stage, one, other)


@pytest.mark.parametrize(
    "changes", [("ppo.sharding=frozen", "ppo.lora.layers=last 1"), ("ppo.sharding=full", "ppo.tuning=full")]
)
def test_ppo(walk: Path, changes: tuple[str, ...]) -> None:
    """Weights of policy and critic, figures, and every word of the evaluations."""
    name = changes[0].partition("=")[2]
    one, other = again(f"one-{name}", "ppo"), again(f"two-{name}", "ppo")
    run_stage("ppo", load(RECIPE, [*OURS, *changes[1:]]), one.name)
    done = two("ppo", other, *changes)
    assert done.returncode == 0, done.stderr[-3000:]
    same("ppo", one, other)
    said = [[json.loads(row) for row in (run / "ppo" / "samples.jsonl").open()] for run in (one, other)]
    assert [row["completion"] for row in said[0]] == [row["completion"] for row in said[1]]


def test_sft_goes_on_from_one_process(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of 6 steps is stopped in one process after step 3; two with shared-out layers, recomputed ones, go on from step 2."""
    run = again("two-sft", "sft")
    right = pipeline.training.trainers.Report.on_step_end

    def stopping(self: Any, args: Any, state: Any, control: Any, **kw: Any) -> None:
        right(self, args, state, control, **kw)
        if state.global_step == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(pipeline.training.trainers.Report, "on_step_end", stopping)
        run_stage("sft", load(RECIPE, OURS), run.name)
    assert (run / "sft.partial" / "state" / "checkpoint-2").is_dir()
    done = two("sft", run, "sft.sharding=frozen")
    assert done.returncode == 0, done.stderr[-3000:]
    same("sft", walk, run)
    assert manifest(run / "sft")["world_size"] == 2


def test_what_cannot_be_shared_out_ends_with_one_sentence(walk: Path) -> None:
    done = two("sft", again("refused", "sft"), "sft.sharding=frozen", "sft.tuning=full")
    message = "error: sft.sharding: frozen shares out what is not trained, and sft.tuning: full trains all; set sft.sharding=full"
    assert done.returncode == 2 and done.stderr.count(message) == 1, done.stderr[-3000:]
