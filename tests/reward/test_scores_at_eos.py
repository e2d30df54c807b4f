"""Does a classifier on an encoder–decoder get rows that it takes, whatever the texts: one EOS, or those of a pair, where it reads its score?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import EOS, KINDS, PAD, save_pair
from transformers import AutoModelForSeq2SeqLM

from policies.backbone import init_head, new_classifier, output_head
from policies.tokenizers import load_tokenizer
from policies.trials import scored_at
from reward.model import Scorer, forward_of
from reward.rendering import own_manner, render

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
TEXTS: list[tuple[Any, str]] = [
    ("ab", "c"),
    ("ab", ""),
    ("", "c"),
    ("ab" * 80, "c"),
    ("ab" * 80, "c" * 90),
    ("a", "</s>"),
    (TALK, "c"),
    ("ab" * 80, ""),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_as_many_ends_and_the_last_one_last(kind: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_pair(kind, tmp_path), scores=True)
    manner = own_manner(tokenizer)
    assert (manner == "pair") == (kind == "bart")
    rows = [render(tokenizer, manner, p, c, 60) for p, c in TEXTS]
    assert {row.ids.count(EOS) for row in rows} == {3 if kind == "bart" else 1}
    assert all(row.ids[-1] == EOS and len(row.ids) <= 60 for row in rows) and [row.cut for row in rows].count(True) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_of_each_text_alone(kind: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_pair(kind, tmp_path), scores=True)
    model = new_classifier(tmp_path, tokenizer, torch.float32, seed=0)
    init_head(output_head(model), seed=3)
    assert scored_at(model) == EOS
    scorer = Scorer(forward_of(model), tokenizer, max_length=60, manner=own_manner(tokenizer))
    together = scorer([p for p, _ in TEXTS], [c for _, c in TEXTS])
    alone = torch.cat([scorer([p], [c]) for p, c in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert len({round(one, 6) for one in together.tolist()}) >= 6
    again = new_classifier(tmp_path, tokenizer, torch.float32, seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True) if a.shape[0] != 1
    )
    # of the base nothing is lost on its way into the classifier
    ids, mask = torch.tensor([[5, 6, EOS, PAD]]), torch.tensor([[1, 1, 1, 0]])
    states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    base = (
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        .eval()
        .get_encoder()(input_ids=ids, attention_mask=mask)
        .last_hidden_state
    )
    torch.testing.assert_close(states[mask.bool()], base[mask.bool()])
