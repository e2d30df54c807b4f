"""Who stands against whom? Samples of all models side by side, the pairs that are compared, and what a judge said of each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import statistics
from pipeline.graph import COMPARED

Key = tuple[str, int]
"""The prompt's id and the sample's seed: what samples of different models are paired by."""

Samples = list[dict[str, Any]]
"""Rows of samples.jsonl, of all models in any order."""

ByKey = dict[str, dict[Key, dict[str, Any]]]
"""model -> key -> row, with the same keys in the same order for all models: what `paired` makes of samples."""


@dataclass(frozen=True)
class Opinion:
    """What one judge said of all samples. `label` is a `judge.Label`; `summary` is what judging cost; a score
    above `positive` is one that the judge holds for good, None where no score has that meaning.

    outcomes: None for a judge whose scores the rows hold; else (a, b) -> (prompt_id, seed) -> 1 a is better, 0 b is, ½ a
    tie, or a number between where several people voted; a comparison that was not judged is absent or nan.
    """

    name: str
    label: str
    outcomes: Mapping[tuple[str, str], Mapping[Key, float]] | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    positive: float | None = None


def main_model(models: Iterable[str]) -> str:
    """Whom the report is about: ppo where it is compared, else the last model in reading order."""
    names = list(models)
    return "ppo" if "ppo" in names else names[-1]


def reference_of(models: Iterable[str], main: str) -> str | None:
    """What `main` came from, or else the first other model: where its length and the like are measured from."""
    others = [name for name in models if name != main]
    return next((name for name in ("sft", "base", "few_shot") if name in others), others[0] if others else None)


def pairs_of(models: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that are compared, the most important first: the main model against every other, then every other
    against base and sft."""
    main = main_model(models)
    first = [name for name in ("base", "sft") if name in models and name != main]
    pairs = [(main, other) for other in [*first, *(m for m in models if m != main and m not in first)]]
    for other in ("base", "sft"):
        for model in models:
            if other in models and model != other and not {(model, other), (other, model)} & set(pairs):
                pairs.append((model, other))
    return pairs


def paired(samples: Samples, models: Mapping[str, Any]) -> ByKey:
    """model -> (prompt_id, seed) -> row, models in reading order and keys in the same order for all of them."""
    found = {row["model"] for row in samples}
    if found != set(models):
        raise ValueError(f"samples are of {sorted(found)} but models describes {sorted(models)}")
    known = [model for model in COMPARED if model in models]
    rows: ByKey = {model: {} for model in [*known, *(model for model in models if model not in known)]}
    texts: dict[str, str] = {}
    for row in samples:
        key = (row["prompt_id"], row["seed"])
        if key in rows[row["model"]]:
            raise ValueError(f"{row['model']} has two samples of prompt {key[0]!r} with seed {key[1]}")
        if texts.setdefault(key[0], row["prompt"]) != row["prompt"]:
            raise ValueError(f"prompt {key[0]!r} has two texts: {texts[key[0]]!r} and {row['prompt']!r}")
        rows[row["model"]][key] = row
    first = next(iter(rows))
    for model, own in rows.items():
        if odd := sorted(own.keys() ^ rows[first].keys()):
            raise ValueError(f"{model} and {first} were not sampled alike: only one has prompt, seed {odd[0]}")
    keys = sorted(rows[first])
    return {model: {key: own[key] for key in keys} for model, own in rows.items()}


def judged(one: Opinion, rows: ByKey, a: str, b: str) -> dict[Key, float]:
    """(prompt_id, seed) -> outcome of a against b by a judge, of those comparisons that it judged."""
    if one.outcomes is None:
        found = statistics.outcomes(scores_by(rows[a], one.name), scores_by(rows[b], one.name))
        return dict(zip(rows[a], found.tolist(), strict=True))
    turned = (a, b) not in one.outcomes and (b, a) in one.outcomes
    said = one.outcomes.get((b, a) if turned else (a, b), {})
    own = {key: said[key] for key in rows[a] if key in said and not math.isnan(said[key])}
    return {key: 1 - value for key, value in own.items()} if turned else own


def scores_by(own: Mapping[Key, dict[str, Any]], judge: str) -> list[float]:
    for row in own.values():
        if judge not in row["scores"]:
            raise ValueError(f"a sample of {row['model']} for prompt {row['prompt_id']!r} has no score by {judge!r}")
    return [float(row["scores"][judge]) for row in own.values()]
