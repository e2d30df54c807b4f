"""What is to be known of every row, in memory that does not grow with their number?

A `Tally` takes the rows of one pass: a short record of each goes to a temporary file, a fair sample is kept whole. What
is counted from the records is exact, what needs texts at hand is of the sample.
"""

import heapq
import random
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.refining.annotators import item_of
from data.schema import AnyRow, Demonstration, Judgement, Prompt, Ranking, prompt_key

SAMPLE = 10_000
SHOWN = 3
RECORD = np.dtype(
    [
        ("completions", "<i4"),
        ("pairs", "<i8"),
        ("tied", "<i8"),
        ("annotator", "<i4"),
        ("said", "<i8"),
        ("prompt", "<i8"),
        ("label", "<i1"),
    ]
)
"""Of one row: its completions, pairs of them and tied pairs, who ranked it, hashes of all it says and of its prompt, and
what a judgement says (`LIKED`, `DISLIKED`)."""
WAITING = 4096
"""Records kept in memory before they are written."""
CHUNK = 1 << 20
"""Records read back at once."""
NAMES = 100_000
"""Annotators told apart; a field that differs in every row is no name."""
UNNAMED, OTHERS = -1, -2
NO_LABEL, LIKED, DISLIKED = 0, 1, 2
BUSIEST = 20


class Tally:
    """Takes rows as `reading.scan` gives them, then answers for all of them."""

    def __init__(self, size: int = SAMPLE, seed: int = 0):
        self.size = size
        self._random = random.Random(seed)
        self._seed = seed
        self._file = tempfile.TemporaryFile()
        self._waiting: list[tuple[int, ...]] = []
        self._count = 0
        self._dropped = array("q")
        self._names: dict[str, int] = {}
        self._drawn: list[tuple[int, AnyRow]] = []
        self._first: dict[int, AnyRow] = {}
        self._judged = _ItemSample(size, seed)
        self.contradictions = 0

    def take(self, number: int, row: AnyRow) -> None:
        """One sound row; `number` counts from 0 without a gap."""
        self._waiting.append(self._record(row))
        if len(self._waiting) == WAITING:
            self._write()
        # A few more than are shown, in case some of them are dropped.
        if number < 10 * SHOWN:
            self._first[number] = row
        if len(self._drawn) < self.size:
            self._drawn.append((number, row))
        elif (slot := int(self._random.random() * (number + 1))) < self.size:
            self._drawn[slot] = (number, row)
        if isinstance(row, Ranking) and row.annotator is not None:
            self._judged.add(number, row)
        self._count += 1

    def drop(self, number: int, contradiction: bool) -> None:
        """A row taken before turned out to be wrong beside others."""
        self._dropped.append(number)
        self._first.pop(number, None)
        self.contradictions += contradiction

    @property
    def kept(self) -> int:
        return self._count - len(self._dropped)

    @property
    def sampled(self) -> bool:
        """Whether `sample` is not all rows."""
        return self._count > self.size

    def first(self) -> list[AnyRow]:
        """The first rows there are, to be shown."""
        return list(self._first.values())[:SHOWN]

    def sample(self) -> list[AnyRow]:
        """All rows, or `size` of them drawn with equal chances (Vitter 1985, algorithm R), in the order of the data."""
        out = set(self._dropped)
        return [row for number, row in sorted(self._drawn, key=lambda drawn: drawn[0]) if number not in out]

    def judged(self) -> tuple[list[Ranking], bool]:
        """Rankings by named annotators, and whether these are all. Else all of an item are there or none: single rows
        drawn from many would seldom hold two people's rankings of one thing."""
        out = set(self._dropped)
        return [row for number, row in self._judged.rows() if number not in out], self._judged.complete

    def completions(self) -> dict[int, int]:
        """How many rankings have K completions, by K."""
        counts: Counter[int] = Counter()
        for part in self._records():
            counts.update(_counts(part["completions"]))
        return dict(sorted(counts.items()))

    def ties(self) -> dict[str, int]:
        """Rankings with a tie, tied pairs of completions, and pairs in all."""
        out = {"rankings": 0, "pairs": 0, "of_pairs": 0}
        for part in self._records():
            out["rankings"] += int((part["tied"] > 0).sum())
            out["pairs"] += int(part["tied"].sum())
            out["of_pairs"] += int(part["pairs"].sum())
        return out

    def labels(self) -> dict[str, int]:
        """Completions that were liked and disliked."""
        counts: Counter[int] = Counter()
        for part in self._records():
            counts.update(_counts(part["label"]))
        return {"liked": counts[LIKED], "disliked": counts[DISLIKED]}

    def annotators(self) -> dict[str, Any]:
        """How many annotators there are, rows with and without one, and those of the busiest."""
        rows: Counter[int] = Counter()
        for part in self._records():
            rows.update(_counts(part["annotator"]))
        own = {name: rows[place] for name, place in self._names.items() if rows[place]}
        busiest = sorted(own.items(), key=lambda one: (-one[1], one[0]))
        return {
            "annotators": len(own),
            "more": rows[OTHERS] > 0,
            "rows": self.kept - rows[UNNAMED],
            "rows_without": rows[UNNAMED],
            "busiest": dict(busiest[:BUSIEST]),
        }

    def repeated(self, what: str) -> int:
        """Rows whose `said` or `prompt` stood in a row before."""
        # As many passes over the file as keep each of them small.
        passes = 1 + self._count // (4 * CHUNK)
        repeated = 0
        for turn in range(passes):
            parts = [part[what][part[what] % passes == turn] for part in self._records()]
            keys = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
            repeated += len(keys) - len(np.unique(keys))
        return repeated

    def close(self) -> None:
        self._file.close()

    def _record(self, row: AnyRow) -> tuple[int, ...]:
        prompt = prompt_key(row.prompt)
        if isinstance(row, Demonstration):
            return 1, 0, 0, UNNAMED, hash((prompt, row.completion)), hash(prompt), NO_LABEL
        if isinstance(row, Judgement):
            said, label = hash((prompt, row.completion, row.liked)), LIKED if row.liked else DISLIKED
            return 1, 0, 0, UNNAMED, said, hash(prompt), label
        if isinstance(row, Prompt):
            return 0, 0, 0, UNNAMED, hash(prompt), hash(prompt), NO_LABEL
        count = len(row.completions)
        tied = sum(len(tier) * (len(tier) - 1) // 2 for tier in row.ranking)
        texts = {one.id: one.text for one in row.completions}
        order = tuple(tuple(sorted(texts[one] for one in tier)) for tier in row.ranking)
        said = hash((prompt, row.annotator, order))
        return count, count * (count - 1) // 2, tied, self._annotator(row.annotator), said, hash(prompt), NO_LABEL

    def _annotator(self, name: str | None) -> int:
        if name is None:
            return UNNAMED
        if name not in self._names and len(self._names) >= NAMES:
            return OTHERS
        return self._names.setdefault(name, len(self._names))

    def _write(self) -> None:
        self._file.seek(0, 2)
        self._file.write(np.array(self._waiting, dtype=RECORD).tobytes())
        self._waiting = []

    def _records(self) -> Iterator[NDArray[Any]]:
        """Records of the rows that were not dropped, part by part."""
        self._write()
        dropped = np.array(self._dropped, dtype=np.int64)
        for start in range(0, self._count, CHUNK):
            self._file.seek(start * RECORD.itemsize)
            part = np.frombuffer(self._file.read(CHUNK * RECORD.itemsize), dtype=RECORD)
            here = dropped[(dropped >= start) & (dropped < start + len(part))] - start
            yield np.delete(part, here)


def _counts(values: NDArray[Any]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


class _ItemSample:
    """Rankings of the items with the lowest hashes, at most `size` of them: an item is drawn with all its rankings."""

    def __init__(self, size: int, seed: int):
        self.size = size
        self.salt = f"{seed}:".encode()
        self.items: dict[int, list[tuple[int, Ranking]]] = {}
        self.highest: list[int] = []
        self.count = 0
        self.limit = 1 << 64
        self.complete = True

    def add(self, number: int, ranking: Ranking) -> None:
        prompt, texts = item_of(ranking)
        digest = blake2b(self.salt, digest_size=8)
        for text in (prompt, *texts):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        key = int.from_bytes(digest.digest(), "big")
        if key >= self.limit or (self.count >= self.size and len(self.items) == 1 and key in self.items):
            self.complete = False
            return
        if key not in self.items:
            heapq.heappush(self.highest, -key)
        self.items.setdefault(key, []).append((number, ranking))
        self.count += 1
        while self.count > self.size and len(self.items) > 1:
            self.limit = -heapq.heappop(self.highest)
            self.count -= len(self.items.pop(self.limit))
            self.complete = False

    def rows(self) -> list[tuple[int, Ranking]]:
        return sorted((one for item in self.items.values() for one in item), key=lambda numbered: numbered[0])
