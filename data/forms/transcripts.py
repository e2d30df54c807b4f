"""How is a dialogue that was written as one text taken apart into turns?

Anthropic's hh-rlhf began the form, and Nectar and others keep it: "\\n\\nHuman: …\\n\\nAssistant: …". Others have other line
ends and other speakers, and are brought to this form first (`written.canonical`).
"""

from typing import Any

from data.forms import checks
from data.forms.place import Place
from data.reading.written import ASSISTANT, HUMAN, canonical
from data.schema import PromptText

ALTERNATING = ["user", "assistant"]

Answer = tuple[PromptText, str] | None
"""(prompt, completion), None where a mistake in it is told."""


def dialogue(row: dict[str, Any], key: str, at: Place) -> Answer:
    """(messages before, answer) of the transcript under `key`, which ends with the assistant's answer."""
    text = row.get(key)
    turns = _in_turn(text) if isinstance(text, str) else None
    if turns is None and isinstance(text, str) and (better := canonical(text)) is not None:
        row, turns = {key: better}, _in_turn(better)
    if turns is not None:
        last = turns.pop()
        return turns, last["content"]
    turns = _turns(row, key, at)
    return None if turns is None else checks.conversation({key: turns}, key, at)


def dialogues(row: dict[str, Any], first: str, second: str, at: Place) -> dict[str, Answer]:
    """The transcripts under two keys; where they are the same up to the last answer that part is read only once."""
    answer = dialogue(row, first, at)
    one, other = row.get(first), row.get(second)
    if answer is not None and isinstance(one, str) and isinstance(other, str):
        end = one.rfind(ASSISTANT) + len(ASSISTANT)
        said = other[end:]
        same = end >= len(ASSISTANT) and "\r" not in other
        if (
            same
            and other.startswith(one[:end])
            and HUMAN not in said
            and ASSISTANT not in said
            and (said := said.strip())
        ):
            return {first: answer, second: (answer[0], said)}
    return {first: answer, second: dialogue(row, second, at)}


def _in_turn(text: str) -> list[dict[str, str]] | None:
    """The turns of a transcript in which the two take turns, the user first, and each says something; else None."""
    before, *pieces = text.split(HUMAN)
    if "\r" in text or before.strip() or not pieces:
        return None
    turns = []
    for piece in pieces:
        said = piece.split(ASSISTANT)
        if len(said) != 2 or not (asked := said[0].strip()) or not (answered := said[1].strip()):
            return None
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def prompt(row: dict[str, Any], key: str, at: Place) -> PromptText | None:
    """The messages of the transcript under `key`, which ends with the user's turn; an empty "Assistant:" may follow."""
    turns = _turns(row, key, at)
    if turns is None:
        return None
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return turns if len(turns) % 2 and _sound(turns) else checks.prompt({key: turns}, at, key)


def _turns(row: dict[str, Any], key: str, at: Place) -> list[dict[str, str]] | None:
    """Turns without the white space around them; whether they alternate is not looked at."""
    text = checks.text(row, key, at)
    if text is None:
        return None
    if "\r" in text or _other_breaks(text):
        text = canonical(text) or text
    first, *pieces = f"\n\n{text.lstrip()}".split(HUMAN)
    before, *answers = first.split(ASSISTANT)
    turns = [{"role": "assistant", "content": answer.strip()} for answer in answers]
    for piece in pieces:
        asked, *answers = piece.split(ASSISTANT)
        turns.append({"role": "user", "content": asked.strip()})
        for answer in answers:
            turns.append({"role": "assistant", "content": answer.strip()})
    if before or not turns:
        at.report(key, "it is no transcript", 'begin with "\\n\\nHuman: " and let "\\n\\nAssistant: " follow')
        return None
    return turns


def _other_breaks(text: str) -> bool:
    """Whether a speaker stands behind one line break, where hh-rlhf has two."""
    begun = f"\n\n{text.lstrip()}"
    return any(begun.count(mark[1:]) > begun.count(mark) for mark in (HUMAN, ASSISTANT))


def _sound(turns: list[dict[str, str]]) -> bool:
    """Whether the user begins, the two alternate, and each says something; `checks` tells what is wrong where not."""
    roles = [turn["role"] for turn in turns]
    return roles == (ALTERNATING * len(turns))[: len(turns)] and all([turn["content"] for turn in turns])
