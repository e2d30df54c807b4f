"""Where do raw rows come from?

`read` takes a file, a pattern, a folder, a Hub id or an adapter `module:function`. Text files are parsed by
`json_rows.py` and `csv_rows.py`, because the readers of `datasets` accept broken rows silently and name no line. A row that cannot be read
becomes a Problem and reading goes on; where it cannot go on, a DataError is raised.
"""

import difflib
import glob
import gzip
import importlib
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from data.reading import llama_factory
from data.reading.csv_rows import csv_rows
from data.reading.encodings import UTF8, recoded
from data.reading.flaws import UTF8_BOM, SourceRow, flaw_of, stop
from data.reading.json_rows import json_array, json_lines
from data.reading.limits import USUAL, Limits, Unpacked, Upto, check_regular
from data.reading.parquet_rows import parquet_rows
from data.reading.text_rows import TEXT_ENDINGS, text_rows
from data.schema import DataError, Problem

HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>.+))?")
ADAPTER = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
SAVED = ("state.json", "dataset_dict.json")
"""One of these lies in every folder that `datasets` saved."""
DATA_ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".gz")
"""What is read of a folder."""
FILE_ENDINGS = (*DATA_ENDINGS, ".tsv", ".txt", ".arrow", ".zip", ".xlsx")
BUFFER = 1 << 18
"""Bytes that are read of a file at a time."""
NOT_TEXT = {
    b"\xff\xfe\0\0": ("it is UTF-32, not UTF-8", "set data.encoding=utf-32, or save it as UTF-8"),
    b"\0\0\xfe\xff": ("it is UTF-32, not UTF-8", "set data.encoding=utf-32, or save it as UTF-8"),
    b"\xff\xfe": ("it is UTF-16, not UTF-8", "set data.encoding=utf-16, or save it as UTF-8"),
    b"\xfe\xff": ("it is UTF-16, not UTF-8", "set data.encoding=utf-16, or save it as UTF-8"),
    b"\x1f\x8b": ("it was compressed twice", "unpack it once (gunzip)"),
    b"PK\x03\x04": ("it is a zip archive or an Excel file", "unpack it, or export it as CSV"),
    b"BZh": ("it is compressed with bzip2", "unpack it, or use gzip"),
    b"\xfd7zXZ\0": ("it is compressed with xz", "unpack it, or use gzip"),
    b"\x28\xb5\x2f\xfd": ("it is compressed with zstd", "unpack it, or use gzip"),
    b"7z\xbc\xaf": ("it is a 7z archive", "unpack it, or use gzip"),
    b"PAR1": ("it is Parquet inside gzip", "unpack it (gunzip)"),
    b"ARROW1": ("it is an Arrow file", "name its folder, or write it as Parquet"),
    b"SQLite format 3\0": ("it is an SQLite database", "export the table as CSV or JSON lines"),
    b"%PDF": ("it is a PDF", "name a file of rows"),
    b"version https://git-lfs": ("it stands for a file that Git LFS has not fetched", "fetch it (git lfs pull)"),
    b"<": ("it is HTML or XML, no rows", "download the file itself, not the page about it"),
}
"""What a file that begins so is, and what to do about it."""


Watch = Callable[[IO[bytes], int], None]
"""Is told of every local file that is opened, and of its size in bytes, so that progress can be shown."""


class Local(NamedTuple):
    """How local files are read: who watches, in which encoding texts are, how much is taken, and what of a plain text is a row, where
    plain texts are read."""

    watch: Watch | None
    encoding: str
    limits: Limits
    sample_by: str | None = None

    def endings(self, chosen: bool) -> tuple[str, ...]:
        """What is read of several files: `chosen` by a pattern, or all of a folder, in which a .md may be about the data."""
        texts = () if self.sample_by is None else TEXT_ENDINGS
        return (*DATA_ENDINGS, *(one for one in texts if chosen or one != ".md"))


def read(
    source: str,
    problems: list[Problem],
    max_rows: int | None = None,
    watch: Watch | None = None,
    encoding: str = "utf-8",
    limits: Limits = USUAL,
    sample_by: str | None = None,
) -> Iterator[SourceRow]:
    """Yield the rows of `source`, the first `max_rows` if given; append a Problem for each row that cannot be read, which
    is yielded as None.

    `source` is a path, a pattern such as data/*.jsonl, a folder (saved by `datasets`, or of data files),
    `org/name[:config][@revision][#split]` on the Hub, or `module:function`, which is called without arguments and
    yields dictionaries. Texts of local files are in `encoding`. A saved data set takes `#split` too, a folder with LLaMA-Factory's dataset_info.json `#name` of
    an entry in it. `limits` is how much is taken of a row and of a packed file. With `sample_by` files of plain text are read, too (text_rows). An existing path comes before the other meanings.
    Raises DataError where reading cannot go on (no such file, not text, cut off); problems found before are not in it.
    """
    return islice(_read(source, problems, max_rows is not None, Local(watch, encoding, limits, sample_by)), max_rows)


def _read(source: str, problems: list[Problem], streaming: bool, local: Local) -> Iterator[SourceRow]:
    path = Path(source).expanduser()
    folder = Path(source.partition("#")[0]).expanduser()
    check_regular(path, source)
    if entry := listed(source):
        if listed(entry.source):
            stop(source, None, "file_name", "the entry names such a listing again", "write where the rows lie")
        for row in _read(entry.source, problems, streaming, local):
            yield row if row.row is None else row._replace(row=entry.row(row.row))
    elif path.is_file():
        yield from _read_file(path, source, problems, local)
    elif _is_saved(folder):
        yield from _checked(_saved(folder, source), source, problems)
    elif path.is_dir():
        yield from _read_files(path.rglob("*"), source, problems, local, local.endings(False))
    elif glob.has_magic(source.partition("#")[0]):
        yield from _read_files(_matching(path), source, problems, local, local.endings(True))
    elif match := ADAPTER.fullmatch(source):
        yield from _checked(_adapter(source), source, problems)
    elif not _names_a_file(source) and (match := HUB.fullmatch(source)):
        yield from _checked(_hub(match, source, streaming), source, problems)
    else:
        stop(source, None, "file", "there is no such file", _similar_file(path))


def listed(source: str) -> llama_factory.Entry | None:
    """The entry of LLaMA-Factory's dataset_info.json that `source` names. Raises DataError where it cannot be used."""
    # What `datasets` saved has a file of that name too.
    saved = _is_saved(Path(source.partition("#")[0]).expanduser())
    return None if saved else llama_factory.find(source)


def _is_saved(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in SAVED)


def _read_files(
    paths: Iterable[Path], source: str, problems: list[Problem], local: Local, endings: tuple[str, ...]
) -> Iterator[SourceRow]:
    """Rows of several files in the order of their names. A file that cannot be read to its end stops all of them."""
    files = sorted(path for path in paths if path.is_file() and path.suffix.lower() in endings)
    if not files:
        fix = f"name files that end in {', '.join(endings)}, or a folder written by datasets' save_to_disk"
        stop(source, None, "file", "there is no data file in it", fix)
    for path in files:
        yield from _read_file(path, str(path), problems, local)


def _matching(pattern: Path) -> Iterable[Path]:
    """The paths that a pattern matches. `**` does not follow links, which may lead round in a circle."""
    if "**" not in pattern.parts:
        return map(Path, glob.iglob(str(pattern)))
    start = Path(pattern.anchor)
    found = start.glob(str(pattern.relative_to(start)))
    return (one for one in found if not any(part.startswith(".") for part in one.parts if part not in pattern.parts))


def _names_a_file(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.lower().endswith(FILE_ENDINGS)


def _similar_file(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f'did you mean "{path.parent / near[0]}"?' if near else "give a file, a folder, org/name or module:function"


# Files


def _read_file(path: Path, file: str, problems: list[Problem], local: Local) -> Iterator[SourceRow]:
    try:
        with path.open("rb", buffering=BUFFER) as raw:
            if local.watch is not None:
                local.watch(raw, path.stat().st_size)
            magic = raw.read(4)
            raw.seek(0)
            if magic == b"PAR1":
                yield from _checked(parquet_rows(path, file, local.limits), file, problems)
                return
            whole = Upto(raw, file)
            stream: IO[bytes] = io.BufferedReader(whole, BUFFER)
            if magic.startswith(b"\x1f\x8b"):
                inner: Any = gzip.GzipFile(fileobj=stream)
                stream = io.BufferedReader(Unpacked(inner, whole.seen.st_size, file, local.limits), BUFFER)
            if local.encoding.lower() not in UTF8:
                stream = recoded(stream, local.encoding, file)
            if local.sample_by is not None and path.name.lower().removesuffix(".gz").endswith(TEXT_ENDINGS):
                _check_text(stream.read(4096), file, html=True)
                stream.seek(0)
                rows = text_rows(stream, file, problems, local.limits, local.sample_by)
            else:
                reader = _container(stream, file)
                if reader is csv_rows and local.sample_by is not None and not _is_a_table(path):
                    stop(
                        *(file, None, "file", "its name ends in neither .csv nor .txt, so it may be a table or a text"),
                        "call it .csv if its first line names columns, else .txt",
                    )
                rows = reader(stream, file, problems, local.limits)
            first = next(rows, None)
            if first is None:
                stop(file, None, "file", "there are no rows in it", "add rows or leave the file out")
            yield first
            yield from rows
            whole.check_unchanged()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        stop(file, None, "file", "the gzip stream is broken or cut off", "copy or compress the file again")
    except OSError as error:
        stop(file, None, "file", f"it cannot be read ({error.strerror or error})", "check its permissions")


def _is_a_table(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


Reader = Callable[[IO[bytes], str, list[Problem], Limits], Iterator[SourceRow]]


def _container(stream: IO[bytes], file: str) -> Reader:
    """The reader the first bytes ask for; the stream is left at its start. Raises DataError for what is no text."""
    head = stream.read(4096)
    _check_text(head, file)
    begin = head.removeprefix(UTF8_BOM).lstrip()
    while not begin and (more := stream.read(4096)):
        begin = more.lstrip()
    if not begin:
        stop(file, None, "file", "it is empty", "add rows or leave the file out")
    stream.seek(0)
    if begin.startswith(b"["):
        return json_array
    if begin.startswith(b"{"):
        return json_lines
    second = begin.partition(b"\n")[2].lstrip()
    if second.startswith((b'{"', b"[{", b"[\n")):
        line = head[: len(head) - len(begin)].count(b"\n") + 1
        stop(file, line, "line", "JSON follows on the next line, but this is none", "take the line out")
    return csv_rows


def _check_text(head: bytes, file: str, html: bool = False) -> None:
    """Raise DataError where a file that begins with `head` is no text; a page of `html` is one where documents are read."""
    for magic, (what, fix) in NOT_TEXT.items():
        if head.startswith(magic) and not (html and magic == b"<"):
            stop(file, None, "file", what, fix)
    if head[257:262] == b"ustar":
        stop(file, None, "file", "it is a tar archive", "unpack it and name the file inside")
    if b"\0" in head:
        stop(
            file,
            None,
            "file",
            "it holds NUL bytes: UTF-16 or no text at all",
            "set data.encoding=utf-16-le, or save it as UTF-8 text",
        )


# Saved data sets, the Hub, adapters


def _checked(rows: Iterable[Any], source: str, problems: list[Problem]) -> Iterator[SourceRow]:
    line = 0
    for line, row in enumerate(rows, 1):
        if flaw := flaw_of(row):
            problems.append(Problem(source, line, *flaw))
        yield SourceRow(None if flaw else row, source, line)
    if not line:
        stop(source, None, "file", "there are no rows in it", "add rows or leave it out")


def _saved(folder: Path, source: str) -> Iterator[Any]:
    import datasets

    for path in sorted(folder.rglob("*")):
        check_regular(path, str(path))
    try:
        loaded = datasets.load_from_disk(str(folder))
    # What stands in its files is a stranger's, and fails in as many ways.
    except Exception as error:
        what = f"the folder is no whole saved data set ({type(error).__name__}: {str(error)[:200]})"
        stop(source, None, "file", what, "save or copy it again")
    yield from _one_split(loaded, source.partition("#")[2], source)


def _hub(match: re.Match[str], source: str, streaming: bool) -> Iterator[Any]:
    import datasets

    print(f"reading {source} from the Hub, or its cache", file=sys.stderr, flush=True)
    try:
        loaded = datasets.load_dataset(
            match["name"], match["config"], revision=match["revision"], split=match["split"], streaming=streaming
        )
    # The Hub fails in as many ways as a network does; the cause stays chained to ours.
    except Exception as error:
        fix = "check the name, the network and HF_TOKEN, or give a path that exists"
        message = f"it is no path here and the Hub does not give it ({type(error).__name__}: {error})"
        raise DataError([Problem(source, None, "source", message, fix)]) from error
    yield from _one_split(loaded, None, source)


def _one_split(loaded: Any, split: str | None, source: str) -> Any:
    if not isinstance(loaded, dict):
        if split:
            stop(source, None, "source", "the data set has no splits", f'leave "#{split}" out')
        return loaded
    names = list(loaded)
    if not split and len(names) == 1:
        split = names[0]
    if split not in loaded:
        problem = f"the data set has no split {split}" if split else "the data set has several splits"
        stop(source, None, "source", problem, "choose one: " + ", ".join(f"#{name}" for name in names))
    return loaded[split]


def _adapter(source: str) -> Iterator[Any]:
    yield from function_of(source, source)()


def function_of(name: str, source: str) -> Callable[..., Any]:
    """The function that `module:function` names. Raises DataError where there is none."""
    match = ADAPTER.fullmatch(name)
    if match is None:
        stop(source, None, "source", f'"{name}" names no function', "write module:function")
    try:
        loaded = importlib.import_module(match["module"])
    except ModuleNotFoundError as error:
        # A module missing *inside* the adapter is its author's mistake and keeps its traceback.
        if error.name is None or not f"{match['module']}.".startswith(f"{error.name}."):
            raise
        stop(source, None, "source", f"there is no Python module {error.name}", "check the name and the folder")
    function = getattr(loaded, match["function"], None)
    if not callable(function):
        fix = "write module:function"
        stop(source, None, "source", f"{match['module']} has no function {match['function']}", fix)
    return called_by(function, name)


def called_by(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """How the function that a user named is called; who calls us may put another in the place of this, to watch it."""
    return function
