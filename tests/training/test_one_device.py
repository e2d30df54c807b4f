"""Does a process that sees several GPUs train on one of them, with the batch of the recipe? Whole stages: test_launcher.py."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from trl import DPOConfig, KTOConfig, RLOOConfig, SFTConfig

from pipeline.settings.config import Config
from pipeline.training.fine_tuning import LessonArguments
from pipeline.training.trainers import RankingArguments, trainer_arguments
from pipeline.training.trl_trainers import JudgementArguments, PairArguments, PromptArguments

KINDS = [
    (RankingArguments, TrainingArguments, {}),
    (LessonArguments, SFTConfig, {}),
    (PairArguments, DPOConfig, {}),
    (JudgementArguments, KTOConfig, {}),
    (PromptArguments, RLOOConfig, {"num_generations": 2}),
]


@pytest.mark.parametrize(("ours", "theirs", "more"), KINDS)
def test_two_gpus_in_sight_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: Any, theirs: Any, more: dict[str, Any]
) -> None:
    """transformers counts what torch sees; a machine without any sees two here."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    section = Config().sft
    given = {**trainer_arguments(section, tmp_path, 1, 0), **more}
    assert theirs(**given).train_batch_size == 2 * section.per_device_train_batch_size  # what would happen
    made = ours(**given)
    assert made.n_gpu == 1 and made.train_batch_size == section.per_device_train_batch_size
