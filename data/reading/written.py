"""What is a text when it is more than a text: a transcript of several turns, or a structure that was printed?

Transcripts come with every line end and every pair of speakers; they are brought to the form of Anthropic's hh-rlhf,
"\\n\\nHuman: …\\n\\nAssistant: …", which `transcripts.py` reads. A list of messages may have been written as JSON, as Python
prints it, or as numpy does, which leaves the commas out.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Collection
from typing import Any

from data.reading.flaws import flaw_of

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
BEGINS = (HUMAN, HUMAN.lstrip())
PAIRS = {
    "human": ("assistant", "ai", "bot", "gpt", "chatbot"),
    "user": ("assistant", "bot", "ai", "model", "chatbot", "system"),
    "question": ("answer",),
    "instruction": ("response", "output", "answer"),
    "q": ("a",),
    "h": ("a",),
}
"""Who asks, and who may answer: "User: …" or "### User: …" at the beginning of a line."""
SPEAKER = re.compile(
    r"[ \t]*(?P<mark>#{2,4}[ \t]*|\*\*|)(?P<name>[A-Za-z]{1,11})(?P<shut>\*\*:|:\*\*|:(?=\s|$)|(?<=\w):)", re.ASCII
)
STARTS = frozenset({*" \n\r\t[{#*", *(name[0].upper() for name in PAIRS)})
"""What a text begins with that may be more than a text. Most texts do not, and are not looked at any further."""
ANSWERS = re.compile(
    r"^(?:[ \t]*(?:#{2,4}[ \t]*(?:Response|Assistant|Answer|Output):?|(?:Assistant|ASSISTANT|Bot|AI|A|Answer|Response):"
    r"|<\|(?:im_start\|>)?assistant(?:\|>)?)|.*\[/INST\])",
    re.MULTILINE,
)
"""What stands before an answer in a text of several turns."""
LONGEST = 1 << 20
"""Characters of a text that is looked at for a structure."""


def kind_of(text: str) -> str:
    """What a text that begins with one of STARTS is: "transcript", "structure" or "text"."""
    if text.startswith(BEGINS):
        return "transcript"
    head = text.lstrip()
    if head.startswith(("[", "{")):
        return "structure" if len(text) <= LONGEST and head.rstrip().endswith(("]", "}")) else "text"
    return "transcript" if SPEAKER.match(head) and canonical(text) is not None else "text"


# Transcripts


def canonical(text: str) -> str | None:
    """A transcript in the form of hh-rlhf, whatever its line ends and speakers; None where it is no transcript."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = SPEAKER.match(text.lstrip())
    if first is None or first["name"].lower() not in PAIRS:
        return None
    asks = re.escape(text.lstrip()[: first.end()].lstrip())
    for name in PAIRS[first["name"].lower()]:
        answers = re.escape(first["mark"]) + f"(?i:{name})" + re.escape(first["shut"])
        pieces = re.split(rf"(?:^|\n)[^\S\n]*(?:({asks})|({answers}))", f"\n{text.lstrip()}")
        if not pieces[0].strip() and any(pieces[2::3]):
            made = [
                f"{HUMAN if asked else ASSISTANT} {said.strip()}"
                for asked, said in zip(pieces[1::3], pieces[3::3], strict=True)
            ]
            # A text that speaks of such marks itself cannot be told apart from its turns.
            return (
                None
                if any(f"\n{said}".count(HUMAN) + said.count(ASSISTANT) for said in pieces[3::3])
                else "".join(made)
            )
    return None


# Structures

LISTS = {
    *("completions", "responses", "answers", "ranking", "ratings", "scores", "messages", "conversations"),
    *("conversation", "conversation_a", "conversation_b", "history", "rejected_messages", "rejected_responses"),
}
"""Fields that hold a list: a text there that can be read as one is one."""


OBJECTS = ({"message_id", "role", "text"}, {"full_text"}, {"annotations", "data"})
"""Keys of objects that are no answer of anybody's: OpenAssistant's messages, WebGPT's questions."""


def unfolded(key: str, value: Any) -> Any:
    """What is under `key` as a list of messages, where it is one that was printed or lies inside an object; else as it is.

    A text is a structure only where it can be nothing else: somebody's answer may well be a piece of JSON.
    """
    if isinstance(value, str):
        found = parsed(value)
        inside = _messages(found)
        if inside is not None:
            return inside
        if isinstance(found, dict) and any(found.keys() >= keys for keys in OBJECTS):
            return found
        return found if key in LISTS and isinstance(found, list) else value
    if isinstance(value, dict):
        inside = _messages(value)
        return value if inside is None else inside
    return value


def _messages(value: Any) -> list[Any] | None:
    """The list of messages that `value` is or holds."""
    if isinstance(value, dict):
        for name in ("messages", "conversations", "conversation"):
            if isinstance(value.get(name), list) and value.keys() <= {name, "id", "source"}:
                return _messages(value[name])
        return [value] if is_message(value.keys()) else None
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return value if all(is_message(one.keys()) or one.keys() >= {"from", "value"} for one in value) else None
    return None


def parts(content: Any) -> list[Any] | None:
    """The parts of a message's content, `[{"type": "text", "text": …}, …]`, given or printed; None where it has none."""
    if (
        isinstance(content, str)
        and content.lstrip()[:1] == "["
        and re.match(r"""\[\s*\{['"](?:type|text)['"]""", content)
    ):
        found = parsed(content)
        sure = isinstance(found, list) and all(
            isinstance(one, dict) and isinstance(one.get("type"), str) and one["type"] in one for one in found
        )
        return found if sure else None
    return content if type(content) is list and all(isinstance(part, dict) for part in content) else None


SPEAKER_NAMES, SAID_NAMES = ("from", "sender", "speaker", "role"), ("value", "text", "message", "content")
SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot"), "assistant"),
    "system": "system",
}
"""What those are called who speak where a message has other keys than `role` and `content`."""


def is_message(keys: Collection[str]) -> bool:
    """Whether these are the keys of a message: ours, or two of another name for them."""
    ours = "role" in keys and "content" in keys
    return ours or (len(keys) == 2 and any(k in keys for k in SPEAKER_NAMES) and any(k in keys for k in SAID_NAMES))


def with_our_names(message: dict[str, Any]) -> dict[str, Any]:
    """A message with `role` and `content`, where it has `from` and `value`, `sender` and `text`, … instead."""
    speaks = [key for key in SPEAKER_NAMES if key in message]
    says = [key for key in SAID_NAMES if key in message]
    if len(speaks) != 1 or len(says) != 1:
        return message
    who = message[speaks[0]]
    made = {key: value for key, value in message.items() if key not in (speaks[0], says[0])}
    role = SPEAKERS.get(who, who) if isinstance(who, str) and speaks[0] != "role" else who
    return {"role": role, "content": message[says[0]], **made}


SAYS = re.compile(r"""['"](?:content|value)['"]\s*:""")


def broken(text: str) -> bool:
    """Whether a text was meant as a list of messages but cannot be read as one."""
    speaks = re.search(r"""['"](?:role|from)['"]\s*:""", text)
    says = speaks and SAYS.search(text, speaks.end())
    return says is not None and _messages(parsed(text)) is None


def parsed(text: str) -> Any:
    """The list or object that a text is as JSON, as Python prints it, or as numpy does; None where it is none."""
    text = text.strip()
    if not text or text[0] not in "[{" or len(text) > LONGEST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _printed(text)
    if not isinstance(found, list | dict) or flaw_of({"value": found}):
        return None
    return found


def _printed(text: str) -> Any:
    """What Python or numpy printed."""
    try:
        # Two texts side by side would be taken for one by Python.
        return ast.literal_eval(_with_commas(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None


def _with_commas(text: str) -> str:
    """numpy writes the elements of a list side by side, and a list inside another as array([…], dtype=object)."""
    text = re.sub(r",\s*dtype=\w+\)", ")", text) if "array(" in text else text
    made: list[str] = []
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(text.replace("\r", "\n")).readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        if token.string == "array":
            continue
        value = token.type in (tokenize.STRING, tokenize.NUMBER)
        if before in ("}", "]", "value") and (value or token.string in ("{", "[", "-")):
            made.append(",")
        made.append(token.string)
        before = "value" if value else token.string
    return " ".join(made)
