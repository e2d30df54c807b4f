"""How good is the reward model, where, and where not? Its page, report.html, from what it scored on held-out rankings.

The stage calls `write` with the rankings and with `detail`, which holds a score and a length for each of their completions; the
numbers of the page come back, for evaluation.json. A pair is two completions of a ranking that people put in order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.schema import Ranking
from pipeline.artifacts.files import read_rows, write_text
from pipeline.language import LANGUAGES, fixed, named, phrase, phrases, spoken
from pipeline.pages.common import page_template, require_finite
from pipeline.pages.drawing import ACCENT, BAD, GOOD, LINE, SOFT, Figure, draw
from pipeline.pages.visible import visible
from pipeline.report import reward_beside
from pipeline.report.pair_cuts import NAMES, RANGES, cuts
from pipeline.report.pair_cuts import by_quantile as by_quantile
from policies.template import show_prompt
from reward import metrics
from reward.statistics import LEVEL

MISTAKES = 20
SHOWN_CHARACTERS = 800


def write(
    folder: Path,
    held_out: Sequence[Ranking],
    detail: dict[str, Any],
    provenance: dict[str, Any],
    beside: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write report.html, and report.zh.html in Chinese, into `folder`, where metrics.jsonl of the training lies, and return the numbers that `detail` lacks. `beside` is what
    `reward_beside.compared` says of this model and another one.

    detail: "held_out" [{"scores" (K,) raw floats, "lengths" (K,) tokens} a ranking], "calibration" as `calibration_error` gives it.
    The same input gives the same bytes. Raises ValueError where a number is not finite.
    """
    numbers = summarise(held_out, detail["held_out"], read_rows(folder / "metrics.jsonl"))
    if beside is not None:
        numbers["beside"] = beside
    require_finite(numbers, "evaluation")
    for language in LANGUAGES:
        with spoken(language):
            write_text(folder / named("report.html"), page(numbers, detail["calibration"], provenance))
    return numbers


def summarise(
    held_out: Sequence[Ranking], scored: Sequence[dict[str, Any]], training: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """{"overall", "slices", "brier", "scores", "margins", "mistakes", "training"}, ready for JSON.

    "overall" and every slice of "slices" {cut: {name: …}} are {"mean" accuracy, "low", "high", "pairs", "groups", "length_only",
    "human"}: the accuracy of the better one of "longer wins" and "shorter wins" over all pairs, and of one random rater a
    completion (None where completions have fewer than two raters).
    """
    scores = [row["scores"] for row in scored]
    ranks = [ranking.ranks() for ranking in held_out]
    pairs = metrics.find_pairs(ranks)
    right, gap = metrics.outcomes(scores, ranks, pairs), metrics.margins(scores, ranks, pairs)
    longer = metrics.outcomes([row["lengths"] for row in scored], ranks, pairs)
    length_only = longer if longer.mean() >= 0.5 else 1 - longer
    raters = [[list(c.ratings or ()) for c in ranking.completions] for ranking in held_out]
    people = None
    if all(len(ratings) > 1 for group in raters for ratings in group):
        people = metrics.rater_agreement(raters, pairs)

    def described(which: NDArray[np.bool_]) -> dict[str, Any]:
        return metrics.mean_of_pairs(right[which], pairs.only(which)) | {
            "length_only": float(length_only[which].mean()),
            "human": None if people is None else float(people[which].mean()),
        }

    flat = np.array([score for group in scores for score in group])
    return {
        "overall": described(np.ones(len(right), dtype=bool)),
        "slices": {
            cut: {name: described(which) for name, which in found.items()}
            for cut, found in cuts(held_out, scored, pairs).items()
        },
        "brier": metrics.brier_score(scores, ranks),
        "scores": _score_histogram(scores, ranks),
        "margins": _margin_histogram(gap),
        "mistakes": _mistakes(held_out, flat, gap, pairs),
        "training": [
            {key: row[key] for key in ("step", "loss", "accuracy") if key in row} for row in training if "loss" in row
        ],
    }


def _histogram(values: NDArray[Any], series: dict[str, NDArray[Any]]) -> dict[str, Any]:
    edges = np.histogram_bin_edges(values, bins=int(np.clip(np.sqrt(len(values)), 8, 30)))
    return {"edges": edges.tolist()} | {name: np.histogram(own, edges)[0].tolist() for name, own in series.items()}


def _margin_histogram(gap: NDArray[Any]) -> dict[str, Any]:
    """Counts of margins in bins that end at 0, where right and wrong part; a margin of 0 is in the bin above."""
    width = max(float(np.ptp(gap)), 1e-6) / np.clip(np.sqrt(len(gap)), 8, 30)
    edges = width * np.arange(np.floor(gap.min() / width - 1e-9), np.floor(gap.max() / width + 1e-9) + 2)
    return {"edges": edges.tolist(), "pairs": np.histogram(gap, edges)[0].tolist()}


def _score_histogram(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Counts of scores in the best and in the worst tier of each ranking that has two or more."""
    chosen, rejected = [], []
    for group, rank in zip(scores, ranks, strict=True):
        if max(rank) > min(rank):
            chosen += [s for s, r in zip(group, rank, strict=True) if r == min(rank)]
            rejected += [s for s, r in zip(group, rank, strict=True) if r == max(rank)]
    both = {"chosen": np.array(chosen), "rejected": np.array(rejected)}
    means = {f"{name}_mean": float(own.mean()) for name, own in both.items()}
    return _histogram(np.array(chosen + rejected), both) | means


def _mistakes(
    held_out: Sequence[Ranking], scores: NDArray[Any], gap: NDArray[Any], pairs: metrics.Pairs
) -> list[dict[str, Any]]:
    """The pairs that the model orders the other way, surest first."""
    texts = [c for ranking in held_out for c in ranking.completions]

    def side(place: int) -> dict[str, Any]:
        completion = texts[place]
        return {"text": completion.text, "score": float(scores[place]), "rating": completion.rating}

    return [
        {
            "ranking": held_out[pairs.group[i]].id,
            "prompt": show_prompt(held_out[pairs.group[i]].prompt),
            "better": side(pairs.better[i]),
            "worse": side(pairs.worse[i]),
            "confidence": float(1 / (1 + np.exp(gap[i]))),
        }
        for i in np.argsort(gap, kind="stable")[:MISTAKES]
        if gap[i] < 0
    ]


def verdict(overall: dict[str, Any]) -> str:
    """One sentence on the accuracy, which claims no more than its interval allows."""
    said: str = phrase(
        "On {pairs:,} held-out pairs of {groups:,} rankings the reward model orders {mean:.1%} as people do",
        **{"pairs": overall["pairs"], "groups": overall["groups"], "mean": overall["mean"]},
    )
    if overall["low"] is None:
        said += phrase(", all alike or of too few rankings for an interval, so nothing can be concluded")
    else:
        said += phrase(" (95% interval {low:.1f} to {high:.1%})", low=100 * overall["low"], high=overall["high"])
        said += "" if overall["low"] > 0.5 else phrase(", which is not shown to be more than a coin does")
    said += phrase("; length alone orders {share:.1%} so", share=overall["length_only"])
    return said + (
        phrase(".") if overall["human"] is None else phrase(", and one person {share:.1%}.", share=overall["human"])
    )


def page(numbers: dict[str, Any], calibration: dict[str, Any], provenance: dict[str, Any]) -> str:
    """The page as HTML. Texts come from strangers and are text, whatever they hold."""
    return page_template("reward.html.j2").render(
        verdict=verdict(numbers["overall"]),
        beside=numbers.get("beside"),
        beside_verdict=reward_beside.verdict(numbers["beside"]) if "beside" in numbers else "",
        numbers=numbers,
        figures=figures(numbers, calibration),
        provenance=provenance,
        shown=_shown,
        name_of=_name_of,
        level=LEVEL,
        few=metrics.MIN_GROUPS,
    )


def _shown(text: str) -> str:
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}{phrase(' … (cut here)')}"
    return visible(cut)


def _name_of(cut: str, name: str) -> str:
    """A slice as it is shown: one of ours in the language that is spoken, the ends of a range, or a tag or source as it is."""
    if name in NAMES:
        return phrase(name)
    low, _, high = name.partition(" to ")
    return phrase("{low} to {high}", low=low, high=high) if cut in RANGES and high else _shown(name)


def figures(numbers: dict[str, Any], calibration: dict[str, Any]) -> list[Figure]:
    """Reliability, scores, margins and training, each with its numbers."""
    drawn = [_reliability(numbers, calibration), _scores(numbers["scores"]), _margins(numbers["margins"])]
    return drawn + ([_training(numbers["training"])] if numbers["training"] else [])


def _reliability(numbers: dict[str, Any], calibration: dict[str, Any]) -> Figure:
    bins = [b for b in calibration["bins"] if b["count"]]
    most = max(b["count"] for b in bins)

    def paint(axes: Any) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=SOFT, linestyle="--", linewidth=1, label=phrase("as sure as right"))
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=ACCENT)
        sizes = [12 + 90 * b["count"] / most for b in bins]
        axes.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=sizes, color=ACCENT)
        axes.set(xlabel=phrase("confidence of the model"), ylabel=phrase("accuracy"), ylim=(-0.03, 1.03))
        axes.legend(loc="lower right")

    note = phrase(
        "Mean gap between confidence and accuracy (ECE) {ece:.3f}, Brier score {brier:.3f} (a coin: 0.250). Below the line the model is "
        "too sure; large dots are many pairs.",
        **{"ece": calibration["ece"], "brier": numbers["brier"]},
    )
    rows = [[_range(b["low"], b["high"]), b["confidence"], b["accuracy"], b["count"]] for b in calibration["bins"]]
    return Figure(
        phrase("Reliability"),
        note,
        draw("reliability", phrase("accuracy against confidence"), paint),
        phrases("confidence", "mean confidence", "accuracy", "pairs"),
        rows,
    )


def _scores(found: dict[str, Any]) -> Figure:
    def paint(axes: Any) -> None:
        for name, colour in ((fixed("chosen"), GOOD), (fixed("rejected"), BAD)):
            counts = np.array(found[name]) / max(sum(found[name]), 1)
            axes.stairs(counts, found["edges"], fill=True, alpha=0.25, color=colour)
            axes.stairs(counts, found["edges"], color=colour, label=phrase(name), linewidth=1.6)
        axes.set(xlabel=phrase("raw score"), ylabel=phrase("share of completions"))
        axes.legend()

    chosen, rejected = (f"{found[f'{side}_mean']:.2f}".replace("-", "−") for side in ("chosen", "rejected"))
    note = phrase(
        "Completions of the best and of the worst tier of their ranking; means {chosen} and {rejected}.",
        **{"chosen": chosen, "rejected": rejected},
    )
    rows = [
        [_range(a, b), c, r]
        for a, b, c, r in zip(found["edges"], found["edges"][1:], found["chosen"], found["rejected"], strict=False)
    ]
    return Figure(
        phrase("Scores of chosen and rejected"),
        note,
        draw("scores", phrase("histogram of scores of chosen and rejected completions"), paint),
        phrases("raw score", "chosen", "rejected"),
        rows,
    )


def _margins(found: dict[str, Any]) -> Figure:
    def paint(axes: Any) -> None:
        middle = (np.array(found["edges"][1:]) + found["edges"][:-1]) / 2
        axes.bar(
            middle,
            found["pairs"],
            width=np.diff(found["edges"]),
            color=[GOOD if m > 0 else BAD for m in middle],
            edgecolor=LINE,
            linewidth=0.5,
        )
        axes.axvline(0, color=SOFT, linestyle="--", linewidth=1)
        axes.set(xlabel=phrase("score of the better less the worse one"), ylabel=phrase("pairs"))

    rows = [[_range(a, b), n] for a, b, n in zip(found["edges"], found["edges"][1:], found["pairs"], strict=False)]
    return Figure(
        phrase("Margins"),
        phrase("Left of 0 the model contradicts people."),
        draw("margins", phrase("histogram of score margins"), paint),
        phrases("margin", "pairs"),
        rows,
    )


def _training(rows: Sequence[dict[str, Any]]) -> Figure:
    told = [row for row in rows if "accuracy" in row]
    name = fixed("accuracy") if told else fixed("loss")

    def paint(axes: Any) -> None:
        axes.plot([row["step"] for row in told or rows], [row[name] for row in told or rows], color=ACCENT, marker=".")
        if told:
            axes.axhline(0.5, color=SOFT, linestyle="--", linewidth=1)
            axes.set_ylim(min(0.4, *(row[name] for row in told)) if len(told) > 1 else 0, 1.02)
        axes.set(xlabel=phrase("optimizer step"), ylabel=phrase(name))

    note = (
        phrase(
            "Share of training pairs since the point before that the model ordered as people do, before it learned from them."
        )
        if told
        else phrase("The loss: this run's metrics.jsonl has no accuracy.")
    )
    table = [[row["step"], row.get("accuracy"), row["loss"]] for row in rows]
    return Figure(
        phrase("Over training"),
        note,
        draw("training", phrase("{name} over training", name=phrase(name)), paint),
        phrases("step", "accuracy", "loss"),
        table,
    )


def _range(low: float, high: float) -> str:
    return phrase("{low} to {high}", low=f"{low:.2f}".replace("-", "−"), high=f"{high:.2f}".replace("-", "−"))
