"""What do the readers of rows share? A row as it was found, how a mistake in it is told, and what no format could accept."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from data.schema import DataError, Problem

UTF8_BOM = b"\xef\xbb\xbf"
DEEPEST = 200
"""Objects and lists inside each other that a row may have; Python's own limit depends on who calls."""
SURROGATE = re.compile("[\ud800-\udfff]")


class SourceRow(NamedTuple):
    """A row as it was found, None where it could not be read. `line` counts from 1; without lines it is the row's number."""

    row: dict[str, Any] | None
    file: str
    line: int


def stop(file: str, line: int | None, field: str, problem: str, fix: str) -> NoReturn:
    """Raise DataError: the rest of the file cannot be read."""
    raise DataError([Problem(file, line, field, problem, fix)])


def flaw_of(row: object, repeated: Iterable[str] = ()) -> tuple[str, str, str] | None:
    """(field, problem, fix) of a row that no format could accept, or None."""
    if not isinstance(row, dict):
        return "line", f"the row is {called(row)}, not an object with named fields", 'write {"prompt": …}'
    for name in repeated:
        return name, "the key stands twice in one object", "keep one of them"
    return _bad_value(row, "", 1)


def too_deep(field: str = "line") -> tuple[str, str, str]:
    """The flaw of a row that is nested deeper than DEEPEST."""
    return field, f"objects and lists are nested more than {DEEPEST} deep", "flatten it or take the row out"


def _bad_value(value: object, field: str, depth: int) -> tuple[str, str, str] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return field, "the number is not finite (NaN or infinity)", "give a number or leave the field out"
    if isinstance(value, str) and not value.isascii() and SURROGATE.search(value):
        return field, "half a surrogate pair is no Unicode text", r"write the character itself or both \u escapes"
    if depth > DEEPEST and isinstance(value, dict | list | tuple):
        return too_deep()
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or SURROGATE.search(name):
                return field or "line", "a key is not text", "name every field with a text"
            if flaw := _bad_value(inner, f"{field}.{name}" if field else name, depth + 1):
                return flaw
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            if flaw := _bad_value(inner, f"{field}[{place}]", depth + 1):
                return flaw
    return None


def called(value: object) -> str:
    """What a JSON value is called in a sentence."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "an object" if isinstance(value, dict) else f"a {type(value).__name__}")
