"""What is an episode? A prompt, what the policy said to it, and what that was worth; and how episodes are drawn and batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.backbone import eos_ids
from policies.figures import timed
from policies.logprobs import Batch, pack
from policies.roles import Roles
from policies.rollout import Completion, noise, sample
from policies.template import PromptText, decode_completion

Score = Callable[[Sequence[PromptText], Sequence[str]], Tensor]


@dataclass(frozen=True)
class Episode:
    """A prompt, what the policy said, and what that was worth."""

    prompt_id: str
    prompt: PromptText
    prompt_ids: list[int]
    text: str
    completion: Completion
    score: float  # what training maximises: after the rule for completions without EOS
    raw_score: float


def prompt_order(count: int, needed: range, seed: int) -> list[int]:
    """Which prompts the episodes numbered `needed` use: passes over all prompts, each pass in an order of its own."""
    orders: dict[int, np.ndarray] = {}
    out = []
    for episode in needed:
        epoch, position = divmod(episode, count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(count)
        out.append(int(orders[epoch][position]))
    return out


def rollout(
    roles: Roles,
    tokenizer: Any,
    score: Score,
    prompts: Sequence[dict[str, Any]],
    step: int,
    settings: Any,
    seed: int,
    times: dict[str, float],
) -> list[Episode]:
    """Steps 1 and 2: sample a completion for each prompt ({"id", "prompt", "ids", "sample"}) and score it."""
    noises = [noise(seed, step, p["id"], p["sample"], settings.response_length) for p in prompts]
    with timed(times, "rollout"):
        completions = sample(
            roles.sampler(),
            [p["ids"] for p in prompts],
            noises,
            eos_ids=eos_ids(roles.causal, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=settings.temperature,
            batch_size=max(settings.per_device_train_batch_size, 64),
        )
    texts = [decode_completion(tokenizer, c.tokens) for c in completions]
    with timed(times, "score"):
        scores = score([p["prompt"] for p in prompts], texts).tolist()
    episodes = []
    for p, completion, text, raw in zip(prompts, completions, texts, scores, strict=True):
        shaped = raw
        if not completion.finished:
            if settings.missing_eos_score is not None:
                shaped = settings.missing_eos_score
            elif settings.missing_eos_penalty is not None:
                shaped = raw - settings.missing_eos_penalty
        episodes.append(Episode(p["id"], p["prompt"], p["ids"], text, completion, shaped, raw))
    return episodes


def micro_batches(
    episodes: Sequence[Episode], size: int, pad_id: int, device: torch.device
) -> list[tuple[list[int], Batch]]:
    """Episodes of like length together, `size` at a time: (indices, tensors)."""
    order = sorted(range(len(episodes)), key=lambda i: len(episodes[i].prompt_ids) + len(episodes[i].completion.tokens))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    return [
        (g, pack([episodes[i].prompt_ids for i in g], [episodes[i].completion.tokens for i in g], pad_id, device))
        for g in groups
    ]
