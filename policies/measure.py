"""What does an iteration need to know before it learns? Step 3: log-probabilities, reference and values, each computed once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policies.engines import truncated_importance_weights
from policies.episodes import Episode, micro_batches
from policies.figures import Sums, timed
from policies.logprobs import Batch
from policies.roles import Roles
from policies.trunk import padded

NAMES = ("logprobs", "entropy", "values")  # what the roles give in one forward


def kept_numbers(shape: Any, layers: int) -> int:
    """About how many numbers autograd keeps for one token in `layers` layers of a decoder with the text config `shape`.

    Nine vectors of the hidden size (norms, projections, attention, residuals) and four of the inner one (gate, its activation, up, product).
    """
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    return layers * (9 * shape.hidden_size + 4 * inner)


class Activations:
    """Forwards of the measuring pass, kept with their activations for the first epoch's backward, within `keep_activations` GB.

    Until the first update the weights are those that were measured, so that the first epoch need not run them again; this holds for one
    minibatch an epoch. With several processes nothing is kept, as DDP wants each forward followed by its backward.
    """

    def __init__(self, roles: Roles, settings: Any, world: int):
        self.weights = {p.untyped_storage().data_ptr() for p in roles.parameters()}
        self.room = settings.keep_activations * 1e9 if settings.num_mini_batches == 1 and world == 1 else 0.0
        shape = roles.causal.config.get_text_config()
        layers = shape.num_hidden_layers - (roles.trunk.depth if roles.trunk is not None else 0)
        # bytes, an estimate for the first micro-batch, then as counted for the one before
        self.per_token = float(kept_numbers(shape, layers) * next(roles.causal.parameters()).element_size())

    def run(self, forward: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """What `forward` gives: with its graph where there is room for that, else without."""
        size = int(batch.attention_mask.sum())
        if self.room <= 0 or self.per_token * size > self.room:
            with torch.no_grad():
                return forward(batch)
        stored: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.weights:
                stored[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # a node that kept its own output would never be freed

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = forward(batch)
        used = float(sum(stored.values()))
        self.room -= used
        self.per_token = used / size
        return out


def column(rows: Sequence[Sequence[float]], batch: Batch) -> Tensor:
    """One number a completion token as (B, T) float32, zero where masked."""
    flat = torch.tensor([x for row in rows for x in row], device=batch.mask.device)
    return torch.zeros(batch.mask.shape, device=batch.mask.device).masked_scatter(batch.mask, flat)


def measure(
    roles: Roles,
    episodes: Sequence[Episode],
    settings: Any,
    step: int,
    pad_id: int,
    device: torch.device,
    sums: Sums,
    kept: Activations,
    times: dict[str, float],
) -> list[dict[str, Any]]:
    """Step 3 for one minibatch: its micro-batches with log-probabilities, reference log-probabilities, values and scores.

    Where the rollout's own log-probabilities and states are those of a training pass, the policy is not run again.
    Before the first update the policy is the reference, to the last token; anything else means that the two are not rendered or
    run alike, and raises RuntimeError.
    """
    entries = []
    for indices, batch in micro_batches(
        episodes, settings.micro_batch_tokens, pad_id, device, padding=not roles.packed
    ):
        said = [episodes[i].completion for i in indices]
        if roles.trunk is not None and batch.states is None:  # an engine that gives no states
            batch = replace(batch, states=roles.trunk.states(batch.input_ids, batch.attention_mask))
        with timed(times, "reference"), torch.no_grad():
            reference = roles.reference_logprobs(batch, settings.temperature)
        live: dict[str, Tensor] = {}
        importance = None
        with timed(times, "values"):
            if (
                roles.exact
                and (states := [c.hidden for c in said if c.hidden is not None])
                and len(states) == len(said)
            ):
                logprobs, entropy = (
                    column(rows, batch) for rows in ([c.logprobs for c in said], [c.entropies for c in said])
                )
                if roles.value == "adapter":
                    live = kept.run(lambda b: {"values": roles.values(b, None)}, batch)
                    values = live["values"].detach()
                else:
                    with torch.no_grad():
                        values = roles.head_values(padded(states, batch.mask.shape[1]), batch)
            else:
                live = kept.run(lambda b: dict(zip(NAMES, roles(b, settings.temperature), strict=True)), batch)
                logprobs, entropy, values = (live[name].detach() for name in NAMES)
                sampled = column([c.logprobs for c in said], batch)
                importance = truncated_importance_weights(logprobs, sampled, batch.mask, settings.importance_cap)
                sums.add("importance", importance.sum())
        scores = torch.tensor([episodes[i].score for i in indices], device=device)
        raw_scores = torch.tensor([episodes[i].raw_score for i in indices], device=device)
        problems = [
            f"step {step}: {what} not finite for prompt {episodes[i].prompt_id}; {remedy}"
            for what, tensor, remedy in (
                ("score", raw_scores[:, None].expand_as(values), "mend the reward function"),
                ("log-probabilities", logprobs, "lower learning_rate, or use dtype: float32"),
                ("reference log-probabilities", reference, "use dtype: float32"),
                ("values", values, "lower learning_rate or vf_coef"),
            )
            for i, bad in zip(indices, (~torch.isfinite(tensor) & batch.mask).any(dim=1).tolist(), strict=True)
            if bad
        ]
        if step == 0 and not problems and (worst := (logprobs - reference).abs().max().item()) > 1e-3:
            raise RuntimeError(f"policy and reference differ by {worst:.2g} nats a token before any update")
        sums.add("tokens", batch.mask.sum())
        sums.add("entropy", entropy.sum())
        sums.add("kl", (logprobs - reference).sum())
        entries.append(
            {
                "batch": batch,
                "logprobs": logprobs,
                "reference": reference,
                "values": values,
                "scores": scores,
                "importance": importance,
                "problems": problems,
                "live": live if live and live["values"].requires_grad else {},
            }
        )
    sums.add("episodes", len(episodes))
    sums.add("score", sum(e.score for e in episodes))
    sums.add("raw_score", sum(e.raw_score for e in episodes))
    sums.add("length", sum(len(e.completion.tokens) for e in episodes))
    sums.add("eos", sum(e.completion.finished for e in episodes))
    return entries
