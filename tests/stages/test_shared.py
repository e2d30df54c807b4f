"""Do several processes publish what one does, where they share long steps that train nothing?"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interruption import Stop
from safetensors.torch import load_file
from small_walk import again, in_processes, manifest, settings

import pipeline.training.trainers
from pipeline.artifacts.files import read_rows
from pipeline.running import run_stage
from pipeline.training import samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/whole with what the others are made from, by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("shared"))
        for stage in ("data", "sft", "reward"):
            run_stage(stage, settings(), "whole")
        yield Path("runs/whole")


def same_samples(one: Path, other: Path) -> None:
    """Every token, and scores within float tolerance: raw ones are divided by a small deviation here."""
    for ours, theirs in zip(*(read_rows(folder / "samples.jsonl") for folder in (one, other)), strict=True):
        assert {
            key: pytest.approx(value, abs=1e-5) if key in ("score", "reward") else value for key, value in ours.items()
        } == theirs


def same(one: Path, other: Path, logged: bool) -> None:
    """Weights, figures that are published and, where asked for, those of every step, but for times."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-6
    logs = [[manifest(folder)["metrics"], *read_rows(folder / "metrics.jsonl")] for folder in (one, other)]
    for a, b in zip(*(log if logged else log[:1] for log in logs), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if not re.search("second|step_time|num_tokens$", name):
                assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), name
    assert manifest(other)["world_size"] == 2


@pytest.mark.parametrize("stage", ["rloo", "rft", "dpo", "kto"])
def test_a_baseline(walk: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sampled before, while and after it trains, and what is measured; rloo of one process is stopped, and two go on."""
    one, two, more = again(f"one-{stage}"), again(f"two-{stage}"), ["kto.max_steps=4"]
    run_stage(stage, settings(*more), one.name)
    if stage == "rloo":
        right = pipeline.training.trainers.Report.on_step_end

        def stopping(self: Any, args: Any, state: Any, control: Any, **kw: Any) -> None:
            right(self, args, state, control, **kw)
            if state.global_step == 3:
                raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(pipeline.training.trainers.Report, "on_step_end", stopping)
            run_stage(stage, settings(*more), two.name)
        assert (two / "rloo.partial" / "state" / "checkpoint-2").is_dir()
    done = in_processes(stage, two, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    same(one / stage, two / stage, logged=stage == "rloo")  # trl's means of the others are of uneven micro-batches
    if stage == "rft":
        same_samples(one / stage, two / stage)


def test_best_of_n(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five prompts for two processes, which go on from where one was ended after the first row that it wrote."""
    one, two = again("one"), again("two")
    run_stage("best_of_n", settings("best_of_n.n=16"), one.name)
    write = samples.add_rows

    def once(*given: Any) -> None:
        write(*given)
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(samples, "add_rows", once)
        patch.setattr(samples, "AT_ONCE", 16)
        run_stage("best_of_n", settings("best_of_n.n=16"), two.name)
    done = in_processes("best_of_n", two, "best_of_n.n=16")
    assert done.returncode == 0, done.stderr[-3000:]
    same_samples(one / "best_of_n", two / "best_of_n")
    ours, theirs = (manifest(run / "best_of_n") for run in (one, two))
    assert theirs["world_size"] == 2
    assert theirs["metrics"] == pytest.approx(ours["metrics"], abs=1e-6)
    assert theirs["metrics"]["scored/texts"] == 5 * 16
