"""Stage sft: the base model learns from demonstrations to follow the format and to stop.

    python -m pipeline sft recipes/film_reviews.yaml

trl.SFTTrainer with the loss on what the assistant says, EOS included; a LoRA adapter by default. Publishes merged weights that
`AutoModelForCausalLM.from_pretrained` loads, or `AutoModelForSeq2SeqLM` those of an encoder–decoder, and the adapter beside them. With sft.max_steps=0 the base model, fine-tuned elsewhere, is
taken as it is.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from data.schema import Demonstration
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.gate import Gate, above, at_least, below, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import demonstrations
from pipeline.settings.config import Config
from pipeline.training import preflight
from pipeline.training.context import base_model, closing, make_accelerator
from pipeline.training.fine_tuning import fine_tune, fitted, loss, shared_loss
from pipeline.training.holding import as_published, to_train
from pipeline.training.lengths import check_fits
from pipeline.training.merging import KEPT, checks, kept_when_held
from pipeline.training.model_folder import Published, save_policy, whole_again, write_card
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report
from policies.backbone import load_causal
from policies.drawing import noise
from policies.precision import pick_dtype
from policies.rollout import sample
from policies.template import Lesson, Turn, encode_prompt, encode_turns, fingerprint, joined, read_at_once
from policies.tokenizers import eos_ids, load_tokenizer

EOS_ROWS = 64  # held-out demonstrations whose prompts are answered, to see whether that ends
MUST_STOP, SHOULD_STOP = above(0), at_least(0.5)  # the share of completions that end by themselves


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    section = config.sft
    path = base_model(config, run)
    tokenizer = load_tokenizer(path, config.revision, chat_template_kwargs=config.chat_template_kwargs)
    for stage in parents("sft", config):
        run.require(stage, tokenizer=fingerprint(tokenizer), force=config.force)
    folder = working_folder(run, "sft", config)
    accelerator.wait_for_everyone()
    report = Report(folder, "sft", open_trackers("sft", config, run))
    lessons, held_out, counts = _lessons(tokenizer, path, config, run)
    rows = preflight.Rows.of([len(lesson.ids) for lesson in lessons], section)
    preflight.of_trainer("sft", config, run, path, rows, revision=config.revision)
    dtype = pick_dtype(config.dtype, accelerator.device)
    device, trains = accelerator.device, section.max_steps != 0
    held = to_train(config, device, section.tuning) if trains else as_published(config, device)
    shared = to_train(config, device, section.tuning, section.shared_by("sft")) if trains else held
    model = load_causal(path, tokenizer, shared, config.revision).to(device)
    before = shared_loss(model, held_out, tokenizer, section.per_device_train_batch_size * 4)
    order, seconds, skipped = list[int](), 0.0, 0
    if trains:
        model, order, seconds, skipped = fine_tune(
            section, model, tokenizer, lessons, folder, accelerator, config.seed, report
        )
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    made = folder / "made"
    parent = partial(load_causal, path, tokenizer, as_published(config, accelerator.device), config.revision)
    model = whole_again(made, model, partial(load_causal, path, tokenizer, held, config.revision), report.learned)
    saved = save_policy(made, model, tokenizer, held_out, parent)
    del model
    (folder / "metrics.jsonl").touch()
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    metrics = {
        "loss_before": before,
        "loss_after": loss(saved.model, held_out, tokenizer, section.per_device_train_batch_size * 4),
        **_learned([lessons[i] for i in order], skipped * section.batch_size, seconds),
        **counts,
        **saved.figures,
        **_kept(saved, path, tokenizer, config, dtype),
        "eos_rate": _eos_rate(saved.model, tokenizer, demonstrations(run, "eval")[:EOS_ROWS], config),
    }
    write_card(made, config, "sft", "Supervised fine-tuned policy", metrics, run.folder("sft"))
    return publish(
        run,
        "sft",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model, "revision": config.revision, "stored": str(saved.dtype)},
        dtype=str(dtype),
        metrics=metrics,
        gate=gate(metrics),
        notes=report.shares,
    )


def gate(figures: Mapping[str, float]) -> Gate:
    """figures: "train_rows", 0 where the model was taken as it is; "loss_before" and "loss_after", nats a token on held-out
    demonstrations; "eos_rate", a share; "dtype/kept", the share
    of the update that the recipe's dtype keeps, where nothing is quantised; and what `checks` reads."""
    why = "completions run into sft.max_new_tokens; train longer or raise it"
    rounded = "the stages that go on from here load the model in the recipe's dtype, which rounds it: set dtype=float32"
    longer = "train longer, lower sft.learning_rate, or look at the demonstrations"
    learned = check(
        "held-out loss", figures["loss_after"], must=below(figures["loss_before"], "the loss before"), why=longer
    )
    found = [
        *([learned] if figures["train_rows"] else []),
        check("EOS rate", figures["eos_rate"], must=MUST_STOP, should=SHOULD_STOP, why=why),
        *checks(figures),
    ]
    if (kept := figures.get("dtype/kept")) is not None:
        found.append(check("share of the update that dtype keeps", kept, should=KEPT, why=rounded))
    return Gate(found)


def summary(manifest: Manifest, run: Run) -> str:
    lost = [name for name in ("cut_rows", "dropped_rows") if manifest.metrics[name]]
    figures = ("loss_before", "loss_after", "eos_rate", "tokens_per_second", *lost)
    return closing(manifest, run, figures, run.following(_next(run)))


def _next(run: Run) -> str:
    """Stage reward, if there are rankings for it."""
    data = run.manifest("data")
    return "ppo" if data is not None and not data.metrics.get("rankings_train", 1.0) else "reward"


def _lessons(tokenizer: Any, model: str, config: Config, run: Run) -> tuple[list[Lesson], list[Turn], dict[str, float]]:
    """What is learned, what the loss is measured on, and what cutting to data.max_length cost. Raises ArtifactError where there
    is nothing on either side, ConfigError where `model` reads less."""
    limit = config.data.max_length
    taught, asked = demonstrations(run, "train"), demonstrations(run, "eval")
    whole = [joined(turns) for turns in _turns(tokenizer, taught, config)]
    lengths = [min(limit, max(read_at_once(one.ids) for one in rows)) for rows in whole]
    longest = [(row.id, length) for row, length in zip(taught, lengths, strict=True)]
    check_fits("sft", model, longest, "data.max_length", revision=config.revision)
    said = [(row.id, len(encode_prompt(tokenizer, row.prompt))) for row in asked[:EOS_ROWS]]
    check_fits("sft", model, said, "sft.max_new_tokens", config.sft.max_new_tokens, revision=config.revision)
    lessons, counts = fitted(whole, limit)
    held_out = [
        (prompt, answer[: limit - len(prompt)])
        for turns in _turns(tokenizer, asked[: config.sft.eval_rows], config)
        for prompt, answer in turns
        if len(prompt) < limit
    ]
    for rows_of, side in ((lessons, "train"), (held_out, "eval")):
        if not rows_of:
            raise ArtifactError(
                f"{run.folder('data')}: demonstrations.{side} has nothing to learn within data.max_length {limit}; "
                "give demonstrations, raise data.max_length, or data.eval_fraction where nothing is held out"
            )
    return lessons, held_out, counts


def _learned(lessons: Sequence[Lesson], done_before: int, seconds: float) -> dict[str, float]:
    """How much was learned, and how fast: `lessons` are those of all steps in order, of which an interrupted run had done
    `done_before`."""
    return {
        "train_rows": float(len(lessons)),
        "train_tokens": float(sum(len(lesson.ids) for lesson in lessons)),
        "learned_tokens": float(sum(sum(lesson.learned) for lesson in lessons)),
        "tokens_per_second": sum(len(lesson.ids) for lesson in lessons[done_before:]) / seconds if seconds else 0.0,
    }


def _turns(tokenizer: Any, rows: Sequence[Demonstration], config: Config) -> list[list[Turn]]:
    """The turns to learn of each demonstration. Raises ArtifactError, with the row's source, where the chat template refuses one."""
    found = []
    for row in rows:
        try:
            found.append(encode_turns(tokenizer, row.prompt, row.completion, config.sft.assistant_turns, row.spared))
        except ValueError as error:
            raise ArtifactError(f"{row.source}: {error}, take the row out, or use another model") from error
    return found


def _kept(saved: Published, base: str, tokenizer: Any, config: Config, dtype: torch.dtype) -> dict[str, float]:
    """ "dtype/kept": what later stages keep of the update when they load the model in `dtype`, as they load what they freeze
    (`kept_when_held`). Nothing where they quantise it, which rounds base and update alike."""
    if config.quantization is not None:
        return {}
    if dtype == torch.float32:
        return {"dtype/kept": 1.0}
    if saved.merged is not None:  # it was trained in that dtype
        return {"dtype/kept": saved.merged.kept_in_training_dtype}
    kept = kept_when_held(saved.model, load_causal(base, tokenizer, saved.dtype, config.revision), dtype)
    return {"dtype/kept": kept}


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
