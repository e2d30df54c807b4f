"""What do the tests of names, lineage and tampering share? Stages that open their parents and publish small files, by the real command line.

Nothing trains: what is tried is what stands around a stage. The files are called as those of the real stages are.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.__main__ as cli
from pipeline import running
from pipeline.artifacts import manifest as manifests
from pipeline.artifacts import publish as publishing
from pipeline.artifacts.files import digest
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.gate import Gate, at_least, check
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.commands import Call
from pipeline.graph import BASELINES, STAGES
from pipeline.settings.config import Config
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
MODEL = ("README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "config.json", "metrics.jsonl", "model.safetensors")  # fmt: skip
FILES = {
    "data": ("demonstrations.train.jsonl", "metrics.jsonl", "prompts.eval.jsonl", "rankings.train.jsonl"),
    "compare": ("metrics.jsonl", "report.html", "report.json", "samples.jsonl"),
    "best_of_n": ("metrics.jsonl", "samples.jsonl"),
    "reward": (*MODEL, "scoring.json"),
    "gold": (*MODEL, "scoring.json"),
    "ppo": (*MODEL, "critic/critic.safetensors"),
}
COMPARED = "compare.models=[base,sft,ppo,dpo,kto,rloo,rft,best_of_2]"
GIVEN = (f"data.source={ROOT / 'data' / 'smoke.jsonl'}", "data.gold_fraction=0.5", COMPARED)
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN", "PIPELINE_FURTHER_SEED", "PIPELINE_CALLER")  # fmt: skip


class Plain:
    """The module of a stage. `salt` decides what it makes beside its parents; `during` is called when its parents are open."""

    salt = ""
    during: Callable[[str, Run], None] = staticmethod(lambda stage, run: None)

    def __init__(self, stage: str):
        self.stage = stage

    def run(self, config: Config, run: Run) -> Any:
        Plain.during(f"{self.stage} begins", run)
        own = {name: run.require(name, force=True).files for name in parents(self.stage, config)}
        Plain.during(f"{self.stage} has read", run)
        made = working_folder(run, self.stage, config) / "made"
        for name in FILES.get(self.stage, MODEL):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(f"{name} of {self.stage} {config.seed} {digest(own)} {Plain.salt}\n" * 3)
        Plain.during(f"{self.stage} ends", run)
        metrics = {"prompts": 9.0, "rankings_train": 9.0}
        gate = Gate([check("rows", 9.0, must=at_least(1))])
        return publish(
            run, self.stage, config, made, tokenizer="f" * 64, model={"base": "sft"}, dtype="float32", metrics=metrics, gate=gate
        )  # fmt: skip

    def summary(self, manifest: Any, run: Run) -> str:
        return f"{manifest.stage} made"


def base_model(config: Config) -> str:
    folder = Path("runs/.cache/tiny-random")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").is_file():
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
    return str(folder)


@contextmanager
def plain_stages(folder: Path) -> Iterator[None]:
    """Within the block every stage is a Plain one, made in this process, and `folder` is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            patch.setitem(sys.modules, f"pipeline.stages.{stage}", Plain(stage))  # type: ignore[arg-type]
        context = SimpleNamespace(quiet=lambda: None, base_model=base_model)
        patch.setitem(sys.modules, "pipeline.training.context", context)  # type: ignore[arg-type]
        patch.setattr(running, "in_a_process", here)
        patch.setattr(publishing, "git_commit", lambda: None)
        patch.setattr(publishing, "libraries", lambda: {"python": "3"})
        patch.setattr(manifests, "machine", lambda: "m")
        patch.setattr(Plain, "salt", "")
        patch.setattr(Plain, "during", staticmethod(lambda stage, run: None))
        for name in LAUNCHER:
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        yield


def here(work: Callable[..., None], *arguments: Any) -> int:
    try:
        work(*arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@cache
def settings(*more: str) -> Config:
    return load(SMOKE, [*GIVEN, *more])


def make(stage: str, run: str = "a", further: int = 0) -> None:
    """Make a stage, unless it is up to date, in this process and without a command line."""
    call = Call(str(SMOKE), run, GIVEN, asked=stage)
    running.run_stage(stage, settings(), run, call, further, told=True)


def looked_at(stage: str, run: str = "a") -> bool:
    """What every command asks before it makes a stage: whether it is due. Raises ArtifactError."""
    config, asked = with_seed(stage, settings(), Run(run, call=Call(str(SMOKE), run, GIVEN, asked=stage)))
    return running.due(stage, config, asked)


def command(*words: str, run: str = "a", given: tuple[str, ...] = GIVEN) -> int:
    """A command of ours on a run: its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.app([words[0], str(SMOKE), *given, *words[1:], "--run", run])
    return int(ended.value.code or 0)


ORDER = ("data", "sft", "reward", "gold", "ppo", *BASELINES)


def two_runs(folder: Path) -> Path:
    """Runs a and b, all stages of each, with a gold model, baselines and a further seed of ppo; b of other contents."""
    with plain_stages(folder):
        base_model(settings())
        for name in ("a", "b"):
            Plain.salt = name
            for stage, further in [*((stage, 0) for stage in ORDER), ("ppo", 1), ("compare", 0)]:
                config, run = with_seed(stage, settings(), Run(name), further)
                Plain(stage).run(config, run)
    return folder


def copied(source: Path, target: Path) -> None:
    """`source` in the place of `target`, as cp would leave it."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
