"""Is what is hidden of a document what Raffel et al. 2020 hide, said in their order, and measured as transformers' own T5 does?"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import TINY, sentences

from pipeline.artifacts.errors import ArtifactError
from pipeline.pretraining import span
from pipeline.pretraining.objective import HeldOut, saved_fresh
from pipeline.pretraining.span import SPAN, SpanTrainer, corrupted, counts, cut, longest
from pipeline.pretraining.tokenizer import encoder, learned, opened, saved
from pipeline.pretraining.tokens import Tokens, encoded
from pipeline.settings.pretrain import Pretrain
from policies.precision import Held
from policies.template import encode_completion, encode_prompt

OWN = TINY | {"objective": "span", "vocab_size": 384}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretrain, Any, Any]:
    """(section, tokenizer, a model with random weights)."""
    folder = tmp_path_factory.mktemp("span")
    section = Pretrain(source="a.txt", **OWN)
    rules = learned(sentences(160), section, SPAN.special, SPAN.extra)
    tokenizer = saved(rules, SPAN.special, section, folder, SPAN.extra)
    saved_fresh(SPAN, section, tokenizer, folder, 0)
    tokenizer = opened(folder)
    return section, tokenizer, SPAN.load(folder, tokenizer, Held(torch.float32))


def tokens(rows: list[list[int]]) -> Tokens:
    starts = np.cumsum([0, *map(len, rows)])
    return Tokens(np.concatenate([np.asarray(row, dtype=np.uint32) for row in rows]), starts)


def test_the_example_of_the_paper() -> None:
    """Figure 2: "Thank you for inviting me to your party last week"."""
    text = "Thank you for inviting me to your party last week".split()
    read, said = corrupted(text, [(2, 4), (8, 9)], ["<X>", "<Y>", "<Z>"])  # type: ignore[arg-type]
    assert " ".join(read) == "Thank you <X> me to your party <Y> week"  # type: ignore[arg-type]
    assert " ".join(said) == "<X> for inviting <Y> last <Z>"  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "hidden", "spans"), [(2, 1, 1), (5, 1, 1), (10, 2, 1), (100, 15, 5), (512, 77, 26)])
def test_fifteen_percent_are_hidden_in_spans_of_three(length: int, hidden: int, spans: int) -> None:
    """The figures of T5's random_spans_noise_mask at density 0.15 and mean 3."""
    assert counts(length) == (hidden, spans)
    for seed in range(20):
        found = cut(length, np.random.default_rng(seed))
        assert len(found) == spans and sum(end - start for start, end in found) == hidden
        borders = [0, *(border for one in found for border in one), length]
        assert all(a < b for a, b in zip(borders[:-2], borders[1:-1], strict=True)) and borders[-2] <= length


def test_a_short_text_loses_any_part_of_it() -> None:
    found = Counter(cut(10, np.random.default_rng(seed))[0] for seed in range(2000))
    assert set(found) == {(start, start + 2) for start in range(1, 9)} and min(found.values()) > 180


def test_every_way_to_cut_is_as_likely_as_another() -> None:
    """Seven tokens in three parts: fifteen ways."""
    rng = np.random.default_rng(0)
    seen = Counter(tuple(span._parts(7, 3, rng)) for _ in range(15_000))
    assert len(seen) == 15 and all(sum(one) == 7 and min(one) >= 1 for one in seen)
    assert max(seen.values()) < 1150 and min(seen.values()) > 850


def test_a_row_says_all_that_its_document_hides(small: tuple[Pretrain, Any, Any]) -> None:
    """Put back into their places the spans give the document; long documents in parts, each that the model can read; drawn anew each time."""
    section, tokenizer, _ = small
    rows = list(encoded([*sentences(20), " ".join(sentences(12, 3))], encoder(tokenizer), [], []))
    lengths, row = SPAN.rows(tokens(rows), tokenizer, section, 0)
    marks = span.sentinels_of(tokenizer)
    again = list[int]()
    for number in range(len(lengths)):
        one = row(number, number)
        assert len(one["input_ids"]) <= section.max_length and one == row(number, number)
        assert one["input_ids"].pop() == one["labels"].pop() == tokenizer.eos_token_id
        parts = dict[int, list[int]]()
        for token in one["labels"]:
            if token in marks:
                parts[token] = []
            else:
                parts[list(parts)[-1]].append(token)
        assert list(parts) == marks[: len(parts)] and parts[marks[len(parts) - 1]] == []
        again += [back for token in one["input_ids"] for back in (parts[token] if token in parts else [token])]
    assert again == [token for ids in rows for token in ids] and sum(lengths) == len(again)
    assert len(lengths) > len(rows) and any(row(n, 0) != row(n, 1) for n in range(4))


@pytest.mark.parametrize("most", [16, 32, 100, 512])
def test_the_longest_part_fills_what_the_model_reads(most: int) -> None:
    length = longest(Pretrain(**(OWN | {"max_length": most})))
    read = [n - hidden + spans + 1 for n in (length, length + 1) for hidden, spans in [counts(n)]]
    assert read[0] <= most < read[1] and length >= most


def test_hidden_bits_are_the_loss_of_transformers_own_t5(small: tuple[Pretrain, Any, Any]) -> None:
    """Each held-out part once, alone and unpadded, ends and sentinels paid for; bytes are those of what is hidden."""
    section, tokenizer, model = small
    texts = [*sentences(6, seed=5), " ".join(sentences(9, seed=6)), "好书 ñ"]
    ids = list(encoded(texts, encoder(tokenizer), [], []))
    held_out = HeldOut(texts, ids, sum(len(text.encode()) for text in texts))
    total, hidden, read_back = 0.0, 0, b""
    for read, wanted in span.asked(tokenizer, section, held_out):
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([read[:-1]]), labels=torch.tensor([wanted])).loss.item()
        total += loss * len(wanted)
        hidden += sum(len(tokenizer.convert_ids_to_tokens(token)) for token in wanted if token >= 102)
        read_back += "".join(tokenizer.convert_ids_to_tokens(t) for t in read[:-2] if t >= 102).encode("utf-16-le")
    assert len(read_back) // 2 + hidden == held_out.bytes  # what is read and what is hidden are all bytes
    found = SPAN.measured(model, tokenizer, section, held_out)["hidden_bits_per_byte"]
    assert found == pytest.approx(total / math.log(2) / hidden, rel=1e-5)


def test_the_baseline_pays_for_hidden_tokens_alone(small: tuple[Pretrain, Any, Any]) -> None:
    section, tokenizer, _ = small
    train = tokens([[110, 110, 111], [110, 112]])
    held_out = HeldOut(["xy"], [[110, 111]], 2)
    (_, said) = span.asked(tokenizer, section, held_out)[0]
    assert said[1] == 111  # a row begins with what is read
    wanted = -math.log2((1 + 1) / (5 + 384)) / len(tokenizer.convert_ids_to_tokens(111))
    assert SPAN.baselines(train, tokenizer, section, held_out)["hidden_bits_per_byte_unigram"] == pytest.approx(wanted)


def test_micro_batches_of_other_sizes_have_one_loss(small: tuple[Pretrain, Any, Any], tmp_path: Path) -> None:
    """Four rows at once, or the shortest apart from the others: the gradient is that of the mean over all that is said."""
    section, tokenizer, model = small
    lengths, row = SPAN.rows(tokens(list(encoded(sentences(9), encoder(tokenizer), [], []))), tokenizer, section, 0)
    rows = [row(n, n) for n in range(4)]
    trainer = SpanTrainer.__new__(SpanTrainer)
    trainer.accelerator = type("One", (), {"num_processes": 1})()
    said = sum(len(one["labels"]) for one in rows)
    whole = trainer.compute_loss(model, SPAN.collate(rows), num_items_in_batch=said)
    parts = [trainer.compute_loss(model, SPAN.collate(part), num_items_in_batch=said) for part in (rows[:1], rows[1:])]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)
    assert trainer.compute_loss(model, SPAN.collate(rows)).item() == pytest.approx(whole.item(), rel=1e-5)


def test_what_sft_teaches_is_read_as_a_document_is(small: tuple[Pretrain, Any, Any]) -> None:
    """The prompt goes to the encoder with EOS behind it, as documents do; the completion is the decoder's, with EOS."""
    _, tokenizer, _ = small
    prompt, completion = encode_prompt(tokenizer, "the cat"), encode_completion(tokenizer, "the cat", " sees")
    assert prompt[:-1] == [*encoder(tokenizer).encode("the cat", add_special_tokens=False).ids, tokenizer.eos_token_id]
    assert prompt[-1] == span.START and completion[-1] == tokenizer.eos_token_id


def test_what_cannot_be_hidden_is_refused(small: tuple[Pretrain, Any, Any]) -> None:
    section, tokenizer, _ = small
    with pytest.raises(ArtifactError, match=r"pretrain\.source: no document of a\.txt has two tokens"):
        SPAN.rows(tokens([[110], [111]]), tokenizer, section, 0)
    with pytest.raises(ValueError, match=r"vocab_size: 300 tokens have no room .* set it to 364"):
        Pretrain(**(OWN | {"vocab_size": 300}))
