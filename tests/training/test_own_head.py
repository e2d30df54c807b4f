"""Does trl learn from an encoder–decoder what transformers' own loss is, token by token, however the rows are dealt to micro-batches?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import EOS, KINDS, PAD, save_pair
from transformers import AutoModelForSeq2SeqLM
from trl.trainer.utils import add_fused_lm_head
from zoo.build import HIDDEN, save

from pipeline.settings.config import SFT
from pipeline.training.context import make_accelerator
from pipeline.training.fine_tuning import fine_tune
from pipeline.training.own_head import _fused
from pipeline.training.trackers import Trackers
from pipeline.training.trainers import Report
from policies.backbone import load_causal
from policies.logprobs import logits
from policies.seq2seq import START
from policies.template import Lesson
from policies.tokenizers import load_tokenizer
from policies.trials import output_layer

TURNS = [
    ([50, 51, EOS], [70, 71, EOS]),
    ([60, EOS], [80, 81, 82, 83, EOS]),
    ([*range(20, 30), EOS], [90, EOS]),
    ([9, EOS], [8, 7, 6, EOS]),
]
FIGURES = ("loss", "grad_norm", "entropy", "mean_token_accuracy")
DROPOUT = {"t5": {"dropout_rate": 0.0}, "bart": {"dropout": 0.0}}


def learned(folder: Path, work: Path, tuning: str, at_once: int) -> list[dict[str, float]]:
    """What was logged of two steps."""
    tokenizer = load_tokenizer(folder)
    model = load_causal(folder, tokenizer, torch.float32)
    lessons = [Lesson([*p, START, *c], [False] * (len(p) + 1) + [True] * len(c)) for p, c in TURNS]
    section = SFT(
        tuning=tuning,
        batch_size=4,
        per_device_train_batch_size=at_once,
        max_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
    )
    work.mkdir()
    report = Report(work, "sft", Trackers("sft seed 0"))
    fine_tune(section, model, tokenizer, lessons, work, make_accelerator(), 0, report)
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kind", "tuning"), [("t5", "lora"), ("t5", "full"), ("bart", "lora")])
def test_sft_learns_transformers_own_loss_in_any_micro_batches(kind: str, tuning: str, tmp_path: Path) -> None:
    folder = save_pair(kind, tmp_path / "base", **DROPOUT[kind])
    whole, cut = (learned(folder, tmp_path / str(at_once), tuning, at_once) for at_once in (4, 1))
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.no_grad():
        sums = [plain(input_ids=torch.tensor([p]), labels=torch.tensor([c])).loss.item() * len(c) for p, c in TURNS]
    loss = sum(sums) / sum(len(c) for _, c in TURNS)
    assert whole[0]["loss"] == pytest.approx(loss, abs=1e-3) and whole[1]["loss"] < whole[0]["loss"] - 0.01
    for a, b in zip(whole, cut, strict=True):
        assert [a[name] for name in FIGURES] == pytest.approx([b[name] for name in FIGURES], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_gives_what_trls_would_give_of_the_models_logits(kind: str, tmp_path: Path) -> None:
    folder = save_pair(kind, tmp_path)
    model = load_causal(folder, load_tokenizer(folder), torch.float32)
    rows = [[50, 51, EOS, START, 70, 71, EOS], [60, EOS, START, 80, EOS, PAD, PAD]]
    ids, mask = torch.tensor(rows), torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    labels = torch.tensor([[-100] * 4 + [70, 71, EOS], [-100] * 3 + [80, EOS, -100, -100]])
    with torch.no_grad():
        found = _fused(model, ids, mask, labels[:, 1:], 0.5)
        z = model(input_ids=ids, attention_mask=mask).logits[:, :-1] / 0.5
    said = labels[:, 1:] != -100
    assert torch.equal(found.label_mask, said)
    p = z.softmax(-1)
    wanted = z.log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0)[:, :, None])[:, :, 0]
    for name, figure in {
        "log_probs": wanted,
        "entropy": -(p * p.log()).sum(-1),
        "log_sum_sq_probs": (p**2).sum(-1).log(),
        "mean_logits": z.mean(-1),
        "is_top1": z.argmax(-1) == labels[:, 1:],
    }.items():
        torch.testing.assert_close(getattr(found, name)[said], figure[said], atol=1e-4, rtol=1e-4, msg=name)
        assert not getattr(found, name)[~said].any()


@torch.no_grad()
def test_an_output_layer_that_is_asked_itself_is_asked_past_trls_head(tmp_path: Path) -> None:
    """Where logits are more than a product, the model's own forward makes them, whatever a trainer has put on the instance."""
    folder = save("gemma2", tmp_path)
    model = load_causal(folder, load_tokenizer(folder), torch.float32)
    states = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(0))
    before = logits(model, states)
    assert output_layer(model).scale is None
    add_fused_lm_head(model)
    torch.testing.assert_close(logits(model, states), before)
