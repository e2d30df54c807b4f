"""What does the PPO loop read of a recipe? The `ppo` section as the loop sees it: any object with these attributes will do."""

from typing import Protocol

MICRO_BATCH_TOKENS, ROLLOUT_BATCH = 384, 64
"""Where the settings leave them open: measured as best on a CPU."""


class EosRule(Protocol):
    """What training maximises where a completion did not end by itself."""

    @property
    def missing_eos_score(self) -> float | None:
        """Takes the place of the score; None: the score stays, less the penalty."""

    @property
    def missing_eos_penalty(self) -> float | None:
        """Is subtracted from the score (TRL's rule)."""


class Limits(Protocol):
    """Where training ends before an update, with the last good weights."""

    @property
    def max_kl(self) -> float:
        """Nats a completion, to the reference."""

    @property
    def max_ratio(self) -> float:
        """Mean ratio of new to old probabilities within one minibatch."""

    @property
    def min_entropy(self) -> float:
        """Nats a token."""

    @property
    def min_length(self) -> float:
        """Tokens a completion, on average."""

    @property
    def max_sampler_kl(self) -> float:
        """Nats a token, from the sampler's distribution to the policy's, whatever parts them."""

    @property
    def async_steps(self) -> int:
        """Updates that the weights which sample an iteration's episodes are older than those that learn from them: 0 or 1."""


class LoopSettings(EosRule, Limits, Protocol):
    """The settings of the loop, by the names that TRL's users know."""

    @property
    def batch_size(self) -> int:
        """Episodes of one iteration, over all processes."""

    @property
    def num_mini_batches(self) -> int:
        """Optimizer steps of one epoch."""

    @property
    def num_ppo_epochs(self) -> int:
        """Passes over an iteration's episodes."""

    @property
    def micro_batch_tokens(self) -> int | None:
        """Tokens of one forward with gradients; None: MICRO_BATCH_TOKENS."""

    @property
    def per_device_rollout_batch_size(self) -> int | None:
        """Prompts decoded together on one device; None: ROLLOUT_BATCH."""

    @property
    def response_length(self) -> int:
        """Tokens of a completion, at most."""

    @property
    def temperature(self) -> float:
        """Divides the logits of policy and reference alike."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def lr_scheduler_type(self) -> str:
        """A name that transformers.get_scheduler knows."""

    @property
    def adam_epsilon(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def max_grad_norm(self) -> float: ...

    @property
    def gradient_checkpointing(self) -> bool: ...

    @property
    def kl_coef(self) -> float:
        """Weight of the KL penalty, a nat; where it starts if it is adaptive."""

    @property
    def kl_target(self) -> float | None:
        """Nats a completion that the adaptive coefficient aims at; None: the coefficient stays."""

    @property
    def kl_horizon(self) -> int:
        """Episodes over which it adapts."""

    @property
    def gamma(self) -> float: ...

    @property
    def lam(self) -> float: ...

    @property
    def cliprange(self) -> float: ...

    @property
    def cliprange_value(self) -> float: ...

    @property
    def dual_clip(self) -> float | None:
        """c of the dual clip (Ye et al. 2020, 1912.09729); None: off."""

    @property
    def vf_coef(self) -> float: ...

    @property
    def ptx_coef(self) -> float:
        """Weight of the sft loss beside PPO's (InstructGPT, eq. 2); 0: off."""

    @property
    def whiten_rewards(self) -> bool: ...

    @property
    def whiten_advantages(self) -> bool: ...

    @property
    def importance_cap(self) -> float:
        """Upper end of the weights that correct for a sampler whose probabilities are not the trainer's."""

    @property
    def keep_activations(self) -> float:
        """GB of activations that the measuring pass may keep for the first epoch."""

    @property
    def eval_prompts(self) -> int: ...

    @property
    def eval_steps(self) -> int: ...

    @property
    def save_steps(self) -> int: ...

    def iterations(self) -> int:
        """How many iterations the run has."""

    def share(self, world_size: int) -> int:
        """Episodes of one minibatch on one of `world_size` processes."""
