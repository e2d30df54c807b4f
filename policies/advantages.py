"""How good was each token? Step 4: rewards, the critic's values, advantages; and what a critic of its own can learn on the way."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from policies import ppo
from policies.figures import not_finite, timed
from policies.roles import Roles


def apart(accelerator: Accelerator, roles: Roles) -> bool:
    """Whether policy and critic can be differentiated one after the other: nothing shared is trained, and no DDP, which wants all in one."""
    return roles.value == "adapter" and accelerator.num_processes == 1


def shape_rewards(accelerator: Accelerator, batches: list[list[dict[str, Any]]], settings: Any, kl_coef: float) -> None:
    """Rewards of every micro-batch; where that is asked for, whitened with the variance over all processes' tokens."""
    entries = [entry for mini in batches for entry in mini]
    for entry in entries:
        mask = entry["batch"].mask
        entry["rewards"] = ppo.shape_rewards(entry["scores"], entry["logprobs"], entry["reference"], mask, kl_coef)
    if settings.whiten_rewards:
        _whiten_together(accelerator, entries, "rewards", shift_mean=False)


def estimate(
    accelerator: Accelerator,
    roles: Roles,
    batches: list[list[dict[str, Any]]],
    settings: Any,
    step: int,
    times: dict[str, float],
) -> list[str]:
    """Values, where `measure` has not given them, and advantages and returns of every micro-batch; then advantages are whitened with
    mean and variance over all processes' tokens. Returns what is not finite.

    What a critic learns from, once rewards are shaped, is its own episode: nothing that another micro-batch decides; and until the first
    optimizer step its weights are those that give the values. So one that is differentiated apart is run once for both: its
    gradient from the first minibatch of the first epoch is here, and its activations are gone with the micro-batch.
    """
    problems = []
    for number, mini in enumerate(batches):
        learns = number == 0 and apart(accelerator, roles)
        tokens = token_count(accelerator, mini) if learns else None
        for entry in mini:
            batch = entry["batch"]
            with timed(times, "values"), torch.set_grad_enabled(learns):
                values = entry["values"] if "values" in entry else roles.values(batch, None)
            entry["values"] = values.detach()
            entry["advantages"], entry["returns"] = ppo.gae(
                entry["rewards"], entry["values"], batch.mask, settings.gamma, settings.lam
            )
            if tokens is not None:
                with timed(times, "update"):
                    loss = critic_loss(values, entry, settings)
                    accelerator.backward(settings.vf_coef * loss / tokens)
                entry["value_loss"] = loss.detach()
            problems += not_finite(step, entry, "values", "lower learning_rate or vf_coef")
    if settings.whiten_advantages:
        _whiten_together(accelerator, [entry for mini in batches for entry in mini], "advantages", shift_mean=True)
    return problems


def critic_loss(values: Tensor, entry: dict[str, Any], settings: Any) -> Tensor:
    """The critic's loss summed over the tokens of a micro-batch, a scalar."""
    mask = entry["batch"].mask
    return ppo.value_loss(values, entry["values"], entry["returns"], mask, settings.cliprange_value).sum()


def token_count(accelerator: Accelerator, mini: Sequence[dict[str, Any]]) -> Tensor:
    """Completion tokens of a minibatch on all processes, a scalar."""
    local = torch.stack([entry["batch"].mask.sum() for entry in mini]).sum().float()
    counted: Tensor = accelerator.reduce(local, "sum")
    return counted


def _whiten_together(accelerator: Accelerator, entries: list[dict[str, Any]], name: str, shift_mean: bool) -> None:
    """`ppo.whiten` over one long row that holds the valid entries of all micro-batches of all processes."""
    device = entries[0][name].device
    local = torch.cat([entry[name][entry["batch"].mask] for entry in entries])
    sizes = accelerator.gather(torch.tensor([len(local)], device=device)).tolist()
    padded = torch.zeros(max(sizes), device=device)
    padded[: len(local)] = local
    everyone = accelerator.gather(padded).view(len(sizes), -1)
    mask = torch.arange(max(sizes), device=device)[None, :] < torch.tensor(sizes, device=device)[:, None]
    # Sorted, so that the sums do not depend on how tokens were dealt to processes and micro-batches.
    whole, order = everyone[mask].sort()
    flat = torch.empty_like(whole)
    flat[order] = ppo.whiten(whole[None], torch.ones_like(whole[None], dtype=torch.bool), shift_mean)[0]
    begin = sum(sizes[: accelerator.process_index])
    for entry in entries:
        valid = entry["batch"].mask
        count = int(valid.sum())
        entry[name] = torch.zeros_like(entry[name]).masked_scatter(valid, flat[begin : begin + count])
        begin += count
