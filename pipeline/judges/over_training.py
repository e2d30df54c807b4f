"""Does the reward still mean what it meant? The optimised score beside the other judges' over ppo's evaluations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.schema import Prompt
from pipeline.artifacts.files import read_rows
from pipeline.comparison.pairing import Samples
from pipeline.judges.judge import Judge
from pipeline.statistics import mean_interval


def over_training(
    folder: Path, held_out: Sequence[Prompt], panel: Sequence[Judge], draws: int = 10_000, seed: int = 0
) -> dict[str, Any] | None:
    """The optimised score (the proxy) beside the other judges' over ppo's evaluations: gold against proxy.

    folder: runs/NAME/ppo, with its samples.jsonl and metrics.jsonl. {"steps": [{"step", "kl" (nats, of the rollouts of
    that step; 0 before the first), "scores" {judge: {"mean", "low", "high"}}}], "since_peak": {judge: {"step" of its
    best mean, "mean", "low", "high" of last minus best, paired by prompt, and "optimised", the same mean of the proxy}}}.
    The best step is picked by looking, so a fall since then looks somewhat larger than it is. None without evaluations.
    """
    path = folder / "samples.jsonl"
    if not path.is_file():
        return None
    prompts = {prompt.id: prompt.prompt for prompt in held_out}
    rows = [row for row in read_rows(path) if row["prompt_id"] in prompts]
    steps = sorted({row["step"] for row in rows})
    by_step = {step: [row for row in rows if row["step"] == step] for step in steps}
    if len(steps) < 2 or len({frozenset(row["prompt_id"] for row in own) for own in by_step.values()}) > 1:
        return None
    trained = {row["step"]: row.get("objective/kl") for row in read_rows(folder / "metrics.jsonl") if "step" in row}
    values: dict[str, dict[int, dict[str, float]]] = {}
    for judge in panel:
        score: Callable[[Samples], list[float]] | None = None
        if judge.label == "optimised":
            score = _kept
        elif judge.scores is not None:
            score = _scored(judge, prompts)
        if score is not None:
            values[judge.name] = {
                step: dict(zip([row["prompt_id"] for row in own], score(own), strict=True))
                for step, own in by_step.items()
            }
    proxy = next(judge.name for judge in panel if judge.label == "optimised")
    means = {name: {step: float(np.mean(list(v.values()))) for step, v in own.items()} for name, own in values.items()}
    since = {}
    for name, own in values.items():
        best = max(steps, key=lambda step: (means[name][step], -step))
        if name != proxy and best != steps[-1]:
            order = sorted(own[best])
            fall = mean_interval([own[steps[-1]][p] - own[best][p] for p in order], order, draws, seed)
            since[name] = {"step": best, **fall, "optimised": means[proxy][steps[-1]] - means[proxy][best]}
    return {
        "steps": [
            {
                "step": step,
                "kl": 0.0 if step == 0 else trained.get(step),
                "scores": {
                    name: mean_interval(list(own[step].values()), list(own[step]), draws, seed)
                    for name, own in values.items()
                },
            }
            for step in steps
        ],
        "since_peak": since,
    }


def _kept(rows: Samples) -> list[float]:
    return [float(row["score"]) for row in rows]


def _scored(judge: Judge, prompts: dict[str, Any]) -> Callable[[Samples], list[float]]:
    def score(rows: Samples) -> list[float]:
        assert judge.scores is not None
        return judge.scores([prompts[row["prompt_id"]] for row in rows], [row["completion"] for row in rows])

    return score
