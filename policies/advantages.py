"""How good was each token? Step 4: rewards, the critic's values, advantages; and what a separate critic can learn on the way."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from policies import ppo
from policies.figures import timed
from policies.loop import Loop
from policies.loop_settings import LoopSettings
from policies.micro_batch import MicroBatch, known
from policies.roles import VALUE


def with_advantages(
    loop: Loop, batches: list[list[MicroBatch]], kl_coef: float, times: dict[str, float]
) -> list[list[MicroBatch]]:
    """Step 4: the same micro-batches with rewards, values, advantages and returns; advantages, and rewards where that is asked for,
    are whitened over all tokens of all processes.

    What a critic learns from, once rewards are there, is its own episode: nothing that another micro-batch decides; and until the
    first optimizer step its weights are those that give the values. So a separate critic is run once for both: its gradient from the
    first minibatch of the first epoch is here, and its activations are gone with the micro-batch.
    """
    settings, every = loop.settings, [micro for mini in batches for micro in mini]
    reward_all(loop.accelerator, every, settings, kl_coef)
    with loop.roles.whole(VALUE):
        for number, mini in enumerate(batches):
            learns = number == 0 and loop.separate_critic and not loop.roles.sharded
            tokens = token_count(loop.accelerator, mini) if learns else None
            for micro in mini:
                _estimate(loop, micro, tokens, times)
    if settings.whiten_advantages:
        whitened = _whiten_together(loop.accelerator, every, lambda micro: known(micro.advantages), shift_mean=True)
        for micro, advantages in zip(every, whitened, strict=True):
            micro.advantages = advantages
    return batches


def reward_all(accelerator: Accelerator, every: Sequence[MicroBatch], settings: LoopSettings, kl_coef: float) -> None:
    """Rewards of every micro-batch; where that is asked for, whitened with the variance over all processes' tokens, their mean kept."""
    for micro in every:
        micro.rewards = ppo.shape_rewards(micro.scores, micro.logprobs, micro.reference, micro.batch.mask, kl_coef)
    if settings.whiten_rewards:
        whitened = _whiten_together(accelerator, every, lambda micro: known(micro.rewards), shift_mean=False)
        for micro, rewards in zip(every, whitened, strict=True):
            micro.rewards = rewards


def _estimate(loop: Loop, micro: MicroBatch, tokens: Tensor | None, times: dict[str, float]) -> None:
    """Values, where step 3 has not given them, advantages and returns; and with `tokens`, the minibatch's, the critic's gradient."""
    settings, batch = loop.settings, micro.batch
    with timed(times, "values"), torch.set_grad_enabled(tokens is not None):
        values = loop.roles.values(batch, None) if micro.values is None else micro.values
    micro.values = values.detach()
    micro.advantages, micro.returns = ppo.gae(
        known(micro.rewards), micro.values, batch.mask, settings.gamma, settings.lam
    )
    if tokens is not None:
        with timed(times, "update"):
            loss = critic_loss(values, micro, settings)
            loop.accelerator.backward(settings.vf_coef * loss / tokens)
        micro.critic_done = loss.detach()


def critic_loss(values: Tensor, micro: MicroBatch, settings: LoopSettings) -> Tensor:
    """The critic's loss summed over the tokens of a micro-batch, a scalar."""
    old, returns = known(micro.values), known(micro.returns)
    return ppo.value_loss(values, old, returns, micro.batch.mask, settings.cliprange_value).sum()


def token_count(accelerator: Accelerator, mini: Sequence[MicroBatch]) -> Tensor:
    """Completion tokens of a minibatch on all processes, a scalar."""
    local = torch.tensor(float(sum(micro.batch.count for micro in mini))).to(mini[0].batch.mask.device)
    counted: Tensor = accelerator.reduce(local, "sum")
    return counted


def _whiten_together(
    accelerator: Accelerator,
    every: Sequence[MicroBatch],
    field: Callable[[MicroBatch], Tensor],
    shift_mean: bool,
) -> list[Tensor]:
    """`ppo.whiten` over one long row that holds the valid entries of a field of all micro-batches of all processes."""
    device = every[0].batch.mask.device
    local = torch.cat([micro.batch.flat(field(micro)) for micro in every])
    sizes = [len(local)]
    if accelerator.num_processes > 1:
        sizes = accelerator.gather(torch.tensor(sizes).to(device)).tolist()
    padded = local.new_zeros(max(sizes))
    padded[: len(local)] = local
    everyone = accelerator.gather(padded).view(len(sizes), -1)
    # Sorted, so that the sums do not depend on how tokens were dealt to processes and micro-batches.
    whole, order = torch.cat([row[:size] for row, size in zip(everyone, sizes, strict=True)]).sort()
    flat = torch.empty_like(whole)
    flat[order] = ppo.whiten(whole[None], torch.ones_like(whole[None], dtype=torch.bool), shift_mean)[0]
    begin = sum(sizes[: accelerator.process_index])
    out = []
    for micro in every:
        out.append(micro.batch.spread(flat[begin : begin + micro.batch.count]))
        begin += micro.batch.count
    return out
