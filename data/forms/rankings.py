"""How do fields that were checked become a ranking?

What all formats ask of a row as a whole is asked here: one prompt, a preference for something, no text in two ranks.
"""

from collections.abc import Sequence
from typing import Any

from data.forms import checks
from data.forms.place import Place
from data.forms.ranks import Score, ranked
from data.forms.transcripts import Answer
from data.schema import Completion, PromptText, Ranking

FIRST, SECOND = (("c0",), ("c1",)), (("c1",), ("c0",))
"""Which of two completions is better."""


def pair(
    row: dict[str, Any],
    at: Place,
    answers: dict[str, Answer],
    scores: tuple[Score, Score] | None = (1, 0),
    *,
    gap: float = 0.0,
    models: Sequence[str | None] = (None, None),
    rated: bool = False,
    name: str | None = None,
    annotator: str = "annotator",
) -> Ranking | None:
    """A ranking of the two `answers`, by key; the one with the higher score is better, a tie leaves the row out.

    Scores less than `gap` apart are a tie. `rated` keeps them with the completions. `annotator` is the key under which
    the row says who judged; the id is `name`, or else the row's own.
    """
    (key, first), (other, second) = answers.items()
    if first is None or second is None or scores is None:
        return None
    if first[0] != second[0]:
        at.report(other, f"{key} and {other} part before their last answer", "give both the same prompt")
        return None
    if (len(ranked(scores, gap)) < 2) if gap else scores[0] == scores[1]:
        at.leave_out("tie")
        return None
    if first[1].strip() == second[1].strip():
        at.report(other, f"it equals {key}", "take the row out")
        return None
    who = checks.optional_name(row, annotator, at)
    source = at.source
    name = name or (source if row.get("id") is None else checks.name(row, at))
    if name is None:
        return None
    ratings = ((float(scores[0]),), (float(scores[1]),)) if rated else (None, None)
    completions = Completion("c0", first[1], models[0], ratings[0]), Completion("c1", second[1], models[1], ratings[1])
    return Ranking(name, first[0], completions, FIRST if scores[0] > scores[1] else SECOND, source, who)


def by_score(
    row: dict[str, Any],
    at: Place,
    prompt: PromptText | None,
    completions: Sequence[Completion],
    scores: Sequence[Score],
    *,
    field: str = "completions",
    gap: float = 0.0,
    name: str | None = None,
    annotator: str = "annotator",
) -> Ranking | None:
    """A ranking of completions with a score each, the highest best; leaves the row out where all are tied."""
    tiers = tuple(tuple(completions[place].id for place in tier) for tier in ranked(scores, gap))
    if prompt is not None and len(tiers) < 2:
        at.leave_out("tie")
        return None
    return in_tiers(row, at, prompt, completions, tiers, field=field, name=name, annotator=annotator)


def in_tiers(
    row: dict[str, Any],
    at: Place,
    prompt: PromptText | None,
    completions: Sequence[Completion],
    tiers: tuple[tuple[str, ...], ...],
    *,
    field: str = "completions",
    name: str | None = None,
    annotator: str = "annotator",
) -> Ranking | None:
    """A ranking in the tiers given; `field` is the key under which the completions stand."""
    who = checks.optional_name(row, annotator, at)
    source = at.source
    name = name or (source if row.get("id") is None else checks.name(row, at))
    if prompt is None or name is None:
        return None
    rank: dict[str, int] = {}
    said: dict[str, int] = {}
    if len({one.text.strip() for one in completions}) < len(completions):
        rank = {one: place for place, tier in enumerate(tiers) for one in tier}
    for completion in completions if rank else ():
        if said.setdefault(completion.text.strip(), rank[completion.id]) != rank[completion.id]:
            at.report(field, "the same text stands in two ranks", "keep it once")
            return None
    return Ranking(name, prompt, tuple(completions), tiers, source, who)
