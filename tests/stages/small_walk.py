"""What do the tests of the baselines share? A recipe shrunk to seconds, and the runs made by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.settings.config import Config
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]


TRAINED = ("dpo", "rloo", "rft")
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",  # 32 rows to train on: two processes fill a last, smaller batch with rows seen before
    "sft.max_steps=6",
    "reward.max_steps=6",
    "reward.normalise_samples=16",
    "ppo.total_episodes=48",
    "ppo.batch_size=16",
    "ppo.response_length=12",
    "ppo.eval_prompts=6",
    *(f"{stage}.{name}" for stage in TRAINED for name in ("save_steps=2", "logging_steps=1", "learning_rate=1e-2")),
    "dpo.max_steps=6",
    "rloo.batch_size=8",
    "rloo.per_device_train_batch_size=4",
    "rft.tuning=lora",
    "rft.max_steps=6",
    "best_of_n.n=8",
    "best_of_n.prompts=5",
    "compare.prompts=8",
    "compare.perplexity_rows=6",
]


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


def again(name: str) -> Path:
    """A run that has what the baselines are made from."""
    for stage in ("data", "sft", "reward"):
        shutil.copytree(Path("runs/whole") / stage, Path("runs") / name / stage)
    return Path("runs") / name


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def in_processes(
    stage: str, run: Path, *more: str, count: int = 2, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """The command of `stage`, in so many processes."""
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN"}
    environment = {k: v for k, v in os.environ.items() if k not in single} | {"PYTHONPATH": str(ROOT)}
    recipe = str(ROOT / "recipes" / "smoke.yaml")
    call = [sys.executable, "-m", "pipeline", stage.replace("_", "-"), recipe, *SHRUNK, *more]
    call += ["--run", run.name, "--nproc", str(count)]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=timeout)
