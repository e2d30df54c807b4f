"""How likely were these tokens? Step 3: log-probabilities under policy and reference, each computed once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from policies.engines import truncated_importance_weights
from policies.episodes import Episode, micro_batches
from policies.figures import Sums, timed
from policies.logprobs import Batch
from policies.loop import Loop
from policies.loop_settings import MICRO_BATCH_TOKENS, LoopSettings
from policies.micro_batch import Forward, MicroBatch
from policies.quick.activations import Activations
from policies.quick.trunk import padded
from policies.roles import POLICY, Roles

Together = tuple[list[Episode], Batch]  # those of one micro-batch


def per_token(rows: Sequence[Tensor], batch: Batch) -> Tensor:
    """One number a completion token as (B, T) float32, zero where masked."""
    return batch.spread(torch.cat(list(rows)).to(batch.mask.device))


def policy_forward(roles: Roles, temperature: float, batch: Batch) -> Forward:
    """Log-probabilities and entropies (B, T) float32 under the policy, and values where the critic is a head on it."""
    if roles.value == "shared":
        return Forward(*roles(batch, temperature))
    return Forward(*roles.policy_logprobs(batch, temperature)[:2], None)


def measured(
    loop: Loop, episodes: Sequence[Episode], step: int, sums: Sums, times: dict[str, float]
) -> list[list[MicroBatch]]:
    """Step 3: every minibatch as its micro-batches, with log-probabilities under the policy as it was and under the reference, and
    with values where the critic is a head on the policy.

    Before the first update the policy is the reference, to the last token; anything else means that the two are not rendered or run
    alike, and raises RuntimeError.
    """
    settings, share = loop.settings, loop.settings.share(loop.accelerator.num_processes)
    kept = Activations(loop.roles, settings, loop.accelerator.num_processes)
    minis = [_cut(loop, episodes[start : start + share]) for start in range(0, len(episodes), share)]
    with loop.roles.whole("reference"):
        references = [_references(loop, mini, times) for mini in minis]
    with loop.roles.whole(POLICY):
        batches = [
            _measured_mini(loop, mini, found, kept, sums, times) for mini, found in zip(minis, references, strict=True)
        ]
    if step == 0:
        worst = torch.stack([(m.logprobs - m.reference).abs().max() for mini in batches for m in mini]).max().item()
        if 1e-3 < worst < math.inf:
            raise RuntimeError(f"policy and reference differ by {worst:.2g} nats a token before any update")
    return batches


def _cut(loop: Loop, episodes: Sequence[Episode]) -> list[Together]:
    """A minibatch's episodes, those of each micro-batch with their tensors."""
    pad, tokens = loop.tokenizer.pad_token_id, loop.settings.micro_batch_tokens or MICRO_BATCH_TOKENS
    cut = micro_batches(episodes, tokens, pad, loop.device, padding=not loop.roles.packed)
    return [([episodes[i] for i in indices], batch) for indices, batch in cut]


@torch.no_grad()
def _references(loop: Loop, mini: Sequence[Together], times: dict[str, float]) -> list[tuple[Batch, Tensor]]:
    """Of each micro-batch its tensors with the states of the trunk, and log-probabilities (B, T) under the reference."""
    trunk, found = loop.roles.trunk, []
    for _, batch in mini:
        if trunk is not None and batch.states is None:  # an engine that gives no states
            batch = replace(batch, states=trunk.states(batch.input_ids, batch.attention_mask))
        with timed(times, "reference"):
            found.append((batch, loop.roles.reference_logprobs(batch, loop.settings.temperature)))
    return found


def _measured_mini(
    loop: Loop,
    mini: Sequence[Together],
    references: Sequence[tuple[Batch, Tensor]],
    kept: Activations,
    sums: Sums,
    times: dict[str, float],
) -> list[MicroBatch]:
    made = []
    for (said, _), (batch, reference) in zip(mini, references, strict=True):
        micro = _measured_one(loop.roles, loop.settings, said, batch, reference, kept, times)
        sums.add("tokens", batch.count)
        sums.add("entropy", micro.entropy.sum())
        sums.add("kl", (micro.logprobs - micro.reference).sum())
        if micro.importance is not None:
            sums.add("importance", micro.importance.sum())
            _add_gap(sums, micro, per_token([e.completion.logprobs for e in said], batch), loop.settings)
        made.append(micro)
    episodes = [episode for said, _ in mini for episode in said]
    sums.add("episodes", len(episodes))
    sums.add("score", sum(e.score for e in episodes))
    sums.add("raw_score", sum(e.raw_score for e in episodes))
    sums.add("length", sum(len(e.completion.tokens) for e in episodes))
    sums.add("eos", sum(e.completion.finished for e in episodes))
    return made


def _add_gap(sums: Sums, micro: MicroBatch, sampled: Tensor, settings: LoopSettings) -> None:
    """Add how far the sampler's distribution is from the policy's, in which `sampled` (B, T) are its log-probabilities: KL(μ‖π) by
    (r − 1) − log r with r = π/μ, which is never negative (Schulman 2020, "Approximating KL divergence", k3), and the tokens whose
    weight is capped."""
    log_ratio = (micro.logprobs - sampled).masked_fill(~micro.batch.mask, 0.0)
    sums.add("sampler_kl", (torch.expm1(log_ratio) - log_ratio).sum())
    sums.add("capped", (log_ratio > math.log(settings.importance_cap)).sum())


def _measured_one(
    roles: Roles,
    settings: LoopSettings,
    episodes: Sequence[Episode],
    batch: Batch,
    reference: Tensor,
    kept: Activations,
    times: dict[str, float],
) -> MicroBatch:
    """One micro-batch. Where the rollout's own log-probabilities and states are those of a training pass, the policy is not run
    again."""
    said = [e.completion for e in episodes]
    importance = ready = values = None
    with timed(times, "values"):
        states = [c.hidden for c in said if c.hidden is not None]
        if roles.exact and states and len(states) == len(said):
            logprobs = per_token([c.logprobs for c in said], batch)
            entropy = per_token([c.entropies for c in said], batch)
            if roles.value == "shared":
                with torch.no_grad():
                    values = roles.head_values(padded(states, batch.mask.shape[1]), batch)
        else:
            ran = kept.run(partial(policy_forward, roles, settings.temperature), batch)
            logprobs, entropy = ran.logprobs.detach(), ran.entropy.detach()
            values = None if ran.values is None else ran.values.detach()
            ready = ran if ran.logprobs.requires_grad else None
            sampled = per_token([c.logprobs for c in said], batch)
            importance = truncated_importance_weights(logprobs, sampled, batch.mask, settings.importance_cap)
    scores, raw = ([e.score for e in episodes], [e.raw_score for e in episodes])
    return MicroBatch(
        batch=batch,
        prompt_ids=[e.prompt_id for e in episodes],
        scores=torch.tensor(scores, device=batch.mask.device),
        raw_scores=torch.tensor(raw, device=batch.mask.device),
        logprobs=logprobs,
        entropy=entropy,
        reference=reference,
        importance=importance,
        values=values,
        ready=ready,
    )
