"""What stands beside the columns that a form reads, and what is done about it?

A system text and a history go before the prompt, scores of chosen and rejected are held against the labels, a weight of
0 leaves a row out. All other columns are unread, and a row is refused where something would be lost with one of them.
"""

import re
from dataclasses import replace
from typing import Any, NamedTuple

from data.forms import checks, columns
from data.forms.place import Place
from data.forms.ranks import ranked
from data.forms.shapes import Format, Shape
from data.reading.flaws import called
from data.schema import Demonstration, Judgement, Prompt, PromptText, Ranking

SYSTEM = ("system", "system_prompt", "system_message")
HELD = re.compile(r"(?:avg_|average_|mean_|overall_|total_)?(?:score|rating|reward|grade|points?|votes?|quality)s?")
"""What a column says of a chosen or rejected answer that can be held against the label."""
ALWAYS = ("id", "annotator")


class Beside(NamedTuple):
    """Columns of one shape by what is done with them; `unread` are all that nobody reads, `watched` those of them with
    which something may be lost."""

    unread: tuple[str, ...]
    watched: tuple[str, ...]
    system: str | None
    history: str | None
    held: tuple[tuple[str, str], ...]
    margin: str | None
    weights: tuple[str, ...]

    @property
    def looks(self) -> bool:
        """Whether a row of this shape must be looked at again once it is parsed."""
        return bool(self.watched or self.system or self.history or self.held or self.margin or self.weights)


def beside(shape: Shape, row: dict[str, Any], chosen: Format) -> Beside:
    """What becomes of the columns of this shape, which `row` has, that the form does not read."""
    read = {*chosen.reads.split(), *chosen.leaves.split(), *ALWAYS}
    read |= set() if chosen.reads_of is None else chosen.reads_of(row)
    rest = [key for key in shape.kinds if key not in read]
    system = next((key for key in SYSTEM if key in rest), None) if chosen.fronts else None
    history = "history" if chosen.fronts and "history" in rest else None
    paired = "chosen" in shape.kinds and "rejected" in shape.kinds and chosen.kind == "rankings"
    held = tuple((key, other) for key in rest if paired and (other := _counterpart(key, shape)))
    margin = "margin" if paired and "margin" in rest else None
    weights = tuple(key for key in columns.LEARNED if key in rest)
    used = {system, history, margin, *weights, *(key for pair in held for key in pair)}
    rest = [key for key in rest if key not in used]
    left = [key for key in chosen.leaves.split() if key in shape.kinds]
    watched = [] if chosen.tells else [key for key in rest if columns.watched(shape.kinds[key], key)]
    nobody = {*left, *rest}
    unread = tuple(key for key in shape.kinds if key in nobody)
    return Beside(unread, tuple(watched), system, history, held, margin, weights)


def _counterpart(key: str, shape: Shape) -> str | None:
    """The column that says of the rejected answer what `key` says of the chosen one."""
    other = key.replace("chosen", "rejected")
    said = re.sub(r"_?chosen_?", "", columns.plain(key))
    return other if other != key and other in shape.kinds and HELD.fullmatch(said) else None


def accounted(row: dict[str, Any], value: Any, found: Beside, at: Place) -> Any:
    """The value that the form gave for the row, with what stands beside it; None where something is wrong with it."""
    for name in found.watched:
        loss = columns.lost(name, row[name])
        if loss is None or (loss.said and value is None):
            continue
        if not (loss.said and columns.repeated(row[name], _texts(value))):
            at.report(name, loss.problem, loss.fix)
    for name in found.weights:
        learned = columns.learned(row[name])
        if learned is None:
            go = f"data.ignore={columns.quoted([name])}"
            at.report(
                name,
                f"it is {columns.sample(row[name])}, and only 0 and 1 can be honoured",
                f"write 0 or 1, or set {go}",
            )
        elif not learned:
            at.leave_out(f"{name} 0")
            value = None
    if value is not None and isinstance(value, Ranking):
        value = _held(row, value, found, at)
    before = _before(row, found, at) if found.system or found.history else []
    if at.problems or value is None:
        return None
    return _fronted(value, before, found.system or found.history or "", at) if before else value


def _texts(value: Any) -> list[str]:
    """All that a row of ours says."""
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    if not isinstance(value, Demonstration | Judgement | Prompt | Ranking):
        return []
    said = [value.prompt] if isinstance(value.prompt, str) else [turn["content"] for turn in value.prompt]
    if isinstance(value, Demonstration | Judgement):
        said.append(value.completion)
    return [*said, *(one.text for one in value.completions)] if isinstance(value, Ranking) else said


def _held(row: dict[str, Any], value: Ranking, found: Beside, at: Place) -> Ranking | None:
    """The pair, unless scores or a margin say that the answers are equal, or that the rejected one is better."""
    equal = []
    for key, other in found.held:
        if all(row[name] is None or row[name] == "" for name in (key, other)):
            continue
        better, worse = checks.number(row, key, at), checks.number(row, other, at)
        if better is None or worse is None:
            return None
        if better < worse:
            fix = (
                f"let the two change places, or set data.ignore={columns.quoted((key, other))} if the labels are right"
            )
            at.report(
                key, f"it is below {other}, {better:g} to {worse:g}, so that the rejected answer would be better", fix
            )
            return None
        equal.append(len(ranked((better, worse), at.tie_gap)) < 2)
    if found.margin and row[found.margin] not in (None, ""):
        margin = checks.number(row, found.margin, at)
        if margin is None:
            return None
        if margin < 0:
            fix = f"let the two change places, or set data.ignore=[{found.margin}] if the labels are right"
            at.report(found.margin, f"it is below 0 ({margin:g}), so that the rejected answer would be better", fix)
            return None
        equal.append(len(ranked((margin, 0.0), at.tie_gap)) < 2)
    if equal and all(equal):
        at.leave_out("tie")
        return None
    return value


def _before(row: dict[str, Any], found: Beside, at: Place) -> list[dict[str, str]]:
    """The messages that stand before the prompt."""
    system = checks.optional_text(row, found.system, at) if found.system else None
    turns = [] if system is None else [{"role": "system", "content": system}]
    return turns + (earlier(row, found.history, at) if found.history else [])


def earlier(row: dict[str, Any], key: str, at: Place) -> list[dict[str, str]]:
    """The turns of a history: [question, answer] pairs, or messages that end with the assistant's."""
    value = row.get(key)
    if value is None or value == "" or value == []:
        return []
    if not isinstance(value, list):
        at.report(key, f"it is {called(value)}, not a list", "write [[question, answer], …]")
        return []
    if all(isinstance(one, dict) for one in value):
        talk = checks.conversation({key: value}, key, at)
        return [] if talk is None else [*_listed(talk[0]), {"role": "assistant", "content": talk[1]}]
    turns: list[dict[str, str]] = []
    for place, pair in enumerate(value):
        field = f"{key}[{place}]"
        if not isinstance(pair, list) or len(pair) != 2:
            at.report(field, "it is no pair of a question and an answer", "write [question, answer]")
            continue
        for number, role in enumerate(("user", "assistant")):
            where = f"{field}[{number}]"
            said = checks.text({where: pair[number]}, where, at)
            turns += [] if said is None else [{"role": role, "content": said}]
    return turns


def _listed(prompt: PromptText) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _fronted(value: Any, before: list[dict[str, str]], name: str, at: Place) -> Any:
    prompt = with_front(value.prompt, before, name, at)
    if prompt is None:
        return None
    if isinstance(value, Demonstration) and value.spared:
        more = len(prompt) - len(_listed(value.prompt))
        return replace(value, prompt=prompt, spared=tuple(place + more for place in value.spared))
    return replace(value, prompt=prompt)


def with_front(prompt: PromptText, before: list[dict[str, str]], name: str, at: Place) -> PromptText | None:
    """The prompt behind the system text and the turns of `before`, which came from the column `name`."""
    turns = _listed(prompt)
    if turns[0]["role"] != "system":
        return [*before, *turns]
    if before[0]["role"] == "system":
        if before[0]["content"].strip() != turns[0]["content"].strip():
            at.report(name, "the conversation has a system message of its own", "keep one of them")
            return None
        before = before[1:]
    return [turns[0], *before, *turns[1:]]
