"""How did ppo's training go? A figure a step from its own log, and what the policy said before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import read_rows

SHOWN = {
    "reward": "objective/scores",
    "KL to sft": "objective/kl",
    "entropy": "policy/entropy_avg",
    "length": "completions/mean_length",
    "clip fraction": "policy/clipfrac_avg",
    "value explained": "val/explained_variance",
}
"""What is drawn of every step, and its name in metrics.jsonl."""


@dataclass(frozen=True)
class Evaluations:
    """What the policy said to the trainer's evaluation prompts at its first and at its last evaluation."""

    first: int
    last: int
    rows: Sequence[dict[str, Any]]  # {"prompt", "before", "after", "score_before", "score_after"}


def read(folder: Path) -> dict[str, list[float]]:
    """ "step" and the figures of `SHOWN`, a value for every step of ppo's log in `folder`; nothing where there is no log.

    A figure that some step lacks, as an older version's log may, is left out.
    """
    path = folder / "metrics.jsonl"
    rows = [row for row in read_rows(path) if "objective/kl" in row] if path.is_file() else []
    if not rows:
        return {}
    found = {name: [row[key] for row in rows] for name, key in SHOWN.items() if all(key in row for row in rows)}
    return {"step": [row["step"] for row in rows], **found}


def evaluations(folder: Path) -> Evaluations | None:
    """The first and the last evaluation of ppo in `folder`, prompt by prompt; None where there were not two."""
    path = folder / "samples.jsonl"
    rows = read_rows(path) if path.is_file() else []
    steps = sorted({row["step"] for row in rows})
    if len(steps) < 2:
        return None
    before, after = ({row["prompt_id"]: row for row in rows if row["step"] == step} for step in (steps[0], steps[-1]))
    told = [
        {
            "prompt": own["prompt"],
            "before": own["completion"],
            "after": after[name]["completion"],
            "score_before": own["score"],
            "score_after": after[name]["score"],
        }
        for name, own in before.items()
        if name in after
    ]
    return Evaluations(steps[0], steps[-1], told)
