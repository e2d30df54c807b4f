"""What becomes of the columns of a row that its form does not read?

Each is told to the user, with a sample. Some must not be lost without a word, wherever they stand: texts, judgements,
images and tools. A row with such a column is refused, unless the user says with `ignore` that the column may go.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from data.reading.flaws import called

LABEL = 200
"""Characters up to which a text in a column with a harmless name is a label; in a longer one something may be said."""
SAMPLE = 60
"""Characters of a sample."""
DEEPEST = 4
ID = r"(?:.*_)?(?:ids?|uuid|guid|hash|sha\d*|md5|key|idx|index|number|no|position|order)(?:_.{1,2})?"
NAMED = r"(?:sources?|origin|datasets?|subset|split|partition|config|categor(?:y|ies)|sub_?category|domain|topic|task)"
TOLD = r"(?:languages?|lang|locale|country|models?|model_name|generator|provider|urls?|link|uri|licen[cs]e|version)"
WHEN = r"(?:date|datetime|time|timestamp|tstamp|created|updated|day|year|revision|batch|seed|epoch|level|difficulty)"
WHOSE = r"(?:annotators?|annotator_?\w*|workers?|judge|labell?er|author|username|project|status|state|flags?|type|kind)"
COUNTS = r"(?:n|num|count|len|length|tokens|turns?|words|chars|characters|size|temperature|ratio|share|probability)"
ANY = "|".join((NAMED, TOLD, WHEN, WHOSE, COUNTS))
HARMLESS = re.compile(
    rf"{ID}|(?:.*_)?(?:{ANY}|at)|(?:{ANY})_.*|tags?|meta|metadata|.*_metadata|__.*__|unnamed.*|anony\w*"
)
"""Names of columns that say where a row comes from, not what is to be learned."""
MEDIA = re.compile(
    r"(?:input_|chosen_|rejected_)?(?:images?|pictures?|pixel_values|image_\w+|videos?|audios?|sounds?|speech|media|attachments?|tools?|functions?"
    r"|available_tools|tool_\w+|function_calls?)"
)
JUDGED = re.compile(
    r"(?:.*_)?(?:scores?|ratings?|ranks?|rankings?|labels?|winners?|preferen(?:ce|ces)|preferred|margins?|rewards?|grades?"
    r"|votes?|upvotes?|downvotes?|likes?|dislikes?|liked|disliked|thumbs?|thumbs_up|thumbs_down|feedback|judge?ments?"
    r"|verdicts?|better|best|worse|worst|quality|helpfulness|correctness|chosen|rejected|accepted|strength|stars|good|bad"
    r"|points|evaluations?|kto_tag|choice|selected|is_correct|flipped|deleted|removed|spam)(?:_.*)?"
)
"""Names of columns in which somebody says what a row or an answer is worth."""
ASKING = {
    "question",
    "query",
    "instruction",
    "input",
    "context",
    "user",
    "request",
    "history",
    "system",
    "system_prompt",
}
"""Names of columns that may be part of a prompt."""
NEAR = ("label", "score", "rating", "ranking", "winner", "preference", "margin", "reward", "deleted")
"""Names that are looked for in others that seem to misspell them."""
REFERENCES = (
    *("solution", "answer", "ground_truth", "reference_answer", "expected_answer", "final_answer", "correct_answer"),
    *("gold_answer", "target"),
)
"""Names of columns that hold what an answer to a prompt is checked against, as rows for GRPO have them."""
LEARNED = ("weight", "train", "trainable")
"""Whether a row, or an answer of a conversation, is to be learned from."""
NUMERAL = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*|(?i:true|false|none|null|n/?a|nan)", re.ASCII)


class Lost(NamedTuple):
    """What would be lost with a column, and what to do about it; `said` where it is a text, which may stand elsewhere."""

    problem: str
    fix: str
    said: bool = False


def plain(name: str) -> str:
    """A column's name as the patterns have it."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_") or name


def lost(name: str, value: Any) -> Lost | None:
    """What would be lost if nobody read `value`, which stands in the column `name`; None where it is nothing to learn."""
    if value is None or value == "" or value == [] or value == {} or (isinstance(value, str) and not value.strip()):
        return None
    ours, last = plain(name), name.rpartition(".")[2]
    go = f"data.ignore={quoted([name])}"
    if MEDIA.fullmatch(plain(last)) and value not in ("[]", "{}", False, 0):
        return Lost(f"{last} are not supported", f"take the row out, or set {go} if its texts are right without them")
    numeral = isinstance(value, str) and NUMERAL.fullmatch(value) is not None
    harmless = HARMLESS.fullmatch(ours) is not None
    if harmless and not (isinstance(value, str) and (len(value) > LABEL or "\n" in value)):
        return None
    if judged(ours) and (numeral or not isinstance(value, str) or len(value) <= LABEL):
        what = f"it seems to be a judgement ({sample(value)}), which no form reads beside these columns"
        return Lost(what, f"give it a name of ours with data.columns or data.map, or set {go} to leave it unread")
    checked = ours in REFERENCES and (numeral or isinstance(value, int | float))
    if not checked and (numeral or not _speaks(value)):
        return None
    what = f"nothing reads it, and it says something ({sample(value)})"
    keep = f"keep it for a reward function with data.keep={quoted([name])}"
    return Lost(what, f"{_named(ours, name)}, {keep}, or set {go} to leave it unread", not checked)


@lru_cache(maxsize=4096)
def judged(ours: str) -> bool:
    """Whether a column of this name, or of a name that it seems to misspell, says what something is worth."""
    return JUDGED.fullmatch(ours) is not None or bool(difflib.get_close_matches(ours, NEAR, n=1, cutoff=0.8))


def references(keys: Iterable[str]) -> list[str]:
    """The columns that hold what an answer is checked against."""
    return [key for key in keys if plain(key) in REFERENCES]


def _named(ours: str, name: str) -> str:
    """How an unread text gets its meaning."""
    asks = ours in ("question", "query", "instruction", "input", "context", "user", "ask", "request", "task")
    return (
        f"name it with data.columns={{prompt: {name}}}" if asks else "name it with data.columns, join it with data.map"
    )


def _speaks(value: Any, depth: int = 0) -> bool:
    """Whether there is a text in it that somebody may have said."""
    if isinstance(value, str):
        return bool(value.strip()) and NUMERAL.fullmatch(value) is None
    if depth == DEEPEST:
        return False
    if isinstance(value, Mapping):
        return any(_speaks(inner, depth + 1) for inner in value.values())
    return isinstance(value, list | tuple) and any(_speaks(inner, depth + 1) for inner in value)


def watched(kind: Any, name: str) -> bool:
    """Whether something could be lost with a value of this kind (`shapes.signature`) under this name."""
    speaks = isinstance(kind, tuple) or kind in ("text", "transcript", "structure")
    ours = plain(name)
    return speaks or (kind != "NoneType" and (MEDIA.fullmatch(ours) is not None or judged(ours) or ours in REFERENCES))


def repeated(value: Any, read: Iterable[str]) -> bool:
    """Whether every text in `value` stands in one of the texts that were read, so that nothing is lost with it."""
    texts = [text for text in _texts(value) if text not in ("system", "user", "assistant", "human", "gpt")]
    whole = [" ".join(text.split()) for text in read]
    return bool(texts) and all(any(" ".join(text.split()) in one for one in whole) for text in texts)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for inner in inside for text in _texts(inner)]


def sample(value: Any) -> str:
    """A value on one line, cut."""
    if value is None:
        return "null"
    said = " ".join(str(value).split())
    said = said if len(said) <= SAMPLE else f"{said[:SAMPLE]}…"
    return (
        f'"{said}"'
        if isinstance(value, str)
        else said
        if isinstance(value, int | float)
        else f"{called(value)}: {said}"
    )


def quoted(names: Iterable[str]) -> str:
    """Names as a list on the command line, in quotation marks where they are needed."""
    return "[" + ", ".join(name if re.fullmatch(r"[\w-]+", name) else f'"{name}"' for name in names) + "]"


def learned(value: Any) -> bool | None:
    """What `weight`, `train` or `trainable` says: to be learned or not; None where it says something else."""
    said = value.strip().lower() if isinstance(value, str) else value
    if said is None or said in (True, 1, "1", "1.0", "true", "yes", ""):
        return True
    return False if said in (False, 0, "0", "0.0", "false", "no") else None
