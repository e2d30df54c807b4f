"""How is a file of the corpus described, and what is to become of it?"""

from typing import Any, NamedTuple


class Wrong(NamedTuple):
    """One problem: its line, its field, a part of the sentence."""

    line: int | None
    field: str
    says: str


class Case(NamedTuple):
    """A file and what is to become of it: it is accepted where nothing is wrong.

    `rows` are those that the file holds, None where it cannot be read to its end; `used` those that are sound, `left_out`
    those that say nothing to learn from, `kept` our rows made of them, `kind` the number in the list of bad input.
    """

    name: str
    content: bytes
    rows: int | None
    used: int
    format: str = ""
    wrong: tuple[Wrong, ...] = ()
    left_out: int = 0
    kept: int | None = None
    kind: int = 0


def accepted(name: str, content: bytes, rows: int = 1, format: str = "preference", **more: Any) -> Case:
    return Case(name, content, rows, rows - more.get("left_out", 0), format, **more)


def refused(name: str, content: bytes, line: int | None, field: str, says: str, kind: int = 0) -> Case:
    """A file of which nothing can be read, or not all."""
    return Case(name, content, None, 0, wrong=(Wrong(line, field, says),), kind=kind)
