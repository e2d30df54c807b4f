"""How many problems does a model solve, at the first try and within k? pass@k, by judges whose scores are right or wrong.

Of n samples of a prompt c are right; 1 − C(n−c, k)/C(n, k) is the chance that k of them, drawn without putting back, hold a right one:
`statistics.pass_at_k`. A prompt counts once, whatever its samples, and intervals are bootstraps over prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import statistics
from pipeline.comparison.pairing import ByKey, Opinion, pairs_of, scores_by
from pipeline.language import phrase
from pipeline.report.findings import Report
from pipeline.report.sentences import MIN_PROMPTS, clauses

ALL = "all"
FIRST = "pass@1"


def block(opinions: Sequence[Opinion], rows: ByKey, draws: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """judge -> {"samples" (a prompt), "k", "tasks": task -> {"prompts", "models": model -> "pass@1" -> {"mean", "low", "high"}, "pairs": "a vs b"
    -> "pass@1" -> the paired difference}}, of judges that give 0 and 1 alone. The first task is `ALL`; others are the tags, where there
    are several. `low` and `high` are None below 20 prompts. The optimised score is none of them where a verifier is."""
    binary = [one for one in opinions if one.outcomes is None and _right_or_wrong(rows, one)]
    if any(one.label == "verifier" for one in binary):
        binary = [one for one in binary if one.label != "optimised"]
    return {one.name: _of_judge(one.name, rows, draws, seed) for one in binary}


def _right_or_wrong(rows: ByKey, one: Opinion) -> bool:
    """Whether a judge says both 0 and 1 and nothing else, or is a verifier, which may find none right: a score may be 0 throughout by chance."""
    found = {score for own in rows.values() for score in scores_by(own, one.name)}
    return found == {0.0, 1.0} or (one.label == "verifier" and found <= {0.0, 1.0})


def _of_judge(judge: str, rows: ByKey, draws: int, seed: int) -> dict[str, Any]:
    first = next(iter(rows.values()))
    tags = {prompt: row.get("tag") or "no tag" for (prompt, _), row in first.items()}
    right = {model: _counts(own, scores_by(own, judge)) for model, own in rows.items()}
    samples = min(n for n, _ in next(iter(right.values())).values())
    ks = [1 << power for power in range(samples.bit_length())]
    ks += [samples] if ks[-1] < samples else []
    tasks = {ALL: list(tags)}
    if len(set(tags.values())) > 1:
        tasks |= {tag: [prompt for prompt, own in tags.items() if own == tag] for tag in sorted(set(tags.values()))}

    def of_task(prompts: list[str]) -> dict[str, Any]:
        solved = {
            model: {f"pass@{k}": [statistics.pass_at_k(*counts[prompt], k) for prompt in prompts] for k in ks}
            for model, counts in right.items()
        }

        def interval(values: Sequence[float], share: bool) -> dict[str, float | None]:
            if len(prompts) < MIN_PROMPTS:
                return {"mean": float(np.mean(values)), "low": None, "high": None}
            found: dict[str, float | None] = dict(statistics.mean_interval(values, prompts, draws, seed))
            if share and found["low"] == found["high"]:  # none or all of them: a bootstrap has no width
                won = float(np.sum(values))
                ends = statistics.wilson(won, 0, len(values) - won)
                found |= {"low": ends["low"], "high": ends["high"]}
            return found

        return {
            "prompts": len(prompts),
            "models": {m: {name: interval(v, True) for name, v in own.items()} for m, own in solved.items()},
            "pairs": {
                f"{a} vs {b}": {
                    name: interval(np.subtract(values, solved[b][name]).tolist(), False)
                    for name, values in solved[a].items()
                }
                for a, b in pairs_of(list(rows))
            },
        }

    return {"samples": samples, "k": ks, "tasks": {task: of_task(prompts) for task, prompts in tasks.items()}}


def _counts(own: Mapping[tuple[str, int], Any], scores: Sequence[float]) -> dict[str, tuple[int, int]]:
    """prompt -> (samples, right ones)."""
    found: dict[str, tuple[int, int]] = {}
    for (prompt, _), score in zip(own, scores, strict=True):
        n, c = found.get(prompt, (0, 0))
        found[prompt] = n + 1, c + int(score)
    return found


# In words


def predicate(report: Report, judge: str, outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """What a judge says of the main model against others, as `sentences.clauses`: shares of right answers in place of win rates, which say
    the same: ½ + half their difference."""
    task = report.passes[judge]["tasks"][ALL]

    def numbers(other: str, outcome: Mapping[str, Any], short: bool) -> str:
        own, theirs = (task["models"][name][FIRST]["mean"] for name in (report.main, other))
        gap = points(task["pairs"][f"{report.main} vs {other}"][FIRST])
        return phrase("{name} {own:.1%} against {theirs:.1%}, {gap}", name=FIRST, own=own, theirs=theirs, gap=gap)

    return clauses(outcomes, numbers)


def points(gap: Mapping[str, float | None]) -> str:
    """A difference of two shares, such as "+12.3 points, 95% interval +8.0 to +16.5"."""

    def signed(value: float | None) -> str:
        return "" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")

    if gap["low"] == gap["high"]:  # none, or without width
        return phrase("{mean} points", mean=signed(gap["mean"]))
    ends = {name: signed(gap[name]) for name in ("mean", "low", "high")}
    return phrase("{mean} points, 95% interval {low} to {high}", **ends)


def sentences(report: Report) -> list[str]:
    """pass@k within as many tries as there are samples, and pass@1 of each task, of the main model beside its reference; by the first judge
    that says right or wrong."""
    judge = next((judge for judge in (*report.judges, report.optimised) if judge in report.passes), None)
    wanted = (f"{report.main} vs sft", f"{report.main} vs base", *report.pairs)
    pair = next((name for name in wanted if name in report.pairs), None)
    if judge is None or pair is None:
        return []
    own = report.passes[judge]
    a, _, b = pair.partition(" vs ")

    def told(task: str, name: str) -> str:
        found = own["tasks"][task]
        shares = [found["models"][model][name]["mean"] for model in (a, b)]
        gap = points(found["pairs"][pair][name])
        return phrase(
            "{own:.1%} against {theirs:.1%} of {other} ({gap})", own=shares[0], theirs=shares[1], other=b, gap=gap
        )

    said = []
    if own["samples"] > 1:
        last = f"pass@{own['samples']}"
        said.append(
            phrase(
                "Within {tries} tries ({name}) {model} solves {told}.",
                **{"tries": own["samples"], "name": last, "model": a, "told": told(ALL, last)},
            )
        )
    tasks = [task for task in own["tasks"] if task != ALL]
    if tasks:
        each = phrase("; ").join(f"{task} {told(task, FIRST)}" for task in tasks)
        said.append(phrase("{name} of each task: {each}.", name=FIRST, each=each))
    return said


def markdown(report: Report, plain: Callable[[str], str]) -> list[str]:
    """A table a judge, as lines of Markdown: every task and model, pass@k with its interval."""
    lines: list[str] = []
    for judge, own in report.passes.items():
        names = [f"pass@{k}" for k in own["k"]]
        lines += [f"Solved, by {plain(judge)}, {own['samples']} samples a prompt:", ""]
        lines += [f"| task | prompts | model | {' | '.join(names)} |", "|" + "---|" * (3 + len(names))]
        for task, found in own["tasks"].items():
            for model, tries in found["models"].items():
                cells = [plain(task), str(found["prompts"]), plain(model), *(share(tries[name]) for name in names)]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def share(found: Mapping[str, float | None]) -> str:
    """A share with its interval, such as "62.0% (57.1–66.8)"."""
    mean, low, high = found["mean"], found["low"], found["high"]
    ends = "" if low is None or high is None else f" ({100 * low:.1f}–{100 * high:.1f})"
    return f"{mean:.1%}{ends}"
