"""Does transformers' Trainer train other architectures too, with an adapter and recomputed activations, and can what it made be saved?"""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.settings.config import SFT
from pipeline.training.context import make_accelerator
from pipeline.training.fine_tuning import fine_tune
from pipeline.training.model_folder import save_merged
from pipeline.training.trackers import Trackers
from pipeline.training.trainers import Report
from policies.backbone import BackboneError, load_causal
from policies.template import Lesson
from policies.tokenizers import load_tokenizer
from zoo.build import save
from zoo.checks import asked, tokens

LESSONS = [Lesson([*tokens(n, n), 1], [False] * 2 + [True] * (n - 1)) for n in (5, 9, 7, 12)]


def tuned(name: str, folder: Path, tuning: str) -> tuple[Any, Any, Path]:
    base = save(name, folder / "base")
    tokenizer = load_tokenizer(base)
    model = load_causal(base, tokenizer, torch.float32)
    section = SFT(
        tuning=tuning,
        batch_size=4,
        per_device_train_batch_size=2,
        max_steps=2,
        gradient_checkpointing=True,
        learning_rate=1e-2,
    )
    (folder / "work").mkdir()
    made, *_ = fine_tune(
        *(section, model, tokenizer, LESSONS, folder / "work", make_accelerator(), 0),
        Report(folder / "work", "sft", Trackers("sft seed 0")),
    )
    return made, tokenizer, base


@pytest.mark.parametrize(
    ("name", "tuning"),
    [
        *(("gpt2", "lora"), ("gemma3", "full")),
        *(pytest.param(n, t, marks=pytest.mark.slow) for n in ("mixtral", "qwen3_5") for t in ("lora", "full")),
        pytest.param("gemma3", "lora", marks=pytest.mark.slow),
    ],
)
def test_sft_with_recomputed_activations(name: str, tuning: str, tmp_path: Path) -> None:
    made, tokenizer, base = tuned(name, tmp_path, tuning)
    ask = asked([tokens(9, 1), tokens(4, 2)]) | {"use_cache": False}
    real = ask["attention_mask"].bool()
    with torch.no_grad():
        before = load_causal(base, tokenizer, torch.float32)(**ask).logits[real]
        trained = made(**ask).logits[real]
        assert (trained - before).abs().max() > 1e-3
        save_merged(tmp_path / "made", made, tokenizer)
        again = load_causal(tmp_path / "made", tokenizer, torch.float32)(**ask).logits[real]
        assert torch.allclose(again, trained, atol=1e-3)


def test_a_model_without_checkpointing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match="gradient_checkpointing: .* cannot recompute its layers; set gradient_checkpointing: false"
    ):
        tuned("gpt_neox_japanese", tmp_path, "lora")
