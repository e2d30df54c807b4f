"""What is a demonstration, a judgement, a prompt, a ranking, and how is a mistake in somebody's data told?

Every other file of this room speaks in these types. They are frozen dataclasses; `to_json` gives the dictionary that is
written as one JSON line and `from_json` takes it back. Checking what a user wrote is the work of `formats.py`.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PromptText = str | list[dict[str, str]]
"""A plain text, or messages with the keys `role` and `content`."""

SHOWN, EXAMPLES = 20, 3
"""Mistakes that are shown at most, and of one kind in one file where there are more of them."""


def prompt_key(prompt: PromptText) -> str:
    """The string under which a prompt is grouped and split: NFC, runs of white space count as one space.

    A text and a conversation never share a key, whatever they say.
    """
    if isinstance(prompt, str):
        return json.dumps(_folded(prompt), ensure_ascii=False)
    return json.dumps([[turn["role"], _folded(turn["content"])] for turn in prompt], ensure_ascii=False)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _tagged(tag: str | None) -> dict[str, Any]:
    return {} if tag is None else {"tag": tag}


def _others() -> Any:
    """A field for what else stands in a source's row, by column; it makes no two rows different."""
    return field(default=None, hash=False, compare=False, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Demonstration:
    """One example of a good answer, to be imitated. `tag` names the task it belongs to, `spared` the messages of the prompt
    that are answers and not to be learned."""

    id: str
    prompt: PromptText
    completion: str
    source: str
    tag: str | None = None
    columns: dict[str, Any] | None = _others()
    spared: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "prompt": self.prompt,
            "completion": self.completion,
            "source": self.source,
        }
        return row | _tagged(self.tag) | ({"spared": list(self.spared)} if self.spared else {})

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Demonstration":
        spared = tuple(row.get("spared", ()))
        return cls(row["id"], row["prompt"], row["completion"], row["source"], row.get("tag"), spared=spared)


@dataclass(slots=True, unsafe_hash=True)
class Judgement:
    """One answer that somebody liked or disliked, with no other beside it: TRL's unpaired preference."""

    id: str
    prompt: PromptText
    completion: str
    liked: bool
    source: str
    tag: str | None = None
    columns: dict[str, Any] | None = _others()

    def to_json(self) -> dict[str, Any]:
        row = {"id": self.id, "prompt": self.prompt, "completion": self.completion, "liked": self.liked}
        return row | {"source": self.source} | _tagged(self.tag)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Judgement":
        return cls(row["id"], row["prompt"], row["completion"], row["liked"], row["source"], row.get("tag"))


@dataclass(slots=True, unsafe_hash=True)
class Prompt:
    """Something to answer. Its `columns` are published with it, for reward functions; those of other rows go to the prompts made
    of them."""

    id: str
    prompt: PromptText
    source: str
    tag: str | None = None
    columns: dict[str, Any] | None = _others()

    def to_json(self) -> dict[str, Any]:
        row = {"id": self.id, "prompt": self.prompt, "source": self.source} | _tagged(self.tag)
        return row | ({"columns": self.columns} if self.columns else {})

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Prompt":
        return cls(row["id"], row["prompt"], row["source"], row.get("tag"), row.get("columns"))


@dataclass(slots=True, unsafe_hash=True)
class Completion:
    """One answer inside a ranking; `ratings` are single people's ratings, where the data has them."""

    id: str
    text: str
    model: str | None = None
    ratings: tuple[float, ...] | None = None

    @property
    def rating(self) -> float | None:
        """Mean of `ratings`, None without any."""
        return sum(self.ratings) / len(self.ratings) if self.ratings else None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "text": self.text}
        if self.model is not None:
            row["model"] = self.model
        if self.ratings is not None:
            row["ratings"] = list(self.ratings)
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Completion":
        ratings = row.get("ratings")
        return cls(
            id=row["id"],
            text=row["text"],
            model=row.get("model"),
            ratings=None if ratings is None else tuple(float(rating) for rating in ratings),
        )


@dataclass(slots=True, unsafe_hash=True)
class Ranking:
    """K answers to one prompt and the order in which somebody put them.

    `ranking` holds completion ids, best tier first; ids in one inner tuple are tied. A preference is a ranking of two.
    `all_bad`: whoever ordered them said that the best is bad, too, so that it is none to imitate.
    """

    id: str
    prompt: PromptText
    completions: tuple[Completion, ...]
    ranking: tuple[tuple[str, ...], ...]
    source: str
    annotator: str | None = None
    tag: str | None = None
    columns: dict[str, Any] | None = _others()
    all_bad: bool = False

    def ranks(self) -> list[int]:
        """Rank of each completion in the order of `completions`: 0 is best, tied completions have equal ranks."""
        rank = {name: place for place, tier in enumerate(self.ranking) for name in tier}
        return [rank[completion.id] for completion in self.completions]

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "prompt": self.prompt,
            "completions": [completion.to_json() for completion in self.completions],
            "ranking": [list(tier) for tier in self.ranking],
        }
        if self.annotator is not None:
            row["annotator"] = self.annotator
        if self.all_bad:
            row["all_bad"] = True
        return row | {"source": self.source} | _tagged(self.tag)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Ranking":
        return cls(
            id=row["id"],
            prompt=row["prompt"],
            completions=tuple(Completion.from_json(completion) for completion in row["completions"]),
            ranking=tuple(tuple(tier) for tier in row["ranking"]),
            source=row["source"],
            annotator=row.get("annotator"),
            tag=row.get("tag"),
            all_bad=row.get("all_bad", False),
        )


AnyRow = Demonstration | Judgement | Prompt | Ranking
"""A row of ours, of whatever kind."""


@dataclass(slots=True, unsafe_hash=True)
class Problem:
    """One mistake in the data: where it is, what it is, what to do. `line` is None where no line can be named."""

    file: str
    line: int | None
    field: str
    problem: str
    fix: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.field}: {self.problem}; {self.fix}"

    @property
    def kind(self) -> str:
        """What problems of one sort have in common: the sentence without the row's own words and numbers."""
        return re.sub(r'"[^"]*"|\d+', "…", f"{self.field}: {self.problem}")


def examples(problems: Sequence[Problem], more: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Those that are shown, and the others: all where they are few and there are no `more`, else of each file and kind the first ones."""
    if len(problems) + more <= SHOWN:
        return list(problems), []
    shown, others, seen = list[Problem](), list[Problem](), Counter[tuple[str, str]]()
    for problem in problems:
        one = (problem.file, problem.kind)
        seen[one] += 1
        (shown if seen[one] <= EXAMPLES and len(shown) < SHOWN else others).append(problem)
    return shown, others


class DataError(Exception):
    """All that is wrong with a user's data, in one error. Its text is meant for the user as it stands."""

    def __init__(
        self,
        problems: Iterable[Problem],
        uncounted: Mapping[str, int] | None = None,
        aside: tuple[int, int] | None = None,
    ):
        """`uncounted`: by kind, how many more there are than are given here. `aside`: where the rest can be used without them,
        how many rows are bad, of how many."""
        self.problems = list(problems)
        self.aside = aside
        self.uncounted = Counter(uncounted or {})
        self.command: str | None = None  # what sets them aside, where a command line asked
        super().__init__(self.problems)

    def __str__(self) -> str:
        shown, others = examples(self.problems, self.uncounted.total())
        lines = [str(problem) for problem in shown]
        rest = self.uncounted + Counter(problem.kind for problem in others)
        if rest:
            lines.append(f"and {rest.total()} more:")
            lines += [f"  {count} × {kind}" for kind, count in rest.most_common(SHOWN)]
            if untold := rest.total() - sum(count for _, count in rest.most_common(SHOWN)):
                lines.append(f"  {untold} × something else")
        if self.aside is not None:
            lines.append(way_on(*self.aside) + (f"; run: {self.command}" if self.command else ""))
        return "\n".join(lines)


def way_on(bad: int, rows: int) -> str:
    """How to go on without the bad rows."""
    these = "this 1" if bad == 1 else f"these {bad:,}"
    return f"set data.skip_bad=true to set {these} of {rows:,} rows aside"
