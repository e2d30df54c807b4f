"""Stage dpo: what would the rankings have given without a reward model and without sampling? Direct preference optimisation.

    python -m pipeline dpo recipes/film_reviews.yaml

trl.DPOTrainer from the sft model, with ppo's KL coefficient as beta (Rafailov et al. 2023, 2305.18290: the reward that DPO fits
is beta·log π/π_sft, and its policy is the optimum of the same objective as ppo's). The pairs are those of the reward model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from data.schema import Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Gate, above, check_interval
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import rankings
from pipeline.settings.config import Config
from pipeline.training import preflight
from pipeline.training.baselines import (
    load_sft,
    open_parents,
    publish_policy,
    reference_of,
    sequence_logprobs,
    whole_policy,
)
from pipeline.training.context import closing, make_accelerator
from pipeline.training.lengths import check_fits
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report, batched_order, check_recomputes, one_a_draw, train, trainer_arguments
from pipeline.training.trl_trainers import PairArguments, PairTrainer
from policies.adapters import lora_config
from policies.sharding import whole
from policies.template import encode_completion, encode_prompt
from reward.metrics import pairwise_accuracy

Answered = tuple[list[int], list[list[int]]]
"""A prompt and its completions, as tokens."""


@dataclass(frozen=True)
class Group:
    """A ranking as tokens: its prompt, its completions with EOS, and who is better than whom, (better, worse)."""

    prompt: list[int]
    completions: list[list[int]]
    ranks: list[int]
    pairs: list[tuple[int, int]]


CHANCE = above(0.5)  # the accuracy of a coin


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    section = config.dpo
    tokenizer = open_parents("dpo", config, run)
    folder = working_folder(run, "dpo", config)
    accelerator.wait_for_everyone()
    report = Report(folder, "dpo", open_trackers("dpo", config, run))
    ranked, groups, held_out = _groups(tokenizer, config, run)
    pairs = [2 * len(g.prompt) + sum(sorted(map(len, g.completions))[-2:]) for g in groups]
    longest = max(len(g.prompt) + max(map(len, g.completions)) for g in groups)
    preflight.of_trainer(
        "dpo", config, run, run.folder("sft"), preflight.Rows.of(pairs, section, longest), reference=True
    )
    order = batched_order([max(len(g.prompt) + len(c) for c in g.completions) for g in groups], section, config.seed)
    chosen = drawn_pairs(groups, order, config.seed)
    rows = [_row(groups[i], pair) for i, pair in zip(order, chosen, strict=True)]
    trainer = _trainer(rows, tokenizer, config, run, folder, accelerator)
    seconds, _ = train(trainer, report, folder, section)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    del trainer
    answered = [(group.prompt, group.completions) for group in held_out]
    with whole(model):
        rewards = implicit_rewards(model, answered, config.beta("dpo"), config, run, tokenizer)
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    model = whole_policy(folder, model, report.learned, config, run, tokenizer, accelerator.device)
    metrics = _held_out(rewards, held_out)
    metrics |= {
        "train_pairs": float(len(order)),
        **_left_out(ranked),
        "sampled_tokens": 0.0,
        "seconds": seconds,
    }
    return publish_policy(
        "dpo",
        "Policy aligned with DPO",
        config,
        run,
        folder,
        model,
        tokenizer,
        [(group.prompt, group.completions[0]) for group in held_out],
        metrics=metrics,
        gate=gate(metrics),
        described={"beta": config.beta("dpo"), "tuning": section.tuning},
        notes=report.shares,
    )


def gate(figures: Mapping[str, float]) -> Gate:
    """figures: "pairwise_accuracy" of the implicit rewards on held-out pairs, with its interval "…_low", "…_high"."""
    accuracy, low, high = (figures[f"pairwise_accuracy{end}"] for end in ("", "_low", "_high"))
    name, why = "held-out pairwise accuracy of implicit rewards", "more rankings, more steps, or another learning_rate"
    return Gate([check_interval(name, accuracy, low, high, must=CHANCE, lower_should=CHANCE, why=why)])


def summary(manifest: Manifest, run: Run) -> str:
    figures = ("pairwise_accuracy", "margin", "train_pairs")
    return closing(manifest, run, figures, run.following("compare", models=("sft", "ppo", "dpo")))


def _groups(tokenizer: Any, config: Config, run: Run) -> tuple[list[Group], list[Group], list[Group]]:
    """All training rankings, those of them with a pair, and the held-out ones with a pair. Raises ArtifactError where a side has
    none."""
    limit = config.data.max_length
    train, evaluated = rankings(run, "train"), rankings(run, "eval")[: config.dpo.eval_rows]
    ranked, known = ([as_tokens(tokenizer, r, limit) for r in side] for side in (train, evaluated))
    whole = zip((*train, *evaluated), (*ranked, *known), strict=True)
    rows = [(f"ranking {r.id}", len(g.prompt) + max(map(len, g.completions))) for r, g in whole]
    check_fits("dpo", run.folder("sft"), rows, "data.max_length")
    groups, held_out = ([group for group in every if group.pairs] for every in (ranked, known))
    for found, side in ((groups, "train"), (held_out, "eval")):
        if not found:
            raise ArtifactError(
                f"{run.folder('data')}: rankings.{side} has no pair of which one is better; give rankings without so many ties, "
                "or leave out dpo"
            )
    return ranked, groups, held_out


def _trainer(
    rows: list[dict[str, list[int]]], tokenizer: Any, config: Config, run: Run, folder: Path, accelerator: Any
) -> PairTrainer:
    """The trainer of `rows`, those of all steps in order. With an adapter the sft model below it is the reference."""
    section = config.dpo
    shared_by = section.shared_by("dpo")
    model = load_sft(config, run, tokenizer, section.tuning, accelerator.device, shared_by)
    check_recomputes(model, section)
    lora = section.tuning == "lora"
    arguments = PairArguments(
        **trainer_arguments(section, folder, accelerator.num_processes, config.seed),
        beta=config.beta("dpo"),
        max_length=None,
        disable_dropout=True,
    )
    return PairTrainer(
        model=model,
        ref_model=None if lora else load_sft(config, run, tokenizer, "full", model.device, shared_by),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(model, section.lora, "CAUSAL_LM") if lora else None,
    )


def _held_out(rewards: list[list[float]], held_out: list[Group]) -> dict[str, float]:
    """How the implicit rewards order held-out pairs, and by how much, nats times beta."""
    accuracy = pairwise_accuracy(rewards, [g.ranks for g in held_out])
    margins = [own[a] - own[b] for own, g in zip(rewards, held_out, strict=True) for a, b in g.pairs]
    return {
        "pairwise_accuracy": accuracy["pairwise_accuracy"],
        "pairwise_accuracy_low": accuracy["low"],
        "pairwise_accuracy_high": accuracy["high"],
        "margin": float(np.mean(margins)),
        "eval_pairs": float(len(margins)),
    }


def _left_out(ranked: list[Group]) -> dict[str, float]:
    """Pairs of the training rankings that teach nothing: tied ones, and those that the cut made equal."""
    tied = [g.ranks[a] == g.ranks[b] for g in ranked for a, b in combinations(range(len(g.ranks)), 2)]
    return {
        "tied_pairs": float(sum(tied)),
        "equal_pairs": float(len(tied) - sum(tied) - sum(len(g.pairs) for g in ranked)),
        "rankings_without_pairs": float(sum(not g.pairs for g in ranked)),
    }


def as_tokens(tokenizer: Any, ranking: Ranking, max_length: int) -> Group:
    """A ranking's tokens, completions cut where prompt and completion pass `max_length`. Pairs of tied completions are none, and
    neither are pairs that the cut made equal."""
    prompt = encode_prompt(tokenizer, ranking.prompt)
    room = max(0, max_length - len(prompt))
    completions = [encode_completion(tokenizer, ranking.prompt, c.text, room) for c in ranking.completions]
    ranks = ranking.ranks()
    pairs = [
        (a, b) if ranks[a] < ranks[b] else (b, a)
        for a, b in combinations(range(len(ranks)), 2)
        if ranks[a] != ranks[b] and completions[a] != completions[b]
    ]
    return Group(prompt, completions, ranks, pairs)


def drawn_pairs(groups: Sequence[Group], order: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """The pair that each draw of a ranking trains on.

    So a ranking weighs the same however many completions it has, as in the reward model's loss, where each of its pairs
    has the weight 1/C(K,2) (InstructGPT, 2203.02155, eq. 1). A pass of the data set sees one pair of each ranking.
    """
    return one_a_draw([group.pairs for group in groups], order, seed)


def _row(group: Group, pair: tuple[int, int]) -> dict[str, list[int]]:
    better, worse = (group.completions[i] for i in pair)
    return {"prompt_ids": group.prompt, "chosen_ids": better, "rejected_ids": worse}


def implicit_rewards(
    model: Any, answered: Sequence[Answered], beta: float, config: Config, run: Run, tokenizer: Any
) -> list[list[float]]:
    """beta·(log π - log π_sft) of each completion of each prompt, nats (Rafailov et al. 2023, section 5)."""
    prompts = [prompt for prompt, completions in answered for _ in completions]
    completions = [one for _, completions in answered for one in completions]
    own = sequence_logprobs(model, prompts, completions, tokenizer.pad_token_id, 1.0)
    with reference_of(model, config, run, tokenizer) as reference:
        at_start = sequence_logprobs(reference, prompts, completions, tokenizer.pad_token_id, 1.0)
    flat = iter([beta * (a - b) for a, b in zip(own, at_start, strict=True)])
    return [[next(flat) for _ in completions] for _, completions in answered]
