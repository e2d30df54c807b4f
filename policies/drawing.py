"""How does a distribution become a token? Noise that belongs to an episode, and what a batch of completions is made of and gives.

Sampling noise comes from (seed, step, prompt), not from global state: one uniform number a token, turned into a token by the inverse
of the cumulative distribution. The same episode is drawn whatever process it falls to and wherever a run is resumed, but where
a number is so near to the border between two tokens that rounding decides.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from policies.errors import BackboneError
from policies.untyped import Noise

# logits (B, V), uniform numbers (B,), temperature -> tokens, their log-probabilities, the distributions' entropies, as `choose`
Choice = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Completion:
    """One sampled completion of T tokens. Its figures are on the CPU, but where a Record was asked for: then all stays on the device.

    The last two fields are filled where a Record asks for them, and the way of sampling has them.
    """

    tokens: list[int]  # EOS included where it was sampled
    logprobs: Tensor  # (T,) float32, of each token at the sampling temperature, nats, as the sampler computed them
    finished: bool  # ended with EOS, not by the length limit
    entropies: Tensor = field(default_factory=lambda: torch.empty(0))  # (T,) float32, of each distribution, nats
    hidden: Tensor | None = None  # (T, H) final states that each token was chosen from
    states: Tensor | None = None  # (L, H) what enters the layers above the trunk, for prompt, completion and EOS


@dataclass(frozen=True)
class Record:
    """What else than tokens a rollout keeps, so that training need not compute it again.

    `depth` counts the layers of the trunk; at 0 there is none, and no states are kept. `eos` is the token that a reward model sees after
    a completion that has none; its states are kept too. `hidden` asks for final states.
    """

    depth: int
    eos: int
    hidden: bool = True


@dataclass(frozen=True)
class Wanted:
    """One completion for each of B prompts, all with the same limit of new tokens, decoded together."""

    prompts: Sequence[Sequence[int]]
    uniforms: Tensor  # (B, limit) float64 in [0, 1), on the model's device
    ends: Sequence[int]  # the tokens that end a completion
    pad_id: int
    temperature: float
    choice: Choice
    record: Record | None

    @property
    def limit(self) -> int:
        return self.uniforms.shape[1]


class Drawn:
    """What is drawn for a batch, on the device, a column a step. What a row says after its first end is nobody's."""

    def __init__(self, wanted: Wanted):
        rows, limit, device = len(wanted.prompts), wanted.limit, wanted.uniforms.device
        self.wanted = wanted
        self.tokens = torch.full((rows, limit), wanted.pad_id, device=device)
        self.figures = torch.zeros((2, rows, limit), device=device)  # log-probabilities, entropies
        self.hidden: Tensor | None = None

    def draw(self, z: Tensor, rows: Tensor, step: int) -> Tensor:
        """A token for each of `rows` (n,) int64 from its logits `z` (n, V); (n,) int64."""
        wanted = self.wanted
        chosen, logprobs, entropies = wanted.choice(z, wanted.uniforms[rows, step], wanted.temperature)
        self.tokens[rows, step] = chosen
        self.figures[:, rows, step] = torch.stack([logprobs.float(), entropies.float()])
        return chosen

    def keep(self, final: Tensor, rows: Tensor, step: int) -> None:
        """Remember the states (n, H) that `rows` choose from, where they are asked for."""
        if self.wanted.record is None or not self.wanted.record.hidden:
            return
        if self.hidden is None:
            self.hidden = final.new_zeros((*self.tokens.shape, final.shape[1]))
        self.hidden[rows, step] = final

    def completions(self, states: Callable[[int, int, bool], Tensor] | None = None) -> list[Completion]:
        """All rows, in their order; the device is waited for once. `states` gives those of a row, of so many tokens, that is finished."""
        ends, limit = set(self.wanted.ends), self.wanted.limit
        figures = self.figures if self.wanted.record is not None else self.figures.cpu()
        out = []
        for row, tokens in enumerate(self.tokens.tolist()):
            n = next((i + 1 for i, token in enumerate(tokens) if token in ends), limit)
            finished = tokens[n - 1] in ends
            logprobs, entropies = figures[0, row, :n], figures[1, row, :n]
            hidden = None if self.hidden is None else self.hidden[row, :n]
            kept = None if states is None else states(row, n, finished)
            out.append(Completion(tokens[:n], logprobs, finished, entropies, hidden, kept))
        return out


def noise(seed: int, step: int, prompt_id: str, sample: int, count: int) -> Noise:
    """`count` uniform numbers in [0, 1) that belong to one episode, float64."""
    key = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, step, key, sample]).random(count)


def seed_of(noise: Noise) -> int:
    """An episode's noise as one seed, for what takes no noise: its first number, a 53-bit fraction, as an integer below 2^53."""
    return int(noise[0] * 2**53)


def choose(z: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row, drawn from softmax(z / temperature), (B,) int64, its log-probability and the entropy, (B,) float32.

    `z` (B, V) are logits, `uniform` (B,) float64 in [0, 1). The inverse of the cumulative distribution, twice: the vocabulary lies in
    √V blocks of √V tokens, the first 26 bits of `uniform` draw a block and the others a token of it. In one sum over the whole
    vocabulary the rounding of all likely tokens moves the place of every rare one behind them, so that rows computed in another batch
    say something else: 6 of 200 completions of a 135M model differed between batches of 64 and 200 rows, and none this way.
    No top-k, no top-p: what is sampled is what the loss sees. Other choices are in decoding.py.
    """
    z = z.float() if temperature == 1.0 else z.float() / temperature
    below = z - z.amax(dim=-1, keepdim=True)
    side = math.isqrt(z.shape[1] - 1) + 1
    padded = z.new_empty((len(z), side * side))
    weight = torch.exp(below, out=padded[:, : z.shape[1]])
    padded[:, z.shape[1] :] = 0.0
    below.clamp_(min=-1e4)  # 0 · -inf would be no number
    blocks = padded.view(-1, side, side)
    sums = blocks.sum(2).double().cumsum(1)
    total = sums[:, -1]
    bits = uniform.double() * 2**26
    block = torch.searchsorted(sums, (bits.floor() / 2**26 * total)[:, None], right=True).clamp(max=side - 1)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, side)).squeeze(1).double().cumsum(1)
    token = torch.searchsorted(within, (bits.frac() * within[:, -1])[:, None], right=True).clamp(max=side - 1)
    tokens, log_total = block * side + token, total.log().float()
    logprobs = below.gather(1, tokens).squeeze(1) - log_total
    return tokens.squeeze(1), logprobs, log_total - below.mul_(weight).sum(1) / total.float()


def completed(engine: str, tokens: list[int], logprobs: list[float], limit: int, eos_ids: Sequence[int]) -> Completion:
    """What an engine said, which is the setting "ppo.engine: vllm" or the like. Raises BackboneError where it stopped for another reason than EOS or the limit."""
    finished = bool(tokens) and tokens[-1] in eos_ids
    if len(tokens) != len(logprobs) or not (finished or len(tokens) == limit):
        raise BackboneError(
            f"{engine} stopped after {len(tokens)} of {limit} tokens without EOS ({len(logprobs)} log-probabilities), as where the "
            f"model's context is full; use shorter prompts, or {engine.partition(':')[0]}: transformers"
        )
    return Completion(tokens, torch.tensor(logprobs), finished)
