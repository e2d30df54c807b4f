"""What does the policy say? Batched sampling of completions from token prompts.

Sampling noise comes from (seed, step, prompt), not from global state: one uniform number a token, turned into a token by the inverse
of the cumulative distribution. The same episode is drawn whatever process it falls to and wherever a run is resumed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from policies.backbone import decoder
from policies.logprobs import logits

SHARED_PREFIX = 16  # tokens that all prompts must have in common before they are computed once for all


@dataclass(frozen=True)
class Completion:
    """One sampled completion."""

    tokens: list[int]  # EOS included where it was sampled
    logprobs: list[float]  # of each token at the sampling temperature, nats, as the sampler computed them
    finished: bool  # ended with EOS, not by the length limit
    entropies: list[float] = field(
        default_factory=list
    )  # of the distribution each token came from, nats; where recorded
    hidden: Tensor | None = None  # (T, H) final states that each token was chosen from; where recorded
    states: Tensor | None = (
        None  # (L, H) what enters the layers above the trunk, for prompt, completion and EOS; where recorded
    )


@dataclass(frozen=True)
class Record:
    """What else than tokens a rollout keeps, so that training need not compute it again."""

    depth: int = 0  # layers of the trunk; 0: there is none, and no states are kept
    eos: int | None = (
        None  # the token that a reward model sees at the end of a completion that has none; its states are kept too
    )


def noise(seed: int, step: int, prompt_id: str, sample: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) that belong to one episode, float64."""
    key = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, step, key, sample]).random(count)


def choose(z: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row by the inverse of the cumulative distribution, (B,) int64, its log-probability and the entropy, (B,) float32.

    `z` (B, V) are logits, `uniform` (B,) in [0, 1). No top-k, no top-p: what is sampled is what the loss sees.
    """
    z = z.float() if temperature == 1.0 else z.float() / temperature
    below = z - z.amax(dim=-1, keepdim=True)
    weight = below.exp()
    below.clamp_(min=-1e4)  # 0 · -inf would be no number
    cumulative = weight.cumsum(dim=-1)
    total = cumulative[:, -1]
    # in float32 a uniform number near 1 is 1, and would take the last token of the vocabulary, though its probability be 0
    target = torch.minimum(uniform.to(total) * total, torch.nextafter(total, torch.zeros_like(total)))[:, None]
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=z.shape[1] - 1)
    logprobs = below.gather(1, tokens[:, None]).squeeze(1) - total.log()
    return tokens, logprobs, total.log() - weight.mul_(below).sum(1) / total


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return shortest


@torch.no_grad()
def _sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    eos: Tensor,
    pad_id: int,
    temperature: float,
    record: Record | None,
) -> list[Completion]:
    device, count, limit = uniforms.device, len(prompts), uniforms.shape[1]
    body: Any = decoder(model)
    depth = record.depth if record is not None else 0
    cache = DynamicCache(config=model.config)
    seen: list[Tensor] = []  # what entered the layers above the trunk in the last call, (B, width, H)
    hook = body.layers[depth].register_forward_pre_hook(lambda _, given: seen.append(given[0])) if depth else None
    try:
        prefix = _common_prefix(prompts)
        if prefix >= SHARED_PREFIX:
            body(
                input_ids=torch.tensor([list(prompts[0][:prefix])], device=device),
                past_key_values=cache,
                use_cache=True,
            )
            cache.batch_repeat_interleave(count)
        else:
            prefix = 0
        shared = seen.pop()[0] if seen else None
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
        entropies: list[list[float]] = [[] for _ in prompts]
        hidden: list[list[Tensor]] = [[] for _ in prompts]
        states: list[list[Tensor]] = [[] if shared is None else [shared] for _ in prompts]
        finished = [False] * count
        ended = torch.zeros(count, dtype=torch.bool, device=device)
        # with a trunk, two more calls at most: for the last token, and for the EOS that a reward model sees after it
        for t in range(limit + 2 if depth else limit):
            final = body(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            if depth:
                for row, row_states, mask in zip(
                    alive.tolist(), seen.pop(), attention[:, -ids.shape[1] :], strict=True
                ):
                    states[row].append(row_states[mask.bool()])
                going = (~ended).nonzero().squeeze(1)
                if len(going) == 0:
                    break
                if len(going) < len(alive):
                    cache.batch_select_indices(going)
                    alive, final, attention, positions = alive[going], final[going], attention[going], positions[going]
            if t < limit:
                chosen, *figures = choose(logits(model, final), uniforms[alive, t], temperature)
                ended = torch.isin(chosen, eos)
                for row, token, logprob, entropy, end, state in zip(
                    alive.tolist(), chosen.tolist(), *(f.tolist() for f in figures), ended.tolist(), final, strict=True
                ):
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
                    entropies[row].append(entropy)
                    finished[row] = end
                    if record is not None:
                        hidden[row].append(state)
            else:
                assert record is not None
                chosen = torch.full_like(alive, pad_id if record.eos is None else record.eos)
                ended = torch.ones_like(alive, dtype=torch.bool)
            if not depth:
                going = (~ended).nonzero().squeeze(1)
                if t == limit - 1 or len(going) == 0:
                    break
                if len(going) < len(alive):  # the ended rows leave the batch, and the cache
                    cache.batch_select_indices(going)
                    alive, chosen, attention, positions = (
                        alive[going],
                        chosen[going],
                        attention[going],
                        positions[going],
                    )
                    ended = ended[going]
            ids = chosen[:, None]
            attention = torch.cat([attention, attention.new_ones((len(attention), 1))], dim=1)
            positions = positions[:, -1:] + 1
    finally:
        if hook is not None:
            hook.remove()
    return [
        Completion(
            tokens[i],
            logprobs[i],
            finished[i],
            entropies[i],
            torch.stack(hidden[i]) if hidden[i] else None,
            torch.cat(states[i]) if depth else None,
        )
        for i in range(count)
    ]


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
    record: Record | None = None,
) -> list[Completion]:
    """Sample one completion for each prompt, in the order given.

    `prompts` are token lists of any lengths, `noises` one array of uniform numbers each (`noise`); its length is the limit of new
    tokens. A completion ends at any of `eos_ids`. Prompts of like length are decoded together, left-padded; a long prefix that all
    of a batch share is computed once; rows that have ended leave the batch. `progress` is told how many more are done. With `record`
    completions also carry final states, and those of the trunk.
    """
    device = next(model.parameters()).device
    eos = torch.tensor(list(eos_ids), device=device)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        uniforms = torch.tensor(np.stack([noises[i] for i in rows]), device=device)
        sampled = _sample_batch(model, [prompts[i] for i in rows], uniforms, eos, pad_id, temperature, record)
        out |= dict(zip(rows, sampled, strict=True))
        if progress is not None:
            progress(len(rows))
    return [out[i] for i in range(len(prompts))]
