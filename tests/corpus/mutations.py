"""Which files are nearly one of the known forms? Every shipped example, changed in one thing at a time.

A file either says what the example says, or something is told of it: that is the whole oracle, and it asks nothing of how
rows are read.
"""

import csv
import io
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

Row = dict[str, Any]
Path = tuple[Any, ...]
OPTIONAL = {
    "system",
    "history",
    "input",
    "rejected_messages",
    "rank",
    "replies",
    "deleted",
    "events",
    "parent_id",
    "rubric",
    "order.responses.status",
}
"""Keys that say something, and without which, or with null, a row is another, but a whole one."""
SAYS = "Think of the sea before you answer."


class Mutant(NamedTuple):
    """A file, what was done to it, the keys that were touched, and whether nothing may be taken for what it was."""

    what: str
    content: bytes
    touched: frozenset[str] = frozenset()
    must_be_told: bool = False


def lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def places(value: Any, path: Path = ()) -> list[Path]:
    """The paths of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in inside for place in places(inner, (*path, key))]


def at(row: Any, path: Path) -> Any:
    for step in path:
        row = row[step]
    return row


def changed(row: Row, path: Path, value: Any = None, name: str | None = None, gone: bool = False) -> Row:
    """The row with another value there, another name for its key in the same position, or without it."""
    made = json.loads(json.dumps(row))
    holder = at(made, path[:-1])
    if gone:
        del holder[path[-1]]
    elif name is not None:
        renamed = {name if key == path[-1] else key: inner for key, inner in holder.items()}
        holder.clear()
        holder.update(renamed)
    else:
        holder[path[-1]] = value
    return made


def numpy_like(value: Any) -> str:
    """As numpy prints an array of objects: without commas between them."""
    return "[" + "\n ".join(repr(one) for one in value) + "]"


def other_types(value: Any) -> Iterator[tuple[str, Any]]:
    """The same said in another type, and things that say something else altogether."""
    yield "null", None
    yield "in a list", [value]
    yield "in an object", {"value": value}
    if isinstance(value, list | dict):
        yield "as JSON", json.dumps(value)
        yield "as Python prints it", repr(value)
    if isinstance(value, list) and value:
        yield "as numpy prints it", numpy_like(value)
        if isinstance(value[0], dict):
            yield "the first alone", value[0]
    if isinstance(value, dict):
        yield "its values", list(value.values())
        yield "under messages", {"messages": value}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        yield "a whole conversation", {"messages": value}
        yield "a whole conversation as JSON", json.dumps({"messages": value})
    if isinstance(value, str):
        yield "a number", 7
        yield "blank", " "
    if isinstance(value, bool):
        yield "in words", "yes" if value else "no"
        yield "as a number", int(value)
        yield "as a thumb", "👍" if value else "👎"
    elif isinstance(value, int | float):
        yield "as a text", str(value)
        yield "as true", True
        yield "as a float", float(value)


def mutants(rows: list[Row], seed: int, deep: int) -> Iterator[Mutant]:
    """Files that are these rows but for one thing; `deep` of them are changed somewhere inside a row."""
    chance = random.Random(seed)
    yield from _columns(rows)
    yield from _keys(rows, chance)
    yield from _files(rows)
    yield from _texts(rows)
    for _ in range(deep):
        number = chance.randrange(len(rows))
        path = chance.choice(places(rows[number]))
        how, value = chance.choice(list(other_types(at(rows[number], path))))
        if OPTIONAL & {*map(str, path[:1]), str(path[-1])} and how in ("null", "blank"):
            continue
        every = chance.random() < 0.3 and len(path) == 1
        made = [_put(row, path, how) if every or n == number else row for n, row in enumerate(rows)]
        yield Mutant(f"{path} {how}{' everywhere' if every else ''}", lines(made), frozenset(map(str, path)))


def _put(row: Row, path: Path, how: str) -> Row:
    try:
        options = dict(other_types(at(row, path)))
    except (KeyError, IndexError, TypeError):
        return row
    return changed(row, path, options[how]) if how in options else row


def _columns(rows: list[Row]) -> Iterator[Mutant]:
    """One unknown column."""
    for name, value, told in (
        ("remark", SAYS, True), ("score", 0.5, True), ("images", ["a.png"], True), ("num_words", 3, False),
        ("source", "a forum", False), ("is_new", True, False), ("context", SAYS, True), ("thinking", SAYS, True),
        ("tools", [{"name": "search"}], True), ("category", "water", False), ("extra_answers", [SAYS, "No."], True),
    ):  # fmt: skip
        known = any(name in row for row in rows)
        for some in (rows, rows[:1]):
            made = [row | {name: value} if row in some and not known else row for row in rows]
            yield Mutant(f"column {name} in {len(some)}", lines(made), frozenset({name}), told and not known)


def _keys(rows: list[Row], chance: random.Random) -> Iterator[Mutant]:
    """One key renamed or dropped, in one row or in all."""
    for key in dict.fromkeys(key for row in rows for key in row):
        typo = key[:-1] if len(key) > 4 else f"{key}{key[-1]}"
        for name in (f"{key}x", key.upper(), key.capitalize(), typo, f"my_{key}", f"{key}2"):
            if name == key or any(name in row for row in rows):
                continue
            number = chance.randrange(len(rows))
            for some in ({number}, set(range(len(rows)))):
                made = [
                    changed(row, (key,), name=name) if n in some and key in row else row for n, row in enumerate(rows)
                ]
                yield Mutant(f"{key} is {name} in {len(some)}", lines(made), frozenset({key, name}))
        if key not in OPTIONAL or key == "parent_id":
            for number in range(len(rows)):
                made = [
                    changed(row, (key,), gone=True) if n == number and key in row else row for n, row in enumerate(rows)
                ]
                yield Mutant(f"{key} is gone from {number}", lines(made), frozenset({key}))
        for number, row in enumerate(rows):
            if isinstance(row.get(key), dict):
                flat = {inner if name == key else name: value for name, outer in row.items()
                        for inner, value in (outer.items() if name == key else [(name, outer)])}  # fmt: skip
                made = [flat if n == number else one for n, one in enumerate(rows)]
                yield Mutant(f"{key} is flat in {number}", lines(made), frozenset({key}))


def _files(rows: list[Row]) -> Iterator[Mutant]:
    """The same rows in another file."""
    raw = lines(rows)
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "cp1252", "shift_jis"):
        written = raw.decode().encode(encoding, "replace")
        if written.decode(encoding) == raw.decode():
            yield Mutant(f"in {encoding}", written)
    for name, end in (("CRLF", b"\r\n"), ("CR", b"\r"), ("blank lines", b"\n\n")):
        yield Mutant(f"lines end in {name}", raw.replace(b"\n", end))
    yield Mutant("an array", json.dumps(rows).encode())
    yield Mutant("a pretty array", json.dumps(rows, indent=2).encode())
    yield Mutant("wrapped", json.dumps({"data": rows}).encode())
    yield Mutant("keyed", json.dumps({str(n): row for n, row in enumerate(rows)}).encode())
    yield Mutant("rows in an object", lines([{"row": row} for row in rows]))
    yield Mutant("rows in a list", "".join(json.dumps([row]) + "\n" for row in rows).encode())
    yield Mutant("rows as texts", "".join(json.dumps(json.dumps(row)) + "\n" for row in rows).encode())
    yield Mutant("Python", "".join(repr(row) + "\n" for row in rows).encode("utf-8", "replace"))
    for name, written in (("JSON", json.dumps), ("Python", repr)):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(
            [
                {key: written(value) if isinstance(value, list | dict) else value for key, value in row.items()}
                for row in rows
            ]
        )
        yield Mutant(f"CSV with {name} in its cells", text.getvalue().encode("utf-8", "replace"))


def _texts(rows: list[Row]) -> Iterator[Mutant]:
    """Other line ends and other speakers in every text."""
    for name, old, new in (
        ("CRLF", "\n", "\r\n"), ("CR", "\n", "\r"), ("User", "\n\nHuman:", "\n\nUser:"), ("AI", "\n\nAssistant:", "\n\nAI:"),
        ("one line", "\n\n", "\n"),
    ):  # fmt: skip
        yield Mutant(f"{name} in the texts", lines([_everywhere(row, old, new) for row in rows]))


def _everywhere(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {key: _everywhere(inner, old, new) for key, inner in value.items()}
    return [_everywhere(inner, old, new) for inner in value] if isinstance(value, list) else value
