"""How much of each source goes into a mixture, which of its rows, and in what order?

All of it follows from a seed, the sources' names and the rows' ids, by a hash: not from the order of the sources, nor
from where a row stands in its file, nor from the number of processes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar


class HasId(Protocol):
    @property
    def id(self) -> str: ...


Row = TypeVar("Row", bound=HasId)


def amounts(available: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Rows to take of each source: the most there can be so that they stand to each other as the weights do and no row
    is taken twice.

    Exactly so but for rounding to whole rows, of which each source keeps at least one. Sources without rows stay out.
    """
    exact = {name: Fraction(str(weights[name])) for name, count in available.items() if count}
    scale = min((available[name] / weight for name, weight in exact.items()), default=Fraction(0))
    half = Fraction(1, 2)
    return {name: max(1, int(scale * weight + half)) for name, weight in exact.items()}


def thinned(rows: Sequence[Row], count: int, name: str, seed: int) -> list[Row]:
    """`count` rows of the source `name`, in the order they have. Of a smaller count the rows are among a larger's."""
    if count >= len(rows):
        return list(rows)
    first = sorted(range(len(rows)), key=lambda number: _draw(seed, "thin", name, rows[number].id))[:count]
    return [rows[number] for number in sorted(first)]


def shuffled(sources: Iterable[tuple[str, Sequence[Row]]], seed: int) -> list[Row]:
    """The rows of all (name, rows), mixed; the order of the sources does not matter."""
    rows = [(name, row) for name, given in sources for row in given]
    # Another draw than for thinning, or the thinnest source would stand first.
    return [row for _, row in sorted(rows, key=lambda pair: _draw(seed, "order", pair[0], pair[1].id))]


def shares(tags: Iterable[str | None]) -> dict[str, dict[str, Any]]:
    """Of each tag, the rows that have it and their share, in the order of the tags' names."""
    counts = Counter(tag for tag in tags if tag is not None)
    return {tag: {"rows": counts[tag], "share": counts[tag] / counts.total()} for tag in sorted(counts)}


def _draw(seed: int, purpose: str, name: str, row: str) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{name}:{row}".encode()).digest()
