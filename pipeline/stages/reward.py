"""Stage reward: a scalar reward model learned from people's rankings, normalised on samples of the sft model.

    python -m pipeline reward recipes/film_reviews.yaml

By default a LoRA adapter and a score head on the sft model; `reward.model` names another base, an encoder too. Publishes full
weights that `AutoModelForSequenceClassification.from_pretrained` loads, the adapter beside them, scoring.json, and report.html.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model

from data.schema import Prompt, Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import write_json
from pipeline.artifacts.gate import Gate, check, check_gain
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.pages.progress import bar
from pipeline.report import reward_model as reward_page
from pipeline.rows.published import prompts, rankings
from pipeline.settings.config import Config
from pipeline.training.context import closing, make_accelerator
from pipeline.training.model_folder import save_merged, write_card
from pipeline.training.trainers import RankingArguments, Report, batched_order, train, trainer_arguments
from policies.backbone import decoder, eos_ids, load_causal, load_tokenizer, lora_config, new_classifier, pick_dtype
from policies.quick.packing import packs
from policies.quick.trunk import find_trunk, first_adapted
from policies.rollout import noise, sample
from policies.template import decode_completion, encode_prompt, fingerprint
from reward import metrics as figures
from reward.model import Scorer, ScoringError, render, write_contract
from reward.trainer import RankingCollator, RankingTrainer

GAP = 0.5  # mean ratings at least this far apart: the pairs on which people agree


# Which rankings a stage learns from, and what its model card is called.
STAGES = {
    "reward": ("train", "Reward model from rankings"),
    "gold": (
        "gold",
        "Gold reward model: learned from rankings that stage reward never saw, for judging and not for training",
    ),
}


def run(config: Config, run: Run, stage: str = "reward") -> Manifest:
    """Make stage reward, or `stage` gold: the same from other rankings."""
    accelerator = make_accelerator()
    section, device = config.reward, accelerator.device
    sft = run.folder("sft")
    policy_tokenizer = load_tokenizer(sft)
    run.require("data", tokenizer=fingerprint(policy_tokenizer), force=config.force)
    run.require("sft", tokenizer=fingerprint(policy_tokenizer), force=config.force)
    folder = working_folder(run, stage, config)
    accelerator.wait_for_everyone()
    base: str | Path = section.model or sft
    tokenizer = load_tokenizer(base, need_eos=False)
    dtype = pick_dtype(config.dtype, device)
    model = new_classifier(base, tokenizer, torch.float32 if section.tuning == "full" else dtype, config.seed).to(
        device
    )
    if section.tuning == "lora":
        torch.manual_seed(config.seed)
        model = get_peft_model(model, lora_config(model, section.lora, "SEQ_CLS"))
    side, what = STAGES[stage]
    ranked, held_out = rankings(run, side), rankings(run, "eval")[: section.eval_rows]
    if not ranked:
        raise ArtifactError(
            f"{run.folder('data')} has no rankings; give data.source rankings, or set ppo.reward_funcs and leave out this stage"
        )
    groups = [_group(tokenizer, ranking, config) for ranking in ranked]
    trunk = None
    if (
        section.tuning == "lora"
        and (trunk := find_trunk(decoder(model), first_adapted(model, ["default"]))) is not None
    ):
        trunk.room = section.keep_states * 1e9
    order = batched_order([max(map(len, g["input_ids"])) for g in groups], section, config.seed)
    trainer = RankingTrainer(
        model=model,
        args=RankingArguments(**trainer_arguments(section, folder, accelerator.num_processes, config.seed)),
        train_dataset=[groups[i] for i in order],
        data_collator=RankingCollator(tokenizer.pad_token_id),
        loss=section.loss,
        label_smoothing=section.label_smoothing,
        margin=section.margin,
        trunk=trunk,
    )
    seconds, skipped = train(trainer, Report(folder / "metrics.jsonl", stage), folder)
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return run.require(stage, force=True)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    made = folder / "made"
    merged = save_merged(made, model, tokenizer).to(device)
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    del trainer, model
    scorer = Scorer(
        forward=lambda ids, mask: merged(input_ids=ids, attention_mask=mask).logits[:, 0],
        tokenizer=tokenizer,
        max_length=config.data.max_length,
        batch_size=section.per_device_train_batch_size * 8,
        device=device,
        padding=not packs(merged),
    )
    metrics, detail, gate_checks = evaluate(scorer, held_out)
    mean, std = _normalise(
        scorer, load_causal(sft, policy_tokenizer, dtype).to(device), policy_tokenizer, prompts(run, "train"), config
    )
    write_contract(
        made,
        mean=mean,
        std=std,
        max_length=config.data.max_length,
        tokenizer=tokenizer,
        template=fingerprint(tokenizer),
    )
    provenance = {"run": run.name, "base": section.model or "sft", "loss": section.loss, "seed": str(config.seed)}
    provenance["rankings"] = f"rankings.{side}.jsonl of stage data"
    detail |= reward_page.write(made, held_out, detail, provenance)
    write_json(made / "evaluation.json", detail)
    tokens = sum(sum(map(len, groups[i]["input_ids"])) for i in order[skipped * section.batch_size :])
    metrics |= {
        "score_mean": mean,
        "score_std": std,
        "rankings": float(len(ranked)),
        "train_rankings": float(len(order)),
        "tokens_per_second": tokens / seconds,
    }
    gate = Gate([*gate_checks, check("spread of scores on sft samples", std, "above 0", fail=std <= 1e-6)])
    usage = (
        "from transformers import AutoModelForSequenceClassification\n"
        f'model = AutoModelForSequenceClassification.from_pretrained("{run.folder(stage)}")  # score: see scoring.json'
    )
    write_card(made, config, stage, what, metrics, usage)
    manifest = publish(
        run,
        stage,
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": section.model or "sft", "loss": section.loss},
        dtype=str(dtype),
        metrics=metrics,
        gate=gate,
    )
    accelerator.wait_for_everyone()
    return manifest


def summary(manifest: Manifest, run: Run) -> str:
    names = (
        "pairwise_accuracy",
        "pairwise_accuracy_gap_0.5",
        "human_ceiling_gap_0.5",
        "length_accuracy",
        "ece",
        "tokens_per_second",
    )
    following = "ppo" if manifest.stage == "reward" else "compare"
    return closing(manifest, run.folder(manifest.stage), names, f"make {following} RUN={run.name}")


def _group(tokenizer: Any, ranking: Ranking, config: Config) -> dict[str, Any]:
    ratings = [c.rating for c in ranking.completions]
    limit = config.data.max_length
    try:
        rendered = [render(tokenizer, ranking.prompt, c.text, limit) for c in ranking.completions]
    except ScoringError as error:
        raise ScoringError(f"{ranking.source}: {error}") from error
    return {
        "input_ids": rendered,
        "ranks": ranking.ranks(),
        "ratings": None if any(r is None for r in ratings) else ratings,
    }


def evaluate(scorer: Scorer, held_out: list[Ranking]) -> tuple[dict[str, float], dict[str, Any], list[Any]]:
    """Figures of a reward model on held-out rankings: (metrics, detail for evaluation.json, the gate's checks)."""
    prompts = [ranking.prompt for ranking in held_out for _ in ranking.completions]
    texts = [c.text for ranking in held_out for c in ranking.completions]
    with bar(len(texts), "reward: held-out rankings", "completion") as progress:
        flat = scorer.raw(prompts, texts, progress.update).tolist()
    numbers, lengths, position = [], [], 0
    for ranking in held_out:
        count = len(ranking.completions)
        numbers.append(flat[position : position + count])
        lengths.append(
            [float(len(scorer.tokenizer(c.text, add_special_tokens=False)["input_ids"])) for c in ranking.completions]
        )
        position += count
    ranks = [ranking.ranks() for ranking in held_out]
    overall = figures.pairwise_accuracy(numbers, ranks)
    length_only = figures.length_null(lengths, ranks)
    gain = figures.paired_gain(numbers, lengths, ranks)
    calibration = figures.calibration_error(numbers, ranks)
    metrics = {
        "pairwise_accuracy": overall["pairwise_accuracy"],
        "pairs": float(overall["pairs"]),
        "length_accuracy": length_only["length_accuracy"],
        "ece": calibration["ece"],
        "length_correlation": figures.length_correlation(flat, [n for group in lengths for n in group]),
    }
    detail: dict[str, Any] = {
        "pairwise_accuracy": overall,
        "length_only": length_only,
        "gain_over_length_only": gain,
        "calibration": calibration,
        "held_out": [
            {"ranking": r.id, "scores": s, "lengths": n} for r, s, n in zip(held_out, numbers, lengths, strict=True)
        ],
    }
    if all(c.ratings for ranking in held_out for c in ranking.completions):
        ratings = [[c.rating or 0.0 for c in ranking.completions] for ranking in held_out]
        for gap in (GAP, 1.0, 2.0):
            if not any(abs(a - b) >= gap for group in ratings for a in group for b in group):
                detail[f"gap_{gap}"] = None  # no two completions of a ranking are rated so far apart
                continue
            by_gap = figures.pairwise_accuracy(numbers, ranks, ratings=ratings, min_gap=gap)
            ceiling = figures.human_ceiling(
                [[list(c.ratings or ()) for c in ranking.completions] for ranking in held_out], min_gap=gap
            )
            metrics |= {
                f"pairwise_accuracy_gap_{gap}": by_gap["pairwise_accuracy"],
                f"human_ceiling_gap_{gap}": ceiling,
            }
            detail[f"gap_{gap}"] = {**by_gap, "human_ceiling": ceiling}
    low, high = overall["low"], overall["high"]
    checks = [
        check(
            "held-out pairwise accuracy",
            overall["pairwise_accuracy"],
            f"interval {low:.3f} to {high:.3f} above 0.5",
            fail=high < 0.55,
            warn=low <= 0.5,
            why="more rankings, more steps, or a larger learning_rate",
        ),
        check_gain("gain over a length-only null model", gain["gain"], gain["low"], gain["high"]),
    ]
    return metrics, detail, checks


def _normalise(
    scorer: Scorer, policy: Any, tokenizer: Any, prompts: list[Prompt], config: Config
) -> tuple[float, float]:
    """Mean and standard deviation of raw scores over samples of the sft model on training prompts (Stiennon et al. 2020)."""
    count = config.reward.normalise_samples
    picked = [prompts[i] for i in np.random.default_rng(config.seed).permutation(len(prompts))[:count]]
    picked = [picked[i % len(picked)] for i in range(count)]
    noises = [
        noise(config.seed, 0, f"normalise {p.id}", i // len(prompts), config.reward.max_new_tokens)
        for i, p in enumerate(picked)
    ]
    with bar(count, "reward: sft samples to normalise on", "sample") as progress:
        sampled = sample(
            policy,
            [encode_prompt(tokenizer, p.prompt) for p in picked],
            noises,
            eos_ids=eos_ids(policy, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=config.ppo.temperature,  # and nothing cut off: mean 0 and std 1 are for what ppo will sample
            batch_size=64,
            progress=progress.update,
        )
    raw = scorer.raw([p.prompt for p in picked], [decode_completion(tokenizer, c.tokens) for c in sampled])
    return raw.mean().item(), raw.std().item()
