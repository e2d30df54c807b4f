"""Would the next training seed say the same? The spread between models of several seeds, apart from the noise of sampling.

No resampling of prompts can show it: a model that is compared is one draw of what its training gives (Henderson et al. 2018,
1709.06560). The stage alone was trained again, on the same data, sft model and reward model, so it is the spread of that
stage and not of the whole walk.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import statistics
from pipeline.artifacts import seeds
from pipeline.artifacts.files import weights_sha256
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.run import Run
from pipeline.comparison.pairing import Samples
from pipeline.language import fixed, phrase
from pipeline.report.findings import Report
from pipeline.report.sentences import ends, reading, seeds_sentence
from pipeline.settings.config import Config
from reward.statistics import Floats


@dataclass(frozen=True)
class Trained:
    """What the models of several training seeds said: `by_seed` has rows of samples by seed, the seed of the comparison's
    column first; `against` are the rows of the model called `reference`, on the same prompts with the same noise."""

    reference: str
    against: Samples
    by_seed: Mapping[int, Samples]


def trained(
    run: Run, references: Mapping[str, str | None], samples: Samples, of_other_seeds: Samples
) -> dict[str, Trained]:
    """The models of the comparison that have further seeds. references: model -> what it is held against, None for nothing;
    samples, of_other_seeds: rows of the models that are compared, and of the further seeds under the names of their folders."""
    found = {}
    for model, reference in references.items():
        every = seeds.siblings(run, model)
        if len(every) < 2 or reference is None:
            continue
        of = {
            name: [row for row in (*samples, *of_other_seeds) if row["model"] == name]
            for name in (reference, *folders(every))
        }
        found[model] = Trained(reference, of[reference], {one.seed: of[one.folder] for one in every})
    return found


def folders(every: Sequence[seeds.Sibling]) -> list[str]:
    return [one.folder for one in every]


def block(
    models: Mapping[str, Trained], judges: Sequence[str], draws: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """model -> judge -> the spread between its training seeds, in win rates against one reference.

    Of a judge: "against"; "per_seed" [{"seed", what `statistics.win_rate` says, "score" (mean)}]; what `statistics.seed_spread`
    says of the win rates; "sd_by_chance" (see `chance`); "reading", what the interval over seeds and the first seed's over
    prompts together allow to say.
    """
    found: dict[str, dict[str, Any]] = {}
    for model, own in models.items():
        keys = [(row["prompt_id"], row["seed"]) for row in own.against]
        prompts = [prompt for prompt, _ in keys]
        found[model] = {}
        for judge in judges:
            other = [float(row["scores"][judge]) for row in own.against]
            outcomes, per_seed = [], []
            for number, rows in own.by_seed.items():
                scores = {(row["prompt_id"], row["seed"]): float(row["scores"][judge]) for row in rows}
                mine = [scores[key] for key in keys]
                outcomes.append(statistics.outcomes(mine, other))
                outcome = statistics.win_rate(mine, other, prompts, draws=draws, seed=seed)
                per_seed.append({"seed": number, **outcome, "score": float(np.mean(mine))})
            spread = statistics.seed_spread([one["win_rate"] for one in per_seed])
            spread |= {"low": max(spread["low"], 0.0), "high": min(spread["high"], 1.0)}  # no share lies beyond
            found[model][judge] = {
                "against": own.reference,
                "per_seed": per_seed,
                **spread,
                "sd_by_chance": chance(np.stack(outcomes), prompts),
                "reading": said(spread, per_seed[0]),
            }
    return found


def provenance(run: Run, config: Config, of_other_seeds: Samples) -> dict[str, Any]:
    """What the models of further seeds are: model -> folder -> its seed, hash, gate, and KL to sft and length on average."""
    told: dict[str, Any] = {}
    for one in seeds.further(run, config):
        rows = [row for row in of_other_seeds if row["model"] == one.folder]
        shared = ", ".join(parents(one.stage, config))
        told.setdefault(
            one.stage, {"shared by all seeds": f"{shared}: the spread is over seeds of stage {one.stage} alone"}
        )
        told[one.stage][one.folder] = {
            "seed": one.seed,
            "sha256": weights_sha256(run.folder(one.folder)),
            "gate": one.gate,
            "KL to sft": float(np.mean([row["kl"] for row in rows])),
            "length": float(np.mean([row["length"] for row in rows])),
        }
    return told


def chance(outcomes: Floats, prompts: Sequence[str]) -> float:
    """The standard deviation between seeds' win rates that sampling alone would give, were all seeds equally good.

    outcomes: (seeds, N) float64 of the same N samples, whose `prompts` (N,) are named; several samples of a prompt count
    as their mean. From the residual of a two-way analysis of variance without replication (seeds by prompts): what is left
    when each seed's and each prompt's mean is taken out, sqrt(MS_residual / prompts). A spread not clearly above it says
    nothing of training. 0 for a single prompt, where nothing is left.
    """
    index = statistics.prompt_index(outcomes[0], prompts)
    counts = np.bincount(index)
    table = np.stack([np.bincount(index, weights=own) / counts for own in outcomes])
    seeds, width = table.shape
    if width == 1:
        return 0.0
    left = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    return math.sqrt(float((left**2).sum()) / ((seeds - 1) * (width - 1)) / width)


def said(spread: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    """What the interval over seeds and the one over prompts of one seed's `outcome` allow together: no more than the wider."""
    over_prompts = reading(outcome)
    over_seeds = "better" if spread["low"] > 0.5 else "worse" if spread["high"] < 0.5 else "no difference shown"
    if over_prompts in ("better", "worse"):
        return over_prompts if over_prompts == over_seeds else "no difference shown"
    return over_prompts


# In words


_CLAIMS = {
    "better": fixed("{told} Allowing for both, it is better than {other}."),
    "worse": fixed("{told} Allowing for both, it is worse than {other}."),
    "no difference shown": fixed("{told} Allowing for both, it shows no difference from {other}."),
    "too few prompts": fixed("{told} Allowing for both, there are too few prompts to tell it from {other}."),
}


def sentences(report: Report) -> list[str]:
    """The main model's training seeds in words, for the verdict: every judge's, but for the reward that was optimised."""
    found = []
    for judge, own in report.seeds.get(report.main, {}).items():
        interval = ends(own["per_seed"][0])
        if judge == report.optimised or interval is None:
            continue
        what = phrase(
            "the win rate of {main} against {other} by {judge}", main=report.main, other=own["against"], judge=judge
        )
        told = seeds_sentence(what, own, interval)
        found.append(phrase(_CLAIMS[own["reading"]], told=told, other=own["against"]))
    return found


def markdown(report: Report, plain: Callable[[str], str]) -> list[str]:
    """The block as lines of Markdown, names escaped by `plain`; none where there are no further seeds."""
    if not report.seeds:
        return []
    lines = ["| training seeds | judge | win rates | mean | 95% over seeds | 95% over prompts, first seed | says |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model, judges in report.seeds.items():
        for judge, own in judges.items():
            label = " (optimised)" if judge == report.optimised else ""
            rates = ", ".join(f"{one['seed']}: {one['win_rate']:.1%}" for one in own["per_seed"])
            interval = ends(own["per_seed"][0])
            prompts = "–" if interval is None else f"{100 * interval[0]:.1f}–{interval[1]:.1%}"
            cells = [plain(f"{model} vs {own['against']}"), plain(judge) + label, rates, f"{own['mean']:.1%}"]
            cells += [f"{100 * own['low']:.1f}–{own['high']:.1%}", prompts, own["reading"]]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
