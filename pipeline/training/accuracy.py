"""How well does a reward model order what people ordered? Its figures on held-out rankings."""

from typing import Any

from data.schema import Ranking
from pipeline.pages.progress import bar
from policies.framing import plain
from reward import metrics as figures
from reward.model import Scorer

GAPS = (0.5, 1.0, 2.0)  # differences of mean ratings: on pairs at least so far apart the accuracy is measured once more


def evaluate(scorer: Scorer, held_out: list[Ranking]) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of a reward model on held-out rankings: (metrics, detail for evaluation.json)."""
    scores = raw_scores(scorer, held_out)
    lengths = [[float(len(plain(scorer.tokenizer, c.text))) for c in ranking.completions] for ranking in held_out]
    ranks = [ranking.ranks() for ranking in held_out]
    overall = figures.pairwise_accuracy(scores, ranks)
    length_only = figures.length_null(lengths, ranks)
    calibration = figures.calibration_error(scores, ranks)
    metrics = {
        "pairwise_accuracy": overall["pairwise_accuracy"],
        "pairs": float(overall["pairs"]),
        "length_accuracy": length_only["length_accuracy"],
        "ece": calibration["ece"],
        "length_correlation": figures.length_correlation(
            [s for group in scores for s in group], [n for group in lengths for n in group]
        ),
    }
    detail: dict[str, Any] = {
        "pairwise_accuracy": overall,
        "length_only": length_only,
        "gain_over_length_only": figures.paired_gain(scores, lengths, ranks),
        "calibration": calibration,
        "held_out": [
            {"ranking": r.id, "scores": s, "lengths": n} for r, s, n in zip(held_out, scores, lengths, strict=True)
        ],
    }
    if all(c.ratings for ranking in held_out for c in ranking.completions):
        for gap, found in _by_gap(scores, held_out).items():
            detail[f"gap_{gap}"] = found
            if found is not None:
                metrics[f"pairwise_accuracy_gap_{gap}"] = found["pairwise_accuracy"]
                metrics[f"human_ceiling_gap_{gap}"] = found["human_ceiling"]
    return metrics, detail


def raw_scores(scorer: Scorer, held_out: list[Ranking]) -> list[list[float]]:
    """A list of scores a ranking, in the order of its completions."""
    prompts = [ranking.prompt for ranking in held_out for _ in ranking.completions]
    texts = [c.text for ranking in held_out for c in ranking.completions]
    with bar(len(texts), "reward: held-out rankings", "completion") as progress:
        flat = iter(scorer.raw(prompts, texts, progress.update).tolist())
    return [[next(flat) for _ in ranking.completions] for ranking in held_out]


def _by_gap(scores: list[list[float]], held_out: list[Ranking]) -> dict[float, dict[str, Any] | None]:
    """gap -> accuracy on pairs whose mean ratings are at least so far apart, with the human ceiling there; None without pairs."""
    ranks = [ranking.ranks() for ranking in held_out]
    ratings = [[c.rating or 0.0 for c in ranking.completions] for ranking in held_out]
    people = [[list(c.ratings or ()) for c in ranking.completions] for ranking in held_out]
    found: dict[float, dict[str, Any] | None] = {}
    for gap in GAPS:
        if not any(abs(a - b) >= gap for group in ratings for a in group for b in group):
            found[gap] = None
            continue
        accuracy = figures.pairwise_accuracy(scores, ranks, ratings=ratings, min_gap=gap)
        found[gap] = {**accuracy, "human_ceiling": figures.human_ceiling(people, min_gap=gap)}
    return found
