"""Stage sft: the base model learns from demonstrations to follow the format and to stop.

    python -m pipeline sft recipes/film_reviews.yaml

trl.SFTTrainer with the loss on what the assistant says, EOS included; a LoRA adapter by default. Publishes merged weights that
`AutoModelForCausalLM.from_pretrained` loads, and the adapter beside them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from trl import SFTConfig, SFTTrainer

from data.schema import Demonstration
from pipeline.artifacts.gate import Gate, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import ArtifactError
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, Supervised
from pipeline.training.context import accelerator, base_model, closing, demonstrations
from pipeline.training.model_folder import save_merged, write_card
from pipeline.training.trainers import OneDevice, Report, batched_order, train, trainer_arguments
from policies.backbone import decoder, eos_ids, load_causal, load_tokenizer, lora_config, pick_dtype
from policies.logprobs import completion_logprobs, pack
from policies.rollout import noise, sample
from policies.template import Lesson, Turn, encode_prompt, encode_turns, fingerprint, joined


class LessonArguments(OneDevice, SFTConfig):
    """trl.SFTConfig for one device a process."""


def run(config: Config, run: Run) -> Manifest:
    place = accelerator()
    section, device = config.sft, place.device
    path = base_model(config)
    tokenizer = load_tokenizer(path, config.revision)
    run.require("data", tokenizer=fingerprint(tokenizer), force=config.force)
    folder = working_folder(run, "sft", config)
    place.wait_for_everyone()
    dtype = pick_dtype(config.dtype, device)
    model = load_causal(path, tokenizer, torch.float32 if section.tuning == "full" else dtype, config.revision).to(
        device
    )
    limit = config.data.max_length
    taught = _turns(tokenizer, demonstrations(run, "train"), config)
    lessons, counts = fitted([joined(turns) for turns in taught], limit)
    held_out = [
        (prompt, answer[: limit - len(prompt)])
        for turns in _turns(tokenizer, demonstrations(run, "eval")[: section.eval_rows], config)
        for prompt, answer in turns
        if len(prompt) < limit
    ]
    for rows_of, side in ((lessons, "train"), (held_out, "eval")):
        if not rows_of:
            raise ArtifactError(
                f"{run.folder('data')}: demonstrations.{side} has nothing to learn within data.max_length {limit}; "
                "give demonstrations, raise data.max_length, or data.eval_fraction where nothing is held out"
            )
    before = loss(model, held_out, tokenizer, section.per_device_train_batch_size * 4)
    model, order, seconds, skipped = fine_tune("sft", section, model, tokenizer, lessons, folder, place, config.seed)
    if not place.is_main_process:
        place.wait_for_everyone()
        return run.require("sft", force=True)
    made = folder / "made"
    merged = save_merged(made, model, tokenizer).to(device)
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    after = loss(merged, held_out, tokenizer, section.per_device_train_batch_size * 4)
    metrics = {
        "loss_before": before,
        "loss_after": after,
        "train_rows": float(len(order)),
        "train_tokens": float(sum(len(lessons[i].ids) for i in order)),
        "learned_tokens": float(sum(sum(lessons[i].learned) for i in order)),
        "tokens_per_second": sum(len(lessons[i].ids) for i in order[skipped * section.batch_size :]) / seconds,
        **counts,
        "eos_rate": _eos_rate(merged, tokenizer, demonstrations(run, "eval")[:64], config),
    }
    gate = Gate(
        [
            check("held-out loss", after, f"below {before:.4g}, the loss before", fail=after >= before),
            check(
                "EOS rate",
                metrics["eos_rate"],
                "above 0, better 0.5",
                fail=metrics["eos_rate"] == 0,
                warn=metrics["eos_rate"] < 0.5,
                why="completions run into sft.max_new_tokens; train longer or raise it",
            ),
        ]
    )
    usage = f'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{run.folder("sft")}")'
    write_card(made, config, "sft", "Supervised fine-tuned policy", metrics, usage)
    manifest = publish(
        run,
        "sft",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model, "revision": config.revision},
        dtype=str(dtype),
        metrics=metrics,
        gate=gate,
    )
    place.wait_for_everyone()
    return manifest


def summary(manifest: Manifest, run: Run) -> str:
    lost = [name for name in ("cut_rows", "dropped_rows") if manifest.metrics[name]]
    figures = ("loss_before", "loss_after", "eos_rate", "tokens_per_second", *lost)
    return closing(manifest, run.folder("sft"), figures, f"make reward RUN={run.name}")


def fine_tune(
    stage: str,
    section: Supervised,
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    folder: Path,
    place: Any,
    seed: int,
) -> tuple[Any, list[int], float, int]:
    """Learn `lessons` with trl.SFTTrainer, or go on from the state in `folder`: (the trained model with its adapter, the lessons
    of all steps in order, the seconds it took, the optimizer steps that were done before)."""
    if section.tuning == "lora":
        torch.manual_seed(seed)
        model = get_peft_model(model, lora_config(model, section.lora, "CAUSAL_LM"))
    order = batched_order([len(lesson.ids) for lesson in lessons], section, seed)
    rows = Dataset.from_list([_labelled(lessons[i]) for i in order])
    arguments = LessonArguments(
        **trainer_arguments(section, folder, place.num_processes, seed),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    seconds, skipped = train(trainer, Report(folder / "metrics.jsonl", stage), folder)
    return trainer.accelerator.unwrap_model(trainer.model).eval(), order, seconds, skipped


def _turns(tokenizer: Any, rows: Sequence[Demonstration], config: Config) -> list[list[Turn]]:
    """The turns to learn of each demonstration. Raises ArtifactError, with the row's source, where the chat template refuses one."""
    found = []
    for row in rows:
        try:
            found.append(encode_turns(tokenizer, row.prompt, row.completion, config.sft.assistant_turns))
        except ValueError as error:
            raise ArtifactError(f"{row.source}: {error}, take the row out, or use another model") from error
    return found


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


@torch.no_grad()
def loss(model: Any, rows: list[Turn], tokenizer: Any, batch_size: int) -> float:
    """Mean negative log-likelihood of completion tokens (EOS included), nats a token."""
    total, tokens = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    for start in range(0, len(ordered), batch_size):
        part = ordered[start : start + batch_size]
        batch = pack([p for p, _ in part], [c for _, c in part], tokenizer.pad_token_id, model.device)
        logprobs, _ = completion_logprobs(model, decoder(model), batch, 1.0)
        total -= logprobs.sum().item()
        tokens += int(batch.mask.sum())
    return total / tokens


def _eos_rate(model: Any, tokenizer: Any, rows: list[Demonstration], config: Config) -> float:
    """Share of sampled completions that end by themselves within sft.max_new_tokens."""
    prompts = [encode_prompt(tokenizer, row.prompt) for row in rows]
    noises = [noise(config.seed, 0, f"sft {row.id}", 0, config.sft.max_new_tokens) for row in rows]
    sampled = sample(
        model,
        prompts,
        noises,
        eos_ids=eos_ids(model, tokenizer),
        pad_id=tokenizer.pad_token_id,
        temperature=1.0,  # and nothing cut off: whether the model itself has learned to stop
        batch_size=64,
    )
    return sum(c.finished for c in sampled) / len(sampled)
