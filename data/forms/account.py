"""What became of a source's rows, and how is it told within bounds?"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.forms import columns
from data.reading.flaws import SourceRow
from data.schema import EXAMPLES, DataError, Problem

KEPT = 1000
"""Problems that are kept to be shown, and kinds that are told apart; all are counted. Of a kind that comes later the first are kept too."""
OTHERS = "other problems"
UNREAD = 100
"""Columns that are named as not read."""
NOTHING = ("null", '""', "a list: []", "an object: {}")
LONGEST = 300
"""Characters of the user's own that are repeated in a sentence."""


@dataclass(frozen=True)
class Reject:
    """A row that was left out. `row` is None where the line could not even be read."""

    row: dict[str, Any] | None
    file: str
    line: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        # A Parquet cell may hold dates or bytes, which no JSON line can.
        row = json.loads(json.dumps(self.row, default=str))
        return {"row": row, "file": self.file, "line": self.line, "reason": self.reason}


@dataclass
class Account:
    """What became of a source's rows: every one that was `read` is rejected, left out by design, or `used` for ours.

    `kept` counts rows of ours. `rejected` and `left_out` count the source's rows by reason, `kinds` all problems by kind;
    the first of them are in `problems`. A row that made several of ours, one of which cannot stand, is rejected.
    """

    source: str
    format: str = ""
    kind: str = ""
    polarity: str = ""
    read: int = 0
    used: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    fatal: bool = False
    """Whether reading had to stop, so that rows after that place are not accounted for."""
    unread: dict[str, str] = field(default_factory=dict)
    """Columns that the form does not read, each with a sample."""

    def unread_column(self, name: str, value: Any) -> None:
        """Note a column that nobody reads; the sample is the first that says something."""
        said = columns.sample(value)
        if len(self.unread) < UNREAD and (name not in self.unread or self.unread[name] in NOTHING):
            self.unread[_printable(_shortened(name))] = _printable(said)

    def note(self, problems: Iterable[Problem]) -> list[str]:
        """Count problems, keep the first; their kinds."""
        kinds = []
        for problem in map(_presentable, problems):
            kind = problem.kind
            kinds.append(kind if kind in self.kinds or len(self.kinds) < KEPT else OTHERS)
            self.kinds[kinds[-1]] += 1
            if len(self.problems) < KEPT or (kinds[-1] == kind and self.kinds[kind] <= EXAMPLES):
                self.problems.append(problem)
        return kinds

    def reject(self, problems: list[Problem]) -> None:
        """Count one row as rejected for the first of its problems."""
        self.rejected[self.note(problems)[0]] += 1

    def error(self) -> DataError:
        """All that is wrong, in the order of the lines."""
        problems = sorted(self.problems, key=lambda problem: (problem.file, problem.line or 0))
        rest = self.kinds - Counter(problem.kind for problem in problems)
        return DataError(problems, rest, self.aside)

    @property
    def aside(self) -> tuple[int, int] | None:
        """How many rows are bad, of how many, where the others can be used without them."""
        bad = self.rejected.total()
        return (bad, self.read) if bad and self.kept and not self.fatal else None


def reject_of(row: SourceRow, problems: Sequence[Problem]) -> Reject:
    """`row` with all that is wrong with it in one sentence."""
    said = (f"{problem.field}: {problem.problem}; {problem.fix}" for problem in map(_presentable, problems))
    return Reject(*row, " | ".join(said))


def _presentable(problem: Problem) -> Problem:
    """The problem as it may be shown: what it repeats of the user's data is neither long nor able to steer a terminal."""
    said = (problem.field, problem.problem, problem.fix)
    if all(len(text) <= LONGEST and text.isprintable() for text in said):
        return problem
    field, what, fix = (_printable(_shortened(text)) for text in said)
    return replace(problem, field=field, problem=what, fix=fix)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
