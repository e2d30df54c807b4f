"""How do policy and critic learn from an iteration's episodes? Step 5: epochs over minibatches, each one optimizer step."""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from policies import ppo
from policies.advantages import critic_loss, token_count
from policies.figures import Halt, Sums, update_figures
from policies.logprobs import Batch, pack
from policies.loop import Loop
from policies.loop_settings import MICRO_BATCH_TOKENS
from policies.measure import policy_forward
from policies.micro_batch import Forward, MicroBatch, known
from policies.quick.batching import together
from policies.sharding import averaged, missing


def update(loop: Loop, batches: Sequence[Sequence[MicroBatch]], step: int, times: dict[str, float]) -> dict[str, float]:
    """Step 5: num_ppo_epochs passes over the minibatches, each one optimizer step over its micro-batches on all processes; the
    figures of all of them. Raises Halt before a step that would pass a limit or is not finite."""
    sums, started = Sums(), time.perf_counter()
    for epoch in range(loop.settings.num_ppo_epochs):
        for number, mini in enumerate(batches):
            if loop.demonstrations and loop.settings.ptx_coef:
                at = (step * loop.settings.num_ppo_epochs + epoch) * len(batches) + number
                _add_ptx_gradient(loop, at)
            _add_gradient(loop, mini, sums, step, unchanged=epoch == 0 and number == 0)
            loop.optimizer.step()
            loop.scheduler.step()
            loop.optimizer.zero_grad(set_to_none=loop.roles.sharded)
    times["time/update"] = times.get("time/update", 0.0) + time.perf_counter() - started
    return update_figures(sums.reduced(loop.accelerator)) | {"lr": loop.scheduler.get_last_lr()[0]}


def _add_gradient(loop: Loop, mini: Sequence[MicroBatch], sums: Sums, step: int, unchanged: bool) -> None:
    """Gradients of one minibatch, clipped and checked, ready for the optimizer. The loss is per token of the whole minibatch.

    `unchanged`: the weights are those that were measured, so every ratio must be 1.
    """
    accelerator, settings = loop.accelerator, loop.settings
    tokens, spare = token_count(accelerator, mini), _spare(loop, len(mini))
    ratios: list[Tensor] = []  # of each micro-batch, their sum and how far the worst is from 1
    for number, micro in enumerate(mini):
        last = number == len(mini) - 1
        with torch.enable_grad() if last else accelerator.no_sync(loop.wrapped):
            values, value = (
                _separate_critic(loop, micro, tokens) if loop.separate_critic else (known(micro.values), None)
            )
            with_policy: Tensor | float = 0.0
            forward = micro.take_ready() or _policy_forward(loop, micro)
            if value is None:  # the critic ran with the policy, and they are differentiated together
                values = known(forward.values)
                value = critic_loss(values, micro, settings)
                with_policy = settings.vf_coef * value
            policy = _policy_loss(loop, micro, forward)
            # gradients are averaged over processes; the sum over all tokens is wanted.
            accelerator.backward((policy + with_policy) / tokens * accelerator.num_processes)
        with torch.no_grad():
            ratios.append(_add_figures(sums, loop, micro, forward, values, policy, value))
    _keep_pace(loop, mini[0].batch, spare, settings.temperature, critic=loop.separate_critic)
    here = torch.stack(ratios)
    ratio_sum = accelerator.reduce(here[:, 0].sum(), "sum")
    if loop.roles.sharded:  # and so not wrapped in DDP
        averaged(loop.roles.trainable().values())
    norm_now = torch.as_tensor(accelerator.clip_grad_norm_(loop.wrapped.parameters(), settings.max_grad_norm))
    # the one time in an optimizer step that the device is waited for
    mean_ratio, worst, norm = torch.stack([ratio_sum / tokens, here[:, 1].max(), norm_now.to(here)]).tolist()
    if unchanged and worst > 1e-3:
        raise RuntimeError(
            f"the ratio is {math.exp(worst):.4f} before any update; old and new log-probabilities must come from the same forward"
        )
    if not mean_ratio <= settings.max_ratio:
        raise Halt(
            f"step {step}: mean ratio {mean_ratio:.3g} above max_ratio {settings.max_ratio}; lower learning_rate or num_ppo_epochs"
        )
    if not math.isfinite(norm):
        raise Halt(f"step {step}: gradient norm {norm}; lower learning_rate, or use dtype: float32")
    sums.add("grad_norm", norm / accelerator.num_processes)
    sums.add("steps", 1.0 / accelerator.num_processes)


def _spare(loop: Loop, count: int) -> int:
    """How many micro-batches this process has to run without weight beside `count`: where weights are shared out, each forward and
    backward gathers layers from all processes, so that all have to run as many."""
    return missing(count, loop.device) if loop.roles.sharded else 0


def _keep_pace(loop: Loop, batch: Batch, spare: int, temperature: float, critic: bool) -> None:
    """Run `batch` without weight, `spare` times."""
    for _ in range(spare):
        if critic:
            loop.accelerator.backward(0.0 * loop.roles.values(batch, None).sum())
        found = policy_forward(loop.roles, temperature, batch)
        loop.accelerator.backward(0.0 * (found.logprobs.sum() + (0.0 if found.values is None else found.values.sum())))


def _separate_critic(loop: Loop, micro: MicroBatch, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Its values and its loss, whose gradient is there now; its activations are gone when the policy's come."""
    if (done := micro.take_critic_done()) is not None:
        return known(micro.values), done
    values = loop.roles.values(micro.batch, None)
    loss = critic_loss(values, micro, loop.settings)
    loop.accelerator.backward(loop.settings.vf_coef * loss / tokens * loop.accelerator.num_processes)
    return values, loss


def _policy_forward(loop: Loop, micro: MicroBatch) -> Forward:
    """The policy as it is now, alone beside a separate critic, else with the critic in one call, as DDP wants it."""
    if loop.separate_critic:
        return policy_forward(loop.roles, loop.settings.temperature, micro.batch)
    return Forward(*loop.wrapped(micro.batch, loop.settings.temperature))


def _policy_loss(loop: Loop, micro: MicroBatch, forward: Forward) -> Tensor:
    """The clipped loss summed over the tokens of a micro-batch, a scalar."""
    settings = loop.settings
    per_token = ppo.policy_loss(
        forward.logprobs,
        micro.logprobs,
        known(micro.advantages),
        micro.batch.mask,
        settings.cliprange,
        settings.dual_clip,
    )
    return (per_token if micro.importance is None else per_token * micro.importance).sum()


def _add_figures(
    sums: Sums,
    loop: Loop,
    micro: MicroBatch,
    forward: Forward,
    values: Tensor,
    policy: Tensor,
    value: Tensor,
) -> Tensor:
    """Add what is told of an update to `sums`; of the ratios over tokens their sum, and the logarithm of the one furthest from 1, (2,)."""
    mask, settings = micro.batch.mask, loop.settings
    log_ratio = (forward.logprobs - micro.logprobs).masked_fill(~mask, 0.0)
    ratio = torch.exp(log_ratio)
    of_tokens = ratio.masked_fill(~mask, 0.0)
    sums.add("tokens", micro.batch.count)
    sums.add("policy", policy)
    sums.add("value", value)
    sums.add("entropy", forward.entropy.sum())
    sums.add("approxkl", 0.5 * log_ratio.square().sum())
    sums.add("ratio", of_tokens.sum())
    sums.add("ratio_square", of_tokens.square().sum())
    sums.add("clipped", (((ratio - 1.0).abs() > settings.cliprange) & mask).sum())
    sums.add("value_clipped", (((values - known(micro.values)).abs() > settings.cliprange_value) & mask).sum())
    for name, x in (("return", known(micro.returns)), ("residual", known(micro.returns) - known(micro.values))):
        of_tokens_alone = x.double().masked_fill(~mask, 0.0)
        sums.add(name, of_tokens_alone.sum())
        sums.add(f"{name}_square", of_tokens_alone.square().sum())
    return torch.stack([of_tokens.sum(), log_ratio.abs().max()])


def _add_ptx_gradient(loop: Loop, at: int) -> None:
    """Add the gradient of ptx_coef · sft loss (InstructGPT eq. 2) on as many demonstrations as the step has episodes.

    In backwards of its own and before the step's, so that what is clipped and checked is the sum. `at` numbers the optimizer steps.
    """
    accelerator, settings, count = loop.accelerator, loop.settings, loop.mini_size
    pad = loop.tokenizer.pad_token_id
    world = accelerator.num_processes
    numbers = range(at * count + accelerator.process_index, (at + 1) * count, world)
    picked = [loop.demonstrations[i % len(loop.demonstrations)] for i in numbers]
    local = torch.tensor(float(sum(len(completion) for _, completion in picked)), device=loop.device)
    tokens = accelerator.reduce(local, "sum")
    lengths = [len(p) + len(c) - 1 for p, c in picked]
    groups = together(lengths, settings.micro_batch_tokens or MICRO_BATCH_TOKENS, padding=not loop.roles.packed)
    spare = _spare(loop, len(groups))
    for number, group in enumerate(groups):
        part = [picked[i] for i in group]
        batch = pack([p for p, _ in part], [c for _, c in part], pad, loop.device)
        with torch.enable_grad() if number == len(groups) - 1 else accelerator.no_sync(loop.wrapped):
            rest: Tensor | float = 0.0
            if loop.separate_critic:
                logprobs = loop.roles.policy_logprobs(batch, 1.0)[0]
            else:  # the critic takes part, for DDP, without being moved
                logprobs, _, values = loop.wrapped(batch, 1.0)
                rest = 0.0 * values.sum()
            accelerator.backward(settings.ptx_coef * -(logprobs.sum() / tokens) * world + rest)
    one = loop.demonstrations[0]
    _keep_pace(loop, pack([one[0]], [one[1]], pad, loop.device), spare, 1.0, critic=False)
