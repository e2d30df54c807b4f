"""How is a line of JSON read fast, with the outcome that the careful way would have?

orjson is ten times as fast as the json module and silent about what we must tell: keys given twice, numbers too large
for it. `quick_row` answers only where nothing of that can be; the rest is for `json_rows.careful_row`.
"""

from typing import Any

import orjson

from data.reading.flaws import DEEPEST

LARGEST = 2.0**63
"""From here on orjson may have made a float of a whole number."""
UNSURE = -1


def quick_row(raw: bytes) -> dict[str, Any] | None:
    """The object in `raw`, one line of UTF-8; None where the json module has to look at it, for whatever reason."""
    try:
        row = orjson.loads(raw)
    except ValueError:
        return None
    if type(row) is not dict:
        return None
    # Every key and every text has two quotation marks: if there are no more, no key is there twice. (`replace` looks for a
    # byte faster than `count` does.)
    more = len(raw) - len(raw.replace(b'"', b"")) - 2 * _quoted(row)
    # Where there are more, they may be inside texts, behind a backslash that is not itself the second of two.
    if not more or (raw.count(b'\\"') == more and raw.find(b'\\\\"') < 0):
        return row
    return None


def _quoted(row: dict[str, Any]) -> int:
    """Keys and texts in `row`; below zero where a number may not be the one written, or it is too deep."""
    found = depth = 0
    level: list[Any] = [row]
    while level:
        depth += 1
        if depth > DEEPEST:
            return UNSURE
        below = []
        for value in level:
            inside = value
            if type(value) is dict:
                found += len(value)
                inside = value.values()
            for inner in inside:
                kind = type(inner)
                if kind is str:
                    found += 1
                elif kind is list or kind is dict:
                    below.append(inner)
                elif kind is float and not abs(inner) < LARGEST:
                    return UNSURE
        level = below
    return found
