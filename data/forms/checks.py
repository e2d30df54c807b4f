"""Is one field of a row what its format asks for?

The helpers of `formats.py`: each takes a field out of a row, or reports every mistake in it and gives None.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

from data.forms import columns
from data.forms.place import Place
from data.reading import written
from data.reading.flaws import called
from data.reading.written import parsed
from data.schema import Completion, Problem, PromptText

ROLES = ("system", "user", "assistant")
OTHER_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
COMPLETION = {"text", "id", "model", "ratings"}
SPEAKING = ("tool_calls", "function_call", "reasoning_content")
"""Keys of a message that say something we would lose."""

LONGEST_KEY = 40
MANY = 100
"""Keys of a row in which a misspelt one is looked for, each no longer than LONGEST_KEY."""


def near(key: str, names: Iterable[str]) -> str | None:
    """The name that `key` seems to misspell. `prompt_id` does not misspell `prompt`, `propmt` does."""
    key = key.strip().lower()
    return None if len(key) > LONGEST_KEY else _near(key, tuple(sorted(names)))


# The same few keys are asked for in every row of a file.
@lru_cache(maxsize=4096)
def _near(key: str, names: tuple[str, ...]) -> str | None:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.82)
    return close[0] if close else None


def text(row: dict[str, Any], key: str, at: Place) -> str | None:
    """The text under `key`: there, a text, and not blank."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return value
    return _text(value, key, at) if present(row, key, at) else None


def texts(row: dict[str, Any], *keys: str) -> list[str] | None:
    """The texts under `keys`; None, and nothing told, where one of them is not there, no text, or blank."""
    found = [value for value in map(row.get, keys) if type(value) is str and value.strip()]
    return found if len(found) == len(keys) else None


def present(row: dict[str, Any], key: str, at: Place) -> bool:
    """Whether the key is there; reports it, with a key that may have been meant for it, where it is not."""
    if key in row:
        return True
    alike = [name for name in islice(row, MANY) if near(name, [key])]
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
    value = row.get(key)
    return _turns(value, key, at, last="user") if isinstance(value, list) else text(row, key, at)


def conversation(row: dict[str, Any], key: str, at: Place) -> tuple[PromptText, str] | None:
    """(messages before, text) of a conversation whose last turn is the assistant's."""
    if not present(row, key, at):
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
    value = row.get(key)
    if not isinstance(value, list):
        said = text(row, key, at)
        return None if said is None or prompt is None else (prompt, said)
    if prompt is None:
        return None
    turns = [(turn.get("role"), turn.get("content")) for turn in value if isinstance(turn, dict)]
    if isinstance(prompt, str):
        return _whole(row, key, prompt, turns, at)
    begin = [(turn["role"], turn["content"]) for turn in prompt]
    if turns[: len(begin)] == begin:
        return conversation(row, key, at)
    return _split(_turns([*prompt, *value], key, at, last="assistant", skip=len(prompt)), key, at)


def _whole(
    row: dict[str, Any], key: str, prompt: str, turns: list[tuple[Any, Any]], at: Place
) -> tuple[PromptText, str] | None:
    """(messages before, text) of a whole conversation, or of an answer in messages, beside a prompt that is a text."""
    if [role for role, _ in turns] == ["assistant"]:
        return conversation({key: [{"role": "user", "content": prompt}, *row[key]]}, key, at)
    said = conversation(row, key, at)
    if said is not None and not any(
        isinstance(text, str) and text.strip() == prompt.strip() for role, text in turns if role == "user"
    ):
        at.report(key, "none of its questions is the prompt", "give both the same, or set data.ignore=[prompt]")
        return None
    return said


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
        asks = f", or set data.columns={{prompt: {field}}} if these are prompts" if field == "messages" else ""
        at.report(field, f"the last turn is not the {last}'s", fix + asks)
    return sound if len(at.problems) == before else None


def _turn(value: object, field: str, at: Place) -> dict[str, str] | None:
    if not isinstance(value, dict):
        at.report(field, f"the message is {called(value)}, not an object", 'write {"role": …, "content": …}')
        return None
    if "role" not in value or "content" not in value:
        value = written.with_our_names(value)
    content = value.get("content")
    plain = type(content) is str and content[:1] not in "[ \n\t"
    if not plain and (parts := written.parts(content)) is not None:
        value = _joined(value, parts, field, at)
        if value is None:
            return None
    if len(value) > 2 and not _nothing_more(value, field, at):
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


def _joined(message: dict[str, Any], parts: list[Any], field: str, at: Place) -> dict[str, Any] | None:
    """The message with its parts, `[{"type": "text", "text": …}]`, as one text with a line to each."""
    said, before = list[str](), len(at.problems)
    for place, part in enumerate(parts):
        where = f"{field}.content[{place}]"
        more = {key: value for key, value in part.items() if key not in ("type", "text") and value not in (None, "")}
        media = next((key for key in more if columns.MEDIA.fullmatch(columns.plain(key))), None)
        if media or part.get("type", "text") != "text":
            at.report(where, f"{media or columns.sample(part['type'])} is not supported", "take the row out")
        elif (text := _text(part.get("text"), f"{where}.text", at)) is not None:
            said.append(text)
    if not parts:
        at.report(f"{field}.content", "it is empty", "write a text or take the row out")
    return {**message, "content": "\n".join(said)} if len(at.problems) == before else None


def _nothing_more(message: dict[str, Any], field: str, at: Place) -> bool:
    """Whether a message says nothing beside its role and content; reports what would be lost."""
    before = len(at.problems)
    for key, value in message.items():
        if key in ("role", "content", *columns.LEARNED):
            continue
        if key in SPEAKING and value:
            at.report(f"{field}.{key}", "such messages are not supported", "take the row out or the key away")
        elif (loss := columns.lost(key, value)) is not None:
            at.report(f"{field}.{key}", loss.problem, "take the row out or the key away")
    return len(at.problems) == before


def completions(row: dict[str, Any], at: Place) -> tuple[Completion, ...] | None:
    """Two or more completions, given as texts or as objects with `text` and, if wanted, `id`, `model`, `ratings`."""
    if not present(row, "completions", at):
        return None
    value = row["completions"]
    if not isinstance(value, list):
        at.report("completions", f"it is {called(value)}, not a list", "write a list of texts")
        return None
    if len(value) < 2:
        at.report("completions", "there are fewer than two", "give at least two, or take the row out")
        return None
    if all([type(one) is str and one.strip() and one[0] != "{" for one in value]):
        return tuple(map(Completion, _names(len(value)), value))
    before = len(at.problems)
    made = [_completion(one, place, at) for place, one in enumerate(value)]
    for one, count in Counter(one.id for one in made if one is not None).items():
        if count > 1:
            at.report("completions", f'the id "{one}" stands twice', "give each completion its own id")
    return None if len(at.problems) > before else tuple(one for one in made if one is not None)


@lru_cache(maxsize=64)
def _names(many: int) -> tuple[str, ...]:
    return tuple(f"c{place}" for place in range(many))


def _completion(value: object, place: int, at: Place) -> Completion | None:
    field = f"completions[{place}]"
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        inside = parsed(value)
        value = inside if isinstance(inside, dict) and "text" in inside and inside.keys() <= COMPLETION else value
    if not isinstance(value, dict):
        said = _text(value, field, at)
        return None if said is None else Completion(f"c{place}", said)
    inner: list[Problem] = []
    here = Place(at.file, at.line, inner)
    for key in value.keys() - COMPLETION:
        if (loss := columns.lost(key, value[key])) is not None:
            here.report(key, loss.problem, "take the key away, or turn the rows with data.map")
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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


NUMERAL = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)


def number(row: dict[str, Any], key: str, at: Place, low: float = -1e300, high: float = 1e300) -> float | None:
    """The number under `key`, from `low` to `high`; a CSV cell, which is always text, may hold it in digits."""
    if not present(row, key, at):
        return None
    value = row[key]
    if isinstance(value, str) and NUMERAL.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        blank = isinstance(value, str) and not value.strip()
        shown = f'"{value}"' if isinstance(value, str) and len(value) <= 20 else called(value)
        at.report(key, "it is blank" if blank else f"it is {shown}, not a number", "write a number")
        return None
    if not low <= value <= high:
        shown = f"{value:g}" if abs(value) < 1e300 else "it"
        at.report(key, f"{shown} is not from {low:g} to {high:g}", "correct it or take the row out")
        return None
    return float(value)


def choice(row: dict[str, Any], key: str, options: tuple[int, ...], at: Place) -> int | None:
    """The one of `options` that stands under `key`, written as a number."""
    value = number(row, key, at)
    if value is None or value in options:
        return None if value is None else int(value)
    at.report(key, f"{value:g} is none of {', '.join(map(str, options))}", "correct it or take the row out")
    return None


def record(row: dict[str, Any], key: str, at: Place) -> dict[str, Any] | None:
    """The object under `key`."""
    if not present(row, key, at):
        return None
    if not isinstance(row[key], dict):
        at.report(key, f"it is {called(row[key])}, not an object", "write {…} with its fields")
        return None
    return dict(row[key])


def records(row: dict[str, Any], key: str, at: Place, least: int = 2) -> list[dict[str, Any]] | None:
    """The objects in the list under `key`, at least so many."""
    if not present(row, key, at):
        return None
    value = row[key]
    if not isinstance(value, list):
        at.report(key, f"it is {called(value)}, not a list", "write a list of objects")
        return None
    if len(value) < least:
        at.report(key, f"there are fewer than {least}", "add some, or take the row out")
        return None
    found = [one for one in value if isinstance(one, dict)]
    for place, one in enumerate(value):
        if not isinstance(one, dict):
            at.report(f"{key}[{place}]", f"it is {called(one)}, not an object", "write {…} with its fields")
    return found if len(found) == len(value) else None


def optional_text(row: dict[str, Any], key: str, at: Place) -> str | None:
    """The text under `key`; None where there is none, or it is null or blank."""
    value = row.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return _text(value, key, at)


def truth(row: dict[str, Any], key: str, at: Place) -> bool:
    """Whether `key` is true. A missing or empty one is not; a CSV cell may say it in words."""
    value = row.get(key)
    said = value.strip().lower() if isinstance(value, str) else value
    if said in ("true", "false", ""):
        return said == "true"
    if value is not None and not isinstance(value, bool):
        at.report(key, f"it is {called(value)}, not true or false", "write true or false")
    return value is True
