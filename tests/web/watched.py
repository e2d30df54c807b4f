"""What do the tests of the room that watches share? A run of small stages, an attempt at work, and rows as stages write them."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.gate import Gate, at_least, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config

GATE = Gate([check("rows", 3.0, must=at_least(1))])
DOUBTED = Gate([check("prompts", 3.0, should=at_least(100), why="add rows")])
TIMES = {"time/rollout": 3.0, "time/update": 1.0}


def stage(
    run: Run,
    name: str,
    files: Mapping[str, str] | None = None,
    config: Config | None = None,
    **more: Any,
) -> Manifest:
    """Publish a stage with these files in its folder."""
    config = config or Config()
    made = working_folder(run, name, config) / "made"
    made.mkdir(exist_ok=True)
    for file, text in (files or {"rows.jsonl": "rows\n"}).items():
        (made / file).write_text(text, encoding="utf-8")
    settings: dict[str, Any] = {"tokenizer": "f" * 64, "model": {"base": "some/tiny"}, "dtype": "float32"}
    return publish(run, name, config, made, **{**settings, "metrics": {"loss": 0.5}, "gate": GATE, **more})


def attempt(run: Run, name: str, config: Config | None = None, began: str = "2026-01-01T00:00:00+00:00") -> Path:
    """The partial folder of an attempt that this very process seems to make; nobody holds its lock."""
    folder = working_folder(run, name, config or Config())
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": began}
    (folder / "lock").write_text(json.dumps(holder))
    return folder


def row(step: int, **more: float) -> dict[str, float]:
    """A line of ppo's log, of iterations of 8 episodes."""
    known = {"step": step, "episode": 8 * step, "objective/scores": step / 10, "objective/kl": float(step)}
    return known | {"completions/mean_length": 10.0, "policy/entropy_avg": 2.0, "val/ratio": 1.0} | TIMES | more


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in rows)


def sample(step: int, prompt: str, completion: str, score: float = 0.0) -> dict[str, Any]:
    known = {"step": step, "prompt_id": prompt, "prompt": f"Prompt {prompt}", "completion": completion}
    return known | {"score": score, "length": 3, "eos": True}


REPORT = {
    "main": "ppo",
    "optimised": "reward",
    "judges": ["vader"],
    "models": {"base": {}, "sft": {}, "ppo": {}},
    "panel": {"reward": {"scores": True}, "vader": {"scores": True}},
}


def compared(run: Run, answer: str = "Yes. Preferred to the original in 9 of 10 answers.") -> Manifest:
    """A comparison of three models on three prompts, of which ppo gains 1, 2 and 9 over base by vader."""
    said = [
        {"prompt_id": f"p{n}", "prompt": f"Prompt {n}", "model": model, "completion": f"{model} on {n}", "seed": 0,
         "scores": {"vader": gain if model == "ppo" else 0.0, "reward": 0.0}}
        for n, gain in enumerate((9.0, 1.0, 2.0))
        for model in ("base", "sft", "ppo")
    ]  # fmt: skip
    page = "<!doctype html><title>report</title><script>document.title = 'ran'</script><a href='../index.html'>all of this run</a>"
    files = {"report.json": json.dumps(REPORT), "samples.jsonl": text(said), "report.html": page}
    return stage(run, "compare", files, notes={"answer": answer, "verdict": "By vader it is better."}, gate=DOUBTED)
