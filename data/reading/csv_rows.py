"""How is CSV read so that no mistake in it passes unseen?

Every record is yielded as a SourceRow on the line where it begins; for one that cannot be read a Problem is appended and
the SourceRow has no row. Where the rest of the file is lost (a quote never closed) DataError is raised.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO

from data.reading import limits as limited
from data.reading.encodings import not_utf8
from data.reading.flaws import UTF8_BOM, SourceRow, stop
from data.reading.limits import USUAL, Limits
from data.reading.written import parsed, unfolded
from data.schema import DataError, Problem

MOST_COLUMNS = 10_000
FLAG = "winner_model_a"
"""A column of LMSYS's arena, whose other cells hold lists."""
UNCLOSED = "unexpected end of data"
"""What the csv module says of a quote that is open at the end."""


def csv_rows(stream: IO[bytes], file: str, problems: list[Problem], limits: Limits = USUAL) -> Iterator[SourceRow]:
    """Rows of a CSV file with a header, as texts. Raises DataError."""
    undecoded: dict[int, Problem] = {}
    record: list[str] = []

    def lines() -> Iterator[str]:
        size = 0
        for number, raw in limited.lines(stream, file, limits):
            raw = raw.removeprefix(UTF8_BOM) if number == 1 else raw
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                undecoded[number] = not_utf8(file, number, error)
                text = raw.decode("utf-8", "replace")
            record.append(text)
            size = size + len(text) if len(record) > 1 else 0
            if size > limits.row:
                raise csv.Error(UNCLOSED)
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
            yield SourceRow(None, file, line)
            continue
        if undecoded:
            if header is None:
                raise DataError(undecoded.values())
            problems += undecoded.values()
            yield SourceRow(None, file, line)
        elif not "".join(record).strip(" \t\r\n"):
            continue
        elif header is None:
            header = _csv_header(cells, file, line)
        elif flaw := _csv_flaw(header, cells):
            problems.append(Problem(file, line, *flaw))
            yield SourceRow(None, file, line)
        else:
            yield SourceRow(dict(zip(header, cells, strict=True)), file, line)


def _csv_header(cells: list[str], file: str, line: int) -> list[str]:
    if len(cells) == 1 and (mark := re.search(r"[\t;|]", cells[0])):
        name = {"\t": "tabs", ";": "semicolons", "|": "bars"}[mark[0]]
        stop(file, line, "header", f"the columns are set apart by {name}", "use commas or JSON lines")
    if len(cells) > MOST_COLUMNS:
        stop(
            file, line, "header", f"{len(cells)} columns, and at most {MOST_COLUMNS} are read", "keep those that count"
        )
    counts = Counter(cells)
    for name in cells:
        if not name.strip():
            stop(file, line, "header", "a column has no name", "name it or take it out")
        if counts[name] > 1:
            stop(file, line, name, "two columns have the same name", "rename or remove one")
    return cells


def _csv_flaw(header: list[str], cells: list[str]) -> tuple[str, str, str] | None:
    if len(cells) != len(header):
        problem = f"{len(cells)} cells under {len(header)} columns"
        return "row", problem, 'put cells with commas or line breaks in "quotes"'
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            return name, "the cell holds a NUL byte", "save the file as UTF-8 text"
        if cell.lstrip().startswith(("[", "{")) and _is_nested(name, cell, FLAG in header):
            return name, "the cell holds JSON, a CSV cell is plain text", "write the file as JSON lines"
    return None


def _is_nested(name: str, cell: str, turns: bool) -> bool:
    """Whether the cell holds a structure that nobody will unfold, as JSON or as Python prints it; with `turns` a list of
    texts is what was said in turn."""
    value = parsed(cell)
    if turns and isinstance(value, list):
        return False
    # A list of bare numbers is left alone: "[1]" is also how people cite.
    says = bool(value) and (isinstance(value, dict) or any(isinstance(inner, str | list | dict) for inner in value))
    return says and isinstance(unfolded(name, cell), str)


def _csv_problem(error: csv.Error, file: str, line: int, opened: int | None, last: int) -> Problem:
    if opened is None:
        return Problem(file, line, "row", "not CSV", f'put cells with line breaks in "quotes" ({error})')
    where = "is never closed" if _at_end(error) else f"closes on line {last} in the middle of a cell"
    fix = 'close it, or double it inside a cell ("")'
    return Problem(file, line + opened, "row", f"a quote that opens here {where}", fix)


def _at_end(error: csv.Error) -> bool:
    return UNCLOSED in str(error)


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
