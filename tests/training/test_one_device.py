"""Does a process that sees several GPUs train on one of them, with the batch of the recipe?"""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from trl import DPOConfig, RLOOConfig, SFTConfig

from pipeline.artifacts.files import read_rows
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.training.fine_tuning import LessonArguments
from pipeline.training.trainers import RankingArguments, trainer_arguments
from pipeline.training.trl_trainers import PairArguments, PromptArguments

ROOT = Path(__file__).resolve().parents[2]
KINDS = [
    (RankingArguments, TrainingArguments, {}),
    (LessonArguments, SFTConfig, {}),
    (PairArguments, DPOConfig, {}),
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


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_stage_takes_its_steps_with_two_gpus_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """No fewer than the recipe's, and without DataParallel, whose copies would need devices that are not there."""
    steps = [f"{name}.{setting}" for name in ("sft", "reward", "dpo") for setting in ("max_steps=3", "logging_steps=1")]
    config = load(ROOT / "recipes" / "smoke.yaml", [f"data.source={ROOT / 'data' / 'smoke.jsonl'}", *steps])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    for name in dict.fromkeys(("data", "sft", stage)):
        run_stage(name, config, "r")
    assert [row["step"] for row in read_rows(Path("runs/r") / stage / "metrics.jsonl") if "loss" in row] == [1, 2, 3]
