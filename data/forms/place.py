"""Where does a row stand, and who is told what is wrong with it?"""

from dataclasses import dataclass, field, replace

from data.schema import Problem


@dataclass(slots=True, eq=False)
class Place:
    """Where a row stands, the list that takes its problems, and what the user chose about such rows: the judgement to
    take of several (`axis`) and the rating difference below which completions are tied. `prefix` is what stands before
    the names of fields inside another."""

    file: str
    line: int
    problems: list[Problem]
    axis: str | None = None
    tie_gap: float = 0.0
    left_out: list[str] = field(default_factory=list)
    prefix: str = ""

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"

    def report(self, field: str, problem: str, fix: str) -> None:
        self.problems.append(Problem(self.file, self.line, self.prefix + field, problem, fix))

    def within(self, field: str) -> "Place":
        """The same place, for the fields of the object that stands under `field`."""
        return replace(self, prefix=f"{self.prefix}{field}.")

    def leave_out(self, reason: str) -> None:
        """Leave the row out by design, not as a mistake: a tie, a deleted message. It is counted under `reason`."""
        self.left_out.append(reason)
