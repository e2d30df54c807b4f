"""Is what a model has to guess drawn as the paper says, never a special token, and the same wherever training goes on?"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from corpus_of_pairs import SPECIAL, stories, tokenizer_of

from pipeline.pretraining.masked import (
    FOLLOWS,
    IGNORED,
    OTHER,
    Drawn,
    MaskedCollator,
    Vocabulary,
    held_out_rows,
    hidden,
    row_of,
)
from pipeline.pretraining.next_sentence import Pair, Passage, Passages, drawn, of_texts
from pipeline.pretraining.tokenizer import encoder
from pipeline.settings.pretrain import Encoder
from pipeline.training.trainers import batched_order

MOST = 48
TEXTS = stories()
TOKENIZER = tokenizer_of(TEXTS)
WORDS = Vocabulary.of(TOKENIZER)
PASSAGES = of_texts(TEXTS, encoder(TOKENIZER), MOST - 3)


def cut(texts: list[str], most: int = MOST, tokenizer: Any = TOKENIZER) -> Passages:
    return of_texts(texts, encoder(tokenizer), most)


# Passages


def test_a_passage_is_whole_sentences_and_its_words_are_whole() -> None:
    assert [p.document for p in PASSAGES] == list(range(len(TEXTS)))
    for text, passage in zip(TEXTS, PASSAGES, strict=True):
        assert TOKENIZER.decode(passage.ids) == text
        assert len(passage.sentences) == 2
        second = TOKENIZER.decode(passage.ids[passage.sentences[1] :])
        assert second.strip() == text[1 + max(text.index(end) for end in ".。" if end in text[:-1]) :].strip()
    for text, passage in list(zip(TEXTS, PASSAGES, strict=True))[:8]:
        ends = [*passage.words[1:], len(passage.ids)]
        words = [TOKENIZER.decode(passage.ids[a:b]) for a, b in zip(passage.words, ends, strict=True)]
        assert "".join(words) == text and "\ufffd" not in "".join(words)
        if text.startswith("The"):
            assert {"The", " came", " like"} <= set(words)


def test_a_character_of_several_tokens_is_one_word() -> None:
    """A tokenizer of bytes alone: three tokens a Chinese character, one a letter."""
    bytes_alone = tokenizer_of(["a"], 260)
    (passage,) = cut(["影评 ab c1, 好"], 100, bytes_alone)
    ends = [*passage.words[1:], len(passage.ids)]
    words = [bytes_alone.decode(passage.ids[a:b]) for a, b in zip(passage.words, ends, strict=True)]
    assert words == ["影", "评", " ", "ab", " ", "c", "1", ",", " ", "好"] and len(passage.ids) == 17


def test_a_long_document_is_several_passages_and_a_long_sentence_is_cut() -> None:
    text = "One two three four. " * 6 + "x" * 300
    found = list(cut([text, "", "Short."], 40))
    assert [p.document for p in found] == [0] * (len(found) - 1) + [2]
    assert "".join(TOKENIZER.decode(p.ids) for p in found[:-1]) == text
    assert max(len(p.ids) for p in found) == 40 and all(p.words[0] == p.sentences[0] == 0 for p in found)


def test_text_that_reads_like_a_special_token_is_text() -> None:
    (passage,) = cut(["A [MASK] and [SEP]. [CLS] here."])
    assert not {*TOKENIZER.all_special_ids} & {*passage.ids}
    assert TOKENIZER.decode(passage.ids) == "A [MASK] and [SEP]. [CLS] here."


# Pairs


@pytest.mark.parametrize("count", [160, 161, 163, 7])
def test_half_of_the_pairs_are_true_and_no_label_is_wrong(count: int) -> None:
    passages = cut(stories(count))
    for turn in range(3):
        pairs = drawn(passages, 1, turn)
        true = [pair.follows for pair in pairs]
        assert abs(2 * sum(true) - count) <= 3
        assert Counter(pair.other for pair in pairs) == Counter(range(count))  # each continuation is read once
        for pair in pairs:
            own = passages[pair.passage]
            other = passages[pair.other].ids[pair.other_seam :]
            assert pair.seam in own.sentences[1:]
            assert pair.follows == (own.ids[pair.seam :] == other)
            if not pair.follows:
                assert own.document != passages[pair.other].document
    assert drawn(passages, 1, 0) == drawn(passages, 1, 0) != drawn(passages, 1, 1) != drawn(passages, 2, 1)


def test_pairs_are_drawn_apart_from_the_order_of_rows() -> None:
    """By one seed: a step in which all pairs are true would teach that all are."""
    section = Encoder(batch_size=8, num_train_epochs=2)
    labels = [drawn(PASSAGES, 0, turn) for turn in range(2)]
    order = batched_order([1] * 160, section, 0)
    true = [labels[draw // 160][number].follows for draw, number in enumerate(order)]
    steps = [sum(true[start : start + 8]) for start in range(0, 320, 8)]
    assert np.var(steps) < 2 * 8 / 4 and 0 < min(steps) and max(steps) < 8


def test_lengths_do_not_tell_which_pairs_are_true() -> None:
    """The length of the second segment is about that of the true one: the two labels' lengths are the same, and so is their sum."""
    rng = np.random.default_rng(0)
    texts = [f"{'a ' * rng.integers(1, 30)}. {f'{i} ' * rng.integers(1, 30)}." for i in range(600)]
    passages = cut(texts, 1000)
    off = [
        len(passages[p.other].ids) - p.other_seam - (len(passages[p.passage].ids) - (p.seam or 0))
        for p in drawn(passages, 0, 0)
        if not p.follows
    ]
    assert len(off) == 300 and np.mean(np.abs(off)) < 2 and abs(np.mean(off)) < 0.2


def test_a_document_of_one_sentence_is_no_pair_with_itself() -> None:
    passages = cut(["Alone.", "One. Two.", "Three. Four."])
    pairs = drawn(passages, 0, 0)
    assert pairs[0] == Pair(0)
    row = row_of(pairs[0], passages, WORDS, MOST)
    assert row["next_sentence_label"] == IGNORED and set(row["token_type_ids"]) == {0}
    assert row["input_ids"] == TOKENIZER("Alone.")["input_ids"]


def test_one_document_alone_has_no_other() -> None:
    passages = cut(["One two three. " * 40], 20)
    assert len(passages) > 5 and all(pair.follows for pair in drawn(passages, 0, 0) if pair.seam)


def test_a_pair_reads_as_the_published_tokenizer_writes_it() -> None:
    for pair in drawn(PASSAGES, 0, 0):
        row = row_of(pair, PASSAGES, WORDS, MOST)
        first, second = PASSAGES[pair.passage].ids[: pair.seam], PASSAGES[pair.other].ids[pair.other_seam :]
        written = TOKENIZER(TOKENIZER.decode(first), TOKENIZER.decode(second))
        assert row["input_ids"] == written["input_ids"] and row["token_type_ids"] == written["token_type_ids"]
        assert row["next_sentence_label"] == (FOLLOWS if pair.follows else OTHER)


def test_what_is_too_long_loses_its_beginning() -> None:
    a, b = Passage(0, [10] * 30 + [11], [*range(31)], [0, 30]), Passage(1, [20, *[21] * 24], [*range(25)], [0, 1])
    row = row_of(Pair(0, 30, 1, 1), [a, b], WORDS, 40)
    assert len(row["input_ids"]) == 40 and row["input_ids"].count(21) == 24 and row["input_ids"].count(10) == 13


# Masks


def test_what_is_guessed_is_15_in_100_of_which_80_10_10() -> None:
    """Of 12,000 rows with a fixed seed, each count within four standard deviations of its expectation."""
    words = 20
    passage = Passage(0, [int(i) for i in WORDS.ordinary[: 2 * words]], list(range(0, 2 * words, 2)), [0])
    row = row_of(Pair(0), [passage], WORDS, 60)
    tally, places = Counter[str](), Counter[int]()
    for number in range(12_000):
        made = hidden(row, WORDS, np.random.default_rng([5, number]), training=True)
        for place, (read, label, true) in enumerate(
            zip(made["input_ids"], made["labels"], row["input_ids"], strict=True)
        ):
            assert true == read if label == IGNORED else label == true
            if label != IGNORED:
                places[place] += 1
                tally["mask" if read == WORDS.mask else "kept" if read == true else "random"] += 1
    total = sum(tally.values())
    assert total == 12_000 * 6  # round(0.15 * 40), whole words of two tokens
    assert set(places) == set(range(1, 2 * words + 1))  # [CLS] and [SEP] never
    for place in range(1, 2 * words, 2):
        assert places[place] == places[place + 1]
        assert abs(places[place] - 1800) < 4 * (12_000 * 0.15 * 0.85) ** 0.5
    for name, share in (("mask", 0.8), ("random", 0.1), ("kept", 0.1)):
        assert abs(tally[name] - total * share) < 4 * (total * share * (1 - share)) ** 0.5 + total / len(WORDS.ordinary)


def test_special_tokens_are_never_guessed_and_never_drawn() -> None:
    special = {*TOKENIZER.convert_tokens_to_ids(SPECIAL)}
    assert not special & {*WORDS.ordinary.tolist()} and len(WORDS.ordinary) == len(TOKENIZER) - len(special)
    rows = Drawn(PASSAGES, WORDS, MOST, 3)
    for draw in range(320):
        row = rows(draw % 160, draw)
        assert not special & {label for label in row["labels"] if label != IGNORED}
        assert {*row["input_ids"]} & special <= {WORDS.cls, WORDS.sep, WORDS.mask}
        assert row["input_ids"][0] == WORDS.cls and row["input_ids"][-1] == WORDS.sep


def test_where_the_model_is_measured_everything_guessed_is_hidden() -> None:
    rows = held_out_rows(PASSAGES, WORDS, MOST, 0)
    assert rows == held_out_rows(PASSAGES, WORDS, MOST, 0)
    for row in rows:
        for read, label in zip(row["input_ids"], row["labels"], strict=True):
            assert (read == WORDS.mask) == (label != IGNORED)
    labels = Counter(row["next_sentence_label"] for row in rows)
    assert labels == {FOLLOWS: 80, OTHER: 80} and (FOLLOWS, OTHER) == (0, 1)  # as transformers has them


def test_a_row_is_the_same_whichever_were_read_before() -> None:
    order = np.random.default_rng(0).permutation([*range(160)] * 3).tolist()
    forwards, backwards = (Drawn(PASSAGES, WORDS, MOST, 3) for _ in range(2))
    last = {draw: backwards(order[draw], draw) for draw in reversed(range(len(order)))}
    for draw, number in enumerate(order):
        assert forwards(number, draw) == last[draw]
    first = [forwards(order[0], draw) for draw in range(0, 1600, 160)]
    assert len({str(row["labels"]) for row in first}) > 2 and len({row["next_sentence_label"] for row in first}) == 2
    assert Drawn(PASSAGES, WORDS, MOST, 4)(0, 0) != forwards(0, 0)


def test_rows_become_padded_tensors() -> None:
    drawn_rows = Drawn(PASSAGES, WORDS, MOST, 3)
    rows = [drawn_rows(i, i) for i in range(4)]
    made: dict[str, Any] = MaskedCollator(WORDS.pad)(rows)
    for i in range(4):
        length = len(rows[i]["input_ids"])
        assert made["input_ids"][i, :length].tolist() == rows[i]["input_ids"]
        assert made["attention_mask"][i].tolist() == [1] * length + [0] * (made["labels"].shape[1] - length)
        assert (made["labels"][i, length:] == IGNORED).all() and (made["input_ids"][i, length:] == WORDS.pad).all()


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = tokenizer_of(TEXTS)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="mask_token"):
        Vocabulary.of(tokenizer)
