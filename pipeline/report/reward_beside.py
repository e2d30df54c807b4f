"""How do two reward models compare that learned from the same rankings? On the same held-out pairs, one beside the other.

Accuracy of both with intervals, in all and by the gap between the two completions of a pair; the paired difference; how often both order a
pair alike; and how well each knows how sure it may be.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.schema import Ranking
from pipeline.language import phrase
from pipeline.report.pair_cuts import cuts
from pipeline.report.passes import points
from reward import metrics

BY_GAP = ("rating gap", "places apart")  # the cuts by how far two completions lie apart, of which there is one


def compared(
    held_out: Sequence[Ranking],
    scored: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    names: tuple[str, str],
) -> dict[str, Any] | None:
    """{"names" of the two bases, "slices" {name: {"this", "other", "difference", "agreement"}}, "calibration" [{"ece", "brier"} of each]}.

    `scored` {"ranking", "scores" (K,), "lengths" (K,)} of this model for each of `held_out`, `others` likewise of the other model, whose rankings
    may be others: those of both are compared. Of a slice each value is as `reward.metrics.mean_of_pairs` has it; "difference" is this
    less the other, pair by pair. None where no pair is of both.
    """
    known = {row["ranking"]: row for row in others}
    both = [
        (ranking, row, known[ranking.id])
        for ranking, row in zip(held_out, scored, strict=True)
        if ranking.id in known and len(known[ranking.id]["scores"]) == len(row["scores"])
    ]
    ranks = [ranking.ranks() for ranking, _, _ in both]
    if not any(len(set(own)) > 1 for own in ranks):
        return None
    pairs = metrics.find_pairs(ranks)
    sides = [[row["scores"] for row in rows] for rows in zip(*((own, other) for _, own, other in both), strict=True)]
    right, right_too = (metrics.outcomes(scores, ranks, pairs) for scores in sides)
    signs = [np.sign(metrics.margins(scores, ranks, pairs)) for scores in sides]
    same = (signs[0] == signs[1]).astype(np.float64)

    def of(which: NDArray[np.bool_]) -> dict[str, Any]:
        values = {"this": right, "other": right_too, "difference": right - right_too, "agreement": same}
        return {name: metrics.mean_of_pairs(value[which], pairs.only(which)) for name, value in values.items()}

    by_gap = cuts([ranking for ranking, _, _ in both], [own for _, own, _ in both], pairs)
    slices = {"all pairs": np.ones(len(right), dtype=bool)}
    slices |= {f"{cut} {name}": which for cut in BY_GAP for name, which in by_gap.get(cut, {}).items()}
    calibration = [
        {"ece": metrics.calibration_error(scores, ranks)["ece"], "brier": metrics.brier_score(scores, ranks)}
        for scores in sides
    ]
    return {
        "names": list(names),
        "slices": {name: of(which) for name, which in slices.items()},
        "calibration": calibration,
    }


def figures(found: dict[str, Any]) -> dict[str, float]:
    """What the manifest says of `compared`: "beside_accuracy" of the other model, "beside_difference" with "beside_low" and "beside_high" where
    there is an interval, "beside_agreement", "beside_ece"."""
    own = found["slices"]["all pairs"]
    told = {"difference": own["difference"]["mean"], "low": own["difference"]["low"], "high": own["difference"]["high"]}
    told |= {"accuracy": own["other"]["mean"], "agreement": own["agreement"]["mean"]}
    told |= {"ece": found["calibration"][1]["ece"]}
    return {f"beside_{name}": float(value) for name, value in told.items() if value is not None}


def verdict(found: dict[str, Any]) -> str:
    """One sentence on the difference, which claims no more than its interval allows."""
    own, (this, other) = found["slices"]["all pairs"], found["names"]
    gap = own["difference"]
    said = phrase(
        "On the same {pairs:,} held-out pairs the reward model on {this} orders {own:.1%} as people do, that on {other} {theirs:.1%}",
        **{"pairs": gap["pairs"], "this": this, "other": other},
        **{"own": own["this"]["mean"], "theirs": own["other"]["mean"]},
    )
    if gap["low"] is None:
        claim = phrase("; there is no interval of the difference, so nothing can be concluded")
    else:
        ends = {name: gap[name] for name in ("mean", "low", "high")}
        better = other if gap["high"] < 0 else this
        claim = phrase(" ({points})", points=points(ends)) + (
            phrase(", which shows neither to be better")
            if gap["low"] <= 0 <= gap["high"]
            else phrase(", so that on {name} is better", name=better)
        )
    alike = phrase("; both order {agreement:.1%} of the pairs alike.", agreement=own["agreement"]["mean"])
    return f"{said}{claim}{alike}"
