"""Is the aligned model better, by how much, and at what price? Every number that answers it, in one dict.

`compare` samples every model on the same held-out prompts with the same seeds, has the judges heard
(judges/panel.py) and hands the rows to `summarise`; verdict.py says in words what the numbers allow, page.py and exports.py
show them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import statistics
from pipeline.pages.common import require_finite
from pipeline.report import ranking_models, seed_spread
from pipeline.report.agreement import agreement
from pipeline.report.side_effects import length_drift, side_effects
from pipeline.report.slices import SLICINGS, slice_win_rates
from pipeline.report.verdict import signs, verdict, warnings

ORDER = ("base", "few_shot", "sft", "ppo", "dpo", "rloo", "rft")
# Readers trust these in this order, so the verdict names them so.
TRUST = ("human", "gold", "LLM", "independent", "optimised")
_SCORED_FOR_TAU = 2000  # completions: tau-b is quadratic in their number

Key = tuple[str, int]
Rows = dict[str, dict[Key, dict[str, Any]]]


@dataclass(frozen=True)
class Opinion:
    """What one judge said of all samples. `label` is a `judge.Label`; `summary` is what judging cost.

    outcomes: None for a judge whose scores the rows hold; else (a, b) -> (prompt_id, seed) -> 1 a is better, 0 b is, ½ a
    tie, or a number between where several people voted; a comparison that was not judged is absent or nan.
    """

    name: str
    label: str
    outcomes: Mapping[tuple[str, str], Mapping[Key, float]] | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def summarise(
    samples: list[dict[str, Any]],
    models: dict[str, dict[str, Any]],
    opinions: Sequence[Opinion],
    *,
    provenance: dict[str, Any],
    training: dict[str, Any] | None = None,
    problems: Iterable[str] = (),
    seeds: Mapping[str, Any] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every number of the comparison, with its verdict and warnings, ready for JSON; the same input gives the same bytes.

    samples: rows {"prompt_id", "prompt", "model", "completion", "length" (tokens), "eos", "seed", "kl" (nats of the
    whole completion to sft, or None), "scores" {judge: float}, "tokens"} and, where known, "tag", "source", "language",
    "entropy" (nats a token); `prompt` is the held-out prompt without any few-shot examples. Models are paired by
    (prompt_id, seed), so each must have the same ones, once.
    models: model -> what says what it is, in the order in which those that `ORDER` does not know are shown; of it
    "perplexity" (on held-out demonstrations), "perplexity_plain" (on plain text), "kl_bound" (nats, of best-of-n),
    "tokens_per_answer" and "training_tokens_sampled" are figures, None or absent where there is none.
    opinions: the judges, exactly one of them labelled "optimised": the score that training maximised.
    training: what `panel.over_training` found. problems: sentences for the warnings, such as of a judge that failed.
    seeds: what `seed_spread.block` found of further training seeds.
    Raises ValueError when the samples do not pair up or a number is missing or not finite.
    """
    if not samples:
        raise ValueError("no samples: nothing to compare")
    rows = paired(samples, models)
    optimised = _optimised(opinions)
    heard = sorted(opinions, key=lambda one: TRUST.index(one.label))
    keys = list(next(iter(rows.values())))
    prompts = [prompt for prompt, _ in keys]
    main = main_model(rows)
    report: dict[str, Any] = {
        "verdict": "",
        "prompts": len(set(prompts)),
        "samples_per_model": len(keys),
        "main": main,
        "optimised": optimised,
        "judges": [one.name for one in heard if one.name != optimised],
        "panel": {
            one.name: {"label": one.label, "scores": one.outcomes is None, "summary": one.summary} for one in heard
        },
        "models": {model: _model(model, rows, models[model], heard, optimised, draws, seed) for model in rows},
        "pairs": {},
        "slices": {},
    }
    for a, b in pairs_of(list(rows)):
        pair: dict[str, Any] = {}
        for one in heard:
            if outcome := _pair(one, rows, a, b, draws, seed):
                pair[one.name] = outcome
        report["pairs"][f"{a} vs {b}"] = pair
        if a == main and b == reference_of(rows, main):
            report["slices"] = {"pair": f"{a} vs {b}", "judges": _slices(heard, rows, a, b, draws, seed)}
    report["ranking"] = {
        one.name: ranking_models.bradley_terry(matches, min(draws, ranking_models.DRAWS), seed)
        for one in heard
        if (matches := _matches(one, rows))
    }
    report["agreement"] = _agreement(heard, rows, draws, seed) if len(heard) > 1 else None
    report["training"] = training
    report["frontier"] = _frontier(report)
    report["identical"] = _identical(rows, main)
    # Columns and pairs stay those of one model each: pooled with its further seeds, a method would look surer than any one
    # model of it, and the spread between them would be gone. So the seeds stand beside, and may take a claim back.
    report["seeds"] = {
        model: {judge: own[judge] for judge in report["panel"] if judge in own} for model, own in (seeds or {}).items()
    }
    report["verdict"] = " ".join([verdict(report), *seed_spread.sentences(report)])
    report["signs"] = signs(report)
    report["warnings"] = [*problems, *warnings(report)]
    report["provenance"] = provenance | {"models": {model: models[model] for model in rows}}
    require_finite(report, "report")
    return report


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


def paired(samples: list[dict[str, Any]], models: Mapping[str, Any]) -> Rows:
    """model -> (prompt_id, seed) -> row, models in reading order and keys in the same order for all of them."""
    found = {row["model"] for row in samples}
    if found != set(models):
        raise ValueError(f"samples are of {sorted(found)} but models describes {sorted(models)}")
    known = [model for model in ORDER if model in models]
    rows: Rows = {model: {} for model in [*known, *(model for model in models if model not in known)]}
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


def judged(one: Opinion, rows: Rows, a: str, b: str) -> dict[Key, float]:
    """(prompt_id, seed) -> outcome of a against b by a judge, of those comparisons that it judged."""
    if one.outcomes is None:
        found = statistics.outcomes(_scores(rows[a], one.name), _scores(rows[b], one.name))
        return dict(zip(rows[a], found.tolist(), strict=True))
    turned = (a, b) not in one.outcomes and (b, a) in one.outcomes
    said = one.outcomes.get((b, a) if turned else (a, b), {})
    own = {key: said[key] for key in rows[a] if key in said and not math.isnan(said[key])}
    return {key: 1 - value for key, value in own.items()} if turned else own


def _optimised(opinions: Sequence[Opinion]) -> str:
    found = [one.name for one in opinions if one.label == "optimised"]
    if len(found) != 1:
        raise ValueError(f"{len(found)} judges are labelled optimised, and there is one score that training maximised")
    names = [one.name for one in opinions]
    if len(set(names)) < len(names):
        raise ValueError(f"two judges are called alike: {', '.join(names)}")
    return found[0]


def _scores(own: Mapping[Key, dict[str, Any]], judge: str) -> list[float]:
    for row in own.values():
        if judge not in row["scores"]:
            raise ValueError(f"a sample of {row['model']} for prompt {row['prompt_id']!r} has no score by {judge!r}")
    return [float(row["scores"][judge]) for row in own.values()]


def _model(
    model: str,
    rows: Rows,
    described: Mapping[str, Any],
    heard: Sequence[Opinion],
    optimised: str,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    own = list(rows[model].values())
    prompts = [row["prompt_id"] for row in own]
    scoring = [one.name for one in heard if one.outcomes is None]

    def interval(values: Sequence[float]) -> dict[str, float]:
        return statistics.mean_interval(values, prompts, draws, seed)

    effects = side_effects(own, draws, seed)
    intervals = {judge: interval(_scores(rows[model], judge)) for judge in scoring}
    intervals["length"] = effects.pop("length")
    kl = [row["kl"] for row in own]
    missing = kl.count(None)
    if 0 < missing < len(kl):
        raise ValueError(f"{model}: {missing} of {len(kl)} samples have no kl: give it for all or for none")
    if not missing:
        intervals["kl"] = interval(kl)
    reference = reference_of(rows, main_model(rows))
    writes = reference is not None and sum(row["length"] for row in rows[reference].values()) > 0
    try:
        drift = (
            length_drift(
                [row["length"] for row in own],
                [row["length"] for row in rows[str(reference)].values()],
                prompts,
                draws,
                seed,
            )
            if writes
            else None
        )
    except ValueError:  # a reference that is nearly always silent
        drift = None
    told = ("perplexity", "perplexity_plain", "kl_bound", "tokens_per_answer", "training_tokens_sampled")
    figures = {name: described.get(name) for name in told}
    return {
        "reward": intervals[optimised]["mean"],
        "judge": {judge: intervals[judge]["mean"] for judge in scoring if judge != optimised},
        "length": intervals["length"]["mean"],
        "eos_rate": effects["eos_rate"]["mean"],
        "distinct_2": statistics.distinct_n([row["tokens"] for row in own], 2),
        "kl": None if missing else intervals["kl"]["mean"],
        **{name: None if value is None else float(value) for name, value in figures.items()},
        "intervals": intervals,
        "side_effects": effects,
        "length_drift": drift and drift | {"reference": reference},
    }


def _pair(one: Opinion, rows: Rows, a: str, b: str, draws: int, seed: int) -> dict[str, Any] | None:
    """What a judge says of a against b; None where it judged none of their samples."""
    found = judged(one, rows, a, b)
    if not found:
        return None
    keys, values = list(found), list(found.values())
    prompts = [prompt for prompt, _ in keys]
    outcome: dict[str, Any] = dict(statistics.win_rate(values, [0.5] * len(values), prompts, draws=draws, seed=seed))
    outcome["wilson"] = statistics.wilson(outcome["wins"], outcome["ties"], outcome["losses"])
    # where all went one way there is nothing to fit: the prior alone would make an interval, and a narrow one
    one_way = outcome["low"] == outcome["high"]
    outcome["length_controlled"] = (
        None
        if one_way
        else ranking_models.length_controlled_win_rate(
            values,
            # characters, as models may have different tokenizers
            [float(len(rows[a][key]["completion"])) for key in keys],
            [float(len(rows[b][key]["completion"])) for key in keys],
            prompts,
            min(draws, ranking_models.DRAWS),
            seed,
        )
    )
    if one.outcomes is None:
        x, y = _scores(rows[a], one.name), _scores(rows[b], one.name)
        gaps = [p - q for p, q in zip(x, y, strict=True)]
        outcome["difference"] = statistics.mean_interval(gaps, prompts, draws, seed)
    else:
        outcome["difference"] = None
    outcome["unjudged"] = len(rows[a]) - len(found)
    return outcome


def _slices(heard: Sequence[Opinion], rows: Rows, a: str, b: str, draws: int, seed: int) -> dict[str, Any]:
    """judge -> slicing -> slice -> outcome of a against b; a slicing that puts all prompts together says nothing."""
    cuts: dict[str, dict[str, Any]] = {}
    for one in heard:
        found = judged(one, rows, a, b)
        own = [rows[a][key] for key in found]
        halves = [0.5] * len(own)
        cuts[one.name] = {}
        for name, slicing in SLICINGS.items():
            if own and len(set(slicing(own))) > 1:
                cuts[one.name][name] = slice_win_rates(
                    own, list(found.values()), halves, slicing, draws=draws, seed=seed
                )
    return {judge: own for judge, own in cuts.items() if own}


def _matches(one: Opinion, rows: Rows) -> list[ranking_models.Match]:
    if one.outcomes is None:
        prompts = [prompt for prompt, _ in next(iter(rows.values()))]
        return ranking_models.every_pair({model: _scores(own, one.name) for model, own in rows.items()}, prompts)
    return [
        ranking_models.Match(key[0], a, b, outcome)
        for a, b in pairs_of(list(rows))
        for key, outcome in judged(one, rows, a, b).items()
    ]


def _agreement(heard: Sequence[Opinion], rows: Rows, draws: int, seed: int) -> dict[str, Any]:
    """`agreement.agreement` over all pairs that are compared."""
    outcomes: dict[str, list[float]] = {one.name: [] for one in heard}
    prompts: list[str] = []
    for a, b in pairs_of(list(rows)):
        prompts += [prompt for prompt, _ in rows[a]]
        for one in heard:
            found = judged(one, rows, a, b)
            outcomes[one.name] += [found.get(key, math.nan) for key in rows[a]]
    scored = {
        one.name: np.concatenate([_scores(own, one.name) for own in rows.values()])
        for one in heard
        if one.outcomes is None
    }
    step = max((-(-len(values) // _SCORED_FOR_TAU) for values in scored.values()), default=1)
    thinned = {name: values[::step] for name, values in scored.items()}
    return agreement(outcomes, prompts, thinned, draws, seed) if prompts else {"judges": list(outcomes), "pairs": []}


def _identical(rows: Rows, main: str) -> dict[str, float]:
    """Other model -> share of the samples in which it says, and ends, just as `main` does."""
    own = rows[main].items()
    return {
        name: sum(
            row["completion"] == others[key]["completion"] and row["eos"] == others[key]["eos"] for key, row in own
        )
        / len(own)
        for name, others in rows.items()
        if name != main
    }


def _frontier(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points (KL to sft, mean score by each judge): the models, best-of-n at the bound of its KL, ppo over training.

    "kind" is model, bound (the KL is log n - (n - 1)/n, an upper bound: Stiennon et al. 2020, arXiv 2009.01325, appendix
    G.3) or training (another set of prompts, and the KL of the rollouts of that step).
    """
    points: list[dict[str, Any]] = []
    for name, model in report["models"].items():
        scores = {judge: model["intervals"][judge] for judge, own in report["panel"].items() if own["scores"]}
        if model["kl_bound"] is not None:
            points.append({"name": name, "kind": "bound", "step": None, "kl": model["kl_bound"], "scores": scores})
        elif model["kl"] is not None:
            points.append({"name": name, "kind": "model", "step": None, "kl": model["kl"], "scores": scores})
    for at in (report["training"] or {}).get("steps", []):
        if at["kl"] is not None:
            own = {"name": "ppo", "kind": "training", "step": at["step"], "kl": at["kl"], "scores": at["scores"]}
            points.append(own)
    return points
