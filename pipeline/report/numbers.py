"""Is the aligned model better, by how much, and at what price? Every number that answers it.

`compare` samples every model on the same held-out prompts with the same seeds, asks the judges
(judges/panel.py) and hands the rows to `summarise`; verdict.py says in words what the numbers allow, page.py and exports.py
show them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data.units import is_spaceless
from pipeline import statistics
from pipeline.comparison.pairing import ByKey, Opinion, judged, main_model, paired, pairs_of, reference_of, scores_by
from pipeline.pages.common import require_finite
from pipeline.report import passes, ranking_models, seed_spread
from pipeline.report.agreement import agreement
from pipeline.report.findings import Figures, Member, Point, Report
from pipeline.report.side_effects import length_drift, runs_of, side_effects
from pipeline.report.signs import signs
from pipeline.report.slices import SLICINGS, slice_win_rates
from pipeline.report.verdict import verdict, warnings

# Readers trust these in this order, so the verdict names them so.
TRUST = ("verifier", "human", "gold", "LLM", "independent", "optimised")
_SCORED_FOR_TAU = 2000  # completions: tau-b is quadratic in their number


def summarise(
    samples: list[dict[str, Any]],
    models: dict[str, dict[str, Any]],
    opinions: Sequence[Opinion],
    *,
    provenance: dict[str, Any],
    training: dict[str, Any] | None = None,
    curves: dict[str, list[float]] | None = None,
    problems: Iterable[str] = (),
    seeds: Mapping[str, Any] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Report:
    """Every number of the comparison, with its verdict and warnings; the same input gives the same report.

    samples: rows {"prompt_id", "prompt", "model", "completion", "length" (tokens), "eos", "seed", "kl" (nats of the
    whole completion to sft, or None), "scores" {judge: float}, "tokens"} and, where known, "tag", "source", "language",
    "entropy" (nats a token); `prompt` is the held-out prompt without any few-shot examples. Models are paired by
    (prompt_id, seed), so each must have the same ones, once.
    models: model -> what says what it is, in the order in which those that `COMPARED` does not name are shown; of it
    "perplexity" (on held-out demonstrations), "perplexity_plain" (on plain text), "kl_bound" (nats, of best-of-n),
    "tokens_per_answer" and "training_tokens_sampled" are figures, None or absent where there is none.
    opinions: the judges, exactly one of them labelled "optimised": the score that training maximised.
    training: what `over_training` found. curves: what `curves.read` found. problems: sentences for the warnings, such as of a judge that failed.
    seeds: what `seed_spread.block` found of further training seeds.
    Raises ValueError when the samples do not pair up or a number is missing or not finite.
    """
    if not samples:
        raise ValueError("no samples: nothing to compare")
    rows = paired(samples, models)
    optimised = _optimised(opinions)
    opinions = sorted(opinions, key=lambda one: TRUST.index(one.label))
    keys = list(next(iter(rows.values())))
    main = main_model(rows)
    # Columns and pairs stay those of one model each: pooled with its further seeds, a method would look surer than any one
    # model of it, and the spread between them would be gone. So the seeds stand beside, and may take a claim back.
    spreads = {
        model: {one.name: own[one.name] for one in opinions if one.name in own} for model, own in (seeds or {}).items()
    }
    by_characters = is_spaceless(row["completion"] for row in samples)
    report = Report(
        prompts=len({prompt for prompt, _ in keys}),
        samples_per_model=len(keys),
        main=main,
        optimised=optimised,
        judges=[one.name for one in opinions if one.name != optimised],
        panel={one.name: Member(one.label, one.outcomes is None, one.summary) for one in opinions},
        runs_of="characters" if by_characters else "tokens",
        models={
            model: _model(model, rows, models[model], opinions, optimised, by_characters, draws, seed) for model in rows
        },
        pairs={f"{a} vs {b}": _pair(opinions, rows, a, b, draws, seed) for a, b in pairs_of(list(rows))},
        passes=passes.block(opinions, rows, draws, seed),
        slices=_slices(opinions, rows, main, draws, seed),
        ranking=_ranking(opinions, rows, draws, seed),
        agreement=_agreement(opinions, rows, draws, seed) if len(opinions) > 1 else None,
        training=training,
        curves=curves or {},
        identical=_identical(rows, main),
        seeds=spreads,
        provenance=provenance | {"models": {model: models[model] for model in rows}},
    )
    report = replace(report, frontier=_frontier(report), signs=signs(report))
    report = replace(
        report,
        verdict=" ".join([verdict(report), *passes.sentences(report), *seed_spread.sentences(report)]),
        warnings=[*problems, *warnings(report)],
    )
    require_finite(report.to_json(), "report")
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
    by_characters: bool,
    draws: int,
    seed: int,
) -> Figures:
    own = list(rows[model].values())
    prompts = [row["prompt_id"] for row in own]
    scoring = [one.name for one in opinions if one.outcomes is None]

    def interval(values: Sequence[float]) -> dict[str, float]:
        return statistics.mean_interval(values, prompts, draws, seed)

    effects = side_effects(own, draws, seed, by_characters)
    intervals = {judge: interval(scores_by(rows[model], judge)) for judge in scoring}
    intervals["length"] = effects.pop("length")
    positive = {
        one.name: interval([float(score > one.positive) for score in scores_by(rows[model], one.name)])
        for one in opinions
        if one.outcomes is None and one.positive is not None
    }
    kl = [row["kl"] for row in own]
    missing = kl.count(None)
    if 0 < missing < len(kl):
        raise ValueError(f"{model}: {missing} of {len(kl)} samples have no kl: give it for all or for none")
    if not missing:
        intervals["kl"] = interval(kl)
    told = ("perplexity", "perplexity_plain", "kl_bound", "tokens_per_answer", "training_tokens_sampled")
    figures = {name: described.get(name) for name in told}
    return Figures(
        reward=intervals[optimised]["mean"],
        judge={judge: intervals[judge]["mean"] for judge in scoring if judge != optimised},
        positive=positive,
        length=intervals["length"]["mean"],
        eos_rate=effects["eos_rate"]["mean"],
        distinct_2=statistics.distinct_n(runs_of(own, by_characters), 2),
        kl=None if missing else intervals["kl"]["mean"],
        **{name: None if value is None else float(value) for name, value in figures.items()},
        intervals=intervals,
        side_effects=effects,
        length_drift=_length_drift(model, rows, draws, seed),
    )


def _length_drift(model: str, rows: ByKey, draws: int, seed: int) -> dict[str, Any] | None:
    """How many times as much a model writes as the main model's reference; None where that is silent, or nearly always."""
    reference = reference_of(rows, main_model(rows))
    if reference is None or not sum(row["length"] for row in rows[reference].values()):
        return None
    own, other = ([row["length"] for row in rows[name].values()] for name in (model, reference))
    try:
        drift = length_drift(own, other, [prompt for prompt, _ in rows[model]], draws, seed)
    except ValueError:  # a resample of the reference is silent
        return None
    return {**drift, "reference": reference}


def _pair(opinions: Sequence[Opinion], rows: ByKey, a: str, b: str, draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """judge -> outcome of a against b, of the judges that judged any of their samples."""
    found = {one.name: _outcome(one, rows, a, b, draws, seed) for one in opinions}
    return {judge: outcome for judge, outcome in found.items() if outcome is not None}


def _outcome(one: Opinion, rows: ByKey, a: str, b: str, draws: int, seed: int) -> dict[str, Any] | None:
    """What a judge says of a against b; None where it judged none of their samples.

    What `statistics.win_rate` says, "wilson", "length_controlled" (None where nothing can be fitted), "difference" of scores (None
    for a judge that only compares) and "unjudged", the samples that it left out.
    """
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


def _slices(opinions: Sequence[Opinion], rows: ByKey, main: str, draws: int, seed: int) -> dict[str, Any]:
    """The main model against its reference, "pair", and "judges": judge -> slicing -> slice -> outcome of a against b; a slicing that puts all prompts together says nothing."""
    a, b = main, reference_of(rows, main)
    if b is None or (a, b) not in pairs_of(list(rows)):
        return {}
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
    return {"pair": f"{a} vs {b}", "judges": {judge: own for judge, own in cuts.items() if own}}


def _ranking(opinions: Sequence[Opinion], rows: ByKey, draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """judge -> all models in one order, of the judges that judged anything."""
    matches = {one.name: _matches(one, rows) for one in opinions}
    draws = min(draws, ranking_models.DRAWS)
    return {judge: ranking_models.bradley_terry(own, draws, seed) for judge, own in matches.items() if own}


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


def _frontier(report: Report) -> list[Point]:
    """The models at their KL, best-of-n at the bound of its KL, ppo over training."""
    points = []
    scoring = [judge for judge, own in report.panel.items() if own.scores]
    for name, model in report.models.items():
        scores = {judge: model.intervals[judge] for judge in scoring}
        if model.kl_bound is not None:
            points.append(Point(name, "bound", None, model.kl_bound, scores))
        elif model.kl is not None:
            points.append(Point(name, "model", None, model.kl, scores))
    for at in (report.training or {}).get("steps", []):
        if at["kl"] is not None:
            points.append(Point("ppo", "training", at["step"], at["kl"], at["scores"]))
    return points
