"""How does a reward model learn from rankings? Ranking losses, as pure functions of the scores of whole groups.

A group is one prompt's completions. `scores` (G, K) float, `ranks` (G, K) int64: lower is better, equal ranks are a tie, -1 is
padding. Groups weigh the same whatever their size, so a ranking of nine does not drown a pair (InstructGPT, section 3.5).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def preferred(ranks: Tensor) -> Tensor:
    """(G, K, K) bool: entry [g, i, j] is true where completion i is ranked strictly better than completion j."""
    present = ranks >= 0
    return (ranks[:, :, None] < ranks[:, None, :]) & present[:, :, None] & present[:, None, :]


def k_wise(scores: Tensor, ranks: Tensor, label_smoothing: float = 0.0, margin: Tensor | None = None) -> Tensor:
    """Bradley–Terry over all C(K, 2) pairs of a group, each weighted 1 / (number of its untied pairs); mean over groups.

    -log σ(s_i - s_j - margin_ij) for every pair in which i is better (InstructGPT eq. 1; margin: Llama 2, 2307.09288 eq. 2).
    `label_smoothing` ε mixes in the flipped label: (1 - ε)·loss + ε·loss of the reversed pair (conservative, for noisy labels).
    `margin` (G, K, K) float, how much better i is than j, ≥ 0. A group without an untied pair adds nothing. Returns a scalar.
    """
    better = preferred(ranks)
    scores = scores.masked_fill(ranks < 0, 0.0)
    difference = scores[:, :, None] - scores[:, None, :]
    if margin is not None:
        difference = difference - margin
    loss = -F.logsigmoid(difference)
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-difference)
    pairs = better.sum(dim=(1, 2))
    per_group = loss.masked_fill(~better, 0.0).sum(dim=(1, 2)) / pairs.clamp(min=1)
    return per_group.sum() / (pairs > 0).sum().clamp(min=1)


def plackett_luce(scores: Tensor, ranks: Tensor) -> Tensor:
    """Negative log-likelihood of the whole ranking, mean over groups: Σ_i log(exp(s_i) + Σ_{j worse} exp(s_j)) - s_i.

    Plackett 1975, Luce 1959; as a ranking loss ListMLE (Xia et al. 2008). Tied completions do not compete with each other: the
    choice set of each is itself and everything strictly worse. The last place has no alternative and adds nothing. For K = 2 this
    is Bradley–Terry. Returns a scalar.
    """
    worse = preferred(ranks)
    scores = scores.masked_fill(ranks < 0, 0.0)
    choices = worse | torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    competes = worse.any(dim=2)
    log_choice = torch.logsumexp(
        scores[:, None, :].expand(-1, ranks.shape[1], -1).masked_fill(~choices, -torch.inf), dim=2
    )
    per_group = (log_choice - scores).masked_fill(~competes, 0.0).sum(dim=1)
    return per_group.sum() / competes.any(dim=1).sum().clamp(min=1)
