"""How are log-probabilities had without all logits at once? One step of autograd over an output layer, some tokens at a time."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from policies.quick.linear import Linear
from policies.untyped import Context, Foreign

CHUNK = 256  # tokens whose logits are held at once


def one_product(head: Foreign, dtype: torch.dtype) -> bool:
    """Whether an output layer is h·Wᵀ for states of `dtype` and nothing else: no bias, no adapter, no code of its own."""
    return type(head) in (nn.Linear, Linear) and head.bias is None and head.weight.dtype == dtype


class HeadLogprobs(torch.autograd.Function):
    """log softmax(h·Wᵀ·scale) at one token a row, and the entropy of each row, without ever holding more than CHUNK rows of logits.

    Words lie in rows here, (V, n), because W·hᵀ is the quicker product on a CPU. What is kept for the backward pass, if `keep`, is the
    softmax: with g the gradient of the log-probability, that of the logits is g·(onehot - softmax). In bfloat16 the same rounded g
    multiplies both sides, as their sum over the words has to vanish. The entropies carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Context, hidden: Tensor, weight: Tensor, tokens: Tensor, scale: float, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """`hidden` (N, H), `weight` (V, H), `tokens` (N,) int64: log-probabilities and entropies (N,) float32, nats."""
        logprobs, entropies, kept = [], [], []
        for start in range(0, max(len(hidden), 1), CHUNK):
            rows, chosen = hidden[start : start + CHUNK], tokens[None, start : start + CHUNK]
            if rows.dtype == torch.float32:
                z = torch.mm(weight, rows.t())
            else:
                z = nn.functional.linear(rows, weight).float().t()
            if scale != 1.0:
                z.mul_(scale)
            z.sub_(z.amax(0, keepdim=True))
            at_token = z.gather(0, chosen)
            p = z.exp()
            total = p.sum(0, keepdim=True)
            log_total = total.log()
            logprobs.append((at_token - log_total)[0])
            entropies.append((log_total - z.mul_(p).sum(0, keepdim=True) / total)[0])
            if keep:
                kept.append(p.div_(total).to(hidden.dtype))
        ctx.save_for_backward(hidden, weight, tokens, *kept)
        ctx.scale = scale
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `hidden` and `weight`, each where it is wanted."""
        hidden, weight, tokens, *kept = ctx.saved_tensors
        parts: list[Tensor] = []
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for number, p in enumerate(kept):
            rows = slice(number * CHUNK, (number + 1) * CHUNK)
            g = (grads[0][rows] * ctx.scale).to(p.dtype)[None]
            z = p * -g
            z.scatter_add_(0, tokens[None, rows], g)
            if ctx.needs_input_grad[0]:
                parts.append(z.t() @ weight)
            if grad_weight is not None:
                grad_weight.addmm_(z, hidden[rows])
        return torch.cat(parts) if ctx.needs_input_grad[0] else None, grad_weight, None, None, None
