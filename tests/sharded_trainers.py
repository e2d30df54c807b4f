"""Fine-tunes all weights of the tiny model, its layers shared out, in every process of a launcher, and writes what process 0 ends with; for
test_sharded_trainers.py.

torchrun --standalone --nproc_per_node 2 tests/sharded_trainers.py FOLDER OUT
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.settings.config import SFT
from pipeline.training.context import make_accelerator
from pipeline.training.fine_tuning import fine_tune
from pipeline.training.trackers import Trackers
from pipeline.training.trainers import Report
from policies.backbone import load_causal
from policies.template import Lesson
from policies.tokenizers import load_tokenizer

LESSONS = [Lesson([*range(3 + n, 3 + 2 * n), 1], [False] * 2 + [True] * (n - 1)) for n in (5, 9, 7, 12, 3, 8, 6, 10)]
STOPPED = 2  # optimizer steps of a run whose state is gone on from


class Stop(Exception):
    """An interruption."""


class Stopped(Report):
    """A report of a training that is interrupted."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STOPPED:
            raise Stop


def trained(model_folder: Path, folder: Path, sharding: str, stop: bool = False) -> tuple[dict[str, Tensor], Report]:
    """All weights (on process 0, where they are shared out) after four steps that are cut hard, from the state in `folder` on that there
    is, and the report; interrupted after two, or not."""
    folder.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(model_folder)
    section = SFT(
        tuning="full", sharding=sharding, batch_size=4, per_device_train_batch_size=1, max_steps=4, learning_rate=1e-3,
        weight_decay=0.1, max_grad_norm=0.05, warmup_steps=1, logging_steps=1, save_steps=2,
    )  # fmt: skip
    accelerator = make_accelerator()
    report = (Stopped if stop else Report)(folder, "sft", Trackers("sft"))
    model: Any = load_causal(model_folder, tokenizer, torch.float32)
    try:
        model, *_ = fine_tune(section, model, tokenizer, LESSONS, folder, accelerator, 0, report)
    except Stop:
        return {}, report
    if sharding == "none":
        return {name: p.detach() for name, p in model.named_parameters()}, report
    return report.learned, report


def main(model_folder: Path, out: Path) -> None:
    for name, sharding, stop in (("full", "full", False), ("alone", "full", False), ("left", "full", True)):
        weights, report = trained(model_folder, out / name, sharding, stop)
        if weights:
            save_file(weights, out / f"{name}.safetensors")
        bytes_ = report.shares["sharding"]["weights_bytes"]
        (out / f"{name}.bytes").write_text(" ".join(map(str, bytes_)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
