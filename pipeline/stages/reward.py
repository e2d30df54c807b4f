"""Stage reward: a scalar reward model learned from people's rankings, normalised on samples of the sft model.

    python -m pipeline reward recipes/film_reviews.yaml

By default a LoRA adapter and a score head on the sft model; `reward.model` names another base, an encoder too. Publishes full
weights that `AutoModelForSequenceClassification.from_pretrained` loads, the adapter beside them, scoring.json, and report.html.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

from data.schema import Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import write_json
from pipeline.artifacts.gate import Gate, above, at_least, check, check_gain, check_interval
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.graph import PRETRAINED, REWARD_MODELS
from pipeline.pages.progress import bar
from pipeline.report import reward_beside
from pipeline.report import reward_model as reward_page
from pipeline.rows.published import prompts, rankings
from pipeline.settings.config import Config
from pipeline.training import preflight
from pipeline.training.accuracy import evaluate, raw_scores
from pipeline.training.context import closing, make_accelerator
from pipeline.training.holding import as_published, to_train
from pipeline.training.lengths import check_fits, prompt_rows
from pipeline.training.merging import TURNS, checks, with_adapter
from pipeline.training.model_folder import on_parent, quantised, save_merged, whole_again, write_card
from pipeline.training.seen import check_cut, seen
from pipeline.training.sharded import SharedOut
from pipeline.training.sharing import share_of, shared
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import (
    RankingArguments,
    Report,
    batched_order,
    check_recomputes,
    train,
    trainer_arguments,
)
from policies.adapters import lora_config
from policies.backbone import decoder, load_causal, load_classifier, new_classifier
from policies.blueprint import readable
from policies.drawing import Completion, noise
from policies.precision import Held, pick_dtype
from policies.quick.packing import packs
from policies.quick.trunk import find_trunk, first_adapted
from policies.rollout import sample
from policies.template import PromptText, decode_completion, encode_prompt, fingerprint
from policies.tokenizers import eos_ids, load_tokenizer
from reward.model import Scorer, forward_of, takes_types, write_contract
from reward.rendering import ScoringError, own_manner, render
from reward.trainer import RankingCollator, RankingTrainer

CHANCE = above(0.5)  # what the interval of the accuracy should exclude
LEARNED = at_least(0.55)  # what that interval must reach: below, the model knows as good as nothing
SPREAD = above(1e-6)  # of the scores of sft samples: below, dividing by it blows up noise
LENGTHS = "the model may know nothing but lengths: look at its report.html"
NOTHING_LEARNED = "all scores are equal: more rankings, more steps, or another learning_rate"

# Which rankings a stage learns from, and what its model card is called.
STAGES = {
    "reward": ("train", "Reward model from rankings"),
    "reward_encoder": ("train", "Reward model from rankings, on another base than that of stage reward"),
    "gold": (
        "gold",
        "Gold reward model: learned from rankings that stage reward never saw, for judging and not for training",
    ),
}


class GroupTrainer(SharedOut, RankingTrainer):
    """reward.trainer.RankingTrainer, whose model may be shared out among processes."""


def run(config: Config, run: Run, stage: str = "reward") -> Manifest | None:
    """Make stage reward, `stage` gold, the same from other rankings, or `stage` reward_encoder, the same on another base. `config.reward` has
    the settings of all of them."""
    accelerator = make_accelerator()
    section, device = config.reward, accelerator.device
    policy_tokenizer = _open_parents(config, run)
    folder = working_folder(run, stage, config)
    accelerator.wait_for_everyone()
    report = Report(folder, stage, open_trackers(stage, config, run))
    base, given = _origin(config, run), config.chat_template_kwargs if section.model else {}
    tokenizer = load_tokenizer(base, scores=True, chat_template_kwargs=given, foreign=True)
    side, what = STAGES[stage]
    ranked, held_out = rankings(run, side), rankings(run, "eval")[: section.eval_rows]
    if not ranked:
        raise ArtifactError(
            f"{run.folder('data')} has no rankings; give data.source rankings, or set ppo.reward_funcs and leave out this stage"
        )
    groups = [_group(tokenizer, ranking, config) for ranking in ranked]
    limit = _check_lengths(ranked, groups, policy_tokenizer, config, run, stage)
    longest = max(len(one) for g in groups for one in g["input_ids"])
    rows = preflight.Rows.of([sum(map(len, g["input_ids"])) for g in groups], section, longest)
    preflight.of_trainer(stage, config, run, base, rows, kind=AutoModelForSequenceClassification)
    model = _untrained(config, run, tokenizer, device, REWARD_MODELS[stage])
    if not takes_types(model):
        groups = [{**group, "token_type_ids": None} for group in groups]
    order = batched_order([max(map(len, g["input_ids"])) for g in groups], section, config.seed)
    trainer = _trainer(model, tokenizer, [groups[i] for i in order], config, folder, accelerator.num_processes)
    seconds, skipped = train(trainer, report, folder, section)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    del trainer
    said = _sft_samples(policy_tokenizer, config, run, device)
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    made = folder / "made"
    parent = partial(_base, config, run, tokenizer, as_published(config, device))
    fresh = partial(_base, config, run, tokenizer, to_train(config, device, section.tuning))
    model = whole_again(made, model, fresh, report.learned)
    scorer, dtype, merged = _saved(made, model, tokenizer, limit, config, device, held_out[:TURNS], parent)
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    del model
    metrics, detail = evaluate(scorer, held_out)
    mean, std = _normalise(scorer, said)
    metrics |= {name: of / max(std, 1e-9) if name.endswith("gap") else of for name, of in merged.items()}
    write_contract(
        made,
        mean=mean,
        std=std,
        max_length=limit,
        tokenizer=tokenizer,
        template=fingerprint(tokenizer),
    )
    provenance = {"run": run.name, "base": section.model or "sft", "loss": section.loss, "seed": str(config.seed)}
    provenance["rankings"] = f"rankings.{side}.jsonl of stage data"
    other = _beside(run, stage, held_out, detail, section.model)
    detail |= reward_page.write(made, held_out, detail, provenance, other)
    metrics |= {} if other is None else reward_beside.figures(other)
    write_json(made / "evaluation.json", detail)
    tokens = sum(sum(map(len, groups[i]["input_ids"])) for i in order[skipped * section.batch_size :])
    metrics |= {
        "score_mean": mean,
        "score_std": std,
        "rankings": float(len(ranked)),
        "train_rankings": float(len(order)),
        "tokens_per_second": tokens / seconds,
    }
    scorer.counts.update(texts=sum(len(g["ranks"]) for g in groups), cut=sum(g["cut"] for g in groups))
    metrics |= seen([scorer])
    write_card(made, config, stage, what, metrics, run.folder(stage))
    return publish(
        run,
        stage,
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": section.model or "sft", "loss": section.loss, "stored": str(dtype)},
        dtype=str(pick_dtype(config.dtype, device)),
        metrics=metrics,
        gate=gate(metrics | detail),
        notes=report.shares,
    )


def gate(figures: Mapping[str, Any]) -> Gate:
    """figures: "pairwise_accuracy" and "gain_over_length_only" as reward.metrics gives them, "score_std", and what `checks` and `check_cut` read."""
    accuracy, gain = figures["pairwise_accuracy"], figures["gain_over_length_only"]
    return Gate(
        [
            check_interval(
                "held-out pairwise accuracy",
                accuracy["pairwise_accuracy"],
                accuracy["low"],
                accuracy["high"],
                upper_must=LEARNED,
                lower_should=CHANCE,
                why="more rankings, more steps, or a larger learning_rate",
            ),
            check_gain("gain over a length-only null model", gain["gain"], gain["low"], gain["high"], why=LENGTHS),
            check("spread of scores on sft samples", figures["score_std"], must=SPREAD, why=NOTHING_LEARNED),
            *checks(figures),
            *check_cut(figures),
        ]
    )


def summary(manifest: Manifest, run: Run) -> str:
    names: tuple[str, ...] = (
        "pairwise_accuracy",
        "pairwise_accuracy_gap_0.5",
        "human_ceiling_gap_0.5",
        "length_accuracy",
        "ece",
        "tokens_per_second",
    )
    following = "compare" if manifest.stage == "gold" else "ppo"
    if manifest.stage == "reward_encoder":
        names = (
            "pairwise_accuracy",
            "beside_accuracy",
            "beside_difference",
            "beside_low",
            "beside_high",
            "beside_agreement",
            "ece",
        )
    return closing(manifest, run, names, run.following(following))


def _beside(
    run: Run, stage: str, held_out: list[Ranking], detail: dict[str, Any], base: str | None
) -> dict[str, Any] | None:
    """The reward model of stage reward_encoder held against that of stage reward on held-out rankings; None in other stages."""
    if stage != "reward_encoder":
        return None
    folder = run.folder("reward")
    made = run.require("reward", force=True)
    names = (base or "sft", str(made.model["base"]))
    there = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return reward_beside.compared(held_out, detail["held_out"], there["held_out"], names)


def _open_parents(config: Config, run: Run) -> Any:
    """The sft model's tokenizer, data and sft checked. Raises ArtifactError."""
    tokenizer = load_tokenizer(run.folder("sft"))
    for parent in ("data", "sft"):
        run.require(parent, tokenizer=fingerprint(tokenizer), force=config.force)
    if (base := config.reward.model) in PRETRAINED:
        run.require(str(base), force=config.force)
    return tokenizer


def _check_lengths(
    ranked: list[Ranking], groups: list[dict[str, Any]], policy_tokenizer: Any, config: Config, run: Run, stage: str
) -> int:
    """Tokens of the longest text that will be scored: data.max_length, or what the model reads where that is less. Raises ConfigError where a
    ranking is longer than what the model to be trained reads, or an answer to a prompt than the sft model."""
    base = _origin(config, run)
    rows = [(f"ranking {r.id}", max(map(len, g["input_ids"]))) for r, g in zip(ranked, groups, strict=True)]
    check_fits(stage, base, rows, "data.max_length")
    asked = prompt_rows(policy_tokenizer, prompts(run, "train"))
    check_fits(stage, run.folder("sft"), asked, f"{REWARD_MODELS[stage]}.max_new_tokens", config.reward.max_new_tokens)
    return min(config.data.max_length, readable(base) or config.data.max_length)


def _untrained(config: Config, run: Run, tokenizer: Any, device: torch.device, named: str) -> Any:
    """The base model with a new score head, and with a new adapter where one is trained; `named` is the section of a recipe that says how."""
    section = config.reward
    model = _base(config, run, tokenizer, to_train(config, device, section.tuning, section.shared_by(named)))
    model.to(device)
    check_recomputes(model, section)
    if section.tuning == "lora":
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora_config(model, section.lora, "SEQ_CLS"))
    return model


def _base(config: Config, run: Run, tokenizer: Any, how: Held) -> Any:
    """The model that the stage starts from, with a new score head."""
    return new_classifier(_origin(config, run), tokenizer, how, config.seed)


def _origin(config: Config, run: Run) -> str | Path:
    """The folder or Hub id that the stage starts from: the sft model, what a stage of this run made from nothing, or another model."""
    named = config.reward.model
    return named if named is not None and named not in PRETRAINED else run.folder(named or "sft")


def _trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], config: Config, folder: Path, processes: int
) -> GroupTrainer:
    """The trainer of `rows`, those of all steps in order. The layers below an adapter are run once and kept, where they can be."""
    section, trunk = config.reward, None
    if section.tuning == "lora" and section.sharding == "none":  # else all processes are to run the same layers
        trunk = find_trunk(decoder(model), first_adapted(model, ["default"]))
        if trunk is not None:
            trunk.room = section.keep_states * 1e9
    return GroupTrainer(
        model=model,
        args=RankingArguments(**trainer_arguments(section, folder, processes, config.seed)),
        train_dataset=rows,
        data_collator=RankingCollator(tokenizer.pad_token_id),
        loss=section.loss,
        label_smoothing=section.label_smoothing,
        margin=section.margin,
        trunk=trunk,
    )


def _saved(
    made: Path,
    model: Any,
    tokenizer: Any,
    limit: int,
    config: Config,
    device: torch.device,
    shown: list[Ranking],
    parent: Callable[[], Any],
) -> tuple[Scorer, torch.dtype, dict[str, float]]:
    """Save the model: (raw scores of it as a user loads it, the dtype of its weights, "merged/kept" as `save_policy` has it, and
    "merged/score_gap", the largest difference of a raw score of `shown` between adapter and merged model).

    An adapter on a quantised base is merged into `parent()`, unquantised; "quantised/score_gap" is then from the model as it was
    trained. No figures where no adapter was trained.
    """

    def scores(one: Any) -> list[float]:
        return [s for each in raw_scores(_scorer(one, tokenizer, limit, config, one.device), shown) for s in each]

    before = trained = with_adapter(model, "default", lambda: scores(model))
    if few_bits := quantised(model):
        model = on_parent(made, model, "default", parent)
        before = with_adapter(model, "default", lambda: scores(model))
    trained_in: torch.dtype = next(decoder(model).parameters()).dtype
    stored = save_merged(made, model, tokenizer)
    dtype = trained_in if stored is None else stored.dtype
    loaded: Any = load_classifier(made, tokenizer, dtype)
    scorer = _scorer(loaded.to(device), tokenizer, limit, config, device)
    if stored is None:
        return scorer, dtype, {}
    after = scores(loaded)
    figures = {"merged/kept": stored.kept, "merged/score_gap": _furthest(before, after)}
    if few_bits:
        figures["quantised/score_gap"] = _furthest(trained, after)
    return scorer, dtype, figures


def _furthest(a: list[float], b: list[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def _scorer(model: Any, tokenizer: Any, limit: int, config: Config, device: torch.device) -> Scorer:
    """Raw scores of the trained model."""
    return Scorer(
        forward=forward_of(model),
        tokenizer=tokenizer,
        manner=own_manner(tokenizer),
        max_length=limit,
        batch_size=config.reward.per_device_train_batch_size * 8,
        device=device,
        padding=not packs(model),
    )


def _group(tokenizer: Any, ranking: Ranking, config: Config) -> dict[str, Any]:
    ratings = [c.rating for c in ranking.completions]
    limit = config.data.max_length
    try:
        rows = [render(tokenizer, own_manner(tokenizer), ranking.prompt, c.text, limit) for c in ranking.completions]
    except ScoringError as error:
        raise ScoringError(f"{ranking.source}: {error}") from error
    return {
        "input_ids": [row.ids for row in rows],
        "token_type_ids": None if rows[0].types is None else [row.types for row in rows],
        "cut": sum(row.cut for row in rows),
        "ranks": ranking.ranks(),
        "ratings": None if any(r is None for r in ratings) else ratings,
    }


def _sft_samples(tokenizer: Any, config: Config, run: Run, device: torch.device) -> list[tuple[PromptText, str]]:
    """Training prompts and what the sft model says to them; each process samples its share, and all get everything."""
    policy: Any = load_causal(run.folder("sft"), tokenizer, to_train(config, device, "lora"))
    policy.to(device)
    known, count = prompts(run, "train"), config.reward.normalise_samples
    stops = eos_ids(policy, tokenizer)
    picked = [known[i] for i in np.random.default_rng(config.seed).permutation(len(known))[:count]]
    picked = [picked[i % len(picked)] for i in range(count)]
    noises = [
        noise(config.seed, 0, f"normalise {p.id}", i // len(known), config.reward.max_new_tokens)
        for i, p in enumerate(picked)
    ]
    with bar(share_of(count), "reward: sft samples to normalise on", "sample") as progress:

        def sampled(mine: Sequence[int]) -> list[Completion]:
            return sample(
                policy,
                [encode_prompt(tokenizer, picked[i].prompt) for i in mine],
                [noises[i] for i in mine],
                eos_ids=stops,
                pad_id=tokenizer.pad_token_id,
                temperature=config.ppo.temperature,  # and nothing cut off: mean 0 and std 1 are for what ppo will sample
                batch_size=64,
                progress=progress.update,
            )

        found = shared(range(count), sampled)
    return [
        (p.prompt, decode_completion(tokenizer, p.prompt, c.tokens, stops)) for p, c in zip(picked, found, strict=True)
    ]


def _normalise(scorer: Scorer, said: Sequence[tuple[PromptText, str]]) -> tuple[float, float]:
    """Mean and standard deviation of raw scores over samples of the sft model on training prompts (Stiennon et al. 2020)."""
    raw = scorer.raw([prompt for prompt, _ in said], [text for _, text in said])
    return raw.mean().item(), raw.std().item()
