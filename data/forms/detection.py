"""Which of the known formats is this, and what if a row fits none or two?"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import islice

from data.forms import checks, columns
from data.forms.pairs import sides
from data.forms.shapes import Format, Shape, Signature, signature
from data.forms.table import CONTENT, FORMATS
from data.reading.flaws import SourceRow
from data.schema import DataError, Problem

MANY = 100
"""Keys from which a row is not searched for misspellings."""
SHOWN = 12
ASKED = ("question", "query", "problem", "input")
"""Names of columns that ask something."""


def named(name: str, source: str) -> Format:
    """The format a user asked for. Raises DataError with the nearest name where there is none."""
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        fix = f'did you mean "{near[0]}"?' if near else "choose one of " + ", ".join(FORMATS)
        raise DataError([Problem(source, None, "format", f'there is no format "{name}"', fix)])
    return FORMATS[name]


def axis_of(format: str, axis: str | None, source: str) -> str | None:
    """The judgement to take of each row. Raises DataError where the format holds several and none is named, or where
    the one named is not among them."""
    chosen = FORMATS[format]
    if axis is None and (chosen.default_axis or not chosen.axes):
        return chosen.default_axis
    if axis in chosen.axes:
        return axis
    if not chosen.axes:
        raise DataError([Problem(source, None, "axis", f"the format {format} holds one judgement", "leave axis out")])
    what = f'there is no axis "{axis}" in {format}' if axis else f"{format} holds several judgements"
    fix = "choose with " + " or ".join(f"axis: {name}" for name in chosen.axes)
    raise DataError([Problem(source, None, "axis", what, fix)])


def detect(rows: Sequence[SourceRow]) -> str:
    """The format that most of these rows have. Raises DataError where rows fit two formats or none."""
    matched = [matching(signature(row.row)) for row in rows if row.row is not None]
    if not matched:
        raise DataError([])
    counts = Counter(names[0] for names in matched if len(names) == 1)
    if counts:
        return max(FORMATS, key=lambda name: counts[name])
    readable = [row for row in rows if row.row is not None]
    for row, names in zip(readable, matched, strict=True):
        if names:
            raise DataError([two_formats(row, names)])
    first = readable[0]
    assert first.row is not None
    fix = (
        spelling(first.row)
        or _checked(first.row)
        or "name the columns (columns: {prompt: …}), or write one of the formats of docs/data.md"
    )
    problem = f"no format is known with the keys {listed(first.row)}"
    raise DataError([Problem(first.file, first.line, "keys", problem, fix)])


def _checked(keys: Collection[str]) -> str:
    """What to do with questions and what their answers are checked against; empty where there are none such."""
    asked, answers = [key for key in ASKED if key in keys], columns.references(keys)
    if len(asked) != 1 or not answers:
        return ""
    prompts = f"set data.columns={{prompt: {asked[0]}}} and data.keep={columns.quoted(answers)} if these are prompts"
    return f"{prompts}, or data.columns={{prompt: {asked[0]}, completion: {answers[0]}}} if they are demonstrations"


def listed(keys: Collection[str]) -> str:
    """The first keys of a row, for a sentence."""
    return ", ".join(islice(keys, SHOWN)) + (", …" if len(keys) > SHOWN else "") or "none"


def matching(of: Signature) -> tuple[str, ...]:
    """Names of the formats that rows of this shape fit."""
    return _matching(of) if len(of) <= MANY else _fitting(Shape(of))


# Rows of a file have few shapes; a folder of strange files must not fill the memory.
@lru_cache(maxsize=4096)
def _matching(of: Signature) -> tuple[str, ...]:
    names = _fitting(Shape(of))
    # {prompt, completon} is no list of prompts: a row that another spelling makes a different format has none.
    better = _mended(dict(of))
    mended = tuple((better[key], kind) for key, kind in of)
    if mended != of and _fitting(Shape(mended)) not in (names, ()):
        return ()
    return names


def _fitting(shape: Shape) -> tuple[str, ...]:
    return tuple(name for name, format in FORMATS.items() if format.matches(shape))


def _mended(keys: Iterable[str]) -> dict[str, str]:
    """Each key and what it seems to misspell, or itself."""
    absent = CONTENT.difference(keys)
    # completion_a and completion_b are two of their own.
    own = CONTENT.union(sides(tuple(keys)) or ())
    return {key: key if key in own else checks.near(key, absent) or key for key in keys}


def spelling(keys: Collection[str]) -> str:
    """Questions about keys that seem misspelt, empty where none does."""
    better = _mended(keys) if len(keys) <= MANY else {}
    return ", ".join(f'did you mean "{name}" where it says "{key}"?' for key, name in better.items() if name != key)


def two_formats(row: SourceRow, names: Sequence[str]) -> Problem:
    fix = "say which with " + " or ".join(f'format: "{name}"' for name in names)
    return Problem(row.file, row.line, "keys", f"the row fits two formats, {' and '.join(names)}", fix)
