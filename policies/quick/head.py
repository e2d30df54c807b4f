"""How are log-probabilities had without all logits at once? One autograd step over an output layer, some tokens and words at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from policies.untyped import Context

CHUNK = 256  # tokens whose logits are held at once


BLOCK = 1024  # words whose logits for them are computed at once, in float32 on a CPU: 15 to 25% quicker than all in one


class HeadLogprobs(torch.autograd.Function):
    """log softmax(h·Wᵀ·scale) at one token a row, and the entropy of each row, without ever holding more than CHUNK rows of logits.

    In float32 on a CPU the vocabulary is gone through in blocks of BLOCK words, whose logits stay in the processor's cache; elsewhere
    it is one block. Words lie in rows here, (words, n), because W·hᵀ is the quicker product on a CPU. With m the largest logit of
    block b and M that of all, block b's share of the softmax is exp(z - m)·exp(m - M) / Σ. What is kept for the backward pass, if `keep`,
    is exp(z - m) and, for each block, the factor behind it; in one block the softmax and 1, so that in bfloat16 the same rounded g
    multiplies both sides: with g the gradient of the log-probability, that of the logits is g·(onehot - softmax), whose sum over the
    words has to vanish. The entropies carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Context, hidden: Tensor, weight: Tensor, tokens: Tensor, scale: float, keep: bool
    ) -> tuple[Tensor, Tensor]:
        quick = hidden.dtype == torch.float32 and hidden.is_cpu
        blocks = weight.split(BLOCK if quick else len(weight))
        logprobs, entropies, exps, factors = [], [], [], []
        for start in range(0, max(len(hidden), 1), CHUNK):
            rows = hidden[start : start + CHUNK]
            at_token, (home, place) = rows.new_empty(len(rows), dtype=torch.float32), _where(tokens, start, blocks)
            peaks, totals, means = at_token.new_empty(3, len(blocks), len(rows))
            kept = rows.new_empty(len(weight), len(rows)) if keep else None
            for number, block in enumerate(blocks):
                z = torch.mm(block, rows.t()) if quick else nn.functional.linear(rows, block).float().t()
                if scale != 1.0:
                    z.mul_(scale)
                here = home == number
                at_token = torch.where(here, z.gather(0, torch.where(here, place, 0)[None])[0], at_token)
                peaks[number] = z.amax(0)
                p = z.sub_(peaks[number]).exp()
                totals[number], means[number] = p.sum(0), z.mul_(p).sum(0)
                if kept is not None:
                    kept[number * len(blocks[0]) :][: len(block)] = p if quick else p / totals[number]
            below = peaks - peaks.amax(0)
            factor = below.exp()
            total = (totals * factor).sum(0)
            log_total = total.log()
            logprobs.append(at_token - peaks.amax(0) - log_total)
            entropies.append(log_total - ((means + totals * below) * factor).sum(0) / total)
            if kept is not None:
                exps.append(kept)
                factors.append(factor / total if quick else factor)
        ctx.save_for_backward(hidden, weight, tokens, *exps, *factors)
        ctx.scale, ctx.block = scale, len(blocks[0])
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, *kept = ctx.saved_tensors
        blocks = weight.split(ctx.block)
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if of_hidden else None
        grad_weight = torch.zeros_like(weight) if of_weight else None
        exps, factors = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        for start, e, factor in zip(range(0, max(len(hidden), 1), CHUNK), exps, factors, strict=True):
            rows, (home, place) = hidden[start : start + CHUNK], _where(tokens, start, blocks)
            g = grads[0][start : start + CHUNK] * ctx.scale
            weighted = (factor * -g).to(e.dtype)
            across = rows.new_zeros(rows.shape[1], len(rows)) if of_hidden else None
            for number, block in enumerate(blocks):
                words = slice(number * ctx.block, number * ctx.block + len(block))
                z = e[words] * weighted[number]
                here = home == number
                z.scatter_add_(0, torch.where(here, place, 0)[None], torch.where(here, g, 0.0).to(z.dtype)[None])
                if across is not None:
                    across.addmm_(block.t(), z)
                if grad_weight is not None:
                    grad_weight[words].addmm_(z, rows)
            if grad_hidden is not None and across is not None:
                grad_hidden[start : start + CHUNK] = across.t()
        return grad_hidden, grad_weight, None, None, None


def _where(tokens: Tensor, start: int, blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The block that each token of the chunk from `start` lies in, and its place there, both (n); one that is no word of the vocabulary
    gets a place outside of a block, so that looking it up raises, as it should."""
    chosen, size = tokens[start : start + CHUNK], len(blocks[0])
    home = (chosen // size).clamp(0, len(blocks) - 1)
    return home, chosen - home * size
