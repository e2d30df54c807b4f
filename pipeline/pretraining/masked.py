"""Which tokens does a model have to guess? Rows of [CLS] A [SEP] B [SEP] with masked words, each made from the seed and its place alone.

Devlin et al. 2019, section 3.1: 15% of the tokens are to be guessed, of which 80% read [MASK], 10% another token and 10% stay. Whole words
are picked (github.com/google-research/bert, Whole Word Masking); in Chinese, which writes no spaces, whole characters: a byte of one says
the others. transformers' DataCollatorForLanguageModeling does not serve here: with whole words it knows no 80/10/10, it draws
special tokens as random ones, and its random numbers are those of the batches before, which a resumed run does not read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.pretraining.next_sentence import ASKED, Pair, Passages, drawn

SHARE = 0.15  # of a row's tokens is guessed
MASKED, RANDOM = 0.8, 0.1  # of those read [MASK], or another token
IGNORED = -100  # the label of what is not learned, as transformers has it
FOLLOWS, OTHER = 0, 1  # the labels of BertForPreTraining
SPECIALS = 3  # of a pair: [CLS], [SEP], [SEP]
_MASKS, _HIDDEN = 3, 4  # as next_sentence.TRAINING


@dataclass(frozen=True)
class Vocabulary:
    """The special tokens of a row by their ids, and the ids that a random token is drawn from: all that are not special."""

    cls: int
    sep: int
    mask: int
    pad: int
    ordinary: NDArray[np.int64]

    @staticmethod
    def of(tokenizer: Any) -> "Vocabulary":
        """Raises ValueError where the tokenizer lacks one of the special tokens."""
        names = ("cls_token", "sep_token", "mask_token", "pad_token")
        if lacking := [name for name in names if getattr(tokenizer, f"{name}_id") is None]:
            raise ValueError(f"the tokenizer has no {', '.join(lacking)}")
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
        cls, sep, mask, pad = (getattr(tokenizer, f"{name}_id") for name in names)
        return Vocabulary(cls, sep, mask, pad, ordinary)


def row_of(pair: Pair, passages: Passages, vocabulary: Vocabulary, most: int) -> dict[str, Any]:
    """The pair as BERT reads it: {"input_ids", "token_type_ids" (L,) int, "words": a list of places a word, "next_sentence_label"}.

    Where two passages together have more than `most` tokens, the first loses its beginning: the seam is what is judged.
    """
    first = passages[pair.passage]
    if pair.seam is None:
        parts, label = [(first.ids, first.words)], IGNORED
    else:
        second, at = passages[pair.other], pair.other_seam
        b = (second.ids[at:], [w - at for w in second.words if w >= at])
        start = max(0, pair.seam + len(b[0]) + SPECIALS - most)
        a = (first.ids[start : pair.seam], [w - start for w in first.words if start <= w < pair.seam])
        parts, label = [a, b], FOLLOWS if pair.follows else OTHER
    ids, types, words = [vocabulary.cls], [0], list[list[int]]()
    for number, (tokens, begins) in enumerate(parts):
        begins = sorted({0, *begins})
        ends = [*begins[1:], len(tokens)]
        words += [list(range(len(ids) + x, len(ids) + y)) for x, y in zip(begins, ends, strict=True)]
        ids += [*tokens, vocabulary.sep]
        types += [number] * (len(tokens) + 1)
    return {"input_ids": ids, "token_type_ids": types, "words": words, "next_sentence_label": label}


def hidden(row: dict[str, Any], vocabulary: Vocabulary, rng: np.random.Generator, training: bool) -> dict[str, Any]:
    """The row with "labels", and with what is to be guessed replaced in "input_ids": round(15%) of its tokens, one at least, in whole words.

    Words are taken in a random order while they fit, as Google's code does. Where it is not `training`, all of them read [MASK], so
    that none can be copied.
    """
    ids, words = list(row["input_ids"]), row["words"]
    wanted = max(1, round(SHARE * sum(map(len, words))))
    picked = list[int]()
    for i in rng.permutation(len(words)):
        if len(picked) + len(words[i]) <= wanted or not picked:
            picked += words[i]
        if len(picked) >= wanted:
            break
    labels = [IGNORED] * len(ids)
    drawn_as, others = rng.random(len(picked)), rng.choice(vocabulary.ordinary, len(picked))
    for place, how, other in zip(picked, drawn_as.tolist(), others.tolist(), strict=True):
        labels[place] = ids[place]
        if not training or how < MASKED:
            ids[place] = vocabulary.mask
        elif how < MASKED + RANDOM:
            ids[place] = other
    return {
        "input_ids": ids,
        "token_type_ids": row["token_type_ids"],
        "labels": labels,
        "next_sentence_label": row["next_sentence_label"],
    }


class Drawn:
    """One row a call, made from the seed, the passage and the number of the draw alone: as `objective.Rows` has it."""

    def __init__(self, passages: Passages, vocabulary: Vocabulary, most: int, seed: int):
        self.passages, self.vocabulary, self.most, self.seed = passages, vocabulary, most, seed
        self._pairs = dict[int, list[Pair]]()

    def __call__(self, number: int, draw: int) -> dict[str, Any]:
        row = row_of(self._turn(draw // len(self.passages))[number], self.passages, self.vocabulary, self.most)
        return hidden(row, self.vocabulary, np.random.default_rng([self.seed, draw, _MASKS]), training=True)

    def _turn(self, turn: int) -> list[Pair]:
        """Seams and exchanged continuations are others in each epoch."""
        if turn not in self._pairs:
            self._pairs = {turn: drawn(self.passages, self.seed, turn)}
        return self._pairs[turn]


def held_out_rows(passages: Passages, vocabulary: Vocabulary, most: int, seed: int) -> list[dict[str, Any]]:
    """Each held-out passage once, the same for every model of a seed, with all that is guessed hidden."""
    return [
        hidden(
            row_of(pair, passages, vocabulary, most),
            vocabulary,
            np.random.default_rng([seed, pair.passage, _HIDDEN]),
            training=False,
        )
        for pair in drawn(passages, seed, 0, ASKED)
    ]


@dataclass(frozen=True)
class MaskedCollator:
    """Rows as tensors, padded on the right: input_ids, attention_mask, token_type_ids, labels (B, L) int64, next_sentence_label (B,) int64."""

    pad: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        def padded(name: str, value: int) -> Tensor:
            return nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], True, value)

        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        ids = padded("input_ids", self.pad)
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long(),
            "token_type_ids": padded("token_type_ids", 0),
            "labels": padded("labels", IGNORED),
            "next_sentence_label": torch.tensor([row["next_sentence_label"] for row in rows]),
        }
