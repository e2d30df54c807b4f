"""How does a plain text file become rows? {"text": …} for each paragraph, each line, or for the whole file."""

from collections.abc import Iterator
from typing import IO

from data.reading.encodings import not_utf8
from data.reading.flaws import UTF8_BOM, SourceRow, stop
from data.reading.limits import Limits, lines
from data.schema import Problem

TEXT_ENDINGS = (".txt", ".text", ".md")
"""What is read as plain text, where a caller asks for documents (sources.read, `sample_by`)."""


def text_rows(
    stream: IO[bytes], file: str, problems: list[Problem], limits: Limits, sample_by: str
) -> Iterator[SourceRow]:
    """A row for each `sample_by` of the file (the names are those of datasets' text loader): "paragraph" is what stands between blank lines,
    "line" a line that is not blank, "document" all of it. Line ends are kept inside a document and taken off its end.

    A line that is not UTF-8 is a Problem, and its document None. Raises DataError for a document that is longer than a row may be.
    """
    part: list[str] = []
    size, begun, broken = 0, 1, False
    for number, raw in lines(stream, file, limits):
        try:
            text = (raw.removeprefix(UTF8_BOM) if number == 1 else raw).decode("utf-8")
            blank = not text.strip()
        except UnicodeDecodeError as error:
            problems.append(not_utf8(file, number, error))
            text, blank, broken = "", False, True
        if not blank or (sample_by == "document" and part):
            begun = begun if part else number
            part.append(text)
            size += len(raw)
        if size > limits.row:
            what = f"the {sample_by} has more than {limits.row_mb} MB, which no document that can be learned from has"
            stop(file, begun, "text", what, "break it up, or set pretrain.sample_by to a smaller part of a file")
        if part and (sample_by == "line" or (blank and sample_by == "paragraph")):
            yield _row(part, file, begun, broken)
            part, size, broken = [], 0, False
    if part:
        yield _row(part, file, begun, broken)


def _row(part: list[str], file: str, line: int, broken: bool) -> SourceRow:
    return SourceRow(None if broken else {"text": "".join(part).rstrip("\r\n")}, file, line)
