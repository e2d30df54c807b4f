"""What travels through an iteration of PPO? Episodes as tensors, and what each step finds out about every token of them."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from policies.logprobs import Batch


class Forward(NamedTuple):
    """What policy and critic say of a micro-batch."""

    logprobs: Tensor  # (B, T) float32, of each completion token under the policy at the sampling temperature, nats
    entropy: Tensor  # (B, T) float32, of the distribution that the token came from, nats; without gradient
    values: Tensor | None  # (B, T) float32, where the critic is a head on the policy or was run with it


@dataclass
class MicroBatch:
    """B episodes with up to T completion tokens, which one forward takes. Tensors (B, T) are float32 and zero where masked.

    Step 3 makes it; step 4 fills what is None; step 5 learns from it, once an epoch.
    """

    batch: Batch
    prompt_ids: list[str]  # B names, for messages
    scores: Tensor  # (B,) float32, what training maximises: after the rule for completions without EOS
    raw_scores: Tensor  # (B,) float32, as the score function gave them
    logprobs: Tensor  # (B, T) under the policy that sampled, nats
    entropy: Tensor  # (B, T) of the distributions that the tokens came from, nats
    reference: Tensor  # (B, T) log-probabilities under the reference, nats
    importance: Tensor | None = (
        None  # (B, T) weights that correct for a sampler with other log-probabilities; None: it has ours
    )
    values: Tensor | None = None  # (B, T) the critic's, before any update
    rewards: Tensor | None = None  # (B, T) KL penalty on every token, the score on the last
    advantages: Tensor | None = None  # (B, T)
    returns: Tensor | None = None  # (B, T) what the critic learns
    ready: Forward | None = None  # the measuring pass with its graph, good until the first update; taken once
    critic_done: Tensor | None = None  # scalar, the critic's loss whose gradient step 4 has already added; taken once

    def take_ready(self) -> Forward | None:
        """The forward that is still good for the first epoch, if there is one; gone after this."""
        ready, self.ready = self.ready, None
        return ready

    def take_critic_done(self) -> Tensor | None:
        """The critic's loss, where its gradient is there already; gone after this."""
        done, self.critic_done = self.critic_done, None
        return done


def known(tensor: Tensor | None) -> Tensor:
    """A field that an earlier step has filled."""
    assert tensor is not None, "a step was left out: this field of the micro-batch is not known yet"
    return tensor
