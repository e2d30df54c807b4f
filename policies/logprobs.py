"""How likely are these tokens? Log-probabilities and entropies of completions, from hidden states.

Rows are packed as prompt + completion, padded on the right, so positions need no care; the vocabulary is only ever spread out for
completion tokens, and for CHUNK of them at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from policies.untyped import Context, Model, ModelConfig

CHUNK = 256  # tokens whose logits are held at once
BLOCK = 1024  # words whose logits for them are computed at once, in float32 on a CPU: 15 to 25% quicker than all in one


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors. B episodes, L longest prompt + completion less its last token, T longest completion."""

    input_ids: Tensor  # (B, L) int64; the last token is left out, as nothing is predicted from it
    attention_mask: Tensor  # (B, L) int64
    tokens: Tensor  # (B, T) int64, completion tokens
    positions: Tensor  # (B, T) int64, index in L of the hidden state that predicts each completion token
    mask: Tensor  # (B, T) bool, true on completion tokens
    states: Tensor | None = None  # (B, L, H) what enters the layers above the trunk, where there is one


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> Batch:
    """Put token lists into right-padded tensors. A prompt must have at least one token."""
    length = max(len(p) + max(len(c) - 1, 0) for p, c in zip(prompts, completions, strict=True))
    width = max(len(c) for c in completions)
    input_ids = torch.full((len(prompts), length), pad_id)
    attention_mask = torch.zeros((len(prompts), length), dtype=torch.long)
    tokens = torch.full((len(prompts), width), pad_id)
    positions = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        whole = torch.tensor([*prompt, *completion])
        seen = len(whole) - 1 if completion else len(whole)
        input_ids[row, :seen] = whole[:seen]
        attention_mask[row, :seen] = 1
        tokens[row, : len(completion)] = whole[len(prompt) :]
        positions[row, : len(completion)] = torch.arange(len(prompt) - 1, len(whole) - 1)
        mask[row, : len(completion)] = True
    return Batch(*(t.to(device) for t in (input_ids, attention_mask, tokens, positions, mask)))


def logits(model: Model, hidden: Tensor) -> Tensor:
    """Logits (N, V) float32 of final hidden states (N, H): the output embedding and what a few architectures add after it."""
    out = model.get_output_embeddings()(hidden).float()
    config: ModelConfig = model.config.get_text_config()
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        out = out / scaling
    if (scale := getattr(config, "logit_scale", None)) is not None:
        out = out * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        out = torch.tanh(out / cap) * cap
    return out


class _HeadLogprobs(torch.autograd.Function):
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


def token_logprobs(model: Model, hidden: Tensor, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion token and entropy of the distribution it came from, both (B, T) float32, zero where masked.

    `hidden` (B, L, H) are the decoder's final states. Logits are divided by `temperature`, for policy and reference alike.
    Gradients reach the log-probabilities only.
    """
    rows = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(batch.positions)
    wanted, tokens = hidden[rows[batch.mask], batch.positions[batch.mask]], batch.tokens[batch.mask]
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if isinstance(head, nn.Linear) and head.bias is None and not getattr(config, "final_logit_softcapping", None):
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        flat_logprobs, flat_entropy = _HeadLogprobs.apply(
            wanted, head.weight, tokens, scale / temperature, torch.is_grad_enabled()
        )
    else:
        flat_logprobs, flat_entropy = plain_logprobs(logits(model, wanted) / temperature, tokens)
    zeros = torch.zeros(batch.mask.shape, dtype=torch.float32, device=hidden.device)
    return zeros.masked_scatter(batch.mask, flat_logprobs), zeros.masked_scatter(batch.mask, flat_entropy)


def plain_logprobs(z: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same from logits (N, V) float32, with torch's own operations: log p = z_token - logsumexp z, and
    entropy = logsumexp z - Σ softmax(z) z. For output layers that are more than one product, and what the quick way is held against."""
    normaliser = torch.logsumexp(z, dim=-1)
    with torch.no_grad():
        entropy = normaliser - (torch.softmax(z, dim=-1) * z).sum(-1)
    return z.gather(-1, tokens[:, None]).squeeze(-1) - normaliser, entropy


def completion_logprobs(
    model: nn.Module, decoder: nn.Module, batch: Batch, temperature: float
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` from token ids: run `decoder` (`model` without its head) first."""
    hidden = decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
    return token_logprobs(model, hidden, batch, temperature)
