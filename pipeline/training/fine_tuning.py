"""How does a model learn to say what it is shown? trl.SFTTrainer on our tokens, from the last state on; and what it has learned."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from trl import SFTConfig, SFTTrainer

from pipeline.settings.config import Supervised
from pipeline.training.own_head import OwnHead
from pipeline.training.sharded import SharedOut
from pipeline.training.sharing import shared
from pipeline.training.trainers import OneDevice, Report, batched_order, check_recomputes, train, trainer_arguments
from pipeline.training.weighed import Weighed, of_lessons
from policies.adapters import lora_config
from policies.backbone import decoder
from policies.logprobs import completion_logprobs, pack
from policies.sharding import sharded
from policies.template import Lesson, Turn


class LessonArguments(OneDevice, SFTConfig):
    """trl.SFTConfig for one device a process."""


class LessonTrainer(Weighed, SharedOut, OwnHead, SFTTrainer, weigh=of_lessons):
    """trl.SFTTrainer, whose figures are means over tokens, and whose model may be shared out among processes."""


def fine_tune(
    section: Supervised,
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    folder: Path,
    accelerator: Any,
    seed: int,
    report: Report,
) -> tuple[Any, list[int], float, int]:
    """Learn `lessons` with trl.SFTTrainer, or go on from the state in `folder`: (the trained model with its adapter, the lessons
    of all steps in order, the seconds it took, the optimizer steps that were done before)."""
    check_recomputes(model, section)
    if section.tuning == "lora":
        torch.manual_seed(seed)
        model = get_peft_model(model, lora_config(model, section.lora, "CAUSAL_LM"))
    order = batched_order([len(lesson.ids) for lesson in lessons], section, seed)
    rows = Dataset.from_list([_labelled(lessons[i]) for i in order])
    arguments = LessonArguments(
        **trainer_arguments(section, folder, accelerator.num_processes, seed),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = LessonTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    seconds, skipped = train(trainer, report, folder, section)
    return trainer.accelerator.unwrap_model(trainer.model).eval(), order, seconds, skipped


def fitted(lessons: Sequence[Sequence[Lesson]], max_length: int) -> tuple[list[Lesson], dict[str, float]]:
    """Training rows of all demonstrations, cut to `max_length` tokens, and what that cost: `cut_rows` lost their end,
    `dropped_rows` everything that was to be learned."""
    whole = [lesson for several in lessons for lesson in several]
    kept = [short for lesson in whole if any((short := lesson.cut(max_length)).learned)]
    cut = sum(len(lesson.ids) > max_length for lesson in whole)
    dropped = len(whole) - len(kept)
    return kept, {"cut_rows": float(cut - dropped), "dropped_rows": float(dropped)}


def _labelled(lesson: Lesson) -> dict[str, list[int]]:
    labels = [token if learned else -100 for token, learned in zip(lesson.ids, lesson.learned, strict=True)]
    return {"input_ids": lesson.ids, "labels": labels}


def loss(model: Any, rows: Sequence[Turn], tokenizer: Any, batch_size: int) -> float:
    """Mean negative log-likelihood of completion tokens (EOS included), nats a token."""
    return _mean(row_losses(model, rows, tokenizer, batch_size))


def shared_loss(model: Any, rows: Sequence[Turn], tokenizer: Any, batch_size: int) -> float:
    """`loss`, of which each process measures its share; where the model's layers are shared out, all of it: they are gathered in step.
    Every process is to ask, with the same weights."""
    if sharded(model):
        return loss(model, rows, tokenizer, batch_size)
    return _mean(shared(rows, lambda mine: row_losses(model, mine, tokenizer, batch_size)))


def _mean(sums: Sequence[tuple[float, int]]) -> float:
    return math.fsum(total for total, _ in sums) / sum(tokens for _, tokens in sums)


@torch.no_grad()
def row_losses(model: Any, rows: Sequence[Turn], tokenizer: Any, batch_size: int) -> list[tuple[float, int]]:
    """Negative log-likelihood of each row's completion, nats, and its tokens (EOS included)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    sums = []
    for start in range(0, len(order), batch_size):
        part = [rows[i] for i in order[start : start + batch_size]]
        batch = pack([p for p, _ in part], [c for _, c in part], tokenizer.pad_token_id, model.device)
        logprobs, _ = completion_logprobs(model, decoder(model), batch, 1.0)
        sums.append(-logprobs.sum(1))
    found = dict(zip(order, torch.cat(sums).tolist(), strict=True))  # the device is waited for here, once
    return [(found[i], len(completion)) for i, (_, completion) in enumerate(rows)]
