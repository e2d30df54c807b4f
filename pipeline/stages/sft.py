"""Stage sft: the base model learns from demonstrations to follow the format and to stop.

    python -m pipeline sft recipes/film_reviews.yaml

trl.SFTTrainer with the loss on what the assistant says, EOS included; a LoRA adapter by default. Publishes merged weights that
`AutoModelForCausalLM.from_pretrained` loads, and the adapter beside them.
"""

from collections.abc import Sequence
from typing import Any

import torch

from data.schema import Demonstration
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Gate, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import demonstrations
from pipeline.settings.config import Config
from pipeline.training.context import base_model, closing, make_accelerator
from pipeline.training.fine_tuning import fine_tune, fitted, loss
from pipeline.training.model_folder import save_merged, write_card
from policies.backbone import eos_ids, load_causal, load_tokenizer, pick_dtype
from policies.rollout import noise, sample
from policies.template import Turn, encode_prompt, encode_turns, fingerprint, joined


def run(config: Config, run: Run) -> Manifest:
    accelerator = make_accelerator()
    section, device = config.sft, accelerator.device
    path = base_model(config)
    tokenizer = load_tokenizer(path, config.revision)
    run.require("data", tokenizer=fingerprint(tokenizer), force=config.force)
    folder = working_folder(run, "sft", config)
    accelerator.wait_for_everyone()
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
    model, order, seconds, skipped = fine_tune(
        "sft", section, model, tokenizer, lessons, folder, accelerator, config.seed
    )
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
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
    accelerator.wait_for_everyone()
    return manifest


def summary(manifest: Manifest, run: Run) -> str:
    lost = [name for name in ("cut_rows", "dropped_rows") if manifest.metrics[name]]
    figures = ("loss_before", "loss_after", "eos_rate", "tokens_per_second", *lost)
    return closing(manifest, run.folder("sft"), figures, f"make reward RUN={run.name}")


def _turns(tokenizer: Any, rows: Sequence[Demonstration], config: Config) -> list[list[Turn]]:
    """The turns to learn of each demonstration. Raises ArtifactError, with the row's source, where the chat template refuses one."""
    found = []
    for row in rows:
        try:
            found.append(encode_turns(tokenizer, row.prompt, row.completion, config.sft.assistant_turns))
        except ValueError as error:
            raise ArtifactError(f"{row.source}: {error}, take the row out, or use another model") from error
    return found


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
