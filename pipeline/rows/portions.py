"""What becomes of the rows that were gathered? One function a step, in the order in which stage data takes them.

Split comes before any default is derived, and the evaluation's prompts are known before training rows are chosen, so
nothing of the evaluation is seen in training.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from data.refining import clean, contamination, mixing, split
from data.schema import Demonstration, Judgement, Problem, Prompt, Ranking, prompt_key
from pipeline.rows import fitness, workers
from pipeline.rows.gather import EVAL, JUDGEMENTS, KINDS, TRAIN, Portion
from pipeline.settings.config import Data

Counts = dict[str, int]


def rows_of(portions: Sequence[Portion], kind: str, side: str) -> list[Any]:
    """The rows of one kind on one side, in the order of the portions."""
    return [row for portion in portions if (portion.kind, portion.side) == (kind, side) for row in portion.rows]


def cleaned(portions: Sequence[Portion], steps: clean.Steps) -> tuple[list[Portion], Counts]:
    """Mend texts; remove what is blank or repeated in any portion of its kind. Counts are named `kind_step`."""
    made = list(portions)
    counts: Counts = {}
    for kind in (*KINDS, JUDGEMENTS):
        mine = [number for number, portion in enumerate(portions) if portion.kind == kind]
        if not mine:
            continue
        whose = [number for number in mine for _ in portions[number].rows]
        done = clean.clean((row for number in mine for row in portions[number].rows), steps)
        left: dict[int, list[Any]] = {number: [] for number in mine}
        for row, place in zip(done.rows, done.places, strict=True):
            left[whose[place]].append(row)
        for number, rows in left.items():
            made[number] = replace(portions[number], rows=rows)
        of_rankings = () if kind == "rankings" else ("too_few_ranks", *clean.COMPLETIONS)
        counts |= {f"{kind}_{name}": count for name, count in done.counts.items() if name not in of_rankings}
    return made, counts


# What the model can read


def without_control_tokens(
    portions: Sequence[Portion], tokenizer: Any, settings: Data
) -> tuple[list[Portion], list[fitness.SetAside]]:
    """Rows whose texts hold no control tokens of a chat template, by `data.special_tokens`."""
    marks = fitness.Marks(tokenizer, settings)
    aside: list[fitness.SetAside] = []
    made: list[Portion] = []
    for portion in portions:
        kept = []
        for row in portion.rows:
            row, problem = marks.of(row)
            if problem is None:
                kept.append(row)
            else:
                aside.append(fitness.SetAside(fitness.CONTROL, problem, row))
        made.append(replace(portion, rows=kept))
    return made, aside


def consistent(portions: Sequence[Portion]) -> tuple[list[Portion], list[fitness.SetAside]]:
    """Rankings without those that go against one before them in their source, now that all are cleaned."""
    aside: list[fitness.SetAside] = []
    made: list[Portion] = []
    for portion in portions:
        against = fitness.Contradictions()
        for number, row in enumerate(portion.rows):
            against.add(number, row)
        found = dict(against.problems())
        aside += [fitness.SetAside(fitness.CONTRARY, problem, portion.rows[n]) for n, problem in found.items()]
        made.append(replace(portion, rows=[row for number, row in enumerate(portion.rows) if number not in found]))
    return made, aside


def fitting(
    portions: Sequence[Portion], tokenizer: Any, settings: Data
) -> tuple[list[Portion], Counts, list[fitness.SetAside]]:
    """Rows whose prompt the chat template takes and leaves room for a completion, rankings without completions that are
    equal once they are cut; what was removed is counted, what is to be told is set aside."""
    encode = fitness.encoder(tokenizer)

    def judged(rows: Sequence[Any]) -> list[_Fit]:
        return [_fit(row, encode, settings) for row in rows]

    every = [row for portion in portions for row in portion.rows]
    found = iter(workers.worked(every, judged, workers.count(settings.num_proc), f"{len(every):,} rows are tokenised"))
    aside: list[fitness.SetAside] = []
    made: list[Portion] = []
    counts = {"equal_after_truncation": 0, "rankings_equal_after_truncation": 0}
    for portion in portions:
        kept: list[Any] = []
        for row, fit in zip(portion.rows, found, strict=False):
            if fit.problem is not None:
                aside.append(fitness.SetAside(fit.reason, fit.problem, row))
                continue
            counts["equal_after_truncation"] += fit.completions
            counts["rankings_equal_after_truncation"] += fit.left == []
            kept += [row] if fit.left is None else fit.left
        made.append(replace(portion, rows=kept))
    return made, counts, aside


class _Fit(NamedTuple):
    """What is wrong with a row, under its reason; of a ranking the completions that are equal once cut, and what is left of it: None where
    that is all of it, which need not travel between processes."""

    reason: str
    problem: Problem | None
    completions: int = 0
    left: list[Ranking] | None = None


def _fit(row: Any, encode: fitness.Encode, settings: Data) -> _Fit:
    reason, problem = fitness.unfit(row, encode, settings)
    if problem is not None or not isinstance(row, Ranking):
        return _Fit(reason, problem)
    left, completions = fitness.told_apart([row], encode, settings.max_length)
    return _Fit("", None, completions, None if left and left[0] is row else left)


# Two sides


def halved(portions: Sequence[Portion], settings: Data, seed: int) -> tuple[list[Portion], Counts]:
    """Each portion as two, one a side, split by prompt and in each task by the same share.

    Portions that stand on a side already (data.eval_prompts) stay there, and rows with prompts like theirs join them.
    Then these are the held-out prompts; others that fall on their side are left out and counted.
    """
    groups = split.alike((row for portion in portions for row in portion.rows), settings.split_similarity)
    given = [portion for portion in portions if portion.side is not None]
    strata: dict[str, set[str]] = {}
    for portion in portions:
        if portion.side is None and not (given and portion.kind == "prompts"):
            strata.setdefault(portion.task, set()).update(split.key_of(row) for row in portion.rows)
    fixed = {split.key_of(row) for portion in given for row in portion.rows}
    held_out = split.held_out(groups, strata, settings.eval_fraction, seed, fixed)
    made = given[:]
    counts: Counts = {}
    for portion in portions:
        if portion.side is not None:
            continue
        train, held = _parted(portion.rows, held_out)
        made.append(replace(portion, rows=train, side=TRAIN))
        if given and portion.kind == "prompts":
            counts["prompts_like_evaluation"] = counts.get("prompts_like_evaluation", 0) + len(held)
        else:
            made.append(replace(portion, rows=held, side=EVAL))
    return made, counts


def _parted(rows: Sequence[Any], held_out: Collection[str]) -> tuple[list[Any], list[Any]]:
    sides: tuple[list[Any], list[Any]] = [], []
    for row in rows:
        sides[split.key_of(row) in held_out].append(row)
    return sides


def decontaminated(portions: Sequence[Portion], size: int | None) -> tuple[list[Portion], Counts]:
    """Training rows without those that share `size` words in a row with a held-out prompt; None removes none."""
    counts = Counter({f"{portion.kind}_decontaminated": 0 for portion in portions})
    if size is None:
        return list(portions), dict(counts)
    prompts = [row.prompt for row in rows_of(portions, "prompts", EVAL)]
    training = [row for portion in portions if portion.side == TRAIN for row in portion.rows]
    gone = contamination.contaminated(training, prompts, size)
    made: list[Portion] = []
    start = 0
    for portion in portions:
        rows = portion.rows
        if portion.side == TRAIN:
            rows = [row for number, row in enumerate(rows, start) if number not in gone]
            start += len(portion.rows)
        counts[f"{portion.kind}_decontaminated"] += len(portion.rows) - len(rows)
        made.append(replace(portion, rows=rows))
    return made, dict(counts)


# Defaults


def completed(portions: Sequence[Portion], side: str) -> list[Portion]:
    """The portions with the side's liked completions as demonstrations, beside those given, and what this side has none of then:
    demonstrations from the best completions of its rankings (but those whose people said that all are bad), prompts from the rows that it
    has, each once."""
    here = [portion for portion in portions if portion.side == side and portion.rows]
    ranked = [portion for portion in here if portion.kind == "rankings"]
    judged = [portion for portion in here if portion.kind == JUDGEMENTS]
    given = {_said(row) for portion in here if portion.kind == "demonstrations" for row in portion.rows}
    made: list[Portion] = []
    for portion in portions:
        made.append(portion)
        if portion.kind == JUDGEMENTS and portion.side == side and (rows := _liked(portion.rows, given)):
            made.append(replace(portion, kind="demonstrations", rows=rows))
    shown = [p for p in made if (p.kind, p.side) == ("demonstrations", side) and p.rows]
    if not shown:
        shown = [
            replace(p, kind="demonstrations", rows=[_best(row) for row in p.rows if not row.all_bad]) for p in ranked
        ]
        made += shown
    if not any(portion.kind == "prompts" for portion in here):
        made += _asked(ranked or [*judged, *shown])
    return made


def _said(row: Demonstration | Judgement) -> tuple[str, str]:
    return prompt_key(row.prompt), row.completion


def _liked(judgements: Sequence[Judgement], shown: Collection[tuple[str, str]]) -> list[Demonstration]:
    """The liked ones as demonstrations, but for those that are `shown`."""
    return [
        Demonstration(one.id, one.prompt, one.completion, one.source, one.tag)
        for one in judgements
        if one.liked and _said(one) not in shown
    ]


def _best(ranking: Ranking) -> Demonstration:
    best = ranking.ranking[0][0]
    text = next(one.text for one in ranking.completions if one.id == best)
    return Demonstration(ranking.id, ranking.prompt, text, ranking.source, ranking.tag, ranking.columns)


def _asked(portions: Sequence[Portion]) -> list[Portion]:
    seen: set[str] = set()
    made: list[Portion] = []
    for portion in portions:
        rows = []
        for row in portion.rows:
            key = prompt_key(row.prompt)
            if key not in seen and row.prompt != "":
                seen.add(key)
                rows.append(Prompt(row.id, row.prompt, row.source, row.tag, row.columns))
        made.append(replace(portion, kind="prompts", rows=rows))
    return made


# Mixing


def weighed(portions: Sequence[Portion], seed: int) -> tuple[list[Portion], Counts]:
    """Training rows of each kind thinned to what their sources' weights ask for; `kind_thinned` counts the rest."""
    made = list(portions)
    counts: Counts = {}
    for kind in (*KINDS, JUDGEMENTS):
        mine = [n for n, p in enumerate(portions) if (p.kind, p.side) == (kind, TRAIN) and p.weight is not None]
        available = {portions[number].name: len(portions[number].rows) for number in mine}
        weights = {portions[number].name: portions[number].weight or 0.0 for number in mine}
        amounts = mixing.amounts(available, weights)
        for number in mine:
            portion = portions[number]
            rows = mixing.thinned(portion.rows, amounts.get(portion.name, 0), portion.name, seed)
            made[number] = replace(portion, rows=rows)
        if mine:
            counts[f"{kind}_thinned"] = sum(available.values()) - sum(amounts.values())
    return made, counts
