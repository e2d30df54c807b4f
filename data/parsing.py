"""How are JSON lines, a JSON array and CSV read so that no mistake in them passes unseen?

Each reader takes a binary stream at its start, yields a SourceRow a row and appends a Problem for each row that cannot
be read. Where the rest of the file is lost (an array cut off, a quote never closed) it raises DataError.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple, NoReturn

from data.schema import DataError, Problem

WRAPPERS = {"data", "rows", "items", "examples", "instances", "records", "train", "test", "validation"}
ROW_KEYS = {"prompt", "messages", "completion", "completions", "chosen", "rejected"}
UTF8_BOM = b"\xef\xbb\xbf"


class SourceRow(NamedTuple):
    """A row as it was found. `line` counts from 1; where there are no lines it is the row's number."""

    row: dict[str, Any]
    file: str
    line: int


def stop(file: str, line: int | None, field: str, problem: str, fix: str) -> NoReturn:
    raise DataError([Problem(file, line, field, problem, fix)])


def json_lines(stream: IO[bytes], file: str, problems: list[Problem]) -> Iterator[SourceRow]:
    first = True
    for line, raw in enumerate(stream, 1):
        if line == 1:
            raw = raw.removeprefix(UTF8_BOM)
        if not raw.strip():
            continue
        found: list[Problem] = []
        row = _json_row(raw, file, line, found)
        if first:
            first = False
            here = stream.tell()
            _refuse_one_object(raw + stream.read() if found else raw, file, line)
            stream.seek(here)
        problems += found
        if row is not None:
            yield SourceRow(row, file, line)


def _json_row(raw: bytes, file: str, line: int, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        text = raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        problems.append(_not_utf8(file, line, error))
        return None
    repeated: list[str] = []
    try:
        row = _decoder(repeated).decode(text)
        flaw = flaw_of(row, repeated)
    except json.JSONDecodeError as error:
        problems.append(_broken_json(error, file, line))
        return None
    except (ValueError, RecursionError) as error:
        problems.append(Problem(file, line, "line", "the JSON cannot be read", f"mend it ({error})"))
        return None
    if flaw:
        problems.append(Problem(file, line, *flaw))
        return None
    return row


def json_array(stream: IO[bytes], file: str, problems: list[Problem]) -> Iterator[SourceRow]:
    """A row's line is the one it begins on, or, where several begin on one line, its number in the array."""
    raw = stream.read().removeprefix(UTF8_BOM)
    elements: list[Element] = []
    broken: DataError | None = None
    try:
        elements.extend(_elements(raw.decode("utf-8"), file))
    except UnicodeDecodeError as error:
        broken = DataError([_not_utf8(file, raw.count(b"\n", 0, error.start) + 1, error)])
    except DataError as error:
        broken = error
    numbered = len({element.line for element in elements}) < len(elements)
    for number, (line, row, flaw) in enumerate(elements, 1):
        place = number if numbered else line
        if flaw:
            problems.append(Problem(file, place, *flaw))
        else:
            yield SourceRow(row, file, place)
    if broken:
        raise broken


class Element(NamedTuple):
    line: int
    row: Any
    flaw: tuple[str, str, str] | None


def _elements(text: str, file: str) -> Iterator[Element]:
    repeated: list[str] = []
    decoder = _decoder(repeated)
    line, counted = 1, 0
    position = _skip(text, text.index("[") + 1)
    closed = text.startswith("]", position)
    position = _skip(text, position + 1) if closed else position
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        repeated.clear()
        try:
            row, position = decoder.raw_decode(text, position)
            flaw = flaw_of(row, repeated)
        except json.JSONDecodeError as error:
            raise DataError([_broken_json(error, file, error.lineno)]) from None
        except (ValueError, RecursionError) as error:
            stop(file, line, "line", "the JSON cannot be read", f"mend it ({error})")
        yield Element(line, row, flaw)
        position = _skip(text, position)
        closed = text.startswith("]", position)
        if not closed and not text.startswith(",", position):
            problem = "the array is cut off" if position == len(text) else "a comma or ] is missing in the array"
            here = line + text.count("\n", counted, position)
            stop(file, here, "line", problem, "mend the file; nothing after this place can be read")
        position = _skip(text, position + 1)
    if position < len(text):
        here = line + text.count("\n", counted, position)
        stop(file, here, "line", "something follows the end of the array", "write one array, or one row a line")


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def csv_rows(stream: IO[bytes], file: str, problems: list[Problem]) -> Iterator[SourceRow]:
    undecoded: dict[int, Problem] = {}
    record: list[str] = []

    def lines() -> Iterator[str]:
        for number, raw in enumerate(stream, 1):
            raw = raw.removeprefix(UTF8_BOM) if number == 1 else raw
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                undecoded[number] = _not_utf8(file, number, error)
                text = raw.decode("utf-8", "replace")
            record.append(text)
            yield text

    # The csv module's own limit of 131,072 characters a field would be met before an unclosed quote is.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    while True:
        record.clear()
        undecoded.clear()
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            opened = _open_quote(record)
            problem = _csv_problem(error, file, line, opened, reader.line_num)
            if header is None or _at_end(error):
                raise DataError([problem, *undecoded.values()]) from None
            problems += [problem, *undecoded.values()]
            continue
        if undecoded:
            if header is None:
                raise DataError(undecoded.values())
            problems += undecoded.values()
        elif not "".join(record).strip(" \t\r\n"):
            continue
        elif header is None:
            header = _csv_header(cells, file, line)
        elif flaw := _csv_flaw(header, cells):
            problems.append(Problem(file, line, *flaw))
        else:
            yield SourceRow(dict(zip(header, cells, strict=True)), file, line)


def _csv_header(cells: list[str], file: str, line: int) -> list[str]:
    if len(cells) == 1 and (mark := re.search(r"[\t;|]", cells[0])):
        name = {"\t": "tabs", ";": "semicolons", "|": "bars"}[mark[0]]
        stop(file, line, "header", f"the columns are set apart by {name}", "use commas or JSON lines")
    for name in cells:
        if not name.strip():
            stop(file, line, "header", "a column has no name", "name it or take it out")
        if cells.count(name) > 1:
            stop(file, line, name, "two columns have the same name", "rename or remove one")
    return cells


def _csv_flaw(header: list[str], cells: list[str]) -> tuple[str, str, str] | None:
    if len(cells) != len(header):
        problem = f"{len(cells)} cells under {len(header)} columns"
        return "row", problem, 'put cells with commas or line breaks in "quotes"'
    for name, cell in zip(header, cells, strict=True):
        if cell.lstrip().startswith(("[", "{")) and _is_nested(cell):
            return name, "the cell holds JSON, a CSV cell is plain text", "write the file as JSON lines"
    return None


def _is_nested(cell: str) -> bool:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    # A list of bare numbers is left alone: "[1]" is also how people cite.
    return bool(value) and (isinstance(value, dict) or any(isinstance(inner, str | list | dict) for inner in value))


def _csv_problem(error: csv.Error, file: str, line: int, opened: int | None, last: int) -> Problem:
    if opened is None:
        return Problem(file, line, "row", "not CSV", f'put cells with line breaks in "quotes" ({error})')
    where = "is never closed" if _at_end(error) else f"closes on line {last} in the middle of a cell"
    fix = 'close it, or double it inside a cell ("")'
    return Problem(file, line + opened, "row", f"a quote that opens here {where}", fix)


def _at_end(error: csv.Error) -> bool:
    return "unexpected end of data" in str(error)


def _open_quote(record: list[str]) -> int | None:
    """The line of the record, from 0, on which the quote opens that is never closed or is closed inside a cell."""
    opened: int | None = None
    begin, closing = True, False
    for number, text in enumerate(record):
        for char in text:
            if closing:
                if char not in '",\r\n':
                    return opened
                if char != '"':
                    opened, begin = None, True
                closing = False
            elif opened is not None:
                closing = char == '"'
            elif begin and char == '"':
                opened = number
            else:
                begin = char in ",\r\n"
    return None if closing else opened


def flaw_of(row: object, repeated: Iterable[str] = ()) -> tuple[str, str, str] | None:
    """(field, problem, fix) of a row that no format could accept, or None."""
    if not isinstance(row, dict):
        return "line", f"the row is {called(row)}, not an object with named fields", 'write {"prompt": …}'
    for name in repeated:
        return name, "the key stands twice in one object", "keep one of them"
    return _bad_value(row, "")


def _bad_value(value: object, field: str) -> tuple[str, str, str] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return field, "the number is not finite (NaN or infinity)", "give a number or leave the field out"
    if isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
        return field, "half a surrogate pair is no Unicode text", r"write the character itself or both \u escapes"
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or re.search("[\ud800-\udfff]", name):
                return field or "line", "a key is not text", "name every field with a text"
            if flaw := _bad_value(inner, f"{field}.{name}" if field else name):
                return flaw
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            if flaw := _bad_value(inner, f"{field}[{place}]"):
                return flaw
    return None


def called(value: object) -> str:
    """What a JSON value is called in a sentence."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "an object" if isinstance(value, dict) else f"a {type(value).__name__}")


def _decoder(repeated: list[str]) -> json.JSONDecoder:
    """A decoder that notes repeated keys in `repeated`, where Python would keep the last value without a word."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(items)
        if len(row) < len(items):
            counts = Counter(name for name, _ in items)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return row

    return json.JSONDecoder(object_pairs_hook=pairs)


def _not_utf8(file: str, line: int, error: UnicodeDecodeError) -> Problem:
    byte = error.object[error.start]
    return Problem(file, line, "line", f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8")


def _broken_json(error: json.JSONDecodeError, file: str, line: int) -> Problem:
    if error.msg.startswith("Unterminated string") or not error.doc[error.pos :].strip():
        return Problem(file, line, "line", "the JSON is cut off", "finish the row or take it out")
    return Problem(file, line, "line", f"not JSON at column {error.colno}", f"mend it ({error.msg})")


def _refuse_one_object(raw: bytes, file: str, line: int) -> None:
    """Raise DataError where a file begins with one object that is no row: a wrapper, or a row over several lines."""
    try:
        text = raw.decode("utf-8").lstrip()
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
