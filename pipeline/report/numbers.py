"""Is the aligned model better, by how much, and at what price? Every number that answers it, in one dict.

`compare` samples every model on the same held-out prompts with the same seeds, asks the judges
(judges/panel.py) and hands the rows to `summarise`; verdict.py says in words what the numbers allow, page.py and exports.py
show them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import statistics
from pipeline.comparison.pairing import ByKey, Opinion, judged, main_model, paired, pairs_of, reference_of, scores_by
from pipeline.pages.common import require_finite
from pipeline.report import ranking_models, seed_spread
from pipeline.report.agreement import agreement
from pipeline.report.side_effects import length_drift, side_effects
from pipeline.report.signs import signs
from pipeline.report.slices import SLICINGS, slice_win_rates
from pipeline.report.verdict import verdict, warnings

# Readers trust these in this order, so the verdict names them so.
TRUST = ("human", "gold", "LLM", "independent", "optimised")
_SCORED_FOR_TAU = 2000  # completions: tau-b is quadratic in their number


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
    training: what `over_training` found. problems: sentences for the warnings, such as of a judge that failed.
    seeds: what `seed_spread.block` found of further training seeds.
    Raises ValueError when the samples do not pair up or a number is missing or not finite.
    """
    if not samples:
        raise ValueError("no samples: nothing to compare")
    rows = paired(samples, models)
    optimised = _optimised(opinions)
    opinions = sorted(opinions, key=lambda one: TRUST.index(one.label))
    keys = list(next(iter(rows.values())))
    prompts = [prompt for prompt, _ in keys]
    main = main_model(rows)
    report: dict[str, Any] = {
        "verdict": "",
        "prompts": len(set(prompts)),
        "samples_per_model": len(keys),
        "main": main,
        "optimised": optimised,
        "judges": [one.name for one in opinions if one.name != optimised],
        "panel": {
            one.name: {"label": one.label, "scores": one.outcomes is None, "summary": one.summary} for one in opinions
        },
        "models": {model: _model(model, rows, models[model], opinions, optimised, draws, seed) for model in rows},
        "pairs": {},
        "slices": {},
    }
    for a, b in pairs_of(list(rows)):
        pair: dict[str, Any] = {}
        for one in opinions:
            if outcome := _pair(one, rows, a, b, draws, seed):
                pair[one.name] = outcome
        report["pairs"][f"{a} vs {b}"] = pair
        if a == main and b == reference_of(rows, main):
            report["slices"] = {"pair": f"{a} vs {b}", "judges": _slices(opinions, rows, a, b, draws, seed)}
    report["ranking"] = {
        one.name: ranking_models.bradley_terry(matches, min(draws, ranking_models.DRAWS), seed)
        for one in opinions
        if (matches := _matches(one, rows))
    }
    report["agreement"] = _agreement(opinions, rows, draws, seed) if len(opinions) > 1 else None
    report["training"] = training
    report["frontier"] = _frontier(report)
    report["identical"] = _identical(rows, main)
    # Columns and pairs stay those of one model each: pooled with its further seeds, a method would look surer than any one
    # model of it, and the spread between them would be gone. So the seeds stand beside, and may take a claim back.
    report["seeds"] = {
        model: {judge: own[judge] for judge in report["panel"] if judge in own} for model, own in (seeds or {}).items()
    }
    report["verdict"] = " ".join([verdict(report), *seed_spread.sentences(report)])
    report["signs"] = [sign._asdict() for sign in signs(report)]
    report["warnings"] = [*problems, *warnings(report)]
    report["provenance"] = provenance | {"models": {model: models[model] for model in rows}}
    require_finite(report, "report")
    return report


def _optimised(opinions: Sequence[Opinion]) -> str:
    found = [one.name for one in opinions if one.label == "optimised"]
    if len(found) != 1:
        raise ValueError(f"{len(found)} judges are labelled optimised, and there is one score that training maximised")
    names = [one.name for one in opinions]
    if len(set(names)) < len(names):
        raise ValueError(f"two judges are called alike: {', '.join(names)}")
    return found[0]


def _model(
    model: str,
    rows: ByKey,
    described: Mapping[str, Any],
    opinions: Sequence[Opinion],
    optimised: str,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    own = list(rows[model].values())
    prompts = [row["prompt_id"] for row in own]
    scoring = [one.name for one in opinions if one.outcomes is None]

    def interval(values: Sequence[float]) -> dict[str, float]:
        return statistics.mean_interval(values, prompts, draws, seed)

    effects = side_effects(own, draws, seed)
    intervals = {judge: interval(scores_by(rows[model], judge)) for judge in scoring}
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


def _pair(one: Opinion, rows: ByKey, a: str, b: str, draws: int, seed: int) -> dict[str, Any] | None:
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
        x, y = scores_by(rows[a], one.name), scores_by(rows[b], one.name)
        gaps = [p - q for p, q in zip(x, y, strict=True)]
        outcome["difference"] = statistics.mean_interval(gaps, prompts, draws, seed)
    else:
        outcome["difference"] = None
    outcome["unjudged"] = len(rows[a]) - len(found)
    return outcome


def _slices(opinions: Sequence[Opinion], rows: ByKey, a: str, b: str, draws: int, seed: int) -> dict[str, Any]:
    """judge -> slicing -> slice -> outcome of a against b; a slicing that puts all prompts together says nothing."""
    cuts: dict[str, dict[str, Any]] = {}
    for one in opinions:
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


def _matches(one: Opinion, rows: ByKey) -> list[ranking_models.Match]:
    if one.outcomes is None:
        prompts = [prompt for prompt, _ in next(iter(rows.values()))]
        return ranking_models.every_pair({model: scores_by(own, one.name) for model, own in rows.items()}, prompts)
    return [
        ranking_models.Match(key[0], a, b, outcome)
        for a, b in pairs_of(list(rows))
        for key, outcome in judged(one, rows, a, b).items()
    ]


def _agreement(opinions: Sequence[Opinion], rows: ByKey, draws: int, seed: int) -> dict[str, Any]:
    """`agreement.agreement` over all pairs that are compared."""
    outcomes: dict[str, list[float]] = {one.name: [] for one in opinions}
    prompts: list[str] = []
    for a, b in pairs_of(list(rows)):
        prompts += [prompt for prompt, _ in rows[a]]
        for one in opinions:
            found = judged(one, rows, a, b)
            outcomes[one.name] += [found.get(key, math.nan) for key in rows[a]]
    scored = {
        one.name: np.concatenate([scores_by(own, one.name) for own in rows.values()])
        for one in opinions
        if one.outcomes is None
    }
    step = max((-(-len(values) // _SCORED_FOR_TAU) for values in scored.values()), default=1)
    thinned = {name: values[::step] for name, values in scored.items()}
    return agreement(outcomes, prompts, thinned, draws, seed) if prompts else {"judges": list(outcomes), "pairs": []}


def _identical(rows: ByKey, main: str) -> dict[str, float]:
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
