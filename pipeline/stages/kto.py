"""Stage kto: what would judgements of single completions have given, liked or disliked? Kahneman-Tversky optimisation.

    python -m pipeline kto recipes/film_reviews.yaml

trl.KTOTrainer from the sft model, with ppo's KL coefficient as beta (Ethayarajh et al. 2024, 2402.01306): the loss of a
completion is λ·(1 - σ(±beta·(log π/π_sft - z))), + where it was liked, and z estimates the KL of the policy from completions of
other prompts. It learns from judgements where they are liked and disliked, or else from rankings: of a pair the better is liked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from data.schema import Judgement, prompt_key
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Gate, above, check_interval
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import judgements, rankings
from pipeline.settings.baselines import KTO
from pipeline.settings.config import Config
from pipeline.stages.dpo import as_tokens, implicit_rewards
from pipeline.statistics import prompt_index
from pipeline.training import preflight
from pipeline.training.baselines import load_sft, open_parents, publish_policy, whole_policy
from pipeline.training.context import closing, make_accelerator
from pipeline.training.lengths import check_fits
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report, batched_order, check_recomputes, one_a_draw, train, trainer_arguments
from pipeline.training.trl_trainers import JudgementArguments, JudgementTrainer
from policies.adapters import lora_config
from policies.sharding import whole
from policies.template import encode_completion, encode_prompt
from reward.statistics import percentile_ends, resamples

DRAWS = 10_000
GAP = above(0)  # what was liked is worth more than what was not


@dataclass(frozen=True)
class Example:
    """A prompt and completions of it that were all liked, or all disliked, as tokens with EOS; training draws one at a time."""

    key: str  # of the prompt
    prompt: list[int]
    completions: list[list[int]]
    liked: bool


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    section = config.kto
    tokenizer = open_parents("kto", config, run)
    folder = working_folder(run, "kto", config)
    accelerator.wait_for_everyone()
    report = Report(folder, "kto", open_trackers("kto", config, run))
    source, examples, held_out = _examples(tokenizer, config, run)
    _check_lengths([*examples, *held_out], config, run)
    lengths = [len(e.prompt) + max(map(len, e.completions)) for e in examples]
    preflight.of_trainer("kto", config, run, run.folder("sft"), preflight.Rows.of(lengths, section), reference=True)
    order = batched_order(lengths, section, config.seed)
    liked = sum(examples[i].liked for i in order)
    weights = weights_of(section, liked, len(order) - liked)
    rows = rows_of(examples, order, section.batch_size, config.seed)
    trainer = _trainer(rows, weights, tokenizer, config, run, folder, accelerator)
    seconds, _ = train(trainer, report, folder, section)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    del trainer
    asked = [(example.prompt, example.completions) for example in held_out]
    with whole(model):
        rewards = implicit_rewards(model, asked, config.beta("kto"), config, run, tokenizer)
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    model = whole_policy(folder, model, report.learned, config, run, tokenizer, accelerator.device)
    metrics = gap(held_out, rewards)
    metrics |= {"train_liked": float(liked), "train_disliked": float(len(order) - liked)}
    metrics |= {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    return publish_policy(
        "kto",
        "Policy aligned with KTO",
        config,
        run,
        folder,
        model,
        tokenizer,
        [(example.prompt, example.completions[0]) for example in held_out],
        metrics=metrics | {"sampled_tokens": 0.0, "seconds": seconds},
        gate=gate(metrics),
        described={"beta": config.beta("kto"), "tuning": section.tuning, "learned from": source},
        notes=report.shares,
    )


def gate(figures: Mapping[str, float]) -> Gate:
    """figures: "gap" between the mean implicit rewards of liked and disliked held-out completions, with its interval "…_low",
    "…_high"."""
    found, low, high = (figures[f"gap{end}"] for end in ("", "_low", "_high"))
    name = "held-out implicit reward, liked above disliked"
    why = "more judgements, more steps, or another learning_rate"
    return Gate([check_interval(name, found, low, high, must=GAP, lower_should=GAP, why=why)])


def summary(manifest: Manifest, run: Run) -> str:
    figures = ("gap", "train_liked", "train_disliked")
    return closing(manifest, run, figures, run.following("compare", models=("sft", "ppo", "kto")))


def _examples(tokenizer: Any, config: Config, run: Run) -> tuple[str, list[Example], list[Example]]:
    """Which rows teach, all examples of the training side, and of the held-out side those that `kto.eval_rows` draws.

    Judgements teach where both sides have liked and disliked ones, or else rankings where both sides have a pair. Raises
    ArtifactError where neither do.
    """
    lacks = []
    for source in ("judgements", "rankings"):
        train, held_out = (_rows(source, side, tokenizer, config, run) for side in ("train", "eval"))
        lack = _lack(f"{source}.train", train) or _lack(f"{source}.eval", held_out)
        if lack is None:
            taught = [example for row in train for example in row]
            return source, taught, drawn(held_out, config.kto.eval_rows, config.seed)
        lacks.append(lack)
    raise ArtifactError(
        f"{run.folder('data')}: {' and '.join(lacks)}, and kto needs liked and disliked completions, or pairs, on both sides; "
        "give more rows, raise data.eval_fraction, or leave out kto"
    )


def _check_lengths(examples: Sequence[Example], config: Config, run: Run) -> None:
    """Raise ConfigError where an example is longer than the sft model reads, or a completion under another row's prompt."""
    longest = max(len(one) for example in examples for one in example.completions)
    rows = [(f"prompt {e.key[:60]}", len(e.prompt) + max(map(len, e.completions))) for e in examples]
    rows += [
        (f"prompt {e.key[:60]} with a completion of another row", min(len(e.prompt) + longest, config.data.max_length))
        for e in examples
    ]
    check_fits("kto", run.folder("sft"), rows, "data.max_length")


def _rows(source: str, side: str, tokenizer: Any, config: Config, run: Run) -> list[list[Example]]:
    """The examples of each row that has any."""
    limit = config.data.max_length
    if source == "judgements":
        return [[of_judgement(tokenizer, one, limit)] for one in judgements(run, side)]
    return [made for one in rankings(run, side) if (made := of_ranking(tokenizer, one, limit))]


def _lack(name: str, rows: Sequence[Sequence[Example]]) -> str | None:
    """What these rows need and have not, None where they have both kinds."""
    kinds = {example.liked for row in rows for example in row}
    if len(kinds) == 2:
        return None
    if name.startswith("rankings"):
        return f"{name} has no pair of which one is better"
    missing = [word for liked, word in ((True, "liked"), (False, "disliked")) if liked not in kinds]
    return f"{name} has no {' or '.join(missing)} completion"


def drawn(rows: Sequence[Sequence[Example]], most: int, seed: int) -> list[Example]:
    """The examples of `most` rows, two or more, drawn with the seed and in the order of `rows`: a file may be sorted by label. At
    least one is liked and one disliked, which shifts no mean of a kind."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    first = [next(i for i in order if any(one.liked == liked for one in rows[i])) for liked in (True, False)]
    return [example for i in sorted([*dict.fromkeys([*first, *order])][:most]) for example in rows[i]]


def of_judgement(tokenizer: Any, judgement: Judgement, max_length: int) -> Example:
    prompt = encode_prompt(tokenizer, judgement.prompt)
    completion = encode_completion(tokenizer, judgement.prompt, judgement.completion, max(0, max_length - len(prompt)))
    return Example(prompt_key(judgement.prompt), prompt, [completion], judgement.liked)


def of_ranking(tokenizer: Any, ranking: Any, max_length: int) -> list[Example]:
    """The better completions of its pairs as liked, the worse as disliked, so that a ranking weighs the same however many pairs
    it has; nothing where all are tied."""
    group = as_tokens(tokenizer, ranking, max_length)
    sides = [[group.completions[pair[side]] for pair in group.pairs] for side in (0, 1)]
    key = prompt_key(ranking.prompt)
    return [Example(key, group.prompt, own, liked) for own, liked in zip(sides, (True, False), strict=True) if own]


def weights_of(section: KTO, liked: int, disliked: int) -> tuple[float, float]:
    """Weights λ of liked and disliked completions. Where neither is set the rarer weighs more, so that both kinds weigh the same in
    all: λ_D·n_D = λ_U·n_U, the lower end of what the paper advises (section 4.2)."""
    if section.desirable_weight is None and section.undesirable_weight is None:
        more = max(liked, disliked)
        return more / max(liked, 1), more / max(disliked, 1)
    return section.desirable_weight or 1.0, section.undesirable_weight or 1.0


def rows_of(examples: Sequence[Example], order: Sequence[int], batch_size: int, seed: int) -> list[dict[str, Any]]:
    """The trainer's rows of all steps. What estimates the KL are the completions of the same step, each under the prompt of another
    row: they are shifted by the least number of rows that lets the fewest of them meet their own prompt."""
    drawn = one_a_draw([example.completions for example in examples], order, seed)
    rows = [
        {"prompt_ids": examples[i].prompt, "completion_ids": ids, "label": examples[i].liked}
        for i, ids in zip(order, drawn, strict=True)
    ]
    for start in range(0, len(rows), batch_size):
        step = rows[start : start + batch_size]
        keys = [examples[i].key for i in order[start : start + batch_size]]
        meetings = [
            sum(a == b for a, b in zip(keys, keys[-by:] + keys[:-by], strict=True)) for by in range(1, len(step))
        ]
        by = 1 + int(np.argmin(meetings))
        for place, row in enumerate(step):
            row["KL_completion_ids"] = step[place - by]["completion_ids"]
    return rows


def _trainer(
    rows: list[dict[str, Any]],
    weights: tuple[float, float],
    tokenizer: Any,
    config: Config,
    run: Run,
    folder: Path,
    accelerator: Any,
) -> JudgementTrainer:
    """The trainer of `rows`, those of all steps in order. With an adapter the sft model below it is the reference."""
    section = config.kto
    shared_by = section.shared_by("kto")
    model = load_sft(config, run, tokenizer, section.tuning, accelerator.device, shared_by)
    check_recomputes(model, section)
    lora = section.tuning == "lora"
    arguments = JudgementArguments(
        **trainer_arguments(section, folder, accelerator.num_processes, config.seed),
        beta=config.beta("kto"),
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        max_length=config.data.max_length,  # own rows fit; a completion under another prompt may not
        disable_dropout=True,
    )
    return JudgementTrainer(
        model=model,
        ref_model=None if lora else load_sft(config, run, tokenizer, "full", model.device, shared_by),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(model, section.lora, "CAUSAL_LM") if lora else None,
    )


def gap(examples: Sequence[Example], rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean implicit reward of liked completions less that of disliked ones, with its 95% bootstrap interval over prompts; an
    example weighs the same however many completions it has. Resamples that lack one of the kinds are passed over."""
    values = np.array([np.mean(own) for own in rewards])
    liked = np.array([example.liked for example in examples], dtype=np.float64)
    index = prompt_index(values, [example.key for example in examples])
    columns = (values * liked, liked, values * (1 - liked), 1 - liked)
    sums = np.stack([np.bincount(index, weights=column) for column in columns])  # (4, prompts)
    drawn = np.concatenate([sums[:, picked].sum(2) for picked in resamples(sums.shape[1], DRAWS, 0, cells=4)], axis=1)
    whole = drawn[:, (drawn[1] > 0) & (drawn[3] > 0)]
    total = sums.sum(1)
    low, high = percentile_ends(whole[0] / whole[1] - whole[2] / whole[3])
    return {
        "gap": float(total[0] / total[1] - total[2] / total[3]),
        "gap_low": low,
        "gap_high": high,
        "eval_liked": float(liked.sum()),
        "eval_disliked": float((1 - liked).sum()),
    }
