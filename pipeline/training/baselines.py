"""What do the baselines share? How they open their parents, what they measure on held-out prompts, and how they publish."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from data.schema import Prompt
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.gate import Gate, check_gain
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.statistics import mean_interval
from pipeline.training.drift import MORE, check_kl, check_length
from pipeline.training.holding import as_published, to_train
from pipeline.training.merging import checks
from pipeline.training.model_folder import save_policy, whole_again, write_card
from pipeline.training.seen import check_cut, seen
from pipeline.training.sharing import scored_by_all, shared
from policies.backbone import adapter, decoder, load_causal
from policies.drawing import Completion, noise
from policies.logprobs import completion_logprobs, pack
from policies.quick.batching import together
from policies.quick.packing import packs
from policies.rollout import sample
from policies.template import Turn, decode_completion, encode_prompt, fingerprint
from policies.tokenizers import eos_ids, load_tokenizer
from policies.trainer import EVAL_STEP
from reward.functions import WeightedScore

TOKENS = 1024  # of one micro-batch when completions are measured


def open_parents(stage: str, config: Config, run: Run) -> Any:
    """The sft model's tokenizer, every parent of `stage` checked. Raises ArtifactError."""
    tokenizer = load_tokenizer(run.folder("sft"))
    for parent in parents(stage, config):
        own = None if parent == "reward" else fingerprint(tokenizer)  # a reward model may have another tokenizer
        run.require(parent, tokenizer=own, force=config.force)
    return tokenizer


def load_sft(
    config: Config, run: Run, tokenizer: Any, tuning: str, device: torch.device, shared_by: str | None = None
) -> Any:
    """The sft model as training starts from it: in float32 where all of it is trained; its layers shared out as `to_train` has it."""
    model: Any = load_causal(run.folder("sft"), tokenizer, to_train(config, device, tuning, shared_by))
    return model.to(device)


def whole_policy(
    folder: Path,
    model: Any,
    learned: Mapping[str, Tensor],
    config: Config,
    run: Run,
    tokenizer: Any,
    device: torch.device,
) -> Any:
    """A trained `model` as one process has it, for what the main process does alone after training on `device`; `learned` as
    `Report.learned`."""
    held = to_train(config, device, "full" if learned else "lora")
    return whole_again(folder / "made", model, partial(load_causal, run.folder("sft"), tokenizer, held), learned)


@contextmanager
def reference_of(model: Any, config: Config, run: Run, tokenizer: Any) -> Iterator[Any]:
    """Within the block the sft model that `model` was trained from: its adapter off, or a model of its own."""
    if isinstance(model, PeftModel):
        with adapter(model, None):
            yield model
    else:
        yield load_sft(config, run, tokenizer, "full", model.device)


def sequence_logprobs(
    model: Any, prompts: Sequence[list[int]], completions: Sequence[list[int]], pad_id: int, temperature: float
) -> list[float]:
    """log π(completion | prompt) of token lists, nats, the tokens' log-probabilities summed; in the order given. Each process measures its
    share."""
    turns = list(zip(prompts, completions, strict=True))
    return shared(turns, lambda mine: _logprobs(model, mine, pad_id, temperature))


@torch.no_grad()
def _logprobs(model: Any, turns: Sequence[Turn], pad_id: int, temperature: float) -> list[float]:
    out = [0.0] * len(turns)
    lengths = [len(p) + len(c) for p, c in turns]
    for rows in together(lengths, TOKENS, padding=not packs(model)):
        batch = pack([turns[i][0] for i in rows], [turns[i][1] for i in rows], pad_id, model.device)
        sums = completion_logprobs(model, decoder(model), batch, temperature)[0].sum(1).tolist()
        for i, value in zip(rows, sums, strict=True):
            out[i] = value
    return out


@dataclass(frozen=True)
class Heldout:
    """What a model says to the held-out prompts, one completion each with the noise of evaluations: (N,) each."""

    ids: list[str]
    prompts: list[list[int]]
    tokens: list[list[int]]
    logprobs: list[float]  # of whole completions at the sampling temperature, nats
    finished: list[bool]
    scores: list[float]


def answer_held_out(
    model: Any, tokenizer: Any, asked: Sequence[Prompt], score: WeightedScore, config: Config
) -> Heldout:
    """Sample a completion of each of `asked` as ppo's evaluations do, and score it; each process does its share, and all get everything.
    The model may have an adapter; its weights are to be whole on every process."""
    encoded, stops = [encode_prompt(tokenizer, p.prompt) for p in asked], eos_ids(model, tokenizer)

    def answered(mine: Sequence[int]) -> list[Completion]:
        return sample(
            model,
            [encoded[i] for i in mine],
            [noise(config.seed, EVAL_STEP, asked[i].id, 0, config.ppo.response_length) for i in mine],
            eos_ids=stops,
            pad_id=tokenizer.pad_token_id,
            temperature=config.ppo.temperature,  # not compare.generation: these are the figures that ppo's evaluations have
            batch_size=64,
        )

    said = shared(range(len(asked)), answered)
    texts = [decode_completion(tokenizer, p.prompt, c.tokens, stops) for p, c in zip(asked, said, strict=True)]
    return Heldout(
        [p.id for p in asked],
        encoded,
        [c.tokens for c in said],
        [c.logprobs.sum().item() for c in said],
        [c.finished for c in said],
        scored_by_all(score, [p.prompt for p in asked], texts),
    )


@dataclass(frozen=True)
class Gains:
    """What training changed on held-out prompts: `metrics` are published, named as ppo names them."""

    metrics: dict[str, float]
    score: dict[str, float]  # the gain in held-out score, paired by prompt: {"mean", "low", "high"}
    length_ratio: float  # mean tokens of a completion, as a multiple of what they were


def gains(before: Heldout, after: Heldout, model: Any, config: Config, run: Run, tokenizer: Any, score: Any) -> Gains:
    """Figures on held-out prompts before and after training, and how many of all texts that `score` was given it saw in part."""
    with reference_of(model, config, run, tokenizer) as reference:
        at_start = sequence_logprobs(
            reference, after.prompts, after.tokens, tokenizer.pad_token_id, config.ppo.temperature
        )
    gain = mean_interval([b - a for a, b in zip(before.scores, after.scores, strict=True)], before.ids)
    lengths = [float(np.mean([len(t) for t in one.tokens])) for one in (before, after)]
    metrics = {
        "eval/scores_before": float(np.mean(before.scores)),
        "eval/scores": float(np.mean(after.scores)),
        "eval/kl": float(np.mean(np.array(after.logprobs) - np.array(at_start))),
        "eval/mean_length": lengths[1],
        "eval/eos_rate": float(np.mean(after.finished)),
        **seen(score.functions.values()),
    }
    return Gains(metrics, gain, lengths[1] / max(lengths[0], 1e-9))


def gate(figures: Gains) -> Gate:
    """The gate of a baseline that maximises the score."""
    score = figures.score
    return Gate(
        [
            check_gain("gain in held-out score", score["mean"], score["low"], score["high"], why=MORE),
            check_kl("KL to sft", figures.metrics["eval/kl"]),
            check_length("length against sft", figures.length_ratio),
            *check_cut(figures.metrics),
        ]
    )


def publish_policy(
    stage: str,
    what: str,
    config: Config,
    run: Run,
    folder: Path,
    model: Any,
    tokenizer: Any,
    turns: Sequence[Turn],
    *,
    metrics: dict[str, float],
    gate: Gate,
    described: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> Manifest:
    """Publish a trained policy as stage sft does: merged weights, the adapter beside them, metrics.jsonl, a model card. `turns`
    are what the merged weights are held against the adapter on."""
    made, dtype = folder / "made", model.dtype
    published_sft = as_published(config, model.device)
    saved = save_policy(made, model, tokenizer, turns, lambda: load_causal(run.folder("sft"), tokenizer, published_sft))
    metrics = metrics | saved.figures
    (made / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    write_card(made, config, stage, what, metrics, run.folder(stage))
    return publish(
        run,
        stage,
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model, **described, "stored": str(saved.dtype)},
        dtype=str(dtype),
        metrics=metrics,
        gate=Gate([*gate.checks, *checks(saved.figures)]),
        notes=notes,
    )
