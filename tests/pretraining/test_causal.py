"""Is what a packed row learns what its documents alone would, and are bits per byte those of whole documents?"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import TINY, sentences
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from pipeline.artifacts.errors import ArtifactError
from pipeline.pretraining import causal
from pipeline.pretraining.causal import CAUSAL, windows
from pipeline.pretraining.objective import HeldOut, saved_fresh
from pipeline.pretraining.tokenizer import encoder, learned, saved
from pipeline.pretraining.tokens import Tokens, encoded
from pipeline.settings.pretrain import Pretrain
from policies.precision import Held

LENGTH = 32


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretrain, Any, Any]:
    """(section, tokenizer, a model with weights that are random and not small)."""
    folder = tmp_path_factory.mktemp(request.param)
    section = Pretrain(source="a.txt", architecture=request.param, **TINY)
    tokenizer = saved(learned(sentences(160), section, CAUSAL.special), CAUSAL.special, section, folder)
    saved_fresh(CAUSAL, section, tokenizer, folder, 0)
    model = CAUSAL.load(folder, tokenizer, Held(torch.float32))
    with torch.no_grad():
        for one in model.parameters():
            if one.dim() > 1:
                one.mul_(8)
    return section, tokenizer, model


def documents(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return list(encoded(texts, encoder(tokenizer), [tokenizer.bos_token_id], [tokenizer.eos_token_id]))


def tokens(rows: list[list[int]]) -> Tokens:
    starts = np.cumsum([0, *map(len, rows)])
    return Tokens(np.concatenate([np.asarray(row, dtype=np.uint32) for row in rows]), starts)


def nats(model: Any, ids: list[int]) -> list[float]:
    """Of every token but the first, by a plain forward of this text alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()


def test_a_document_in_a_row_is_as_it_is_alone(small: tuple[Pretrain, Any, Any]) -> None:
    """The loss of a batch of packed rows, against each part of a document by itself: attention does not cross, positions begin again, and
    nothing is learned of what follows an end."""
    section, tokenizer, model = small
    rows = documents(tokenizer, sentences(30))
    count, row = CAUSAL.rows(tokens(rows), tokenizer, section, 0)
    batch = [row(number, 0) for number in range(3)]
    parts = []
    for one in batch:
        ids = one["input_ids"].tolist()
        cuts = [n for n, token in enumerate(ids) if token == tokenizer.bos_token_id and n] + [len(ids)]
        parts += [ids[start:end] for start, end in zip([0, *cuts], cuts, strict=False) if end > start]
    assert len(parts) > 4 and sum(map(len, parts)) == 3 * LENGTH
    alone = [value for part in parts for value in (nats(model, part) if len(part) > 1 else [])]
    with torch.no_grad():
        loss = model(**CAUSAL.collate(batch)).loss.item()
    assert loss == pytest.approx(sum(alone) / len(alone), rel=1e-5)
    assert (len(count) if isinstance(count, list) else count) == sum(map(len, rows)) // LENGTH


def test_positions_begin_again_with_every_document() -> None:
    assert causal.positions(np.array([7, 8, 2, 1, 5, 1, 2]), 1).tolist() == [0, 1, 2, 0, 1, 0, 1]


@pytest.mark.parametrize("count", [2, 31, 32, 33, 47, 48, 49, 200])
def test_every_token_is_measured_once(count: int) -> None:
    """None but the first is left out, however long the document, and each stands behind at least half of what the model reads."""
    ids = list(range(count))
    found = windows(ids, LENGTH)
    assert [token for _, measured in found for token in measured] == ids[1:]
    for read, measured in found:
        assert len(read) + len(measured) <= LENGTH and read == ids[measured[0] - len(read) : measured[0]]
        assert len(read) >= min(measured[0], LENGTH // 2)


def test_bits_per_byte_are_those_of_a_plain_loop(small: tuple[Pretrain, Any, Any]) -> None:
    """Of documents that fit and of one that does not; every byte counts once, ends are paid for."""
    section, tokenizer, model = small
    texts = [*sentences(6, seed=5), " ".join(sentences(9, seed=6)), "好书 ñ"]
    ids = documents(tokenizer, texts)
    held_out = HeldOut(texts, ids, sum(len(text.encode()) for text in texts))
    total = 0.0
    for one in ids:
        at = 1
        while at < len(one):  # windows by hand: whole, then half of the length as context
            start = 0 if at == 1 else at - LENGTH // 2
            end = min(len(one), start + LENGTH)
            total += sum(nats(model, one[start:end])[at - start - 1 :])
            at = end
    wanted = total / math.log(2) / len("".join(texts).encode())
    assert CAUSAL.measured(model, tokenizer, section, held_out)["bits_per_byte"] == pytest.approx(wanted, rel=1e-5)


def test_the_baseline_knows_how_often_each_token_stands_there(small: tuple[Pretrain, Any, Any]) -> None:
    section, tokenizer, _ = small
    begin, end, a, b = tokenizer.bos_token_id, tokenizer.eos_token_id, 100, 101
    train = tokens([[begin, a, a, b, end], [begin, a, end]])
    held_out = HeldOut(["ab"], [[begin, a, b, end]], 2)
    smoothed = 6 + 300  # tokens but the begins, and one more for each of the vocabulary
    wanted = -sum(math.log2((count + 1) / smoothed) for count in (3, 1, 2)) / 2
    given = (
        (train, section, held_out)
        if CAUSAL.baselines.__code__.co_argcount == 3
        else (train, tokenizer, section, held_out)
    )
    assert CAUSAL.baselines(*given)["bits_per_byte_unigram"] == pytest.approx(wanted)


def test_less_than_one_row_is_refused(small: tuple[Pretrain, Any, Any]) -> None:
    section, tokenizer, _ = small
    with pytest.raises(ArtifactError, match=r"pretrain\.max_length: .* have 20 tokens, fewer than one sequence of 32"):
        CAUSAL.rows(tokens([list(range(20))]), tokenizer, section, 0)


def test_the_model_follows_from_the_seed(small: tuple[Pretrain, Any, Any], tmp_path: Path) -> None:
    section, tokenizer, _ = small
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        saved_fresh(CAUSAL, section, tokenizer, tmp_path / name, seed)
        torch.rand(3)
        found.append(AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=False).state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])
