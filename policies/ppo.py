"""What does PPO for RLHF compute? The mathematics, as pure functions on padded (B, T) tensors.

Rows are episodes, right-padded; `mask` (B, T) bool is true on the completion's own tokens, from the first sampled one to EOS
(or the length limit). Everything is zero where `mask` is false. Nothing here holds state or touches a model.

Sources: PPO, Schulman et al. 2017 (arXiv 1707.06347); GAE, Schulman et al. 2016 (1506.02438); the KL penalty inside the reward,
Ziegler et al. 2019 (1909.08593) eq. 2 and Ouyang et al. 2022 (InstructGPT, 2203.02155) eq. 2; value clipping and the order of
details, Huang et al. 2024 (2403.17031); dual clip, Ye et al. 2020 (1912.09729); k1 to k3, Schulman, "Approximating KL
Divergence" (2020).
"""

import torch
from torch import Tensor


def last_token(mask: Tensor) -> Tensor:
    """Index of each row's last valid token, (B,) int64, for a right-padded `mask` (B, T) bool. An empty row gives 0."""
    return (mask.sum(dim=1) - 1).clamp(min=0)


def shape_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards: -kl_coef · (log π - log π_ref) on every valid token, plus the score on the last one.

    `scores` (B,), `logprobs` and `ref_logprobs` (B, T) float32 in nats, `mask` (B, T) bool. Returns (B, T), detached: the
    penalty is part of the reward, not of the loss. The estimator is k1; k2 or k3 in its place has another fixed point than
    π_ref · exp(score / kl_coef). InstructGPT eq. 2.
    """
    rewards = (-kl_coef * (logprobs - ref_logprobs)).detach().masked_fill(~mask, 0.0)
    rows = mask.any(dim=1)
    at_end = torch.zeros_like(rewards)
    at_end[torch.arange(len(rewards), device=rewards.device), last_token(mask)] = scores.to(rewards.dtype) * rows
    return rewards + at_end


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that the critic learns, both (B, T) float32, zero where masked.

    `rewards`, `values` (B, T); an episode ends with its last valid token, so the value after it is zero (no bootstrap).
    δ_t = r_t + γ V_{t+1} - V_t,  A_t = δ_t + γ λ A_{t+1},  R_t = A_t + V_t (GAE eq. 11-16).
    """
    valid = mask.to(rewards.dtype)
    values = values.masked_fill(~mask, 0.0)
    rewards = rewards.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * valid[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, advantages + values


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the valid entries of `x` (B, T) to unit variance (biased), and to mean 0 unless `shift_mean` is false.

    Mean and variance are over all valid entries given: hand in the *global* batch. Zero where masked.
    """
    count = mask.sum().clamp(min=1)
    mean = x.masked_fill(~mask, 0.0).sum() / count
    variance = (x - mean).square().masked_fill(~mask, 0.0).sum() / count
    scaled = (x - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        scaled = scaled + mean
    return scaled.masked_fill(~mask, 0.0)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Clipped surrogate loss per token, (B, T), zero where masked; sum it and divide by the tokens of the optimizer step.

    max(-A·ρ, -A·clip(ρ, 1 - ε, 1 + ε)) with ρ = exp(log π - log π_old) (PPO eq. 7, negated). `dual_clip` c > 1 bounds the loss
    of tokens with A < 0 at -c·A, however large ρ has grown (1912.09729).
    """
    # exp() overflows beyond 88, and 0 · inf in the gradient of a clipped token is NaN; e^±20 is far outside any clip
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).clamp(-20.0, 20.0)
    ratio = torch.exp(log_ratio)
    advantages = advantages.masked_fill(~mask, 0.0)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss.masked_fill(~mask, 0.0)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float) -> Tensor:
    """Clipped squared error of the critic per token, (B, T), zero where masked.

    ½ · max((V - R)², (clip(V, V_old ± ε) - R)²): a value may not run away from the one that was used for the advantages in one
    update (as in OpenAI's baselines and lm-human-preferences).
    """
    values = values.masked_fill(~mask, 0.0)
    clipped = torch.minimum(torch.maximum(values, old_values - cliprange_value), old_values + cliprange_value)
    loss = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
    return loss.masked_fill(~mask, 0.0)


def kl_estimates(logprobs: Tensor, ref_logprobs: Tensor) -> dict[str, Tensor]:
    """Three estimates per token of KL(π ‖ π_ref) from samples of π, each shaped like `logprobs`, in nats.

    With d = log π - log π_ref: k1 = d (unbiased, any sign), k2 = d²/2 (biased, low variance), k3 = exp(-d) - 1 + d (unbiased,
    never negative).
    """
    d = logprobs - ref_logprobs
    return {"k1": d, "k2": 0.5 * d.square(), "k3": torch.expm1(-d) + d}


def adaptive_kl_coef(kl_coef: float, kl: float, target: float, horizon: int, n: int) -> float:
    """The KL coefficient after `n` more episodes that measured `kl` nats a sequence: β(1 + clip(kl/target - 1, ±0.2)·n/horizon).

    The controller of openai/lm-human-preferences (after Ziegler et al. 2019, section 2.2). `horizon` is in episodes.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * n / horizon)
