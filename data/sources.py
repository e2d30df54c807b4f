"""Where do raw rows come from?

`read` takes a file, a saved data set's folder, a Hub id or an adapter `module:function`. Text files are parsed by
`parsing.py`, because the readers of `datasets` accept broken rows silently and name no line. A row that cannot be read
becomes a Problem and reading goes on; where it cannot go on, a DataError is raised.
"""

import difflib
import gzip
import importlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from data.parsing import UTF8_BOM, SourceRow, csv_rows, flaw_of, json_array, json_lines, stop
from data.schema import DataError, Problem

HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>.+))?")
ADAPTER = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
FILE_ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".arrow", ".zip", ".xlsx")
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read(source: str, problems: list[Problem]) -> Iterator[SourceRow]:
    """Yield the rows of `source`; append a Problem for each row that cannot be read.

    `source` is a path, `org/name[:config][@revision][#split]` on the Hub, or `module:function`, which is called without
    arguments and yields dictionaries. A directory takes `#split` too. An existing path comes before the other meanings.
    Raises DataError where reading cannot go on (no such file, not text, cut off); problems found before are not in it.
    """
    path = Path(source).expanduser()
    folder = Path(source.partition("#")[0]).expanduser()
    if path.is_file():
        yield from _read_file(path, source, problems)
    elif folder.is_dir():
        yield from _checked(_saved(folder, source), source, problems)
    elif match := ADAPTER.fullmatch(source):
        yield from _checked(_adapter(match["module"], match["function"], source), source, problems)
    elif not _names_a_file(source) and (match := HUB.fullmatch(source)):
        yield from _checked(_hub(match, source), source, problems)
    else:
        stop(source, None, "file", "there is no such file", _similar_file(path))


def _names_a_file(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.lower().endswith(FILE_ENDINGS)


def _similar_file(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f'did you mean "{path.parent / near[0]}"?' if near else "give a file, a folder, org/name or module:function"


# Files


def _read_file(path: Path, file: str, problems: list[Problem]) -> Iterator[SourceRow]:
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == b"PAR1":
                yield from _checked(_parquet(path, file), file, problems)
                return
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if magic.startswith(b"\x1f\x8b") else raw  # type: ignore[assignment]
            reader = _container(stream, file)
            empty = True
            before = len(problems)
            for row in reader(stream, file, problems):
                empty = False
                yield row
            if empty and len(problems) == before:
                stop(file, None, "file", "there are no rows in it", "add rows or leave the file out")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        stop(file, None, "file", "the gzip stream is broken or cut off", "copy or compress the file again")
    except OSError as error:
        stop(file, None, "file", f"it cannot be read ({error.strerror or error})", "check its permissions")


Reader = Callable[[IO[bytes], str, list[Problem]], Iterator[SourceRow]]


def _container(stream: IO[bytes], file: str) -> Reader:
    """The reader the first bytes ask for; the stream is left at its start. Raises DataError for what is no text."""
    head = stream.read(4096)
    if head.startswith(UTF16_BOMS):
        stop(file, None, "file", "it is UTF-16, not UTF-8", "save it as UTF-8")
    if b"\0" in head:
        stop(file, None, "file", "it holds NUL bytes: UTF-16 or no text at all", "save it as UTF-8 text")
    begin = head.removeprefix(UTF8_BOM).lstrip()
    while not begin and (more := stream.read(4096)):
        begin = more.lstrip()
    if not begin:
        stop(file, None, "file", "it is empty", "add rows or leave the file out")
    stream.seek(0)
    if begin.startswith(b"["):
        return json_array
    return json_lines if begin.startswith(b"{") else csv_rows


# Parquet, saved data sets, the Hub, adapters


def _checked(rows: Iterable[Any], source: str, problems: list[Problem]) -> Iterator[SourceRow]:
    line = 0
    for line, row in enumerate(rows, 1):
        if flaw := flaw_of(row):
            problems.append(Problem(source, line, *flaw))
        else:
            yield SourceRow(row, source, line)
    if not line:
        stop(source, None, "file", "there are no rows in it", "add rows or leave it out")


def _parquet(path: Path, file: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            for name in names:
                if names.count(name) > 1:
                    stop(file, None, name, "two columns have the same name", "rename or remove one")
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        stop(file, None, "file", f"the Parquet file is broken ({error})", "write or copy it again")


def _saved(folder: Path, source: str) -> Iterator[Any]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        fix = "give one file, or a folder written by datasets' save_to_disk"
        stop(source, None, "file", f"the folder is no saved data set ({error})", fix)
    yield from _one_split(loaded, source.partition("#")[2], source)


def _hub(match: re.Match[str], source: str) -> Iterator[Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(match["name"], match["config"], revision=match["revision"], split=match["split"])
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


def _adapter(module: str, function: str, source: str) -> Iterator[Any]:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module missing *inside* the adapter is its author's mistake and keeps its traceback.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        stop(source, None, "source", f"there is no Python module {error.name}", "check the name and the folder")
    if not callable(call := getattr(loaded, function, None)):
        stop(source, None, "source", f"{module} has no function {function}", "write module:function")
    yield from call()
