"""What becomes of the rows that were gathered? One function a step, in the order in which stage data takes them.

Split comes before any default is derived, and the evaluation's prompts are known before training rows are chosen, so
nothing of the evaluation is seen in training.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from data.refining import clean, contamination, mixing, split
from data.schema import DataError, Demonstration, Judgement, Problem, Prompt, PromptText, Ranking, prompt_key
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


# Lengths in tokens

Encode = Callable[[PromptText, str | None], list[int]]


def fitting(
    portions: Sequence[Portion], tokenizer: Any, settings: Data
) -> tuple[list[Portion], Counts, list[dict[str, Any]]]:
    """Rows whose prompt leaves room for a completion, rankings without completions that are equal once they are cut;
    what was removed is counted, and rows set aside are given as JSON.

    Raises DataError for prompts that the chat template refuses (unless skip_bad) or that are too long (unless skip_bad
    or clean.too_long is "drop").
    """
    encode = _encoder(tokenizer)
    found: dict[str, list[Problem]] = {"refused": [], "too_long": []}
    rejects: list[dict[str, Any]] = []
    made: list[Portion] = []
    for portion in portions:
        kept = []
        for row in portion.rows:
            reason, problem = _unfit(row, encode, settings)
            if problem is None:
                kept.append(row)
                continue
            found[reason].append(problem)
            why = f"{problem.field}: {problem.problem}; {problem.fix}"
            rejects.append({"row": row.to_json(), "file": problem.file, "line": problem.line, "reason": why})
        made.append(replace(portion, rows=kept))
    told = [] if settings.skip_bad else found["refused"]
    if not settings.skip_bad and settings.clean.too_long == "error":
        told = told + found["too_long"]
    if told:
        raise DataError(told)
    counts = {reason: len(problems) for reason, problems in found.items()}
    made, cut = _told_apart(made, encode, settings.max_length)
    return made, counts | cut, rejects


def _encoder(tokenizer: Any) -> Encode:
    """Token ids of a prompt, or of a prompt and a completion. A ranking asks several times in a row for one prompt."""
    from policies.template import encode_completion, encode_prompt

    last: list[Any] = [None, []]

    def encode(prompt: PromptText, completion: str | None) -> list[int]:
        if last[0] is not prompt:
            last[:] = [prompt, encode_prompt(tokenizer, prompt)]
        ids: list[int] = last[1]
        return ids if completion is None else ids + encode_completion(tokenizer, prompt, completion)

    return encode


def _unfit(row: Any, encode: Encode, settings: Data) -> tuple[str, Problem | None]:
    room = settings.min_completion_tokens + 1
    try:
        length = len(encode(row.prompt, None))
    except ValueError as error:
        return "refused", _problem(row, str(error), "or set another model, or data.skip_bad=true")
    if length == 0:
        return "refused", _problem(row, "it has no tokens", "take the row out, or set data.skip_bad=true")
    if length > settings.max_length - room:
        what = f"it is {length} tokens long and leaves no room within max_length {settings.max_length}"
        return "too_long", _problem(row, what, "shorten it, raise data.max_length, or set data.clean.too_long=drop")
    return "", None


def _problem(row: Any, what: str, fix: str) -> Problem:
    file, _, line = row.source.rpartition(":")
    return Problem(file or row.source, int(line) if line.isdigit() else None, "prompt", what, fix)


def _told_apart(portions: Sequence[Portion], encode: Encode, limit: int) -> tuple[list[Portion], Counts]:
    made: list[Portion] = []
    counts = {"equal_after_truncation": 0, "rankings_equal_after_truncation": 0}
    for portion in portions:
        if portion.kind == "rankings":
            kept, completions = clean.equal_after_truncation(portion.rows, encode, limit)
            counts["equal_after_truncation"] += completions
            counts["rankings_equal_after_truncation"] += len(portion.rows) - len(kept)
            portion = replace(portion, rows=kept)
        made.append(portion)
    return made, counts


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
    demonstrations from the best completions of its rankings, prompts from the rows that it has, each once."""
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
        shown = [replace(p, kind="demonstrations", rows=[_best(row) for row in p.rows]) for p in ranked]
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
    return Demonstration(ranking.id, ranking.prompt, text, ranking.source, ranking.tag)


def _asked(portions: Sequence[Portion]) -> list[Portion]:
    seen: set[str] = set()
    made: list[Portion] = []
    for portion in portions:
        rows = []
        for row in portion.rows:
            key = prompt_key(row.prompt)
            if key not in seen and row.prompt != "":
                seen.add(key)
                rows.append(Prompt(row.id, row.prompt, row.source, row.tag))
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
