"""What is wrong with a value of a setting, and how is it written? pydantic's findings in the words of a recipe."""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.commands import listing, settings

KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a section",
}
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def told(error: Mapping[str, Any], name: str, fields: Mapping[str, FieldInfo], overridden: bool) -> str:
    """One of pydantic's errors about the setting `name` as a sentence with the remedy.

    `fields`: every setting by its name. `overridden`: it was given as key=value, not in a recipe.
    """
    kind, given = error["type"], error["input"]
    if kind in KINDS:
        value = _example(kind, name, given, fields)
        remedy = "" if value is None else f"; write {_written(*value, overridden)}"
        return f"takes {KINDS[kind]}, not {given!r}{remedy}"
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"is {given}; set it to {words} {error['ctx'][key]:g}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = difflib.get_close_matches(str(given), known, n=1)
        return f"takes {error['ctx']['expected']}, not {given!r}" + (f"; did you mean {near[0]}?" if near else "")
    section = name.rpartition(".")[0].split(".")[0]
    return f"{error['msg']}, not {given!r}; what it takes is shown by {listing(section).removeprefix('run: ')}"


def _example(kind: str, name: str, given: Any, fields: Mapping[str, FieldInfo]) -> tuple[str, str] | None:
    """A setting and a value that would be right, what was given in another form where that can be read; None: none is known."""
    words = [one for one in re.split(r"[\s,;]+", given.strip("[](){}")) if one] if isinstance(given, str) else []
    if kind == "list_type":
        return name, f"[{','.join(words or [str(given)])}]"
    if kind == "dict_type":
        pairs = dict(pair for one in words if len(pair := re.split("[:=]", one, maxsplit=1)) == 2 and pair[1])
        if pairs:
            return name, f"{{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}"
        return f"{name}.KEY", "VALUE"
    if kind == "model_type":
        inside = [one for one in fields if one.startswith(f"{name}.")]
        return (inside[0], _plain(fields[inside[0]].get_default(call_default_factory=True))) if inside else None
    if name in fields and not fields[name].is_required():
        default = fields[name].get_default(call_default_factory=True)
        return (name, _plain(default)) if default is not None else None
    return None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _written(name: str, value: str, overridden: bool) -> str:
    return settings(f"{name}={value}") if overridden else f"{name.rpartition('.')[2]}: {value}"


def multiples(number: int, step: int) -> str:
    """The whole numbers of steps beside `number`: "96 or 128"."""
    below = number // step * step
    return f"{below} or {below + step}" if below else str(step)


def divisors(number: int, near: int) -> str:
    """The divisors of `number` beside `near`: "4 or 8"."""
    all_of_them = [one for one in range(1, number + 1) if number % one == 0]
    below, above = [one for one in all_of_them if one < near], [one for one in all_of_them if one > near]
    return " or ".join(str(one) for one in (*below[-1:], *above[:1]))
