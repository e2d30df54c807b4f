"""How likely were these tokens? Step 3: log-probabilities under policy and reference, each computed once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from policies.engines import truncated_importance_weights
from policies.episodes import Episode, micro_batches
from policies.figures import Sums, not_finite, timed
from policies.logprobs import Batch
from policies.quick.trunk import padded
from policies.roles import Roles

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


def policy_forward(roles: Roles, temperature: float, batch: Batch) -> dict[str, Tensor]:
    """Log-probabilities and entropies (B, T) float32 under the policy, and values where the critic is a head on it."""
    if roles.value == "shared":
        return dict(zip(NAMES, roles(batch, temperature), strict=True))
    return dict(zip(NAMES, roles.policy_logprobs(batch, temperature)[:2], strict=False))


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
    """Step 3 for one minibatch: its micro-batches with log-probabilities, reference log-probabilities and scores, and with values where
    the critic is a head on the policy.

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
        entry: dict[str, Any] = {
            "batch": batch,
            "reference": reference,
            "prompts": [episodes[i].prompt_id for i in indices],
        }
        for name in ("score", "raw_score"):
            entry[f"{name}s"] = torch.tensor([getattr(episodes[i], name) for i in indices], device=device)
        entry["importance"] = None
        with timed(times, "values"):
            states = [c.hidden for c in said if c.hidden is not None]
            if roles.exact and states and len(states) == len(said):
                for name, rows in (("logprobs", [c.logprobs for c in said]), ("entropy", [c.entropies for c in said])):
                    entry[name] = column(rows, batch)
                if roles.value == "shared":
                    with torch.no_grad():
                        entry["values"] = roles.head_values(padded(states, batch.mask.shape[1]), batch)
            else:
                live = kept.run(partial(policy_forward, roles, settings.temperature), batch)
                entry |= {name: tensor.detach() for name, tensor in live.items()}
                entry["live"] = live if live["logprobs"].requires_grad else {}
                sampled = column([c.logprobs for c in said], batch)
                entry["importance"] = truncated_importance_weights(
                    entry["logprobs"], sampled, batch.mask, settings.importance_cap
                )
                sums.add("importance", entry["importance"].sum())
        entry["problems"] = [
            problem
            for name, remedy in (
                ("raw_scores", "mend the reward function"),
                ("logprobs", "lower learning_rate, or use dtype: float32"),
                ("reference", "use dtype: float32"),
            )
            for problem in not_finite(step, entry, name, remedy)
        ]
        worst = (entry["logprobs"] - reference).abs().max().item()
        if step == 0 and not entry["problems"] and worst > 1e-3:
            raise RuntimeError(f"policy and reference differ by {worst:.2g} nats a token before any update")
        sums.add("tokens", batch.mask.sum())
        sums.add("entropy", entry["entropy"].sum())
        sums.add("kl", (entry["logprobs"] - reference).sum())
        entries.append(entry)
    sums.add("episodes", len(episodes))
    sums.add("score", sum(e.score for e in episodes))
    sums.add("raw_score", sum(e.raw_score for e in episodes))
    sums.add("length", sum(len(e.completion.tokens) for e in episodes))
    sums.add("eos", sum(e.completion.finished for e in episodes))
    return entries
