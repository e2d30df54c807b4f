"""What is wrong with a value of a setting, and how is it written? pydantic's findings in the words of a recipe."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import TypeAdapter, ValidationError
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


def untagged(path: Sequence[str], fields: Mapping[str, FieldInfo]) -> tuple[str, ...]:
    """The place of one of pydantic's errors without its name for the alternative that it tried, such as list[str]."""
    for end in range(1, len(path)):
        info = fields.get(".".join(path[:end]))
        if info is not None and get_origin(info.annotation) is UnionType and not path[end].isdigit():
            inside = any(name.startswith(".".join(path[: end + 1])) for name in fields)
            return tuple(path) if inside else (*path[:end], *path[end + 1 :])
    return tuple(path)


def told(errors: Sequence[Mapping[str, Any]], name: str, fields: Mapping[str, FieldInfo], overridden: bool) -> str:
    """Pydantic's errors about the setting `name`, one for each alternative that it tried, as a sentence with the remedy.

    `fields`: every setting by its name. `overridden`: it was given as key=value, not in a recipe.
    """
    error = errors[0]
    kind, given = error["type"], error["input"]
    shown = _repeated(given) if not name.startswith("compare.llm") else "what it is"  # a key may stand there
    if kinds := [one["type"] for one in errors if one["type"] in KINDS]:
        examples = (_example(one, name, given, fields) for one in kinds)
        value = next((one for one in examples if one is not None and _fits(*one, fields)), None)
        remedy = "" if value is None else f"; write {_written(*value, overridden)}"
        return f"takes {' or '.join(KINDS[one] for one in kinds)}, not {shown}{remedy}"
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"is {shown}; set it to {words} {error['ctx'][key]:g}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        near = difflib.get_close_matches(str(given), known, n=1)
        return f"takes {error['ctx']['expected']}, not {shown}" + (f"; did you mean {near[0]}?" if near else "")
    section = name.split(".")[0] if "." in name else ""
    return f"{error['msg']}, not {shown}; what it takes is shown by {listing(section).removeprefix('run: ')}"


def _repeated(given: Any) -> str:
    """A value as a message repeats it, on one line and not long."""
    text = repr(given)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _example(kind: str, name: str, given: Any, fields: Mapping[str, FieldInfo]) -> tuple[str, str] | None:
    """A setting and a value that may be right, what was given in another form where that can be read; None: none is known."""
    words = [one for one in re.split(r"[\s,;]+", given.strip("[](){}")) if one] if isinstance(given, str) else []
    if kind == "list_type" and words:
        return name, f"[{','.join(words)}]"
    if kind == "dict_type":
        pairs = dict(pair for one in words if len(pair := re.split("[:=]", one, maxsplit=1)) == 2 and pair[1])
        if pairs:
            return name, f"{{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}"
        return f"{name}.KEY", "VALUE"
    if kind == "model_type":
        inside = [one for one in fields if one.startswith(f"{name}.")]
        name = next((one for one in inside if _default(fields[one]) is not None), name)
    default = _default(fields[name]) if name in fields else None
    return None if default is None else (name, _plain(default))


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _fits(name: str, value: str, fields: Mapping[str, FieldInfo]) -> bool:
    """Whether a value, as it is written, is one that the setting takes, as far as the setting's type says."""
    if name not in fields:
        return name.endswith(".KEY")
    takes: Any = fields[name].annotation
    try:
        TypeAdapter(takes).validate_python(yaml.safe_load(value), strict=True)
    except (ValidationError, yaml.YAMLError):
        return False
    return True


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _written(name: str, value: str, overridden: bool) -> str:
    return settings(f"{name}={value}") if overridden else f"{name.rpartition('.')[2]}: {value}"


def no_address(base_url: str) -> str | None:
    """What is wrong with an endpoint's base_url, in words that do not repeat it, as it may hold a key; None: nothing is."""
    try:
        parts = urlsplit(base_url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        return "base_url is not an address; write for instance http://127.0.0.1:8000/v1"
    if not whole or not base_url.isprintable() or re.search(r"[\s\\]", base_url):
        return "base_url is not an address; write for instance http://127.0.0.1:8000/v1"
    if "@" in parts.netloc:
        return "base_url holds a user or password; take it out, and name the variable that holds the key in api_key_env"
    if "?" in base_url:
        return "base_url holds a query, from which a key gets into reports and logs; take it out, and name the variable that holds the key in api_key_env"
    return None


def multiples(number: int, step: int) -> str:
    """The whole numbers of steps beside `number`: "96 or 128"."""
    below = number // step * step
    return f"{below} or {below + step}" if below else str(step)


def divisors(number: int, near: int) -> str:
    """The divisors of `number` beside `near`: "4 or 8"."""
    all_of_them = [one for one in range(1, number + 1) if number % one == 0]
    below, above = [one for one in all_of_them if one < near], [one for one in all_of_them if one > near]
    return " or ".join(str(one) for one in (*below[-1:], *above[:1]))
