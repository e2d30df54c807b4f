"""How are the utterances of PRISM read: answers of several models to one turn of a conversation, each with a score?

A row is one answer. The answers of a turn become a ranking of the person who talked; before it stand the turns that led
there, each with the answer that was chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.forms import checks
from data.forms import rankings as making
from data.forms.place import Place
from data.schema import Completion, Ranking

READS = "conversation_id user_id turn within_turn_id user_prompt model_response model_name score if_chosen"
LEAVES = "utterance_id interaction_id conversation_type model_provider included_in_balanced_subset"
LOWEST, HIGHEST = 0, 100


@dataclass(frozen=True)
class Utterance:
    """One answer to one turn, what it was given, and whether the talk went on from it."""

    conversation: str
    turn: int
    place: int
    asked: str
    said: str
    score: float
    chosen: bool
    model: str | None


def utterance(row: dict[str, Any], at: Place) -> Utterance | None:
    """One row of utterances.jsonl."""
    before = len(at.problems)
    checks.optional_name(row, "user_id", at)
    name = checks.optional_name(row, "conversation_id", at)
    if row.get("conversation_id") is None:
        at.report(
            "conversation_id", "nothing says to which conversation it belongs", "give every row its conversation_id"
        )
    turn, place = (checks.number(row, key, at, low=0) for key in ("turn", "within_turn_id"))
    asked, said = (checks.text(row, key, at) for key in ("user_prompt", "model_response"))
    score = checks.number(row, "score", at, LOWEST, HIGHEST)
    if row.get("if_chosen") in (None, ""):
        at.report("if_chosen", "nothing says whether the answer was chosen", "write true or false")
    chosen = checks.truth(row, "if_chosen", at)
    model = checks.optional_name(row, "model_name", at)
    for key, value in (("turn", turn), ("within_turn_id", place)):
        if value is not None and value != int(value):
            at.report(key, f"{value:g} is no whole number", "count from 0")
    if len(at.problems) > before or None in (name, turn, place, asked, said, score):
        return None
    assert name is not None and turn is not None and place is not None
    assert asked is not None and said is not None and score is not None
    return Utterance(name, int(turn), int(place), asked, said, score, chosen, model)


def by_turn(parts: list[Any]) -> Iterator[tuple[Any, Ranking]]:
    """The rankings of all rows that `utterance` gave, a turn of a conversation each."""
    talks: dict[str, dict[int, list[Any]]] = {}
    for part in parts:
        talks.setdefault(part.value.conversation, {}).setdefault(part.value.turn, []).append(part)
    for talk in talks.values():
        before: list[dict[str, str]] | None = []
        expected = 0
        for turn in sorted(talk):
            group = talk[turn]
            if turn != expected:
                before = None
            expected = turn + 1
            group = _sound(group)
            if not group:
                before = None
                continue
            if before is None:
                _leave_out(group, "an earlier turn is missing")
                continue
            asked = {"role": "user", "content": group[0].value.asked}
            made = _ranking(group, [*before, asked])
            if made is not None:
                yield group[0], made
            chosen = next((part.value.said for part in group if part.value.chosen), None)
            before = None if chosen is None else [*before, asked, {"role": "assistant", "content": chosen}]


def _sound(group: list[Any]) -> list[Any]:
    """The answers of a turn that agree with those above them on what was asked and which was chosen; none where the scores
    contradict the choice. Reports the others."""
    first, chosen = group[0], None
    places: set[int] = set()
    for part in group:
        where = f"line {first.at.line}" + (f" of {first.at.file}" if first.at.file != part.at.file else "")
        if part.value.asked != first.value.asked:
            part.at.report("user_prompt", f"it is not that of {where}, in the same turn", "give a turn one prompt")
        elif part.value.place in places:
            part.at.report("within_turn_id", "it stands twice in the turn", "take one of the rows out")
        elif part.value.chosen and chosen is not None:
            what = f"the answer of line {chosen.at.line} was chosen in this turn"
            part.at.report("if_chosen", what, "let one be true")
        else:
            places.add(part.value.place)
            chosen = part if part.value.chosen else chosen
    kept = [part for part in group if not part.at.problems]
    if chosen is not None and chosen.value.score < max(part.value.score for part in kept):
        what = "it was chosen, and another answer of the turn has a higher score"
        chosen.at.report("if_chosen", what, "correct the scores, or take the turn out")
        _leave_out([part for part in kept if part is not chosen], "beside a refused answer")
        return []
    return kept


def _ranking(group: list[Any], prompt: list[dict[str, str]]) -> Ranking | None:
    """The answers of one turn by their scores; the mean where an answer was given twice."""
    first = group[0]
    given: dict[str, list[Any]] = {}
    for part in sorted(group, key=lambda part: part.value.place):
        given.setdefault(part.value.said.strip(), []).append(part.value)
    if len(given) < 2:
        _leave_out(group, "only one response")
        return None
    completions = [
        Completion(f"c{same[0].place}", same[0].said, same[0].model, tuple(one.score for one in same))
        for same in given.values()
    ]
    scores = [sum(one.score for one in same) / len(same) for same in given.values()]
    row = {"annotator": first.row.row.get("user_id")}
    name = f"{first.value.conversation}-{first.value.turn}"
    made = making.by_score(row, first.at, prompt, completions, scores, gap=first.at.tie_gap, name=name)
    if made is None:
        _leave_out(group[1:], first.at.left_out[0])
    return made


def _leave_out(group: list[Any], reason: str) -> None:
    for part in group:
        part.at.leave_out(reason)
