"""How are JSON lines and a JSON array read so that no mistake in them passes unseen?

Each reader takes a binary stream at its start and yields a SourceRow a row; for a row that cannot be read it appends a
Problem and yields a SourceRow without it. Where the rest of the file is lost (an array cut off) it raises DataError.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any, NamedTuple

from data.reading import limits as limited
from data.reading.encodings import not_utf8
from data.reading.flaws import UTF8_BOM, SourceRow, flaw_of, stop, too_deep
from data.reading.limits import USUAL, Limits
from data.reading.quick import quick_row
from data.schema import DataError, Problem

WRAPPERS = {"data", "rows", "items", "examples", "instances", "records", "train", "test", "validation"}
ROW_KEYS = {"prompt", "messages", "completion", "completions", "chosen", "rejected"}
LARGEST_OBJECT = 1 << 24
"""Bytes in which a file that is one object over several lines is recognised as such."""
CHUNK = 1 << 20
"""Bytes of an array that are read at a time."""
LOOKED_AT = 1000
"""Rows of an array by which it is told whether each has a line of its own."""


def json_lines(stream: IO[bytes], file: str, problems: list[Problem], limits: Limits = USUAL) -> Iterator[SourceRow]:
    lines = limited.lines(stream, file, limits, blank=False)
    for line, raw in lines:
        raw = raw.removeprefix(UTF8_BOM) if line == 1 else raw
        if not raw.strip():
            continue
        found: list[Problem] = []
        row = careful_row(raw, file, line, found)
        _refuse_one_object(raw, file, line)
        if found:
            here = stream.tell()
            _refuse_one_object(raw + stream.read(LARGEST_OBJECT), file, line)
            stream.seek(here)
        problems += found
        yield SourceRow(row, file, line)
        break
    for line, raw in lines:
        row = quick_row(raw)
        if row is None:
            if not raw.strip():
                continue
            row = careful_row(raw, file, line, problems)
        yield SourceRow(row, file, line)


def careful_row(raw: bytes, file: str, line: int, problems: list[Problem]) -> dict[str, Any] | None:
    """The row in one line; None, with a Problem appended, where there is none."""
    try:
        text = raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        problems.append(not_utf8(file, line, error))
        return None
    repeated: list[str] = []
    try:
        row = _decoder(repeated).decode(text)
        flaw = flaw_of(row, repeated)
    except json.JSONDecodeError as error:
        flaw = _broken(error, error.colno)
    except RecursionError:
        flaw = too_deep()
    except ValueError as error:
        flaw = _unreadable(error)
    if flaw:
        problems.append(Problem(file, line, *flaw))
        return None
    return row


def json_array(stream: IO[bytes], file: str, problems: list[Problem], limits: Limits = USUAL) -> Iterator[SourceRow]:
    """A row's line is the one it begins on, or, where several begin on one line, its number in the array."""
    elements = _elements(_Text(stream, file, limits), file)
    head: list[Element] = []
    broken: DataError | None = None
    try:
        for element in elements:
            head.append(element)
            if len(head) == LOOKED_AT:
                break
    except DataError as error:
        broken = error
    numbered = len({element.line for element in head}) < len(head)
    place = 0
    for number, (line, row, flaw) in enumerate(chain(head, () if broken else elements), 1):
        # Rows that share a line after all must not share a name.
        place = number if numbered else max(line, place + 1)
        if flaw:
            problems.append(Problem(file, place, *flaw))
        yield SourceRow(None if flaw else row, file, place)
    if broken:
        raise broken


BLANK = re.compile("[ \\t\\r\\n]*")


class Element(NamedTuple):
    line: int
    row: Any
    flaw: tuple[str, str, str] | None


class _Text:
    """The text of a stream, of which only a piece is kept: from `at`, where reading has come to."""

    def __init__(self, stream: IO[bytes], file: str, limits: Limits):
        self.stream, self.file, self.limits = stream, file, limits
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.kept = ""
        self.at = 0
        self.line = 1
        self.counted = 0
        self.indent = 0
        """Characters of the first kept line that are not kept."""
        self.undecoded: UnicodeDecodeError | None = None

    def more(self) -> bool:
        """Whether there is more; reads it, and lets go of what lies before `at`."""
        if self.undecoded:
            return False
        raw = self.stream.read(max(CHUNK, len(self.kept) - self.at))
        try:
            new = self.decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            self.undecoded = error
            new = error.object[: error.start].decode("utf-8")
        if not new:
            return bool(raw) and not self.undecoded
        self.here()
        begin = self.kept.rfind("\n", 0, self.at) + 1
        self.indent = self.at - begin if begin else self.indent + self.at
        self.kept, self.at, self.counted = self.kept[self.at :] + new, 0, 0
        return True

    def here(self) -> int:
        """The line on which `at` stands."""
        self.line += self.kept.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def column(self, place: int) -> int:
        """The column, from 1, of a place in `kept`."""
        begin = self.kept.rfind("\n", 0, place) + 1
        return place - begin + 1 + (0 if begin else self.indent)

    def next(self) -> str:
        """The next character that is no white space, which `at` then points to; empty at the end."""
        while True:
            self.at = BLANK.match(self.kept, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.kept) or not self.more():
                return self.kept[self.at : self.at + 1]

    def value(self, decoder: json.JSONDecoder, repeated: list[str]) -> Any:
        """The JSON value at `at`, which is left behind it. Raises what the decoder does, at the end of the text."""
        while True:
            repeated.clear()
            try:
                value, end = decoder.raw_decode(self.kept, self.at)
            except json.JSONDecodeError as error:
                if not _may_be_cut(error):
                    raise
                if len(self.kept) - self.at > self.limits.row:
                    limited.too_long(self.file, self.here(), self.limits)
                if not self.more():
                    raise
            else:
                # A number may go on in the next piece.
                if end < len(self.kept) or not self.more():
                    self.at = end
                    return value


def _may_be_cut(error: json.JSONDecodeError) -> bool:
    """Whether it may be the end of the text that is wrong with it; the longest thing in one piece is -Infinity."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16


def _elements(text: _Text, file: str) -> Iterator[Element]:
    repeated: list[str] = []
    decoder = _decoder(repeated)
    text.next()
    text.at += 1
    mark = text.next()
    while mark != "]":
        line = text.here()
        try:
            row = text.value(decoder, repeated)
            flaw = flaw_of(row, repeated)
        except json.JSONDecodeError as error:
            if _may_be_cut(error):
                _stop_undecoded(text, file)
            line += text.kept.count("\n", text.at, error.pos)
            stop(file, line, *_broken(error, text.column(error.pos)))
        except RecursionError:
            stop(file, line, *too_deep())
        except ValueError as error:
            stop(file, line, *_unreadable(error))
        yield Element(line, row, flaw)
        mark = text.next()
        if mark == ",":
            text.at += 1
            text.next()
        elif mark != "]":
            if not mark:
                _stop_undecoded(text, file)
            problem = "a comma or ] is missing in the array" if mark else "the array is cut off"
            stop(file, text.here(), "line", problem, "mend the file; nothing after this place can be read")
    text.at += 1
    if text.next():
        stop(file, text.here(), "line", "something follows the end of the array", "write one array, or one row a line")
    _stop_undecoded(text, file)


def _stop_undecoded(text: _Text, file: str) -> None:
    if text.undecoded:
        line = text.here() + text.kept.count("\n", text.at)
        raise DataError([not_utf8(file, line, text.undecoded)])


def _decoder(repeated: list[str]) -> json.JSONDecoder:
    """A decoder that notes repeated keys in `repeated`, where Python would keep the last value without a word."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(items)
        if len(row) < len(items):
            counts = Counter(name for name, _ in items)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return row

    return json.JSONDecoder(object_pairs_hook=pairs)


def _broken(error: json.JSONDecodeError, column: int) -> tuple[str, str, str]:
    """(field, problem, fix) of what is no JSON."""
    rest = error.doc[error.pos : error.pos + 100].lstrip()
    if error.msg.startswith("Unterminated string") or not rest:
        return "line", "the JSON is cut off", "finish the row or take it out"
    before = error.doc[max(0, error.pos - 100) : error.pos].rstrip()
    if rest.startswith("\ufeff"):
        fix = "take out the byte order mark that stands here"
    elif rest.startswith(("//", "/*", "#")):
        fix = "take the comment out"
    elif rest.startswith("'"):
        fix = 'put texts and keys in "double quotes"'
    elif rest.startswith(("True", "False", "None")):
        fix = "write true, false and null as JSON has them"
    elif rest.startswith(("}", "]")) and before.endswith(","):
        fix = "take out the comma before it"
    elif error.msg.startswith("Illegal trailing comma"):
        fix = "take out the comma"
    elif error.msg.startswith("Extra data"):
        fix = "write one row a line, and nothing after it"
    elif error.msg.startswith("Invalid control character"):
        fix = r"write line breaks in a text as \n, tabs as \t"
    elif error.msg.startswith("Invalid \\escape"):
        fix = r"write a backslash in a text as \\"
    else:
        fix = f"mend it ({error.msg})"
    return "line", f"not JSON at column {column}", fix


def _unreadable(error: ValueError) -> tuple[str, str, str]:
    if "digits" in str(error):
        return "line", "a number has more than 4300 digits", "put it in quotes if it is a text, or take it out"
    return "line", "the JSON cannot be read", f"mend it ({error})"


def _refuse_one_object(raw: bytes, file: str, line: int) -> None:
    """Raise DataError where a file begins with one object that is no row: a wrapper, or a row over several lines."""
    try:
        text = raw.decode("utf-8", "replace").lstrip()
        row, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(row, dict):
        return
    if not row.keys() & ROW_KEYS:
        for name, value in row.items():
            if name in WRAPPERS and isinstance(value, list) and value and isinstance(value[0], dict):
                stop(file, line, name, "the rows are wrapped in an object", f"write only the list (jq .{name})")
    if "\n" in text[:end]:
        stop(file, line, "line", "one JSON object is spread over several lines", "write one row a line (jq -c .)")
