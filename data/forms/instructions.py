"""How are the forms of supervised fine-tuning read: Alpaca's instructions, ShareGPT's dialogues, plain texts?

Two of them have a form for preferences too, which LLaMA-Factory made.
"""

from collections.abc import Callable
from typing import Any

from data.forms import checks, transcripts, trl
from data.forms import rankings as making
from data.forms.beside import earlier
from data.forms.place import Place
from data.forms.shapes import Shape
from data.forms.weights import learned_of
from data.reading.written import SPEAKERS, STARTS, kind_of, with_our_names
from data.schema import Demonstration, PromptText, Ranking

TOOLS = {"tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython"}
DIALOGUES = ("conversations", "conversation")
BESIDE_TEXT = {"id", "tag", "meta", "metadata", "source", "url"}
"""What may stand in a row of plain text; with any other key the text may not be all there is to it."""


def is_plain_text(shape: Shape) -> bool:
    return "text" in shape.kinds and shape.kinds.keys() <= BESIDE_TEXT | {"text"}


def is_dialogue(shape: Shape) -> bool:
    return any(key in shape.kinds for key in DIALOGUES) and not shape.has("chosen") and not shape.has("rejected")


def is_dialogue_preference(shape: Shape) -> bool:
    return any(shape.has(key, "chosen", "rejected") for key in DIALOGUES)


def text(row: dict[str, Any], at: Place) -> Demonstration | None:
    """TRL's language modelling form, a `text` with nothing before it. A transcript ends with the answer to learn."""
    said = checks.text(row, "text", at)
    name = checks.name(row, at)
    if said is None or name is None:
        return None
    answer = (
        transcripts.dialogue(row, "text", at) if said[:1] in STARTS and kind_of(said) == "transcript" else ("", said)
    )
    return None if answer is None else Demonstration(name, *answer, at.source)


def _no_tools(row: dict[str, Any], at: Place) -> None:
    if row.get("tools") not in (None, "", "[]", []):
        at.report("tools", "tools are not supported", "take the row out or the key away")


# Alpaca


def alpaca(row: dict[str, Any], at: Place) -> Demonstration | None:
    """`instruction`, `output`, and if wanted `input`, `system`, `history` of [question, answer] pairs."""
    prompt = _instruction(row, at)
    said = checks.text(row, "output", at)
    name = checks.name(row, at)
    return None if prompt is None or said is None or name is None else Demonstration(name, prompt, said, at.source)


def alpaca_preference(row: dict[str, Any], at: Place) -> Ranking | None:
    """Alpaca with two texts for `output`, `chosen` and `rejected`."""
    prompt = _instruction(row, at)
    if prompt is not None:
        return trl.preference({**row, "prompt": prompt}, at)
    for key in ("chosen", "rejected"):
        checks.text(row, key, at)
    return None


def _instruction(row: dict[str, Any], at: Place) -> PromptText | None:
    """A text, or messages where a system message or earlier turns stand before the instruction."""
    before = len(at.problems)
    _no_tools(row, at)
    asked = checks.text(row, "instruction", at)
    more = checks.optional_text(row, "input", at)
    system = checks.optional_text(row, "system", at)
    turns = earlier(row, "history", at)
    if asked is None or len(at.problems) > before:
        return None
    asked = asked if more is None else f"{asked}\n\n{more}"
    return _with_system([*turns, {"role": "user", "content": asked}], system) if turns or system else asked


def _with_system(turns: list[dict[str, str]], system: str | None) -> list[dict[str, str]]:
    return turns if system is None else [{"role": "system", "content": system}, *turns]


# ShareGPT


def sharegpt(row: dict[str, Any], at: Place) -> Demonstration | None:
    """`conversations` of {from, value} or {role, content}, and if wanted a `system` text before them."""
    key = next((name for name in DIALOGUES if name in row), DIALOGUES[0])
    learned = learned_of(row, key, at)
    if learned is None:
        return None
    answer = _dialogue({**row, key: learned.turns} if key in row else row, at, checks.conversation)
    prompt = _after_system(row, answer[0] if answer else None, at)
    name = checks.name(row, at)
    if answer is None or prompt is None or name is None:
        return None
    before = len(prompt) - len(answer[0])
    return Demonstration(name, prompt, answer[1], at.source, spared=tuple(place + before for place in learned.spared))


def sharegpt_preference(row: dict[str, Any], at: Place) -> Ranking | None:
    """`conversations` up to the user's turn, and two messages that answer it, `chosen` and `rejected`."""
    prompt = _after_system(row, _dialogue(row, at, _asked), at)
    said = {key: _message(row, key, at) for key in ("chosen", "rejected")}
    answers = {key: None if one is None or prompt is None else (prompt, one) for key, one in said.items()}
    return making.pair(row, at, answers)


def _asked(row: dict[str, Any], key: str, at: Place) -> PromptText | None:
    return checks.prompt(row, at, key)


def _dialogue(row: dict[str, Any], at: Place, read: Callable[[dict[str, Any], str, Place], Any]) -> Any:
    """What `read` makes of the dialogue, given in messages of role and content; problems are told in the row's keys."""
    key = next((name for name in DIALOGUES if name in row), DIALOGUES[0])
    _no_tools(row, at)
    value = row.get(key)
    if not isinstance(value, list):
        return read(row, key, at)
    before = len(at.problems)
    turns = [_turn(turn, f"{key}[{place}]", at) for place, turn in enumerate(value)]
    if len(at.problems) > before:
        return None
    inner = Place(at.file, at.line, [])
    made = read({key: turns}, key, inner)
    for problem in inner.problems:
        at.report(_their_key(problem.field, value), problem.problem, problem.fix)
    return made


def _turn(turn: Any, field: str, at: Place) -> Any:
    """The message in role and content; None, told, where its speaker is nobody we know. What else is wrong is left."""
    if not isinstance(turn, dict):
        return turn
    turn = with_our_names(turn) if not turn.keys() & {"role", "from"} else turn
    key = "role" if "role" in turn else "from"
    speaker, said = turn.get(key), turn.get("content" if "content" in turn else "value")
    made = {name: value for name, value in turn.items() if name not in ("from", "value", "role", "content")}
    made |= {"content": said} if "content" in turn or "value" in turn else {}
    if key not in turn:
        return made
    if isinstance(speaker, str) and speaker not in SPEAKERS and speaker.strip():
        if speaker in TOOLS:
            at.report(f"{field}.{key}", "messages to and from tools are not supported", "take the row out")
        else:
            better = checks.near(speaker, SPEAKERS)
            fix = f'did you mean "{better}"?' if better else "use system, human, gpt or system, user, assistant"
            at.report(f"{field}.{key}", f'"{speaker}" is no role', fix)
        return None
    return {"role": SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker, **made}


def _their_key(field: str, turns: list[Any]) -> str:
    """`conversations[1].content` is `conversations[1].value` where the messages have from and value."""
    if any(isinstance(turn, dict) and turn.keys() & {"role", "content"} for turn in turns):
        return field
    head, dot, last = field.rpartition(".")
    return head + dot + {"role": "from", "content": "value"}.get(last, last)


def _after_system(row: dict[str, Any], prompt: PromptText | None, at: Place) -> PromptText | None:
    system = checks.optional_text(row, "system", at)
    if not isinstance(prompt, list):
        return prompt
    if system is not None and prompt[0]["role"] == "system":
        at.report("system", "the conversation has a system message of its own", "keep one of them")
        return None
    return _with_system(prompt, system)


def _message(row: dict[str, Any], key: str, at: Place) -> str | None:
    """The text of the assistant's message under `key`."""
    message = checks.record(row, key, at)
    if message is None:
        return None
    before = len(at.problems)
    turn = _turn(message, key, at)
    if turn is None:
        return None
    for name in checks.SPEAKING:
        if message.get(name):
            at.report(f"{key}.{name}", "such messages are not supported", "take the row out or the key away")
    names = ("role", "content") if message.keys() & {"role", "content"} else ("from", "value")
    who, said = f"{key}.{names[0]}", f"{key}.{names[1]}"
    role = checks.text({who: turn["role"]} if "role" in turn else {}, who, at)
    content = checks.text({said: turn["content"]} if "content" in turn else {}, said, at)
    if len(at.problems) == before and role != "assistant":
        at.report(who, "it is not the assistant's message", "write the two answers of the assistant here")
        return None
    return content if role is not None else None
