"""What is an episode? A prompt, what the policy said to it, and what that was worth; and how episodes are drawn and batched."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from policies.drawing import Completion, Record, noise
from policies.engines import Engine
from policies.figures import timed
from policies.logprobs import Batch, pack
from policies.loop_settings import ROLLOUT_BATCH, EosRule, LoopSettings
from policies.quick.batching import together
from policies.quick.trunk import padded
from policies.roles import POLICY, REWARD, Roles
from policies.template import PromptText, closing, decode_completion, encode_prompt
from policies.tokenizers import eos_ids
from policies.untyped import Tokenizer

Score = Callable[[Sequence[PromptText], Sequence[str]], Tensor]


class PromptRow(TypedDict):
    """A prompt as the loop is handed it."""

    id: str
    prompt: PromptText


@dataclass(frozen=True)
class Asked:
    """A prompt as tokens, and which of its samples is wanted: both decide the noise."""

    id: str
    prompt: PromptText
    ids: list[int]
    sample: int = 0


def as_asked(tokenizer: Tokenizer, rows: Sequence[PromptRow]) -> list[Asked]:
    """Prompts rendered once for the whole run."""
    return [Asked(row["id"], row["prompt"], encode_prompt(tokenizer, row["prompt"])) for row in rows]


@dataclass(frozen=True)
class Episode:
    """A prompt, what the policy said, and, after step 2, what that was worth."""

    prompt_id: str
    prompt: PromptText
    prompt_ids: list[int]
    text: str
    completion: Completion
    score: float = math.nan  # what training maximises: after the rule for completions without EOS
    raw_score: float = math.nan


def prompt_order(count: int, needed: range, seed: int) -> list[int]:
    """Which prompts the episodes numbered `needed` use: passes over all prompts, each pass in an order of its own."""
    orders: dict[int, list[int]] = {}
    out = []
    for episode in needed:
        epoch, position = divmod(episode, count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
        out.append(orders[epoch][position])
    return out


def roll_out(
    roles: Roles,
    engine: Engine,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    step: int,
    settings: LoopSettings,
    seed: int,
    times: dict[str, float],
) -> list[Episode]:
    """Step 1: a completion of each prompt, with the noise that belongs to it. Nothing is scored yet."""
    depth = roles.trunk.depth if roles.trunk is not None else 0
    record = Record(depth, _closing(tokenizer, asked), hidden=roles.exact)
    with timed(times, "rollout"):
        said = completions(roles, engine, tokenizer, asked, step, settings, seed, record)
    return as_episodes(roles, tokenizer, asked, said)


def completions(
    roles: Roles,
    engine: Engine,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    step: int,
    settings: LoopSettings,
    seed: int,
    record: Record | None,
) -> list[Completion]:
    """What the engine says to each prompt, with the noise that belongs to it."""
    noises = [noise(seed, step, one.id, one.sample, settings.response_length) for one in asked]
    with roles.whole(POLICY):
        return engine(
            [one.ids for one in asked],
            noises,
            eos_ids=eos_ids(roles.causal, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=settings.temperature,
            batch_size=settings.per_device_rollout_batch_size or ROLLOUT_BATCH,
            record=record,
        )


def as_episodes(
    roles: Roles, tokenizer: Tokenizer, asked: Sequence[Asked], said: Sequence[Completion]
) -> list[Episode]:
    """What was said to whom, as text too."""
    stops = eos_ids(roles.causal, tokenizer)
    texts = [decode_completion(tokenizer, one.prompt, c.tokens, stops) for one, c in zip(asked, said, strict=True)]
    return [Episode(a.id, a.prompt, a.ids, text, c) for a, text, c in zip(asked, texts, said, strict=True)]


def scored(
    roles: Roles,
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    score: Score,
    rule: EosRule,
    times: dict[str, float],
) -> list[Episode]:
    """Step 2: the episodes with what they are worth."""
    with timed(times, "score"), roles.whole(REWARD), _known_states(roles, episodes, _closing(tokenizer, episodes)):
        scores = score([e.prompt for e in episodes], [e.text for e in episodes]).tolist() if episodes else []
    return [
        replace(e, score=after_eos_rule(raw, e.completion.finished, rule), raw_score=raw)
        for e, raw in zip(episodes, scores, strict=True)
    ]


def _closing(tokenizer: Tokenizer, asked: Sequence[Asked] | Sequence[Episode]) -> int:
    """What ends the first of the completions; where texts and messages are mixed, the states kept of others are not looked up."""
    return closing(tokenizer, asked[0].prompt) if asked else tokenizer.eos_token_id


def after_eos_rule(score: float, finished: bool, settings: EosRule) -> float:
    """What training maximises: the score, or for a completion without EOS what the settings say (missing_eos_…)."""
    if finished:
        return score
    if settings.missing_eos_score is not None:
        return float(settings.missing_eos_score)
    return score - (settings.missing_eos_penalty or 0.0)


@contextmanager
def _known_states(roles: Roles, episodes: Sequence[Episode], eos: int) -> Iterator[None]:
    """Within the block a score that runs on the policy's base finds the trunk's states of what was just said."""
    if roles.trunk is None:
        yield
        return
    for episode in episodes:
        completion = episode.completion
        if completion.states is not None:
            ids = (*episode.prompt_ids, *completion.tokens, *(() if completion.finished else (eos,)))
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
