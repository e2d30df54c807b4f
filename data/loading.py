"""From a source to sound rows: read, recognise, parse, check, and account for every row.

`scan` does it in constant memory, `to_rows` keeps what was sound. What is wrong is gathered and told together.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from data.forms import detection, reader
from data.forms.account import Account, Reject, reject_of
from data.forms.place import Place
from data.forms.reader import in_their_words
from data.forms.shapes import Format
from data.forms.table import FORMATS
from data.reading import sources
from data.reading.flaws import SourceRow, stop
from data.reading.options import Options
from data.refining.across import Across
from data.refining.annotators import by_majority, by_mean_rank
from data.schema import AnyRow, DataError, Judgement, Problem, Ranking

LOOKED_AT, AT_MOST = 1000, 100_000
"""Readable rows from which the format is told, and rows in which they are looked for."""
BATCH = 32
"""Rows that go through one step together."""


@dataclass(frozen=True)
class Loaded:
    """All rows of one source; `problems` and `rejects` are empty unless skip_bad."""

    account: Account
    rows: list[Any]
    rejects: list[Reject] = field(default_factory=list)

    @property
    def format(self) -> str:
        return self.account.format

    @property
    def kind(self) -> str:
        return self.account.kind

    @property
    def read(self) -> int:
        return self.account.read

    @property
    def problems(self) -> list[Problem]:
        return self.account.problems


class Part(NamedTuple):
    """What one row gave to a format whose rows are made of several; problems of the whole go to `at`."""

    row: SourceRow
    at: Place
    value: Any


T = TypeVar("T")
Take = Callable[[int, AnyRow], None]
Drop = Callable[[int, Problem], None]
Rejected = Callable[[Reject], None]


def to_rows(source: str, options: Options | None = None) -> Loaded:
    """Read, recognise and check everything in `source` (see `sources.read`).

    Raises DataError with every problem there is. With `options.skip_bad` sound rows are returned and the others
    reported; what spoils the whole source is raised anyway.
    """
    options = options or Options()
    rows: dict[int, AnyRow] = {}
    rejects: list[Reject] = []

    def drop(number: int, problem: Problem) -> None:
        rejects.append(reject_of(SourceRow(rows.pop(number).to_json(), problem.file, problem.line or 0), [problem]))

    account = scan(source, options, rows.__setitem__, drop, rejects.append)
    if account.fatal or (account.problems and not (options.skip_bad and rows)):
        raise account.error()
    account.problems.sort(key=lambda problem: (problem.file, problem.line or 0))
    kept: list[Any] = list(rows.values())
    if options.aggregate != "each" and account.kind == "rankings":
        judged = kept
        kept, cancelled = (by_mean_rank if options.aggregate == "mean" else by_majority)(judged)
        account.kept = len(kept)
        if cancelled:
            # One row of the source may have held the rankings of several.
            lost = {id(ranking) for ranking in cancelled}
            unused = {one.source for one in cancelled} - {one.source for one in judged if id(one) not in lost}
            account.used -= len(unused)
            account.left_out["annotators cancel out"] = len(unused)
    return Loaded(account, kept, rejects)


def scan(
    source: str,
    options: Options,
    take: Take,
    drop: Drop = lambda number, problem: None,
    rejected: Rejected = lambda reject: None,
    watch: sources.Watch | None = None,
) -> Account:
    """One pass over `source`: `take(number, row)` for every sound row of ours, numbered from 0.

    A row taken before may turn out to contradict one before it: `drop(number, problem)` says so at the end. `rejected`
    is given each row that was left out. Nothing is raised for bad data: problems are in the account.
    """
    account = Account(source)
    try:
        entry = sources.listed(source)
    except DataError as error:
        account.note(error.problems)
        account.fatal = True
        return account
    options = options if entry is None else entry.options(options)
    across = Across()
    try:
        readable = _attributed(account, options, watch)
        head = _head(readable)
        chosen = _choose(account, options, [row for row, _ in head])
        parsed = _parsed(_in_batches(chain(head, readable)), chosen, account, options, rejected)
        number = -1
        for number, (row, value) in enumerate(_in_batches(parsed)):
            across.add(number, value, row.file, row.line)
            take(number, value)
        account.kept = number + 1
        spoilt: set[tuple[str, int | None]] = set()
        for number, found in across.problems():
            # An order may be no column of its own.
            problem = in_their_words(found, options.columns) if found.field == "id" else found
            account.kept -= 1
            drop(number, problem)
            if (problem.file, problem.line) in spoilt:
                account.note([problem])
            else:
                spoilt.add((problem.file, problem.line))
                account.used -= 1
                account.reject([problem])
    finally:
        across.close()
    return account


Attributed = tuple[SourceRow, list[Problem]]


def _attributed(account: Account, options: Options, watch: sources.Watch | None) -> Iterator[Attributed]:
    """Each row with the problems that reading it brought, up to where the source cannot be read any further."""
    problems: list[Problem] = []
    try:
        for row in sources.read(account.source, problems, options.max_rows, watch, options.encoding, options.limits):
            if problems:
                yield row, problems[:]
                problems.clear()
            else:
                yield row, []
    except DataError as error:
        account.note([*problems, *error.problems])
        account.fatal = True


def _in_batches(rows: Iterator[T]) -> Iterator[T]:
    """The same, taken some at a time: a processor does one thing over and over faster than several in turn."""
    while batch := list(islice(rows, BATCH)):
        yield from batch


def _head(rows: Iterator[Attributed]) -> list[Attributed]:
    head: list[Attributed] = []
    sound = 0
    for row in islice(rows, AT_MOST):
        head.append(row)
        sound += row[0].row is not None
        if sound == LOOKED_AT:
            break
    return head


def _choose(account: Account, options: Options, rows: list[SourceRow]) -> Format | None:
    """The format, into the account; None, with the reason noted, where there is none to be had."""
    try:
        if options.format is not None:
            detection.named(options.format, account.source)
        if options.map is not None:
            _function(options.map)
        seen = [one for row in rows for one in _as_the_format_sees(row, options)]
        if options.format is None and not seen and any(row.row is not None for row in rows):
            what = f"{options.map} leaves out the first {len(rows)} rows, so that their format cannot be told"
            stop(account.source, None, "map", what, "mend the function, or name the format")
        account.format = options.format or detection.detect(seen)
        detection.axis_of(account.format, options.axis, account.source)
    except DataError as error:
        account.note(error.problems)
        account.fatal = True
        return None
    chosen = FORMATS[account.format]
    account.kind = chosen.kind
    account.polarity = f"{chosen.polarity} (reversed by request)" if options.reverse else chosen.polarity
    return chosen


def _as_the_format_sees(row: SourceRow, options: Options) -> list[SourceRow]:
    if row.row is None:
        return []
    rows = _mapped(row.row, options, Place(row.file, row.line, []))
    return [SourceRow(reader.prepared(_renamed(one, options)), row.file, row.line) for one in rows]


def _parsed(
    rows: Iterator[Attributed], chosen: Format | None, account: Account, options: Options, rejected: Rejected
) -> Iterator[tuple[SourceRow, AnyRow]]:
    axis = detection.axis_of(account.format, options.axis, account.source) if chosen else None
    parts: list[Part] = []
    gather = None if chosen is None else chosen.gather
    values_of: reader.Values = (lambda row, at: []) if chosen is None else _reader(chosen, account, options)
    read = used = 0
    at = Place("", 0, [], axis, options.tie_gap)
    for row, problems in rows:
        read += 1
        # One place does for all rows of which nothing was said, and which are done with.
        if problems or at.problems or at.left_out or gather is not None:
            at = Place(row.file, row.line, problems, axis, options.tie_gap)
        else:
            at.file, at.line = row.file, row.line
        values = [] if problems or row.row is None else values_of(row.row, at)
        if at.problems or at.left_out and not values:
            _account_for(row, at, account, rejected)
        elif gather is not None:
            parts += [Part(row, at, value) for value in values]
        elif values:
            used += 1
            for value in values:
                yield row, _reversed(value) if options.reverse else value
    account.read, account.used = read, used
    if gather is not None:
        made = list(gather(parts))
        for part in {id(part.at): part for part in parts}.values():
            part.at.problems[:] = [in_their_words(problem, options.columns) for problem in part.at.problems]
            if part.at.problems or part.at.left_out:
                _account_for(part.row, part.at, account, rejected)
            else:
                account.used += 1
        for part, value in made:
            yield part.row, _reversed(value) if options.reverse else value


def _account_for(row: SourceRow, at: Place, account: Account, rejected: Rejected) -> None:
    """Count a row that did not become one of ours."""
    if at.problems:
        account.reject(at.problems)
        rejected(reject_of(row, at.problems))
    else:
        account.left_out[at.left_out[0]] += 1


def _reader(chosen: Format, account: Account, options: Options) -> reader.Values:
    """What makes of a source's row the values that the chosen format gives for it."""
    values_of = reader.reader(chosen, account.format, options.format is not None, account)

    def beside(row: dict[str, Any], values: list[Any]) -> list[Any]:
        kept = {name: _plain(row[name]) for name in options.keep if name in row}
        return [replace(one, columns=kept) if isinstance(one, AnyRow) else one for one in values] if kept else values

    def through_options(raw: dict[str, Any], at: Place) -> list[Any]:
        rows = _mapped(raw, options, at)
        values = [value for one in rows for value in beside(one, values_of(_renamed(one, options), at))]
        if options.columns:
            at.problems[:] = [in_their_words(problem, options.columns) for problem in at.problems]
        return values

    return through_options if options.map or options.columns or options.ignore or options.keep else values_of


def _mapped(row: dict[str, Any], options: Options, at: Place) -> list[dict[str, Any]]:
    """What the user's function makes of a row: one row, several, or none, which leaves it out."""
    if options.map is None:
        return [row]
    made = _function(options.map)(row)
    rows = made if isinstance(made, list) else [] if made is None else [made]
    if not rows:
        at.leave_out(f"left out by {options.map}")
    for one in rows:
        if not isinstance(one, dict):
            raise TypeError(f"{options.map} gave {type(one).__name__} for {at.source}, not a dict")
    return rows


def _function(name: str) -> Callable[[dict[str, Any]], Any]:
    """The function a user named. Raises DataError where there is none."""
    return sources.function_of(name, name)


def _renamed(row: dict[str, Any], options: Options) -> dict[str, Any]:
    if away := {*options.ignore, *options.keep}:
        row = {key: value for key, value in row.items() if key not in away}
    if not options.columns:
        return row
    theirs = set(options.columns.values())
    ours = {name: row[column] for name, column in options.columns.items() if column in row}
    return ours | {key: value for key, value in row.items() if key not in theirs and key not in ours}


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: no number that is not finite, dates as texts."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)


def _reversed(value: AnyRow) -> AnyRow:
    if isinstance(value, Judgement):
        return replace(value, liked=not value.liked)
    return replace(value, ranking=value.ranking[::-1]) if isinstance(value, Ranking) else value
