"""Which answers of a conversation are to be learned, where its messages say so (`weight`, `train`, `trainable`)?"""

from typing import Any, NamedTuple

from data.forms import columns
from data.forms.place import Place

ANSWERING = ("assistant", "gpt", "chatgpt", "model", "bot")


class Learned(NamedTuple):
    """The messages up to the last answer to learn, and the places of answers before it that are not."""

    turns: Any
    spared: tuple[int, ...] = ()


def learned_of(row: dict[str, Any], key: str, at: Place) -> Learned | None:
    """What is to be learned of the conversation under `key`; None where that is nothing, or what it says is told."""
    turns = row.get(key)
    if not isinstance(turns, list) or not any(isinstance(turn, dict) and len(turn) > 2 for turn in turns):
        return Learned(turns)
    answers, spared = [], []
    before = len(at.problems)
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role", turn.get("from")) not in ANSWERING:
            continue
        answers.append(place)
        for name in columns.LEARNED:
            said = columns.learned(turn.get(name))
            if said is None:
                where = f"{key}[{place}].{name}"
                at.report(
                    where, f"it is {columns.sample(turn[name])}, and only 0 and 1 can be honoured", "write 0 or 1"
                )
            elif not said and place not in spared:
                spared.append(place)
    if len(at.problems) > before:
        return None
    if answers and len(spared) == len(answers):
        at.leave_out("no answer is to be learned")
        return None
    last = max((place for place in answers if place not in spared), default=len(turns) - 1)
    # What follows the last answer that is learned is nothing to learn from.
    end = last + 1 if spared and answers[-1] in spared else len(turns)
    return Learned(turns[:end], tuple(place for place in spared if place < last))
