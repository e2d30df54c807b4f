"""How is a line of JSON read fast, with the outcome that the careful way would have?

orjson is ten times as fast as the json module and silent about what we must tell: keys given twice, numbers too large
for it. `quick_row` answers only where nothing of that can be; the rest is for `json_rows.careful_row`.
"""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from data.parsing import DEEPEST

LARGEST = 2.0**63
"""From here on orjson may have made a float of a whole number."""
KEY = re.compile(rb'"(?:(?<!\\")|(?<=\\\\"))[ \t\r\n]*:')
"""The end of a key. Also what looks like one: a text that begins with a colon, or has an escaped backslash, an escaped
quote and a colon in it. So there are never too few of them, and a row with too many is left to the json module."""
PLAIN = frozenset((int, bool, type(None)))
UNSURE = -(1 << 60)


def quick_row(raw: bytes) -> dict[str, Any] | None:
    """The object in `raw`, one line of UTF-8; None where the json module has to look at it, for whatever reason."""
    try:
        row = orjson.loads(raw)
    except ValueError:
        return None
    if type(row) is not dict:
        return None
    quoted = _quoted(row, 1)
    # Every key and every text has two quotation marks: if there are no more, no key is there twice. Where there are more
    # a text may have some inside. (`replace` looks for a byte faster than `count` does.)
    marks = len(raw) - len(raw.replace(b'"', b""))
    if marks == 2 * quoted or (quoted >= 0 and _keys(row) == len(KEY.findall(raw))):
        return row
    return None


def _quoted(value: dict[str, Any] | list[Any], depth: int) -> int:
    """Keys and texts in `value`; below zero where a number may not be the one written, or it is too deep."""
    is_object = type(value) is dict
    found = len(value) if is_object else 0
    inside: Iterable[Any] = value.values() if is_object else value  # type: ignore[union-attr]
    for inner in inside:
        kind = type(inner)
        if kind is str:
            found += 1
        elif kind is float:
            found += 0 if abs(inner) < LARGEST else UNSURE
        elif kind not in PLAIN:
            found += _quoted(inner, depth + 1) if depth < DEEPEST else UNSURE
    return found


def _keys(value: Any) -> int:
    """Keys of all objects in `value`."""
    inside = value.values() if type(value) is dict else value
    found = len(value) if type(value) is dict else 0
    return found + sum([_keys(inner) for inner in inside if type(inner) is dict or type(inner) is list])
