"""How likely are these tokens? Log-probabilities and entropies of completions, from hidden states.

Rows are packed as prompt + completion, padded on the right, so positions need no care; the vocabulary is only ever spread out for
completion tokens, and for CHUNK of them at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policies.quick.head import HeadLogprobs, one_product
from policies.quick.moving import lengths_of, moved, with_lengths
from policies.trials import output_layer, own_logits
from policies.untyped import Model


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors. B episodes, L longest prompt + completion less its last token, T longest completion."""

    input_ids: Tensor  # (B, L) int64; the last token is left out, as nothing is predicted from it
    attention_mask: Tensor  # (B, L) int64
    tokens: Tensor  # (B, T) int64, completion tokens
    positions: Tensor  # (B, T) int64, index in L of the hidden state that predicts each completion token
    mask: Tensor  # (B, T) bool, true on completion tokens
    at: Tensor  # (N,) int64, index in B·L of the state that predicts each of the N completion tokens, row by row
    spot: Tensor  # (N,) int64, its index in B·T
    states: Tensor | None = None  # (B, L, H) what enters the layers above the trunk, where there is one

    @property
    def count(self) -> int:
        """N, the completion tokens of all rows."""
        return len(self.spot)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row in `input_ids`, padding not counted; known without asking the device where `pack` made the batch."""
        return lengths_of(self.attention_mask) or self.attention_mask.sum(1).tolist()

    def spread(self, flat: Tensor) -> Tensor:
        """One number a completion token (N,) as (B, T), zero where masked."""
        out = flat.new_zeros(self.mask.numel()).index_copy(0, self.spot, flat)
        return out.view(self.mask.shape)

    def flat(self, spread: Tensor) -> Tensor:
        """What `spread` (B, T) has for the completion tokens, (N,)."""
        return spread.flatten()[self.spot]


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
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    lengths = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        whole = torch.tensor([*prompt, *completion])
        seen = len(whole) - 1 if completion else len(whole)
        lengths.append(seen)
        input_ids[row, :seen] = whole[:seen]
        attention_mask[row, :seen] = 1
        tokens[row, : len(completion)] = whole[len(prompt) :]
        positions[row, : len(completion)] = torch.arange(len(prompt) - 1, len(whole) - 1)
        mask[row, : len(completion)] = 1
    spot = mask.flatten().nonzero().squeeze(1)
    at = (positions + length * torch.arange(len(prompts))[:, None]).flatten()[spot]
    made = moved((input_ids, attention_mask, tokens, positions, mask, at, spot), device)
    return Batch(made[0], with_lengths(made[1], lengths), made[2], made[3], made[4].bool(), made[5], made[6])


def logits(model: Model, hidden: Tensor) -> Tensor:
    """Logits (N, V) float32 of final hidden states (N, H), as the model's own forward makes them of its decoder's states."""
    layer = output_layer(model)
    if layer.scale is None:
        return own_logits(model, hidden, layer)
    out: Tensor = model.get_output_embeddings()(hidden).float()
    return out if layer.scale == 1.0 else out * layer.scale


def token_logprobs(model: Model, hidden: Tensor, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each completion token and entropy of the distribution it came from, both (B, T) float32, zero where masked.

    `hidden` (B, L, H) are the decoder's final states. Logits are divided by `temperature`, for policy and reference alike.
    Gradients reach the log-probabilities only.
    """
    wanted, tokens = hidden.flatten(0, 1)[batch.at], batch.flat(batch.tokens)
    head, scale = model.get_output_embeddings(), output_layer(model).scale
    if scale is not None and one_product(head, wanted.dtype):
        flat_logprobs, flat_entropy = HeadLogprobs.apply(
            wanted, head.weight, tokens, scale / temperature, torch.is_grad_enabled()
        )
    else:
        flat_logprobs, flat_entropy = plain_logprobs(logits(model, wanted) / temperature, tokens)
    return batch.spread(flat_logprobs), batch.spread(flat_entropy)


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
