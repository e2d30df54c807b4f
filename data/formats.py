"""How does a row become a demonstration, a ranking or a prompt, and is it sound?

One small function a format turns `(row, file, line, problems)` into one of our rows, or appends what is wrong and gives
None. To add a format, write that function with the helpers of `checks.py`, and one line in FORMATS that says which rows
are its own.
"""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data import checks, sources
from data.checks import Place
from data.parsing import SourceRow
from data.schema import Completion, DataError, Demonstration, Problem, Prompt, PromptText, Ranking, prompt_key

Parsed = Ranking | Demonstration | Prompt


def ranking(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Ranking | None:
    """Ours: `prompt` or `messages`; `completions`, texts or objects; `ranking`, positions or ids in tiers."""
    at = Place(file, line, problems)
    if "prompt" in row and "messages" in row:
        at.report("messages", "the row has a prompt as well", "keep one of them")
    prompt = checks.prompt(row, at, "messages" if "messages" in row and "prompt" not in row else "prompt")
    completions = checks.completions(row, at)
    tiers = None if completions is None else checks.tiers(row, completions, at)
    annotator = checks.optional_name(row, "annotator", at)
    name = checks.name(row, at)
    if prompt is None or completions is None or tiers is None or name is None:
        return None
    rank = {one: place for place, tier in enumerate(tiers) for one in tier}
    best: dict[str, int] = {}
    for completion in completions:
        if best.setdefault(completion.text.strip(), rank[completion.id]) != rank[completion.id]:
            at.report("completions", "the same text stands in two ranks", "keep it once")
            return None
    return Ranking(name, prompt, completions, tiers, at.source, annotator)


def preference(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Ranking | None:
    """TRL's preference with an explicit prompt: `prompt`, `chosen`, `rejected`; texts or lists of messages."""
    at = Place(file, line, problems)
    prompt = checks.prompt(row, at, "prompt")
    chosen, rejected = (checks.answer(row, key, prompt, at) for key in ("chosen", "rejected"))
    if prompt is None or chosen is None or rejected is None:
        return None
    if isinstance(prompt, str) and checks.repeats(prompt, chosen[1]):
        fix = "leave only the answers; if one does say the prompt again, write the row as a ranking"
        at.report("chosen", "it repeats the prompt", fix)
        return None
    return _pair(row, chosen, rejected, at)


def preference_implicit(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Ranking | None:
    """TRL's preference without a prompt: what `chosen` and `rejected` begin with alike is the prompt.

    Of two texts that is the common beginning up to its last "Assistant:" turn (hh-rlhf) or else its last white space,
    which goes to the completions. Of two conversations it is every message but the last.
    """
    at = Place(file, line, problems)
    if isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list):
        chosen, rejected = (checks.conversation(row, key, at) for key in ("chosen", "rejected"))
    else:
        texts = [checks.text(row, key, at) for key in ("chosen", "rejected")]
        if texts[0] is None or texts[1] is None:
            return None
        if texts[0].strip() == texts[1].strip():
            at.report("rejected", "it equals chosen", "take the row out")
            return None
        chosen, rejected = checks.common_prompt(texts[0], texts[1], at) or (None, None)
    if chosen is None or rejected is None:
        return None
    return _pair(row, chosen, rejected, at)


def prompt_completion(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Demonstration | None:
    """TRL's `prompt` and `completion`, texts or lists of messages; our own demonstrations look the same."""
    at = Place(file, line, problems)
    answer = checks.answer(row, "completion", checks.prompt(row, at, "prompt"), at)
    name = checks.name(row, at)
    return None if answer is None or name is None else Demonstration(name, *answer, at.source)


def messages(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Demonstration | None:
    """A conversation under `messages`; the assistant's last turn is the completion."""
    at = Place(file, line, problems)
    answer = checks.conversation(row, "messages", at)
    name = checks.name(row, at)
    return None if answer is None or name is None else Demonstration(name, *answer, at.source)


def prompt_only(row: dict[str, Any], file: str, line: int, problems: list[Problem]) -> Prompt | None:
    """A `prompt`, text or messages, and nothing that answers it."""
    at = Place(file, line, problems)
    prompt = checks.prompt(row, at, "prompt")
    name = checks.name(row, at)
    return None if prompt is None or name is None else Prompt(name, prompt, at.source)


def _pair(
    row: dict[str, Any], chosen: tuple[PromptText, str], rejected: tuple[PromptText, str], at: Place
) -> Ranking | None:
    if chosen[0] != rejected[0]:
        at.report("rejected", "chosen and rejected part before their last answer", "give both the same prompt")
        return None
    if chosen[1].strip() == rejected[1].strip():
        at.report("rejected", "it equals chosen", "take the row out")
        return None
    name = checks.name(row, at)
    if name is None:
        return None
    pair = (Completion("c0", chosen[1]), Completion("c1", rejected[1]))
    annotator = checks.optional_name(row, "annotator", at)
    return Ranking(name, chosen[0], pair, (("c0",), ("c1",)), at.source, annotator)


class Format(NamedTuple):
    kind: str
    matches: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[dict[str, Any], str, int, list[Problem]], Parsed | None]


CONTENT = {"prompt", "messages", "completion", "completions", "ranking", "chosen", "rejected"}


def _has(*names: str, without: Iterable[str] = ()) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(name in row for name in names) and not any(name in row for name in without)


# Most specific first: of formats that fit equally many rows of a file, the first is taken.
FORMATS: dict[str, Format] = {
    "ranking": Format("rankings", _has("completions", "ranking"), ranking),
    "preference": Format("rankings", _has("prompt", "chosen", "rejected"), preference),
    "preference_implicit": Format("rankings", _has("chosen", "rejected", without=["prompt"]), preference_implicit),
    "prompt_completion": Format("demonstrations", _has("prompt", "completion"), prompt_completion),
    "messages": Format("demonstrations", _has("messages", without=["completions", "ranking"]), messages),
    "prompt": Format("prompts", _has("prompt", without=CONTENT - {"prompt"}), prompt_only),
}


@dataclass(frozen=True)
class Reject:
    """A row that was left out. `row` is None where the line could not even be read."""

    row: dict[str, Any] | None
    file: str
    line: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        # A Parquet cell may hold dates or bytes, which no JSON line can.
        row = json.loads(json.dumps(self.row, default=str))
        return {"row": row, "file": self.file, "line": self.line, "reason": self.reason}


@dataclass(frozen=True)
class Loaded:
    """All rows of one source: `read` = len(rows) + len(rejects); `problems` and `rejects` are empty unless skip_bad."""

    format: str
    kind: str
    rows: list[Any]
    read: int
    problems: list[Problem] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def to_rows(source: str, format: str | None = None, skip_bad: bool = False) -> Loaded:
    """Read, recognise and check everything in `source` (see `sources.read`).

    `format` is a name in FORMATS, found from the rows' keys when None. Raises DataError with every problem there is.
    With `skip_bad` sound rows are returned and the others reported; what spoils the whole source is raised anyway.
    """
    if format is not None and format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        fix = f'did you mean "{near[0]}"?' if near else "choose one of " + ", ".join(FORMATS)
        raise DataError([Problem(source, None, "format", f'there is no format "{format}"', fix)])
    problems: list[Problem] = []
    found: list[SourceRow] = []
    rows: list[Parsed] = []
    chosen = format
    broken = False
    try:
        for row in sources.read(source, problems):
            found.append(row)
    except DataError as error:
        problems += error.problems
        broken = True
    try:
        chosen = format or detect(found)
        parsed = [(row, _parse(row, chosen, format is not None, problems)) for row in found]
        rows = list(_across([(row, value) for row, value in parsed if value is not None], problems))
    except DataError as error:
        problems += error.problems
    if chosen is None or broken or (problems and not (skip_bad and rows)):
        raise DataError(_in_order(problems))
    return Loaded(chosen, FORMATS[chosen].kind, rows, **_account(found, problems))


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line or 0)


def _account(found: list[SourceRow], problems: list[Problem]) -> dict[str, Any]:
    reasons: dict[tuple[str, int], list[str]] = {}
    for problem in _in_order(problems):
        reason = f"{problem.field}: {problem.problem}; {problem.fix}"
        reasons.setdefault((problem.file, problem.line or 0), []).append(reason)
    rows = {(row.file, row.line): row.row for row in found}
    rejects = [Reject(rows.get(place), *place, " | ".join(said)) for place, said in reasons.items()]
    return {"read": len(rows.keys() | reasons.keys()), "problems": _in_order(problems), "rejects": rejects}


def detect(rows: Sequence[SourceRow]) -> str:
    """The format that most rows have. Raises DataError where rows fit two formats or none; no rows, an empty one."""
    if not rows:
        raise DataError([])
    matched = [_matching(row.row) for row in rows]
    counts = Counter(names[0] for names in matched if len(names) == 1)
    if counts:
        return max(FORMATS, key=lambda name: counts[name])
    for row, names in zip(rows, matched, strict=True):
        if names:
            raise DataError([_two_formats(row, names)])
    first = rows[0]
    keys = ", ".join(first.row) or "none"
    fix = _spelling(first.row) or "write one of the formats " + ", ".join(FORMATS)
    raise DataError([Problem(first.file, first.line, "keys", f"no format is known with the keys {keys}", fix)])


def _matching(row: Mapping[str, Any]) -> list[str]:
    names = [name for name, format in FORMATS.items() if format.matches(row)]
    # {prompt, completon} is no list of prompts: a row that another spelling makes a different format has none.
    mended = _mended(row)
    if mended != row and [name for name, format in FORMATS.items() if format.matches(mended)] not in (names, []):
        return []
    return names


def _mended(row: Mapping[str, Any]) -> dict[str, Any]:
    return {checks.near(key, CONTENT - row.keys()) or key if key not in CONTENT else key: row[key] for key in row}


def _spelling(row: Mapping[str, Any]) -> str:
    better = {key: checks.near(key, CONTENT - row.keys()) for key in row if key not in CONTENT}
    return ", ".join(f'did you mean "{name}" where it says "{key}"?' for key, name in better.items() if name)


def _two_formats(row: SourceRow, names: list[str]) -> Problem:
    fix = "say which with " + " or ".join(f'format: "{name}"' for name in names)
    return Problem(row.file, row.line, "keys", f"the row fits two formats, {' and '.join(names)}", fix)


def _parse(row: SourceRow, chosen: str, explicit: bool, problems: list[Problem]) -> Parsed | None:
    names = [chosen] if explicit else _matching(row.row)
    if chosen in names and len(names) > 1:
        problems.append(_two_formats(row, names))
        return None
    before = len(problems)
    value = FORMATS[chosen].parse(*row, problems)
    if chosen not in names and len(problems) == before:
        fix = _spelling(row.row) or f"make it {chosen}, or move it to a file of its own"
        what = f"looks like {names[0]}" if names else "has a key that seems misspelt"
        problems.append(Problem(row.file, row.line, "keys", f"the row {what} among rows of the format {chosen}", fix))
    return value if len(problems) == before else None


def _across(parsed: list[tuple[SourceRow, Parsed]], problems: list[Problem]) -> Iterator[Parsed]:
    """The rows whose ids are new and whose labels contradict no row before them, by the same annotator."""
    ids: dict[str, int] = {}
    better: dict[tuple[str | None, str, str, str], int] = {}
    for row, value in parsed:
        if value.id in ids:
            problem = f'"{value.id}" is also the id of the row on line {ids[value.id]}'
            problems.append(Problem(row.file, row.line, "id", problem, "give every row its own id"))
            continue
        ids[value.id] = row.line
        orders = set(_orders(value)) if isinstance(value, Ranking) else set()
        against = [better[who, key, low, high] for who, key, high, low in orders if (who, key, low, high) in better]
        if against:
            problem = f"two completions are ranked the other way round on line {min(against)}"
            problems.append(Problem(row.file, row.line, "ranking", problem, "keep one, or name the annotators"))
            continue
        for order in orders:
            better.setdefault(order, row.line)
        yield value


def _orders(value: Ranking) -> Iterator[tuple[str | None, str, str, str]]:
    key = prompt_key(value.prompt)
    ranked = list(zip(value.ranks(), value.completions, strict=True))
    for high, better in ranked:
        for low, worse in ranked:
            if high < low:
                yield value.annotator, key, better.text, worse.text
