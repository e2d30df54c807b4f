"""What does the policy say? Batched sampling of completions from token prompts.

Sampling noise comes from (seed, step, prompt), not from global state: one uniform number a token, turned into a token by the inverse
of the cumulative distribution. The same episode is drawn whatever process it falls to and wherever a run is resumed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

SHARED_PREFIX = 16  # tokens that all prompts must have in common before they are computed once for all


@dataclass(frozen=True)
class Completion:
    """One sampled completion."""

    tokens: list[int]  # EOS included where it was sampled
    logprobs: list[float]  # of each token at the sampling temperature, nats, as the sampler computed them
    finished: bool  # ended with EOS, not by the length limit


def noise(seed: int, step: int, prompt_id: str, sample: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) that belong to one episode, float64."""
    key = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, step, key, sample]).random(count)


def choose(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row by the inverse of the cumulative distribution, (B,) int64, and its log-probability, (B,) float32.

    `logits` (B, V), `uniform` (B,) in [0, 1). No top-k, no top-p: what is sampled is what the loss sees.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = logprobs.exp().cumsum(dim=-1)
    total = cumulative[:, -1]
    # in float32 a uniform number near 1 is 1, and would take the last token of the vocabulary, though its probability be 0
    target = torch.minimum(uniform.to(total) * total, torch.nextafter(total, torch.zeros_like(total)))[:, None]
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return shortest


@torch.no_grad()
def _sample_batch(
    model: Any, prompts: Sequence[Sequence[int]], uniforms: Tensor, eos: Tensor, pad_id: int, temperature: float
) -> list[Completion]:
    device, count, limit = uniforms.device, len(prompts), uniforms.shape[1]
    cache = DynamicCache(config=model.config)
    prefix = _common_prefix(prompts)
    if prefix >= SHARED_PREFIX:
        model(
            input_ids=torch.tensor([list(prompts[0][:prefix])], device=device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(count)
    else:
        prefix = 0
    width = max(len(p) for p in prompts) - prefix
    ids = torch.full((count, width), pad_id, device=device)
    attention = torch.zeros((count, prefix + width), dtype=torch.long, device=device)
    attention[:, :prefix] = 1
    for row, prompt in enumerate(prompts):
        rest = torch.tensor(list(prompt[prefix:]), device=device)
        ids[row, width - len(rest) :] = rest
        attention[row, prefix + width - len(rest) :] = 1
    positions = (attention.cumsum(1) - 1).clamp(min=0)[:, prefix:]

    alive = torch.arange(count, device=device)
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    finished = [False] * count
    for t in range(limit):
        out = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen, chosen_logprobs = choose(out.logits[:, -1], uniforms[alive, t], temperature)
        ended = torch.isin(chosen, eos)
        for row, token, logprob, end in zip(
            alive.tolist(), chosen.tolist(), chosen_logprobs.tolist(), ended.tolist(), strict=True
        ):
            tokens[row].append(token)
            logprobs[row].append(logprob)
            finished[row] = end
        going = (~ended).nonzero().squeeze(1)
        if t == limit - 1 or len(going) == 0:
            break
        if len(going) < len(alive):  # the ended rows leave the batch, and the cache
            cache.batch_select_indices(going)
            alive, chosen, attention, positions = alive[going], chosen[going], attention[going], positions[going]
        ids = chosen[:, None]
        attention = torch.cat([attention, attention.new_ones((len(attention), 1))], dim=1)
        positions = positions[:, -1:] + 1
    return [Completion(*row) for row in zip(tokens, logprobs, finished, strict=True)]


def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[np.ndarray],
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """Sample one completion for each prompt, in the order given.

    `prompts` are token lists of any lengths, `noises` one array of uniform numbers each (`noise`); its length is the limit of new
    tokens. A completion ends at any of `eos_ids`. Prompts of like length are decoded together, left-padded; a long prefix that all
    of a batch share is computed once; rows that have ended leave the batch. `progress` is told how many more are done.
    """
    device = next(model.parameters()).device
    eos = torch.tensor(list(eos_ids), device=device)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        uniforms = torch.tensor(np.stack([noises[i] for i in rows]), device=device)
        sampled = _sample_batch(model, [prompts[i] for i in rows], uniforms, eos, pad_id, temperature)
        out |= dict(zip(rows, sampled, strict=True))
        if progress is not None:
            progress(len(rows))
    return [out[i] for i in range(len(prompts))]
