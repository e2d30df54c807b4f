"""What does the policy say? Batched sampling of completions from token prompts.

Sampling noise comes from (seed, step, prompt), not from global state: one uniform number a token, turned into a token by the inverse
of the cumulative distribution. The same episode is drawn whatever process it falls to and wherever a run is resumed, but where
a number is so near to the border between two tokens that rounding decides.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from policies.backbone import decoder
from policies.logprobs import logits
from policies.quick.batching import together
from policies.quick.cache import RoomyLayer
from policies.untyped import Foreign, Model, Noise

SHARED_PREFIX = 16  # tokens that all prompts must have in common before they are computed once for all
# logits (B, V), uniform numbers (B,), temperature -> tokens, their log-probabilities, the distributions' entropies, as `choose`
Choice = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Completion:
    """One sampled completion. The last two fields are filled where they are asked for, with `Record`."""

    tokens: list[int]  # EOS included where it was sampled
    logprobs: list[float]  # of each token at the sampling temperature, nats, as the sampler computed them
    finished: bool  # ended with EOS, not by the length limit
    entropies: list[float] = field(default_factory=list)  # of the distribution each token came from, nats
    hidden: Tensor | None = None  # (T, H) final states that each token was chosen from
    states: Tensor | None = None  # (L, H) what enters the layers above the trunk, for prompt, completion and EOS


@dataclass(frozen=True)
class Record:
    """What else than tokens a rollout keeps, so that training need not compute it again.

    `depth` counts the layers of the trunk; at 0 there is none, and no states are kept. `eos` is the token that a reward model sees after
    a completion that has none; its states are kept too.
    """

    depth: int
    eos: int


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


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return shortest


@contextmanager
def _watched(model: Model, record: Record | None) -> Iterator[list[Tensor]]:
    """Within the block the list gets what enters the layers above the trunk, at each call of the decoder."""
    seen: list[Tensor] = []
    if record is None or record.depth == 0:
        yield seen
        return
    body: Model = decoder(model)
    hook = body.layers[record.depth].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


class _Row:
    """A completion in the making."""

    def __init__(self, states: list[Tensor]):
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.entropies: list[float] = []
        self.hidden: list[Tensor] = []
        self.states = list(states)
        self.finished = False

    def completion(self, record: Record | None) -> Completion:
        hidden = torch.stack(self.hidden) if record is not None else None
        states = torch.cat(self.states) if record is not None and record.depth else None
        return Completion(self.tokens, self.logprobs, self.finished, self.entropies, hidden, states)


def left_padded(prompts: Sequence[Sequence[int]], prefix: int, pad_id: int, device: torch.device) -> list[Tensor]:
    """Token ids (B, W) of the prompts past `prefix`, padded on the left, and the attention mask (B, prefix + W) of all of them."""
    width = max(len(p) for p in prompts) - prefix
    ids = torch.full((len(prompts), width), pad_id, device=device)
    attention = torch.zeros((len(prompts), prefix + width), dtype=torch.long, device=device)
    attention[:, :prefix] = 1
    for row, prompt in enumerate(prompts):
        rest = len(prompt) - prefix
        ids[row, width - rest :] = torch.tensor(list(prompt[prefix:]), device=device)
        attention[row, prefix + width - rest :] = 1
    return [ids, attention]


@dataclass
class _Read:
    """Prompts that the model has read, B of them."""

    cache: DynamicCache
    final: Tensor  # (B, H) states that the first tokens are chosen from
    attention: Tensor  # (B, W) mask of what is in the cache
    # of each row what entered the layers above the trunk, in parts (n, H); empty without a trunk
    states: list[list[Tensor]]


def _read(
    model: Model, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, seen: list[Tensor]
) -> _Read:
    """Every prompt is read once, whatever number of rows it has, what all begin with once for all, and prompts of like length
    together, so that short ones are not padded to long ones."""
    body: Model = decoder(model)
    begun, prefix = DynamicCache(config=model.config), _common_prefix(prompts)
    if prefix >= SHARED_PREFIX:
        body(input_ids=torch.tensor([list(prompts[0][:prefix])], device=device), past_key_values=begun, use_cache=True)
    else:
        prefix = 0
    shared = [seen.pop()[0]] if seen else []
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    # a sliding window's cache may hold less than it was given, and cannot be padded
    plain = all(type(layer) is DynamicLayer for layer in begun.layers)
    groups = together([len(p) - prefix for p in different]) if plain else [list(range(len(different)))]
    caches, finals, states, place = [], [], [], dict[tuple[int, ...], int]()
    for group in groups:
        asked, cache = [different[i] for i in group], copy.deepcopy(begun)
        cache.batch_repeat_interleave(len(group))
        ids, attention = left_padded(asked, prefix, pad_id, device)
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, prefix:]
        out = body(
            input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
        )
        place |= {prompt: len(place) + n for n, prompt in enumerate(asked)}
        caches.append(cache)
        finals.append(out.last_hidden_state[:, -1])
        if seen:
            states += [row[m.bool()] for row, m in zip(seen.pop(), attention[:, prefix:], strict=True)]
    rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    whole = _joined(caches)
    whole.layers = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in whole.layers]
    whole.batch_select_indices(rows)
    _, attention = left_padded(prompts, prefix, pad_id, device)
    parts = [[*shared, states[i]] if states else [] for i in rows.tolist()]
    return _Read(whole, torch.cat(finals)[rows], attention, parts)


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """One cache of all rows of `caches`, whose shorter keys and values (B, heads, L, D) are padded on the left."""
    if len(caches) > 1:
        for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
            parts: list[Foreign] = [layer, *others]
            if layer.is_initialized:  # a layer may share another's keys and have none of its own
                width = max(part.keys.shape[-2] for part in parts)
                for name in ("keys", "values"):
                    each = [getattr(part, name) for part in parts]
                    each = [nn.functional.pad(x, (0, 0, width - x.shape[-2], 0)) for x in each]
                    setattr(layer, name, torch.cat(each))
    return caches[0]


@torch.no_grad()
def _sample_batch(
    model: Model,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    eos: Tensor,
    pad_id: int,
    temperature: float,
    choice: Choice,
    record: Record | None,
    seen: list[Tensor],
) -> list[Completion]:
    """`seen` gets what enters the layers above the trunk in every call of the decoder, (B, width, H), where there is a trunk."""
    device, limit = uniforms.device, uniforms.shape[1]
    depth = record.depth if record is not None else 0
    body: Model = decoder(model)
    read = _read(model, prompts, pad_id, device, seen)
    cache, final, attention = read.cache, read.final, read.attention
    positions = attention.sum(1, keepdim=True) - 1
    rows = [_Row(states) for states in read.states]
    ids = torch.empty(0)
    alive = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    # with a trunk, two more calls at most: for the last token, and for the EOS that a reward model sees after it
    for t in range(limit + 2 if depth else limit):
        if t > 0:
            attention = torch.cat([attention, attention.new_ones((len(attention), 1))], dim=1)
            positions = positions + 1
            final = body(
                input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            if depth:
                for i, states in zip(alive.tolist(), seen.pop(), strict=True):
                    rows[i].states.append(states)
        if ended.any():  # the ended rows leave the batch, and the cache
            going = (~ended).nonzero().squeeze(1)
            if len(going) == 0:
                break
            cache.batch_select_indices(going)
            alive, final, attention, positions = alive[going], final[going], attention[going], positions[going]
        if t < limit:
            chosen, logprobs, entropies = choice(logits(model, final), uniforms[alive, t], temperature)
            ended = torch.isin(chosen, eos)
            figures = (column.tolist() for column in (alive, chosen, logprobs, entropies, ended))
            for i, token, logprob, entropy, end, state in zip(*figures, final, strict=True):
                row = rows[i]
                row.tokens.append(token)
                row.logprobs.append(logprob)
                row.entropies.append(entropy)
                row.finished = end
                if record is not None:
                    row.hidden.append(state)
        else:
            assert record is not None
            chosen, ended = torch.full_like(alive, record.eos), torch.ones_like(alive, dtype=torch.bool)
        if not depth and ended.any():  # nobody asks for the states of a last token: its row leaves at once
            going = (~ended).nonzero().squeeze(1)
            if len(going) == 0:
                break
            cache.batch_select_indices(going)
            alive, chosen, attention, positions = alive[going], chosen[going], attention[going], positions[going]
            ended = ended[going]
        ids = chosen[:, None]
    return [row.completion(record) for row in rows]


def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    record: Record | None = None,
    choice: Choice = choose,
) -> list[Completion]:
    """Sample one completion for each prompt, in the order given.

    `prompts` are token lists of any lengths, `noises` one array of uniform numbers each (`noise`); its length is the limit of new
    tokens. A completion ends at any of `eos_ids`. Prompts of like length are decoded together, left-padded; a prompt asked for several
    times, and a long prefix that all of a batch share, are read once; rows that have ended leave the batch. `progress` is told how many
    more are done. With `record` completions also carry final states, and those of the trunk. `choice` takes a token from its logits.
    """
    device = next(model.parameters()).device
    eos = torch.tensor(list(eos_ids), device=device)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i])))
    out: dict[int, Completion] = {}
    with _watched(model, record) as seen:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            uniforms = torch.tensor(np.stack([noises[i] for i in rows]), device=device)
            asked = [prompts[i] for i in rows]
            sampled = _sample_batch(model, asked, uniforms, eos, pad_id, temperature, choice, record, seen)
            out |= dict(zip(rows, sampled, strict=True))
            if progress is not None:
                progress(len(rows))
    return [out[i] for i in range(len(prompts))]
