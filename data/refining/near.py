"""Which texts say almost the same?

Candidates come from MinHash signatures cut into bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4). Each is then verified by its real similarity, so that no pair rests on an estimate.
"""

import math
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from data.units import pieces

LONG = 40
"""Words from which a text is compared by its words; a shorter one has too few runs of three for a fine measure."""
WORDS, CHARACTERS = 3, 5
"""How many words, or characters, make a shingle."""
HASHES = 128
FOUND = 0.995
"""At least so likely does a pair exactly at the threshold become a candidate; more similar ones are likelier."""
CROWD = 10
"""Of many texts that have a band in common, each is compared with so many of the first: a template used 100,000 times
would make 5 · 10^9 pairs."""

KNOWN_WORDS = 1_000_000
BATCH = 2048
"""Texts whose signatures are made in one call: bounds the copies of their shingles."""
BASE = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def similarity(first: str, second: str) -> float:
    """Jaccard similarity (0 to 1) of the shingles of two texts, after NFC, case folding and white space as one space.

    Shingles are runs of three words where both texts have `LONG` words or more, else runs of five characters; a text
    with fewer than that is one shingle. Where a script sets no spaces each character is a word (`data.units`).
    """
    texts = [_folded(text) for text in (first, second)]
    words = [pieces(text) for text in texts]
    by_words = min(map(len, words)) >= LONG
    units: Sequence[Sequence[str]] = words if by_words else texts
    one, other = (_runs(unit, WORDS if by_words else CHARACTERS) for unit in units)
    return len(one & other) / len(one | other)


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of positions, sorted, of texts whose `similarity` is `threshold` or more.

    Every pair given is a real one; of those there are, about one in 200 at the threshold itself is not found, far
    fewer above. To stay fast on any data three kinds of pairs are not looked for: a copy (equal after folding) is
    paired with the first of its kind only; of a crowd in one band each is compared with the first `CROWD`; a text of
    LONG / threshold words or more is not compared with one of fewer than `LONG`. The same texts always give the same
    pairs.
    Raises ValueError unless 0 < threshold <= 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    pairs: list[tuple[int, int]] = []
    first: dict[bytes, int] = {}
    by_words, by_characters = _Group(), _Group()
    word_hashes: dict[str, int] = {}
    for place, text in enumerate(texts):
        folded = _folded(text)
        earlier = first.setdefault(_digest(folded, 16), place)
        if earlier != place:
            pairs.append((earlier, place))
            continue
        words = pieces(folded)
        is_long = len(words) >= LONG
        if is_long:
            by_words.add(place, _shingles(_word_units(words, word_hashes), WORDS), is_long)
        if len(words) * threshold < LONG:
            by_characters.add(place, _shingles(_character_units(folded), CHARACTERS), is_long)
    pairs += by_words.pairs(threshold)
    # Two long texts are the business of the other group.
    pairs += by_characters.pairs(threshold, leave_long=True)
    return sorted(pairs)


def clusters(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """For each text the position of the first in its cluster: texts that a chain of `near_duplicates` connects."""
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for earlier, later in near_duplicates(texts, threshold):
        one, other = root(earlier), root(later)
        parent[max(one, other)] = min(one, other)
    return [root(place) for place in range(len(texts))]


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.split())


def _runs(units: Sequence[str], width: int) -> set[tuple[str, ...]]:
    width = min(width, len(units))
    return {tuple(units[start : start + width]) for start in range(len(units) - width + 1)}


class _Group:
    """Texts that are compared with one another by shingles of one kind."""

    def __init__(self) -> None:
        self.places: list[int] = []
        self.shingles: list[Hashes] = []
        self.long: list[bool] = []

    def add(self, place: int, shingles: Hashes, is_long: bool) -> None:
        self.places.append(place)
        self.shingles.append(shingles)
        self.long.append(is_long)

    def pairs(self, threshold: float, leave_long: bool = False) -> list[tuple[int, int]]:
        if len(self.places) < 2:
            return []
        signatures = _signatures(self.shingles)
        first, later = _candidates(signatures, _rows(threshold))
        if leave_long:
            long = np.array(self.long)
            mixed = ~(long[first] & long[later])
            first, later = first[mixed], later[mixed]
        promising = _promising(first, later, signatures, np.array([len(one) for one in self.shingles]), threshold)
        return [
            (self.places[one], self.places[other])
            for one, other in zip(first[promising].tolist(), later[promising].tolist(), strict=True)
            if _jaccard(self.shingles[one], self.shingles[other]) >= threshold
        ]


def _rows(threshold: float) -> int:
    """Signature values in a band: as many as still find a pair at the threshold with probability FOUND."""
    fits = [rows for rows in range(1, HASHES + 1) if 1 - (1 - threshold**rows) ** (HASHES // rows) >= FOUND]
    return max(fits, default=1)


def _signatures(shingles: Sequence[Hashes]) -> NDArray[np.uint32]:
    """(N, HASHES) uint32, one row a text."""
    # A data set may well be read without ever being searched for near-duplicates.
    from rensa import RMinHash

    parts = []
    for start in range(0, len(shingles), BATCH):
        part = shingles[start : start + BATCH]
        offsets = np.cumsum([0, *map(len, part)], dtype=np.uint64)
        made = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(part), offsets, HASHES, 0)
        parts.append(np.array(made.to_rows(), dtype=np.uint32))
    return np.concatenate(parts)


def _candidates(signatures: NDArray[np.uint32], rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, later): positions of texts that have one band in common, each pair once."""
    count = len(signatures)
    found = np.empty(0, dtype=np.int64)
    for start in range(0, HASHES - rows + 1, rows):
        keys = np.zeros(count, dtype=np.uint64)
        for column in signatures[:, start : start + rows].T:
            keys = _mixed(keys * BASE + column)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        begin = np.repeat(starts, np.diff(np.r_[starts, count]))
        here = np.arange(count)
        new = [found]
        for nth in range(CROWD):
            here = here[here - begin[here] > nth]
            if not len(here):
                break
            new.append(order[begin[here] + nth] * count + order[here])
        found = np.unique(np.concatenate(new))
    return found // count, found % count


def _promising(
    first: NDArray[np.int64],
    later: NDArray[np.int64],
    signatures: NDArray[np.uint32],
    sizes: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.bool_]:
    """Candidates that are worth their verification: sizes that allow the similarity, and an estimate that is not five
    standard deviations below it."""
    lowest = threshold - 5 * math.sqrt(threshold * (1 - threshold) / HASHES)
    kept = np.minimum(sizes[first], sizes[later]) >= threshold * np.maximum(sizes[first], sizes[later]) - 1e-9
    for start in range(0, len(first), 65536):
        part = slice(start, start + 65536)
        kept[part] &= (signatures[first[part]] == signatures[later[part]]).mean(axis=1) >= lowest
    return kept


def _jaccard(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _word_units(words: Sequence[str], known: dict[str, int]) -> Hashes:
    if len(known) > KNOWN_WORDS:
        known.clear()
    for word in words:
        if word not in known:
            known[word] = int.from_bytes(_digest(word, 8), "little")
    return np.array([known[word] for word in words], dtype=np.uint64)


def _character_units(text: str) -> Hashes:
    return _mixed(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64))


def _shingles(units: Hashes, width: int) -> Hashes:
    """Hashes of all runs of `width` units (N,), sorted, each once. Two of a million runs fall together with a chance of
    3 in 10^8."""
    width = min(width, len(units))
    count = len(units) - width + 1
    total = np.full(count, width, dtype=np.uint64)
    for start in range(width):
        total = total * BASE + units[start : start + count]
    return np.unique(_mixed(total))


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of MurmurHash3: every bit of a value changes about half of the bits that come out."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _digest(text: str, size: int) -> bytes:
    # Python's own hash differs from run to run.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
