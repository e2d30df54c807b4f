"""Which rows cannot both be right? Ids given twice and labels that contradict each other, over any number of rows.

What must be compared goes to a temporary file, cut by a hash so that equal things meet in the same part, and one part at
a time is looked at: memory grows neither with the rows nor with their length, only with how many are wrong, and with the
rankings of one prompt by one annotator.
"""

import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from itertools import chain, combinations
from operator import itemgetter
from typing import IO, NamedTuple
from unicodedata import normalize

import numpy as np

from data.schema import AnyRow, Problem, PromptText, Ranking

PARTS = 64
ROLE_AND_CONTENT = itemgetter("role", "content")
SPACES = bytes.maketrans(*(bytes([*range(9, 14), *range(28, 32)]), b" " * 9))
BUFFERED = 1 << 12
"""Numbers of a part, of eight bytes, that are kept in memory before they are written."""


class Clash(NamedTuple):
    """Row `number` on `line` against the earlier row `first_number` on `first_line`."""

    number: int
    line: int
    first_number: int
    first_line: int
    contrary: bool
    """Whether it is the order that clashes, not the id."""


class _Spill:
    """Records of whole numbers, found again by the first of them, a 64-bit hash.

    Two different things out of a million fall together with a chance of 3 in 10^8.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.waiting = [array("q") for _ in range(PARTS)]
        self.written: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]

    def add(self, record: list[int]) -> None:
        number = record[0] % PARTS
        part = self.waiting[number]
        part.fromlist(record)
        if len(part) >= BUFFERED:
            if self.file is None:
                self.file = tempfile.TemporaryFile()
            self.written[number].append((self.file.tell(), part.itemsize * len(part)))
            self.file.write(part)
            del part[:]

    def parts(self) -> Iterator[np.ndarray]:
        """The numbers of each part that has any, in the order in which they came."""
        for waiting, written in zip(self.waiting, self.written, strict=True):
            if not waiting and not written:
                continue
            pieces = [np.array(waiting, dtype=np.int64)]
            for place, size in reversed(written):
                assert self.file is not None
                self.file.seek(place)
                pieces.insert(0, np.frombuffer(self.file.read(size), dtype=np.int64))
            yield np.concatenate(pieces)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class Across:
    """Rows are added one by one, then asked for what is wrong between them."""

    def __init__(self) -> None:
        self.ids = _Spill()
        self.orders = _Spill()
        self.file = ""
        self.starts: list[int] = []
        self.files: list[str] = []

    def add(self, number: int, row: AnyRow, file: str, line: int) -> None:
        """`number` counts rows from 0 and grows."""
        if file != self.file:
            self.file = file
            self.starts.append(number)
            self.files.append(file)
        if row.id != row.source:
            self.ids.add([hash(row.id), number, line])
        if isinstance(row, Ranking):
            whose = hash((row.annotator, folded(row.prompt)))
            given = row.completions
            if len(given) == 2 == len(row.ranking):
                turned = int(row.ranking[0][0] != given[0].id)
                self.orders.add([whose, number, line, 2, hash(given[0].text), hash(given[1].text), turned, 1 - turned])
            else:
                texts = [hash(one.text) for one in given]
                self.orders.add([whose, number, line, len(texts), *texts, *row.ranks()])

    def problems(self) -> Iterator[tuple[int, Problem]]:
        """(number of the later row, problem) for every id given before and every order that goes against one before it,
        by `number`. A row that clashes clashes with no row after it."""
        repeated = list(_repeated(self.ids))
        told = {clash.number for clash in repeated}
        for clash in sorted([*repeated, *_contrary(self.orders, told)]):
            file, first = (self.files[bisect_right(self.starts, n) - 1] for n in (clash.number, clash.first_number))
            where = f"line {clash.first_line}" if first == file else f'line {clash.first_line} of "{first}"'
            if clash.contrary:
                what, fix = f"two completions are ranked the other way round on {where}", "keep one, or name annotators"
            else:
                what, fix = f"the id is also that of {where}", "give every row its own id"
            field = "ranking" if clash.contrary else "id"
            yield clash.number, Problem(file, clash.line, field, what, fix)

    def close(self) -> None:
        self.ids.close()
        self.orders.close()


def folded(prompt: PromptText) -> Hashable:
    """Equal for prompts that have the same `schema.prompt_key`, and made in a fifth of the time."""
    if isinstance(prompt, str):
        return _folded(prompt)
    said = " | ".join(chain.from_iterable(map(ROLE_AND_CONTENT, prompt)))
    # Nobody says " | ", so that what is joined can be told apart again. (A conversation is no text, whatever it says.)
    if said.count("|") < 2 * len(prompt):
        return (_folded(said),)
    return tuple([(turn["role"], _folded(turn["content"])) for turn in prompt])


def _folded(text: str) -> bytes:
    if not text.isascii():
        text = normalize("NFC", text).replace("\n\n", " ").replace("\n", " ")
        # Of all white space only the space is printable.
        text = text if text.isprintable() else " ".join(text.split())
    # Two line breaks are common between words, two spaces are not.
    raw = text.encode("utf-8", "surrogatepass").replace(b"\n\n", b" ").translate(SPACES)
    # `in` would ask first whether two spaces are a number.
    while raw.find(b"  ") >= 0:
        raw = raw.replace(b"  ", b" ")
    return raw.strip()


def _repeated(ids: _Spill) -> Iterator[Clash]:
    for part in ids.parts():
        records = part.reshape(-1, 3)
        order = np.argsort(records[:, 0], kind="stable")
        keys = records[order, 0]
        again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        first = np.searchsorted(keys, keys[again])
        for later, earlier in zip(records[order[again]].tolist(), records[order[first]].tolist(), strict=True):
            yield Clash(later[1], later[2], earlier[1], earlier[2], False)


def _contrary(orders: _Spill, told: set[int]) -> Iterator[Clash]:
    for part in orders.parts():
        starts = _starts(part)
        keys, index, counts = np.unique(part[starts], return_inverse=True, return_counts=True)
        groups: dict[int, list[int]] = {}
        for place in np.flatnonzero(counts[index] > 1).tolist():
            groups.setdefault(int(index[place]), []).append(int(starts[place]))
        for group in groups.values():
            yield from _contrary_in(part, group, told)


def _starts(part: np.ndarray) -> np.ndarray:
    """Where in `part` each record begins; the fourth number of one says how many completions it has."""
    # Of pairs, say, all records have one length.
    size = 4 + 2 * int(part[3])
    if len(part) % size == 0 and (part[3::size] == part[3]).all():
        return np.arange(0, len(part), size)
    starts, place, sizes = [], 0, part.tolist()
    while place < len(sizes):
        starts.append(place)
        place += 4 + 2 * sizes[place + 3]
    return np.array(starts, dtype=np.int64)


def _contrary_in(part: np.ndarray, group: list[int], told: set[int]) -> Iterator[Clash]:
    """Clashes among rankings of one prompt by one annotator."""
    better: dict[tuple[int, int], tuple[int, int]] = {}
    for start in group:
        number, line, many = part[start + 1 : start + 4].tolist()
        if number in told:
            continue
        texts = part[start + 4 : start + 4 + many].tolist()
        ranks = part[start + 4 + many : start + 4 + 2 * many].tolist()
        ordered = sorted(zip(ranks, texts, strict=True))
        pairs = [(high, low) for (rank, high), (next, low) in combinations(ordered, 2) if rank < next and high != low]
        against = [better[low, high] for high, low in pairs if (low, high) in better]
        if against:
            yield Clash(number, line, *min(against), True)
        else:
            for pair in pairs:
                better.setdefault(pair, (number, line))
