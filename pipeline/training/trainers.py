"""What do the Trainer stages share? Arguments from a recipe's section, resumption, progress, length-sorted order."""

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pipeline import ending
from pipeline.artifacts.files import permitted
from pipeline.pages.progress import bar, shown
from pipeline.settings.config import Stepwise, Supervised
from pipeline.training import checkpoints
from pipeline.training.holding import shares
from pipeline.training.sharded import learned, share_out_trained
from pipeline.training.trackers import Trackers
from policies.errors import BackboneError
from reward.functions import WeightedScore, figures_of

T = TypeVar("T")


class OneDevice:
    """Goes before transformers.TrainingArguments or a subclass of it: a process trains on one device, however many it sees.

    transformers would wrap the model in DataParallel, which multiplies the batch by the number of GPUs that one process sees.
    """

    @property
    def n_gpu(self) -> int:
        return 1


class RankingArguments(OneDevice, TrainingArguments):
    """transformers.TrainingArguments for one device a process."""


def trainer_arguments(section: Stepwise, folder: Path, world_size: int, seed: int) -> dict[str, Any]:
    """Arguments of transformers.TrainingArguments (and its subclasses) from a recipe's section.

    The order of rows is fixed beforehand (`batched_order`), so the sampler is sequential and more processes see the same steps.
    """
    import torch

    return {
        "output_dir": str(folder / "state"),
        "per_device_train_batch_size": section.per_device_train_batch_size,
        "gradient_accumulation_steps": section.accumulation(world_size),
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_scheduler_type,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "num_train_epochs": 1,
        "warmup_steps": section.warmup_steps,
        "logging_steps": section.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": section.save_steps,
        "save_total_limit": None,  # `checkpoints.complete` removes the former one, once the new one is whole
        "train_sampling_strategy": "sequential",
        "seed": seed,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,  # processes may cut their rows into different numbers of forwards
        "gradient_checkpointing": section.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
    }


def check_recomputes(model: Any, section: Stepwise) -> None:
    """Raise BackboneError where a section asks for gradient checkpointing of a model that transformers cannot checkpoint."""
    if not section.gradient_checkpointing:
        return
    try:
        model.gradient_checkpointing_enable()
        model.gradient_checkpointing_disable()
    except ValueError as error:
        raise BackboneError(
            f"gradient_checkpointing: {type(model).__name__} cannot recompute its layers; set gradient_checkpointing: false"
        ) from error


def batched_order(lengths: Sequence[int], section: Supervised, seed: int) -> list[int]:
    """The rows of all optimizer steps, in order: each step's rows are drawn at random, then sorted by length inside the step.

    Epochs are shuffled one by one. Only whole steps; `max_steps` or `num_train_epochs` decide how many.
    """
    count = len(lengths)
    steps = (
        section.max_steps
        if section.max_steps > 0
        else max(1, math.floor(section.num_train_epochs * count / section.batch_size))
    )
    drawn: list[int] = []
    epoch = 0
    while len(drawn) < steps * section.batch_size:
        drawn += np.random.default_rng([seed, epoch]).permutation(count).tolist()
        epoch += 1
    order = []
    for start in range(0, steps * section.batch_size, section.batch_size):
        order += sorted(drawn[start : start + section.batch_size], key=lambda i: lengths[i])
    return order


def one_a_draw(choices: Sequence[Sequence[T]], order: Sequence[int], seed: int) -> list[T]:
    """What each draw of a row trains on: of its choices, in a random order of its own, one a draw, over and over."""
    drawn: Counter[int] = Counter()
    out = []
    for i in order:
        turn, at = divmod(drawn[i], len(choices[i]))
        out.append(choices[i][int(np.random.default_rng([seed, i, turn]).permutation(len(choices[i]))[at])])
        drawn[i] += 1
    return out


def train(trainer: Trainer, report: "Report", folder: Path, section: Stepwise) -> tuple[float, int]:
    """Train from the last checkpoint on: (the seconds it took, the optimizer steps that were done before)."""
    if section.sharding != "none":
        share_out_trained(trainer, section.sharding, f"{type(section).__name__.lower()}.sharding")
    report.shares = shares(section.sharding, cast(nn.Module, trainer.model), getattr(trainer, "ref_model", None))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(report)
    started = time.monotonic()
    report.trainer, report.checkpoint = trainer, checkpoints.newest(trainer, folder)
    trainer.train(resume_from_checkpoint=None if report.checkpoint is None else str(report.checkpoint))
    if report.asked:
        ending.leave(report.asked)
    ending.reached(None)
    report.learned = learned(cast(nn.Module, trainer.model), trainer.is_world_process_zero())
    return time.monotonic() - started, report.resumed_at


SHOWN = (
    *("loss", "reward", "kl", "accuracy", "mean_token_accuracy", "rewards/accuracies", "rewards/margins"),
    *("completions/mean_length", "entropy", "grad_norm", "learning_rate"),
)
"""What a bar shows of a step's figures: the first three that the stage has."""


class Report(TrainerCallback):
    """Progress bar, metrics.jsonl, trackers and completed checkpoints of a Trainer stage; a step whose loss is not finite stops the stage.
    The figures of each function of `score` since the last log stand beside the trainer's."""

    trainer: Any
    checkpoint: Path | None  # from which training goes on

    def __init__(self, folder: Path, what: str, trackers: Trackers, score: WeightedScore | None = None):
        self.folder, self.what, self.trackers, self.score = folder, what, trackers, score
        self.path = folder / checkpoints.LOG
        self.shares: dict[str, Any] = {}  # for the manifest's notes: what each process holds
        self.learned: dict[str, Tensor] = {}  # on the first process: all trained weights, where they are shared out

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.asked = 0  # the signal that ends training before its last step
        ending.reached(state.global_step, state.max_steps)
        self.resumed_at = state.global_step
        self.bar = bar(state.max_steps, self.what, "step", start=state.global_step)
        self.trackers.begin(state.global_step)
        checkpoints.go_on(self.trainer, self.checkpoint, self.folder, self.score)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoints.complete(self.trainer, self.folder, self.score)
        if state.is_world_process_zero:
            permitted(Path(args.output_dir))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)
        ending.reached(state.global_step, state.max_steps)
        self.asked = max(gather_object([ending.asked()]))  # of any process
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        bad = [k for k, v in logs.items() if not math.isfinite(v)]
        if bad:
            why = f"{self.what} step {state.global_step}: {', '.join(bad)} not finite; lower learning_rate, or use dtype: float32"
            self.trackers.alert(why, state.global_step)
            self.trackers.end()
            raise FloatingPointError(why)
        if "loss" in logs and self.score is not None:
            logs |= figures_of(self.score.taken())
        if state.is_world_process_zero and "loss" in logs:
            self.bar.set_postfix(shown(logs, SHOWN))
            self.trackers.log(logs, state.global_step)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}, allow_nan=False) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
        self.trackers.end()
