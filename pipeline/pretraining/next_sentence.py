"""What follows what? Documents cut into passages, and each passage drawn as a pair: a sentence's true continuation, or another document's.

Devlin et al. 2019 (1810.04805), section 3.1: half of the pairs are true. Here what is no continuation is that of another passage with about
as many tokens, exchanged two by two: both labels have the same segments and the same lengths, so that nothing tells them apart but what is
said. Where words and sentences begin is marked in the highest bits of the tokens, so that a corpus is one array, in a file or in memory.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.pretraining.sentences import sentences, wide

SENTENCE, WORD = 1 << 31, 1 << 30  # marks of a token with which one begins
TOKEN = WORD - 1
AT_ONCE = 256  # documents that are tokenised together
TRAINING, ASKED = 1, 2
"""What pairs are drawn for, last in the seed of their random numbers: numpy takes [seed, epoch], by which rows are shuffled, and [seed, epoch, 0] for one."""
SEARCHED = 64  # passages that are looked at for one to exchange with: many may be of one document, or end alike


@dataclass(frozen=True)
class Passage:
    """Sentences of one document that stand one after another, without special tokens."""

    document: int
    ids: list[int]
    words: list[int]  # places in ids where a word begins, the first 0: what is masked together
    sentences: list[int]  # places in ids where a sentence begins, the first 0


@dataclass(frozen=True)
class Passages(Sequence[Passage]):
    """All passages of a corpus, each read from its tokens when it is asked for."""

    tokens: NDArray[np.uint32]  # of all documents, marked
    bounds: NDArray[np.int64]  # (P, 2): where in tokens a passage begins and ends
    documents: NDArray[np.int64]  # (P,)
    seams: NDArray[np.int64]  # (S,) places in tokens where a sentence begins within a passage, ascending
    first_seam: NDArray[np.int64]  # (P + 1,): those of passage i are seams[first_seam[i] : first_seam[i + 1]]

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, i: int) -> Passage:  # type: ignore[override]
        part = np.asarray(self.tokens[slice(*self.bounds[i])])
        marks = [sorted({0, *np.flatnonzero(part & np.uint32(mark)).tolist()}) for mark in (WORD, SENTENCE)]
        return Passage(int(self.documents[i]), (part & np.uint32(TOKEN)).tolist(), *marks)

    def lengths(self) -> NDArray[np.int64]:
        """(P,) tokens."""
        return self.bounds[:, 1] - self.bounds[:, 0]

    def pairable(self) -> NDArray[np.bool_]:
        """(P,): which passages have two sentences."""
        return np.diff(self.first_seam) > 0

    def tail(self, i: int, seam: int) -> NDArray[np.uint32]:
        """The tokens of passage i from its place `seam` on."""
        return np.asarray(self.tokens[self.bounds[i, 0] + seam : self.bounds[i, 1]]) & np.uint32(TOKEN)


@dataclass(frozen=True)
class Pair:
    """How a passage is read in one turn: up to `seam`, then from `other_seam` of passage `other` on. Without a seam it is read alone."""

    passage: int
    seam: int | None = None
    other: int = -1
    other_seam: int = 0

    @property
    def follows(self) -> bool:
        return self.other == self.passage


def marked(texts: Iterable[str], rules: Tokenizer) -> Iterator[list[int]]:
    """The tokens of each text, those with which a word or a sentence begins marked. Nothing stands before or after them."""
    rest = iter(texts)
    while part := list(islice(rest, AT_ONCE)):
        for text, found in zip(part, rules.encode_batch(part, add_special_tokens=False), strict=True):
            ids = list(found.ids)
            for starts, mark in (
                (_word_starts(text, found.offsets), WORD),
                (_sentence_starts(text, found.offsets), SENTENCE),
            ):
                for at in starts:
                    ids[at] |= mark
            yield ids


def passages_of(tokens: NDArray[np.uint32], starts: Sequence[int] | NDArray[np.int64], most: int) -> Passages:
    """Documents as passages of up to `most` tokens, as many whole sentences as go into one; a sentence longer than that is cut.

    tokens (T,) marked, starts (D + 1,) where each document begins, and T. A document of no tokens has no passage.
    """
    bounds, documents = list[tuple[int, int]](), list[int]()
    begins = np.flatnonzero(np.asarray(tokens) & np.uint32(SENTENCE))
    for number, (first, last) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        inside = begins[slice(*np.searchsorted(begins, (first + 1, last)))].tolist()
        cuts, start = list[int](), int(first)
        for begin, end in zip([first, *inside], [*inside, last], strict=True):
            if end - start > most and begin > start:
                cuts.append(start := int(begin))
            while end - start > most:
                cuts.append(start := start + most)
        edges = [int(first), *cuts, int(last)]
        bounds += [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]
        documents += [number] * (len(bounds) - len(documents))
    found = np.array(bounds, dtype=np.int64).reshape(-1, 2)
    owner = np.searchsorted(found[:, 0], begins, side="right") - 1
    within = begins > found[owner, 0] if len(found) else np.zeros(0, dtype=bool)
    counts = np.bincount(owner[within], minlength=len(found))
    return Passages(
        tokens, found, np.array(documents, dtype=np.int64), begins[within], np.concatenate([[0], np.cumsum(counts)])
    )


def of_texts(texts: Iterable[str], rules: Tokenizer, most: int) -> Passages:
    """The passages of texts, in memory."""
    documents = list(marked(texts, rules))
    starts = np.cumsum([0, *map(len, documents)])
    return passages_of(np.array([token for ids in documents for token in ids], dtype=np.uint32), starts, most)


def _sentence_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The first token of each sentence; a token that reaches over an end belongs to what follows."""
    ends = np.array([end for _, end in offsets])
    lengths = np.cumsum([0, *map(len, sentences(text)[:-1])])
    return sorted({int(at) for at in np.searchsorted(ends, lengths, side="right") if at < len(offsets)})


def _word_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The first token of each word. Tokens that share a character are one word, and so are those of a word in a script with spaces;
    elsewhere, as in Chinese, each token is one, made of whole characters."""
    starts = [0] if offsets else []
    for at in range(1, len(offsets)):
        (_, before), (begin, _) = offsets[at - 1], offsets[at]
        inside = begin == before and 0 < begin < len(text) and _letter(text[begin - 1]) and _letter(text[begin])
        if not (begin < before or inside):
            starts.append(at)
    return starts


def _letter(character: str) -> bool:
    """Whether a character is part of a word, in a script with spaces between words."""
    return (character.isalpha() or unicodedata.category(character).startswith("M")) and not wide(character)


def drawn(passages: Passages, seed: int, turn: int, what_for: int = TRAINING) -> list[Pair]:
    """How each passage is read in turn `turn`: a seam between two of its sentences, and for half of those that have one a continuation of
    another document. Passages of one sentence are read alone.

    As many pairs are true as are not, up to three more where the number does not come out even, or no other document fits.
    """
    rng = np.random.default_rng([seed, turn, what_for])
    some, counts = np.flatnonzero(passages.pairable()), np.diff(passages.first_seam)
    picked = passages.seams[passages.first_seam[some] + rng.integers(counts[some])] - passages.bounds[some, 0]
    seams = dict(zip(some.tolist(), picked.tolist(), strict=True))
    order = rng.permutation(some).tolist()
    exchanged = _exchanged(passages, seams, order[: len(order) // 2])
    return [
        Pair(i, seams[i], (j := exchanged.get(i, i)), seams[j]) if i in seams else Pair(i) for i in range(len(passages))
    ]


def _exchanged(passages: Passages, seams: dict[int, int], picked: Sequence[int]) -> dict[int, int]:
    """passage -> the passage whose continuation it gets: two exchange theirs, three where one is left over. Those for which there is no
    other document are left out."""
    lengths, documents = passages.lengths().tolist(), passages.documents.tolist()

    def fits(i: int, j: int) -> bool:
        own, other = (passages.tail(one, seams[one]) for one in (i, j))
        return documents[i] != documents[j] and not np.array_equal(own, other)

    def length(i: int) -> int:
        return int(lengths[i]) - seams[i]

    found, waiting, alone = dict[int, int](), list[int](), list[int]()
    for i in sorted(picked, key=length):  # of equal lengths as they were drawn
        partner = next((j for j in waiting if fits(i, j)), None)
        if partner is not None:
            waiting.remove(partner)
            found |= {i: partner, partner: i}
            continue
        waiting.append(i)
        if len(waiting) > SEARCHED:
            alone.append(waiting.pop(0))
    given = {j: i for i, j in found.items()}  # who gets the continuation of j
    for i in (*alone, *waiting):
        near = sorted(given, key=lambda j: abs(length(j) - length(i)))[:SEARCHED]
        j = next((j for j in near if fits(i, j) and fits(given[j], i)), None)
        if j is not None:  # i takes that of j, and who had that of j takes that of i
            found |= {given[j]: i, i: j}
            given |= {i: given[j], j: i}
    return found
