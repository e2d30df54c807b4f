"""Stage sft: the base model learns from demonstrations to follow the format and to stop.

    python -m pipeline sft recipes/film_reviews.yaml

trl.SFTTrainer with the loss on completions only, EOS included; a LoRA adapter by default. Publishes merged weights that
`AutoModelForCausalLM.from_pretrained` loads, and the adapter beside them.
"""

from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from trl import SFTConfig, SFTTrainer

from data.schema import Demonstration
from pipeline.artifacts import Gate, Manifest, Run, check
from pipeline.config import Config
from pipeline.context import accelerator, base_model, closing, demonstrations
from pipeline.publishing import save_merged, write_card
from pipeline.training import Report, batched_order, train, trainer_arguments
from policies.backbone import decoder, eos_ids, load_causal, load_tokenizer, lora_config, pick_dtype
from policies.logprobs import completion_logprobs, pack
from policies.rollout import noise, sample
from policies.template import encode_completion, encode_prompt, fingerprint


def run(config: Config, run: Run) -> Manifest:
    place = accelerator()
    section, device = config.sft, place.device
    path = base_model(config)
    tokenizer = load_tokenizer(path, config.revision)
    run.require("data", tokenizer=fingerprint(tokenizer), force=config.force)
    folder = run.start("sft", config)
    place.wait_for_everyone()
    dtype = pick_dtype(config.dtype, device)
    model = load_causal(path, tokenizer, torch.float32 if section.tuning == "full" else dtype, config.revision).to(
        device
    )
    pairs = [_tokens(tokenizer, d, config) for d in demonstrations(run, "train")]
    held_out = [_tokens(tokenizer, d, config) for d in demonstrations(run, "eval")[: section.eval_rows]]
    before = loss(model, held_out, tokenizer, section.per_device_train_batch_size * 4)
    if section.tuning == "lora":
        torch.manual_seed(config.seed)
        model = get_peft_model(model, lora_config(model, section.lora, "CAUSAL_LM"))
    order = batched_order([len(p) + len(c) for p, c in pairs], section, config.seed)
    rows = Dataset.from_list(
        [{"input_ids": pairs[i][0] + pairs[i][1], "labels": [-100] * len(pairs[i][0]) + pairs[i][1]} for i in order]
    )
    arguments = SFTConfig(
        **trainer_arguments(section, folder, place.num_processes, config.seed),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    seconds, skipped = train(trainer, Report(folder / "metrics.jsonl", "sft"), folder)
    if not place.is_main_process:
        place.wait_for_everyone()
        return run.require("sft", force=True)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    made = folder / "made"
    merged = save_merged(made, model, tokenizer).to(device)
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    after = loss(merged, held_out, tokenizer, section.per_device_train_batch_size * 4)
    metrics = {
        "loss_before": before,
        "loss_after": after,
        "train_rows": float(len(order)),
        "train_tokens": float(sum(len(pairs[i][0]) + len(pairs[i][1]) for i in order)),
        "tokens_per_second": sum(len(pairs[i][0]) + len(pairs[i][1]) for i in order[skipped * section.batch_size :])
        / seconds,
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
    manifest = run.publish(
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
    return closing(
        manifest,
        run.folder("sft"),
        ("loss_before", "loss_after", "eos_rate", "tokens_per_second"),
        f"make reward RUN={run.name}",
    )


def _tokens(tokenizer: Any, demonstration: Demonstration, config: Config) -> tuple[list[int], list[int]]:
    prompt = encode_prompt(tokenizer, demonstration.prompt)
    return prompt, encode_completion(tokenizer, demonstration.completion, config.data.max_length - len(prompt))


@torch.no_grad()
def loss(model: Any, rows: list[tuple[list[int], list[int]]], tokenizer: Any, batch_size: int) -> float:
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
        temperature=1.0,
        batch_size=64,
    )
    return sum(c.finished for c in sampled) / len(sampled)
