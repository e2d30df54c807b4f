"""Is an answer right, where that can be checked? Reward functions that give 1.0 for yes and 0.0 for no.

    ppo.reward_funcs=[reward.verifiers:number]   data.keep=[answer]

Each reads columns of the prompts' rows: `exact`, `number` and `choice` an `answer` (or a list of accepted ones), `json_schema` a `schema`,
`python_tests` the `tests`. A row whose column is missing or unusable is told before training starts, by `wrong`; `verifies` says of a
function that it is one of these. A function of yours is one too with `right.verifier = True`, and with `right.wrong` it looks at rows.
"""

import ast
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from data.units import SPACELESS
from policies.template import PromptText
from policies.untyped import AnyFunction, Foreign, Json
from reward import amounts, schemas
from reward.functions import RewardError
from reward.programs.sandbox import Program, judged

Values = Sequence[Foreign]  # a column, one value a prompt
Wrong = Callable[[Mapping[str, Foreign]], str | None]

_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<inside>.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
)
_LABEL = r"(?:\(\s*(?P<a>{0})\s*\)|\[\s*(?P<b>{0})\s*\]|(?<![A-Za-z0-9_'’])(?P<c>{0})(?![A-Za-z0-9_'’]))"
_MARKERS = tuple(  # what is said to be the answer counts before what is said of an option
    re.compile(rf"(?:{words})\s*(?:is|are|为|是|為|应?该?选)?\s*[:=]?", re.IGNORECASE)
    for words in ("answers?|答案", "option|choice|choose|(?<!不)(?:选项?|選項?)")
)
_DENIED = re.compile(r"n[o']t\b|不", re.IGNORECASE)
_STOP = re.compile(r"[\n。;]|\.\s|,?\s*\b(?:because|since)\b")


def verifier(wrong: Wrong) -> Callable[[AnyFunction], AnyFunction]:
    """Marks a reward function as a verifier; `wrong(columns of a row)` says what is wrong with a row, None where nothing is."""

    def marked(function: AnyFunction) -> AnyFunction:
        setattr(function, "verifier", True)  # noqa: B010
        setattr(function, "wrong", wrong)  # noqa: B010
        return function

    return marked


def verifies(function: AnyFunction) -> bool:
    """Whether a reward function says no more than right or wrong, by checking."""
    return getattr(function, "verifier", False) is True


def wrong(function: AnyFunction, columns: Mapping[str, Foreign]) -> str | None:
    """What is wrong with a prompt's row for this verifier, None where nothing is."""
    look = getattr(function, "wrong", None)
    return None if look is None else look(columns)


def _column(name: str, bad: Callable[[Foreign], str | None]) -> Wrong:
    def look(columns: Mapping[str, Foreign]) -> str | None:
        value = columns.get(name)
        if value is None:
            return f"it has no {name}; name the column in data.keep=[{name}], or give the row one"
        said = bad(value)
        return None if said is None else f"{name}: {said}"

    return look


def _each(name: str, values: Values, bad: Callable[[Foreign], str | None], prompts: Sequence[PromptText]) -> None:
    """Raise RewardError for the first prompt whose row is unusable, as when it was not looked at before."""
    look = _column(name, bad)
    for prompt, value in zip(prompts, values, strict=True):
        _usable(prompt, look({name: value}))


def _usable(prompt: PromptText, said: str | None) -> None:
    """Raise RewardError for what is said to be wrong with a prompt's row."""
    if said is not None:
        raise RewardError(f"the row of prompt {repr(prompt)[:80]} cannot be checked: {said}")


def _accepted(answer: Foreign) -> list[Foreign]:
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def _all(bad: Callable[[Foreign], str | None]) -> Callable[[Foreign], str | None]:
    def look(answer: Foreign) -> str | None:
        every = _accepted(answer)
        return next((said for one in every if (said := bad(one)) is not None), None) if every else "the list is empty"

    return look


# The whole text


def _text(value: Foreign) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_text(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _no_text(value: Foreign) -> str | None:
    if isinstance(value, dict | list):
        return f"{repr(value)[:40]} is no text; write a text, a number, or a list of them"
    return None if _text(value).strip() else "it is blank"


@verifier(_column("answer", _all(_no_text)))
def exact(prompts: Sequence[PromptText], completions: Sequence[str], answer: Values) -> list[float]:
    """1.0 where the whole completion is an accepted answer: in Unicode's NFC, runs of white space as one space, none at the ends. Case,
    punctuation and everything else count."""
    _each("answer", answer, _all(_no_text), prompts)
    return [
        float(any(_as_text(text) == _as_text(_text(one)) for one in _accepted(right)))
        for text, right in zip(completions, answer, strict=True)
    ]


# Numbers


def _no_number(value: Foreign) -> str | None:
    return None if amounts.of_value(value) is not None else f"{repr(value)[:60]} names no number"


def _no_tolerance(value: Foreign) -> str | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return None if fine else f"tolerance: {value!r} is no number from 0 on"


def _wrong_number(columns: Mapping[str, Foreign]) -> str | None:
    said = _column("answer", _all(_no_number))(columns)
    tolerance = columns.get("tolerance")
    return said or (None if tolerance is None else _no_tolerance(tolerance))


@verifier(_wrong_number)
def number(
    prompts: Sequence[PromptText], completions: Sequence[str], answer: Values, tolerance: Values | None = None
) -> list[float]:
    """1.0 where the last number that a completion names is the answer's, by the rules of `amounts.py`: integers exactly, others within a
    millionth of the answer, or within the row's `tolerance` (absolute). An answer is a number, or a text whose last number counts."""
    _each("answer", answer, _all(_no_number), prompts)
    within = [None] * len(prompts) if tolerance is None else tolerance
    found = []
    for prompt, text, right, near in zip(prompts, completions, answer, within, strict=True):
        _usable(prompt, None if near is None else _no_tolerance(near))
        said_last, most = amounts.last(text), None if near is None else Fraction(str(near))
        rights = [one for value in _accepted(right) if (one := amounts.of_value(value)) is not None]
        found.append(float(said_last is not None and any(amounts.same(said_last, one, most) for one in rights)))
    return found


# Options


def _options(choices: Foreign) -> dict[str, str]:
    """Labels to texts: of a list A, B, C, …; of {label: text}; of {"label": […], "text": […]}."""
    if isinstance(choices, dict) and set(choices) == {"label", "text"}:
        return {str(label): str(text) for label, text in zip(choices["label"], choices["text"], strict=True)}
    if isinstance(choices, dict):
        return {str(label): str(text) for label, text in choices.items()}
    if choices is not None and not isinstance(choices, list | tuple):
        raise TypeError
    return {chr(ord("A") + place): str(text) for place, text in enumerate(choices or ())}


def _label(answer: Foreign, options: Mapping[str, str]) -> str | None:
    """The label that a row's answer names: itself, an option's place (from 0 on) or an option's text."""
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in options:
        return list(options)[answer] if 0 <= answer < len(options) else None
    text = str(answer).strip()
    if text in options:
        return text
    if not options:
        return text.upper() if re.fullmatch("[A-Za-z]", text) else None
    if text.upper() in options:
        return text.upper()
    return next((label for label, one in options.items() if _folded(one) == _folded(text)), None)


def _wrong_choice(columns: Mapping[str, Foreign]) -> str | None:
    try:
        options = _options(columns.get("choices"))
    except (TypeError, ValueError):
        return "choices: write a list of texts, {label: text}, or a list label beside a list text of the same length"

    def look(answer: Foreign) -> str | None:
        if _label(answer, options) is not None:
            return None
        named = f"none of {', '.join(options)}" if options else "no letter, and the row has no choices"
        return f"{answer!r} is {named}; write a label, or keep the options with data.keep=[answer, choices]"

    return _column("answer", _all(look))(columns)


@verifier(_wrong_choice)
def choice(
    prompts: Sequence[PromptText], completions: Sequence[str], answer: Values, choices: Values | None = None
) -> list[float]:
    """1.0 where the completion names the right option, and no other one: by its letter, else by its text (where the row has `choices`).

    In this order: what stands in \\boxed{}; the letter after the last "answer", "option", "choose", 答案 or 选; a letter alone, in
    brackets or at the beginning ("B.", "(b)"); capital letters anywhere; the text of an option. Two different letters where one is looked
    for are no answer. An `answer` is a label, an option's text, or its place from 0 on.
    """
    found = []
    for place, (text, right) in enumerate(zip(completions, answer, strict=True)):
        row = {"answer": right, "choices": None if choices is None else choices[place]}
        if (said := _wrong_choice(row)) is not None:
            raise RewardError(f"the row of prompt {repr(prompts[place])[:80]} cannot be checked: {said}")
        options = _options(row["choices"])
        rights = {_label(one, options) for one in _accepted(right)}
        found.append(float(_chosen(text, options) in rights))
    return found


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`*。，！？")


def _chosen(text: str, options: Mapping[str, str]) -> str | None:
    text = unicodedata.normalize("NFKC", text).replace("*", " ").strip()
    if boxed := "\\boxed{" in text:
        text = re.sub(r"\\text\w*\{|[{}]", " ", amounts.boxed(text))
    labels = "|".join(re.escape(one) for one in options) or "[A-Z]"
    anyhow = re.compile(_LABEL.format(labels), re.IGNORECASE)
    for marker in (one for kind in _MARKERS for one in reversed(list(kind.finditer(text)))):
        if _DENIED.match(text[marker.end() :].replace("’", "'").lstrip()):
            return None
        if (after := _STOP.split(text[marker.end() :].strip(), maxsplit=1)[0]) and (named := _named(anyhow, after)):
            return _single(named, options)
    first = re.match(rf"{_LABEL.format(labels)}[ \t]*(?P<after>[.:)]|$|\n)?", text, re.IGNORECASE)
    if first is not None and not boxed and (first["after"] is not None or first["c"] is None):
        others = _named(re.compile(_LABEL.format(labels)), text[first.end() :]) if not options else set()
        return _single({_of(first)} | others, options)
    if named := _named(anyhow if boxed else re.compile(_LABEL.format(labels)), text):
        return _single(named, options)
    said = _folded(text)
    within = {label: one for label, whole in options.items() if (one := _folded(whole)) and _stands(one, said)}
    longest = [k for k, one in within.items() if not any(one != other and one in other for other in within.values())]
    return longest[0] if len(longest) == 1 else None


def _stands(option: str, said: str) -> bool:
    """Whether an option's text stands in what is said as words of its own: "no" does not in "know"."""
    letter = f"[^\\W{SPACELESS}]"
    return re.search(f"(?<!{letter}){re.escape(option)}(?!{letter})", said) is not None


def _of(match: re.Match[str]) -> str:
    return str(match["a"] or match["b"] or match["c"]).upper()


def _named(pattern: re.Pattern[str], text: str) -> set[str]:
    """Labels that stand in a text as such; the article "a" and the pronoun "I" are none."""
    found = set()
    for one in pattern.finditer(text):
        bare = one["c"] is not None and one["c"] in ("A", "a", "I", "i")
        if not (
            bare and re.match(r" +[a-z]", text[one.end() :]) and not re.match(r" +(?:and|or|is)\b", text[one.end() :])
        ):
            found.add(_of(one))
    return found


def _single(named: set[str], options: Mapping[str, str]) -> str | None:
    if len(named) > 1:
        return None
    label = named.pop()
    return next((one for one in options if one.upper() == label), label)


# JSON


def _schema(value: Foreign) -> Json:
    return json.loads(value) if isinstance(value, str) else value


def _no_schema(value: Foreign) -> str | None:
    try:
        return schemas.flaw(_schema(value))
    except ValueError as error:
        return f"it is no JSON ({error})"


@verifier(_column("schema", _no_schema))
def json_schema(prompts: Sequence[PromptText], completions: Sequence[str], schema: Values) -> list[float]:
    """1.0 where the completion is JSON that fits the row's JSON Schema (an object, or its text): the last fenced block, or else the whole
    completion. See `schemas.fits`."""
    _each("schema", schema, _no_schema, prompts)
    found = []
    for text, one in zip(completions, schema, strict=True):
        blocks = [match["inside"] for match in _FENCE.finditer(text)]
        found.append(float(schemas.fits(_schema(one), (blocks or [text])[-1].strip())))
    return found


# Programs


def _sources(tests: Foreign) -> list[str]:
    return [tests] if isinstance(tests, str) else list(tests)


def _no_tests(value: Foreign) -> str | None:
    if not isinstance(value, str | list) or not all(isinstance(one, str) for one in value):
        return f"a {type(value).__name__} is no Python; write a text, or a list of texts"
    if not "".join(_sources(value)).strip():
        return "they are empty, so any code would pass"
    for source in _sources(value):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            return f"they are no Python ({error})"
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            if strange := [one for one in names if one.partition(".")[0] not in sys.stdlib_module_names]:
                return f"they import {strange[0]}, and only Python's own modules are there"
    return None


def _wrong_tests(columns: Mapping[str, Foreign]) -> str | None:
    said, point = _column("tests", _no_tests)(columns), columns.get("entry_point")
    if said is not None:
        return said
    if point is not None and not (isinstance(point, str) and point.isidentifier()):
        return f"entry_point: {point!r} is no name of a function"
    defined = [node for source in _sources(columns["tests"]) for node in ast.parse(source).body]
    if point is None and any(
        isinstance(one, ast.FunctionDef) and one.name == "check" and one.args.args for one in defined
    ):
        return (
            "tests: they define check(candidate), and the row has no entry_point; write data.keep=[tests, entry_point]"
        )
    return None


@verifier(_wrong_tests)
def python_tests(
    prompts: Sequence[PromptText], completions: Sequence[str], tests: Values, entry_point: Values | None = None
) -> list[float]:
    """1.0 where the completion's code passes the row's tests, Python's source or a list of such: asserts, `test…` functions, unittest's
    cases, or `check(candidate)`, which is given the row's `entry_point`.

    The code is what stands in fenced blocks marked python, else in the first fenced block, else the whole completion, behind a text prompt
    where it begins indented. It runs where `programs/sandbox.py` says, apart from the tests. Raises RewardError where this machine cannot
    limit it, and for tests that call nothing of the code.
    """
    points = [None] * len(prompts) if entry_point is None else entry_point
    for prompt, source, point in zip(prompts, tests, points, strict=True):
        _usable(prompt, _wrong_tests({"tests": source, "entry_point": point}))
    programs = [
        Program(code_of(prompt, text), _sources(one), point)
        for prompt, text, one, point in zip(prompts, completions, tests, points, strict=True)
    ]
    verdicts = judged(programs)
    for prompt, one in zip(prompts, verdicts, strict=True):
        _usable(prompt, f"tests: {one.why}" if one.mistake else None)
    return [float(one.passed) for one in verdicts]


def code_of(prompt: PromptText, completion: str) -> str:
    """The code that a completion gives; "" where it gives none."""
    blocks = [(match["language"].lower(), match["inside"]) for match in _FENCE.finditer(completion)]
    if named := [inside for language, inside in blocks if language in ("python", "py", "python3")]:
        return "\n".join(named)
    if blocks:
        return blocks[0][1]
    indented = completion.lstrip("\n")[:1] in (" ", "\t")
    return f"{prompt}{completion}" if indented and isinstance(prompt, str) else completion
