"""Is one field of a row what its format asks for?

The helpers of `formats.py`: each takes a field out of a row, or reports every mistake in it and gives None.
"""

import difflib
import os.path
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from data.parsing import called
from data.schema import Completion, Problem, PromptText

ROLES = ("system", "user", "assistant")
OTHER_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
SPEAKING = ("tool_calls", "function_call", "reasoning_content")
"""Keys of a message that say something we would lose."""

ASSISTANT = "\n\nAssistant:"
HUMAN = "\n\nHuman:"
# A text may be cut before white space, or after a character of a script that writes no spaces.
BOUNDARY = re.compile(r"\s+|(?<=[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef])")
REPEATED = 8
"""Characters from which a prompt at the start of an answer is no greeting returned but a prompt repeated."""


class Place(NamedTuple):
    """Where a row stands, and the list that takes its problems."""

    file: str
    line: int
    problems: list[Problem]

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"

    def report(self, field: str, problem: str, fix: str) -> None:
        self.problems.append(Problem(self.file, self.line, field, problem, fix))


def near(key: str, names: Iterable[str]) -> str | None:
    """The name that `key` seems to misspell. `prompt_id` does not misspell `prompt`, `propmt` does."""
    return _near(key.strip().lower(), tuple(sorted(names)))


# The same few keys are asked for in every row of a file.
@lru_cache(maxsize=4096)
def _near(key: str, names: tuple[str, ...]) -> str | None:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.82)
    return close[0] if close else None


def text(row: dict[str, Any], key: str, at: Place) -> str | None:
    """The text under `key`: there, a text, and not blank."""
    if not _present(row, key, at):
        return None
    return _text(row[key], key, at)


def _present(row: dict[str, Any], key: str, at: Place) -> bool:
    if key in row:
        return True
    alike = [name for name in row if near(name, [key])]
    at.report(key, "the key is missing", f'did you write "{alike[0]}" for it?' if alike else "give every row this key")
    return False


def _text(value: object, field: str, at: Place) -> str | None:
    if isinstance(value, str) and value.strip():
        return value
    if value is None or isinstance(value, str):
        at.report(field, "it is null" if value is None else "it is blank", "write a text or take the row out")
    else:
        at.report(field, f"it is {called(value)}, not a text", "write a text")
    return None


def name(row: dict[str, Any], at: Place) -> str | None:
    """The row's id; without one, the file and line."""
    value = row.get("id")
    if value is None:
        return at.source
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "id", at)


def optional_name(row: dict[str, Any], key: str, at: Place) -> str | None:
    """A text or whole number under `key`, None where there is none."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, key, at)


def prompt(row: dict[str, Any], at: Place, key: str) -> PromptText | None:
    """A text, or messages that end with the user's turn."""
    if not _present(row, key, at):
        return None
    if isinstance(row[key], list):
        return _turns(row[key], key, at, last="user")
    return _text(row[key], key, at)


def conversation(row: dict[str, Any], key: str, at: Place) -> tuple[PromptText, str] | None:
    """(messages before, text) of a conversation whose last turn is the assistant's."""
    if not _present(row, key, at):
        return None
    if not isinstance(row[key], list):
        at.report(key, f"it is {called(row[key])}, not a list of messages", 'write [{"role": …, "content": …}]')
        return None
    return _split(_turns(row[key], key, at, last="assistant"), key, at)


def _split(turns: list[dict[str, str]] | None, key: str, at: Place) -> tuple[PromptText, str] | None:
    if turns is None:
        return None
    if len(turns) < 2:
        at.report(key, "no message stands before the answer", "begin with the user's turn")
        return None
    return turns[:-1], turns[-1]["content"]


def answer(row: dict[str, Any], key: str, prompt: PromptText | None, at: Place) -> tuple[PromptText, str] | None:
    """(prompt, completion) of the answer under `key`: a text, or messages that carry the prompt's messages on.

    None, with nothing more reported than the answer's own mistakes, where the prompt is already known to be wrong.
    """
    if not _present(row, key, at):
        return None
    value = row[key]
    if not isinstance(value, list):
        said = _text(value, key, at)
        return None if said is None or prompt is None else (prompt, said)
    if prompt is None:
        return None
    turns = [(turn.get("role"), turn.get("content")) for turn in value if isinstance(turn, dict)]
    begin = [("user", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]
    if turns[: len(begin)] == begin:
        at.report(key, "it repeats the prompt", "leave only the answer here, or take the prompt column out")
        return None
    if isinstance(prompt, str):
        at.report(key, "it is a list of messages, the prompt a text", "make both lists, or both texts")
        return None
    return _split(_turns([*prompt, *value], key, at, last="assistant", skip=len(prompt)), key, at)


def _turns(value: list[Any], field: str, at: Place, last: str, skip: int = 0) -> list[dict[str, str]] | None:
    """The messages with nothing but role and content. The first `skip` of them were checked before."""
    before = len(at.problems)
    if len(value) == skip:
        at.report(field, "the list of messages is empty", "write a message")
    turns = [_turn(turn, f"{field}[{place - skip}]", at) for place, turn in enumerate(value)]
    if len(at.problems) > before:
        return None
    sound = [turn for turn in turns if turn is not None]
    speaker = ""
    for place, turn in enumerate(sound):
        where, role = f"{field}[{place - skip}]", turn["role"]
        if role == "system" and place > 0:
            at.report(where, "the system message is not the first", "put it first")
        elif role != "system" and role == speaker:
            at.report(where, f"two turns of the {role} in a row", "join them, or let the two alternate")
        elif role == "assistant" and speaker == "":
            at.report(where, "the assistant speaks before the user", "begin with the user's turn")
        speaker = speaker if role == "system" else role
    if len(at.problems) == before and speaker != last:
        fix = "end with the assistant's answer" if last == "assistant" else "end with the user's turn"
        at.report(field, f"the last turn is not the {last}'s", fix)
    return sound if len(at.problems) == before else None


def _turn(value: object, field: str, at: Place) -> dict[str, str] | None:
    if not isinstance(value, dict):
        at.report(field, f"the message is {called(value)}, not an object", 'write {"role": …, "content": …}')
        return None
    if "role" not in value and "from" in value:
        at.report(field, "the message has from and value", "rename them to role and content")
        return None
    for key in SPEAKING:
        if value.get(key):
            at.report(f"{field}.{key}", "such messages are not supported", "take the row out or the key away")
            return None
    inner: list[Problem] = []
    role = text(value, "role", Place(at.file, at.line, inner))
    content = text(value, "content", Place(at.file, at.line, inner))
    for problem in inner:
        at.report(f"{field}.{problem.field}", problem.problem, problem.fix)
    if role is not None and role not in ROLES:
        better = OTHER_ROLES.get(role.lower()) or near(role, ROLES)
        fix = f'did you mean "{better}"?' if better else "use " + ", ".join(ROLES)
        at.report(f"{field}.role", f'"{role}" is no role', fix)
        return None
    return None if role is None or content is None else {"role": role, "content": content}


def repeats(prompt: str, chosen: str) -> bool:
    """Whether `chosen` begins with the prompt, and the prompt is too long for that to be a greeting returned."""
    begin = prompt.strip()
    return len(begin) >= REPEATED and chosen.lstrip().startswith(begin)


def common_prompt(
    chosen: str, rejected: str, at: Place
) -> tuple[tuple[PromptText, str], tuple[PromptText, str]] | None:
    """((prompt, completion), (prompt, completion)) of two texts with one beginning."""
    common = os.path.commonprefix([chosen, rejected])
    end = common.rfind(ASSISTANT)
    if end >= 0:
        end += len(ASSISTANT)
    else:
        end = max((found.start() for found in BOUNDARY.finditer(common)), default=0)
    begin = common[:end]
    answers = chosen[end:], rejected[end:]
    if not begin.strip():
        at.report("rejected", "chosen and rejected have no common beginning", "give a prompt column")
        return None
    if any(mark in said for said in answers for mark in (HUMAN, ASSISTANT)):
        at.report("rejected", "chosen and rejected part before their last answer", "give both the same prompt")
        return None
    for key, said in zip(("chosen", "rejected"), answers, strict=True):
        if not said.strip():
            at.report(key, "nothing is left of it after the common beginning", "write an answer")
            return None
    return (begin, answers[0]), (begin, answers[1])


def completions(row: dict[str, Any], at: Place) -> tuple[Completion, ...] | None:
    """Two or more completions, given as texts or as objects with `text` and, if wanted, `id`, `model`, `ratings`."""
    if not _present(row, "completions", at):
        return None
    value = row["completions"]
    if not isinstance(value, list):
        at.report("completions", f"it is {called(value)}, not a list", "write a list of texts")
        return None
    if len(value) < 2:
        at.report("completions", "there are fewer than two", "give at least two, or take the row out")
        return None
    before = len(at.problems)
    made = [_completion(one, place, at) for place, one in enumerate(value)]
    names = [one.id for one in made if one is not None]
    for one in dict.fromkeys(names):
        if names.count(one) > 1:
            at.report("completions", f'the id "{one}" stands twice', "give each completion its own id")
    return None if len(at.problems) > before else tuple(one for one in made if one is not None)


def _completion(value: object, place: int, at: Place) -> Completion | None:
    field = f"completions[{place}]"
    if not isinstance(value, dict):
        said = _text(value, field, at)
        return None if said is None else Completion(f"c{place}", said)
    inner: list[Problem] = []
    here = Place(at.file, at.line, inner)
    said = text(value, "text", here)
    name = f"c{place}" if value.get("id") is None else _text(value["id"], "id", here)
    model = None if value.get("model") is None else _text(value["model"], "model", here)
    ratings = _ratings(value.get("ratings"), here)
    for problem in inner:
        at.report(f"{field}.{problem.field}", problem.problem, problem.fix)
    return None if inner or said is None or name is None else Completion(name, said, model, ratings)


def _ratings(value: object, at: Place) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(_is_number(one) for one in value):
        at.report("ratings", "it is no list of numbers", "write [3, 2.5, …] or leave it out")
        return None
    return tuple(float(one) for one in value)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300


def tiers(row: dict[str, Any], completions: tuple[Completion, ...], at: Place) -> tuple[tuple[str, ...], ...] | None:
    """The ranking as ids. Numbers are positions in `completions` from 0, texts are ids."""
    if not _present(row, "ranking", at):
        return None
    value = row["ranking"]
    if not isinstance(value, list) or not value:
        what = "it is empty" if value == [] else f"it is {called(value)}, not a list"
        at.report("ranking", what, "write the tiers best first: [[2], [0, 3], [1]]")
        return None
    fix = "write the completions' positions best first, ties together: [[2], [0, 3], [1]]"
    flat = [one for tier in value for one in (tier if isinstance(tier, list) else [tier])]
    if any(isinstance(one, float) for one in flat):
        at.report("ranking", "it holds scores, not ranks", fix)
        return None
    if not all(isinstance(tier, list) and tier for tier in value):
        at.report("ranking", "it is no list of lists", fix)
        return None
    if not all(isinstance(one, int | str) and not isinstance(one, bool) for one in flat):
        at.report("ranking", "it holds something that is neither position nor id", fix)
        return None
    if sorted(flat, key=str) == sorted(range(1, len(completions) + 1), key=str):
        at.report("ranking", "it counts the completions from 1", "count them from 0")
        return None
    known = {place: one.id for place, one in enumerate(completions)} | {one.id: one.id for one in completions}
    before = len(at.problems)
    for one in dict.fromkeys(flat):
        if one not in known:
            at.report("ranking", f'it names "{one}", which is no completion', "use positions from 0, or the ids")
    named = [[known[one] for one in tier if one in known] for tier in value]
    places = [one for tier in named for one in tier]
    for one in known.values() if len(at.problems) == before else ():
        if places.count(one) != 1:
            how = "twice" if one in places else "nowhere"
            at.report("ranking", f'"{one}" stands {how} in it', "name every completion once")
            break
    if len(at.problems) == before and len(value) < 2:
        at.report("ranking", "all completions are tied", "take the row out")
    return tuple(tuple(tier) for tier in named) if len(at.problems) == before else None
