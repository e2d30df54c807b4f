"""What does the comparison look like? Ranking, frontier, training and slices as drawings with their numbers (drawing.py)."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.language import fixed, phrase, phrases
from pipeline.pages.drawing import ACCENT, BAD, EVEN, GOOD, SOFT, TEXT, Figure, draw, label_points
from pipeline.report.findings import Report
from pipeline.report.model_rows import said_of
from pipeline.report.ranking_models import elo
from pipeline.report.sentences import ends, reading
from pipeline.report.slices import name_of_slice

_LINES = (ACCENT, GOOD, BAD, SOFT, TEXT)
PANEL = (2.5, 1.75)  # inches, of one curve of training
CURVE_NOTES = {
    fixed("reward"): fixed("mean score of a completion"),
    fixed("KL to sft"): fixed("nats a completion, so far from sft"),
    fixed("entropy"): fixed("nats a token, how undecided the policy is"),
    fixed("length"): fixed("tokens a completion"),
    fixed("clip fraction"): fixed("share of tokens whose change was held back"),
    fixed("value explained"): fixed("share of the returns' variance that the critic foresaw, 1 at best"),
}
KINDS = tuple(map(fixed, ("model", "bound", "training")))  # of points of a frontier
FEW = 3  # evaluations below which no line is drawn through them
_SLICES = 16  # drawn; the table has all


def figures(report: Report) -> list[Figure]:
    """All drawings of a report, in reading order; the same report gives the same bytes."""
    found = [_ranking(report, judge, place) for place, judge in enumerate(report.ranking)]
    scoring = [judge for judge, own in report.panel.items() if own.scores]
    if len({point.kl for point in report.frontier}) > 1:
        found += [_frontier(report, judge, place) for place, judge in enumerate(scoring)]
    if report.curves:
        found.append(_curves(report.curves))
    if report.training is not None:
        found.append(_training(report, report.training["steps"]))
    for place, (judge, cuts) in enumerate(report.slices.get("judges", {}).items()):
        if judge != report.optimised:
            found.append(_slices(report, judge, cuts, place))
    return found


def _named(report: Report, judge: str) -> str:
    return phrase("{judge}, {what}", judge=judge, what=said_of(report, judge))


def _ranking(report: Report, judge: str, place: int) -> Figure:
    found = report.ranking[judge]
    names = list(found["models"])[::-1]

    def paint(axes: Any) -> None:
        for height, name in enumerate(names):
            own = found["models"][name]
            colour = ACCENT if name == report.main else EVEN
            if own["low"] is not None:
                axes.plot([own["low"], own["high"]], [height, height], color=colour, linewidth=3)
            axes.plot([own["score"]], [height], "o", color=colour)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_xlabel(phrase("Bradley–Terry score (log-odds)"))
        axes.margins(y=0.1)

    note = phrase(
        "All models against each other; odds of two models are e to the difference of their scores. Bars are 95% intervals."
    )
    if len(found["groups"]) > 1:
        groups = " | ".join(", ".join(group) for group in found["groups"])
        note += phrase(
            " No intervals: nobody of one group was ever beaten by another ({groups}), so distances between them are not known.",
            groups=groups,
        )
    elif found["prior_share"] > 0.025:
        note += phrase(" Some model is nearly unbeaten: read the outer ends as “at least so far”.")
    columns = phrases("model", "score", "low", "high", "Elo (mean 1000)")
    rows = [
        (name, own["score"], own["low"], own["high"], round(elo(own["score"]))) for name, own in found["models"].items()
    ]
    size = (4.4, 0.9 + 0.34 * len(names))
    title = phrase("Ranking by {judge}", judge=_named(report, judge))
    return Figure(title, note, draw(f"ranking-{place}", title, paint, size), columns, rows)


def _frontier(report: Report, judge: str, place: int) -> Figure:
    points = [point for point in report.frontier if judge in point.scores]
    of = {kind: [p for p in points if p.kind == kind] for kind in KINDS}

    def paint(axes: Any) -> None:
        for kind, colour, style in (("training", SOFT, ".-"), ("bound", GOOD, "s--")):
            own = sorted(of[kind], key=lambda p: (p.step or 0) if kind == "training" else p.kl)
            if own:
                label = phrase("ppo over training") if kind == "training" else phrase("best of n, at most this KL")
                xs, ys = [p.kl for p in own], [p.scores[judge]["mean"] for p in own]
                axes.plot(xs, ys, style if len(own) >= FEW or kind == "bound" else style[0], color=colour, label=label)
        for point in [*of["model"], *of["bound"]]:
            score, colour = point.scores[judge], ACCENT if point.name == report.main else EVEN
            if point.kind == "model":
                axes.plot([point.kl] * 2, [score["low"], score["high"]], color=colour, linewidth=1)
                axes.plot([point.kl], [score["mean"]], "o", color=colour)
        axes.set_xlabel(phrase("KL to sft, nats a completion"))
        axes.set_ylabel(phrase("mean by {judge}", judge=_short(judge)))
        if of["training"] or of["bound"]:
            axes.legend(loc="lower right")
        named = [(_short(p.name), p.kl, p.scores[judge]["mean"]) for p in (*of["model"], *of["bound"])]
        label_points(axes, named)

    title = phrase("What the KL buys, by {judge}", judge=_named(report, judge))
    note = phrase("Up and to the left is better: a higher score for less distance from sft. Lines are 95% intervals.")
    if of["bound"]:
        note += phrase(" The KL of best of n is the bound log n − (n − 1)/n, not a measurement.")
    if of["training"]:
        note += phrase(
            " Over training: ppo's own evaluation prompts, so its end need not meet ppo's dot, and the KL of that step's rollouts."
        )
    columns = phrases("point", "kind", "step", "KL", "mean", "low", "high")
    rows = [
        (p.name, phrase(p.kind), p.step, p.kl, *(p.scores[judge][end] for end in ("mean", "low", "high")))
        for p in points
    ]
    return Figure(title, note, draw(f"frontier-{place}", title, paint), columns, rows)


def _curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """A panel a figure, so that each has its own scale and its letters keep their size on a phone."""
    steps, drawn = curves["step"], [name for name in curves if name != "step"]

    def panel(place: int, name: str) -> Markup:
        def paint(axes: Any) -> None:
            axes.plot(steps, curves[name], ".-", color=_LINES[place % len(_LINES)], markersize=4)
            axes.set_title(phrase(name), loc="left", fontsize=9)

        return draw(f"curve-{place}", phrase("{name} at each step of ppo", name=phrase(name)), paint, PANEL)

    panels = Markup("").join(panel(place, name) for place, name in enumerate(drawn))
    rows = [(int(step), *(curves[name][at] for name in drawn)) for at, step in enumerate(steps)]
    note = phrase("Every step of ppo's own log, on the completions that it sampled to learn from. ")
    note += phrase(" ").join(
        phrase("{name}: {what}.", name=f"{own[0].upper()}{own[1:]}", what=phrase(CURVE_NOTES[name]))
        for name in drawn
        if (own := phrase(name))
    )
    columns = phrases("step", *drawn)
    title = phrase("Training, step by step")
    return Figure(title, note, Markup('<div class="panels">{}</div>').format(panels), columns, rows)


def _training(report: Report, steps: Sequence[Mapping[str, Any]]) -> Figure:
    judges = list(steps[0]["scores"])

    def paint(axes: Any) -> None:
        xs = [at["step"] for at in steps]
        for place, judge in enumerate(judges):
            colour, own = _LINES[place % len(_LINES)], [at["scores"][judge] for at in steps]
            optimised = judge == report.optimised
            label = phrase("{judge} (optimised)", judge=_short(judge)) if optimised else _short(judge)
            means, low, high = ([s[end] for s in own] for end in ("mean", "low", "high"))
            if len(xs) < FEW:
                axes.vlines(xs, low, high, color=colour, linewidth=1)
                axes.plot(xs, means, "s" if optimised else "o", color=colour, label=label)
                continue
            axes.plot(xs, means, "o--" if optimised else "o-", color=colour, label=label)
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(phrase("step of ppo"))
        axes.set_ylabel(phrase("mean score"))
        axes.legend()

    title = phrase("Over training: the optimised reward beside the other judges")
    note = phrase(
        "Where the reward rises and the others fall, the reward is being gamed. ppo's evaluation prompts; bands are 95% intervals; judges have scales of their own."
    )
    if len(steps) < FEW:
        note += phrase(
            " {count} evaluations make no curve: ppo.eval_steps asks for more, and the figure before this one has every step.",
            count=len(steps),
        )
    ends_of = [f"{judge} {end}" for judge in judges for end in phrases("mean", "low", "high")]
    columns = (*phrases("step", "KL"), *ends_of)
    rows = [
        (at["step"], at["kl"], *(at["scores"][judge][end] for judge in judges for end in ("mean", "low", "high")))
        for at in steps
    ]
    return Figure(title, note, draw("training", title, paint), columns, rows)


def _slices(report: Report, judge: str, cuts: Mapping[str, Any], place: int) -> Figure:
    rows = [(cut, name, own) for cut, slices in cuts.items() for name, own in slices.items()]
    drawn = rows[:_SLICES][::-1]

    def paint(axes: Any) -> None:
        for height, (_, _, own) in enumerate(drawn):
            colour = {"better": GOOD, "worse": BAD}.get(reading(own), EVEN)
            if (interval := ends(own)) is not None:
                axes.plot([100 * end for end in interval], [height, height], color=colour, linewidth=3)
            axes.plot([100 * own["win_rate"]], [height], "o", color=colour)
        axes.axvline(50, color=SOFT, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(drawn)), [_short(name_of_slice(cut, name), 30) for cut, name, _ in drawn])
        axes.set_xlim(0, 100)
        axes.set_xlabel(phrase("win rate, %"))

    title = phrase("{pair} by slice, by {judge}", pair=report.slices["pair"], judge=_named(report, judge))
    note = phrase(
        "Each slice's interval stands for itself: among twenty, one strays by chance. No bar: fewer than ten prompts."
    )
    columns = phrases("cut", "slice", "prompts", "wins", "ties", "losses", "win rate", "low", "high", "reading")
    counts = ("prompts", "wins", "ties", "losses", "win_rate", "low", "high")
    table = [
        (phrase(cut), name_of_slice(cut, name), *(own[key] for key in counts), phrase(reading(own)))
        for cut, name, own in rows
    ]
    size = (4.4, 0.9 + 0.3 * len(drawn))
    return Figure(title, note, draw(f"slices-{place}", title, paint, size), columns, table)


def _short(name: str, most: int = 18) -> str:
    """Both ends of a name that is too long: models of one folder differ in the last, slices in the first."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[most // 2 - most :]}"
