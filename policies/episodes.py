"""What is an episode? A prompt, what the policy said to it, and what that was worth; and how episodes are drawn and batched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.backbone import eos_ids
from policies.engines import Engine
from policies.figures import timed
from policies.logprobs import Batch, pack
from policies.quick.batching import together
from policies.quick.trunk import padded
from policies.roles import Roles
from policies.rollout import Completion, Record, noise
from policies.template import PromptText, decode_completion

ROLLOUT_BATCH = 64  # prompts decoded together
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
    engine: Engine,
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
    depth = roles.trunk.depth if roles.trunk is not None else 0
    record = Record(depth, tokenizer.eos_token_id) if depth or roles.exact else None
    with timed(times, "rollout"):
        completions = engine(
            [p["ids"] for p in prompts],
            noises,
            eos_ids=eos_ids(roles.causal, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=settings.temperature,
            batch_size=ROLLOUT_BATCH,
            record=record,
        )
    texts = [decode_completion(tokenizer, c.tokens) for c in completions]
    with timed(times, "score"), _known_states(roles, prompts, completions, tokenizer.eos_token_id):
        scores = score([p["prompt"] for p in prompts], texts).tolist()
    episodes = []
    for p, completion, text, raw in zip(prompts, completions, texts, scores, strict=True):
        shaped = after_eos_rule(raw, completion.finished, settings)
        episodes.append(Episode(p["id"], p["prompt"], p["ids"], text, completion, shaped, raw))
    return episodes


def after_eos_rule(score: float, finished: bool, settings: Any) -> float:
    """What training maximises: the score, or for a completion without EOS what the settings say (missing_eos_…)."""
    if finished:
        return score
    if settings.missing_eos_score is not None:
        return float(settings.missing_eos_score)
    return score - (settings.missing_eos_penalty or 0.0)


@contextmanager
def _known_states(
    roles: Roles, prompts: Sequence[dict[str, Any]], completions: Sequence[Completion], eos: int
) -> Iterator[None]:
    """Within the block a score that runs on the policy's base finds the trunk's states of what was just said."""
    if roles.trunk is None:
        yield
        return
    for p, completion in zip(prompts, completions, strict=True):
        if completion.states is not None:
            ids = (*p["ids"], *completion.tokens, *(() if completion.finished else (eos,)))
            roles.trunk.known[ids] = completion.states
    try:
        yield
    finally:
        roles.trunk.known.clear()


def micro_batches(
    episodes: Sequence[Episode], tokens: int, pad_id: int, device: torch.device, padding: bool = True
) -> list[tuple[list[int], Batch]]:
    """Episodes of like length together, up to `tokens` a micro-batch, with padding if that costs: (indices, tensors)."""
    lengths = [len(e.prompt_ids) + len(e.completion.tokens) - 1 for e in episodes]
    groups = together(lengths, tokens, padding)
    out = []
    for group in groups:
        picked = [episodes[i] for i in group]
        batch = pack([e.prompt_ids for e in picked], [e.completion.tokens for e in picked], pad_id, device)
        kept = [
            e.completion.states[:n]
            for e, n in zip(picked, (lengths[i] for i in group), strict=True)
            if e.completion.states is not None
        ]
        if len(kept) == len(picked):
            batch = replace(batch, states=padded(kept, batch.input_ids.shape[1]))
        out.append((group, batch))
    return out
