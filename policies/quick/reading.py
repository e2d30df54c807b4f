"""How are prompts read before the first token is sampled? Each once, and what many share once for all."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from policies.backbone import decoder
from policies.quick.batching import together
from policies.quick.cache import RoomyLayer
from policies.quick.masks import padding_known
from policies.quick.moving import moved
from policies.seq2seq import Begun
from policies.untyped import Foreign, Model

SHARED_PREFIX = 16  # tokens that all prompts must have in common before they are computed once for all


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, W) of prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    there = moved((ids, attention), device)
    return there[0], there[1]


@dataclass
class Read:
    """Prompts that the model has read, B of them, in the order given."""

    cache: DynamicCache | Begun
    final: Tensor  # (B, H) states that the first tokens are chosen from
    attention: Tensor  # (B, W) mask of what is in the cache
    # of each row what entered the layers above the trunk, in parts (n, H); empty without a trunk
    states: list[list[Tensor]]


def new_cache(model: Model) -> DynamicCache:
    """A cache that keeps all it is given, window or not: rows of different lengths can then be padded, picked and put together. The mask
    alone says how far a token sees. Raises TypeError where a layer keeps anything else than keys and values."""
    cache = DynamicCache(config=model.config)
    if strange := [type(x).__name__ for x in cache.layers if type(x) not in (DynamicLayer, DynamicSlidingWindowLayer)]:
        raise TypeError(f"a cache of {strange[0]}")
    cache.layers = [DynamicLayer() for _ in cache.layers]
    return cache


def read(model: Model, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, seen: list[Tensor]) -> Read:
    """Every prompt is read once, whatever number of rows it has, what all begin with once for all, and prompts of like length
    together, so that short ones are not padded to long ones. `seen` gets what enters the layers above the trunk, where there is one.

    While they are read padding stands on the right, and then it is moved to the left: between what is shared and the rest it would
    come between tokens that are neighbours, and a sliding window counts places.
    """
    body: Model = decoder(model)
    begun, prefix = new_cache(model), _common_prefix(prompts)
    if prefix >= SHARED_PREFIX:
        ids = torch.tensor([list(prompts[0][:prefix])]).to(device)
        body(input_ids=ids, past_key_values=begun, use_cache=True)
    else:
        prefix = 0
    shared = [seen.pop()[0]] if seen else []
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    caches, finals, states, place = [], [], [], dict[tuple[int, ...], int]()
    for group in together([len(p) - prefix for p in different]):
        asked, cache = [different[i] for i in group], copy.deepcopy(begun)
        cache.batch_repeat_interleave(len(group))
        ids, attention, last = _right_padded(asked, prefix, pad_id, device)
        positions = torch.arange(prefix, attention.shape[1], device=device).expand(len(asked), -1)
        with padding_known(len({len(p) for p in asked}) > 1):
            out = body(
                input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
            )
        place |= {prompt: len(place) + n for n, prompt in enumerate(asked)}
        caches.append(cache)
        finals.append(out.last_hidden_state[torch.arange(len(asked), device=device), last])
        if seen:
            states += [row[: len(p) - prefix] for row, p in zip(seen.pop(), asked, strict=True)]
    rows = [place[tuple(prompt)] for prompt in prompts]
    picked = torch.tensor(rows).to(device)
    _, attention = left_padded(prompts, pad_id, device)
    whole = _joined(caches, picked, attention)
    parts = [[*shared, states[i]] if states else [] for i in rows]
    return Read(whole, torch.cat(finals)[picked], attention, parts)


def _right_padded(
    prompts: Sequence[Sequence[int]], prefix: int, pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (B, W) of the prompts past `prefix`, the attention mask (B, prefix + W) of all of them, and where in W the last is, (B,)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*p[prefix:], *[pad_id] * (width - len(p))] for p in prompts])
    attention = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
    last = torch.tensor([len(p) - prefix - 1 for p in prompts])
    there = moved((ids, attention, last), device)
    return there[0], there[1], there[2]


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return shortest


def _joined(caches: Sequence[DynamicCache], rows: Tensor, attention: Tensor) -> DynamicCache:
    """One cache of `rows` (B,) of all of `caches`, whose keys and values (N, heads, L, D) are padded on the right, with room for more.

    In it they lie as in `attention` (B, W), padded on the left; what stands in the padding is looked at by nobody.
    """
    width = attention.shape[1]
    source = (torch.arange(width, device=rows.device) - (width - attention.sum(1, keepdim=True))).clamp(min=0)
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        parts: list[Foreign] = [layer, *others]
        if layer.is_initialized:  # a layer may share another's keys and have none of its own
            for name in ("keys", "values"):
                each = [getattr(part, name) for part in parts]
                each = [nn.functional.pad(x, (0, 0, 0, width - x.shape[-2])) for x in each]
                heads = torch.arange(each[0].shape[1], device=rows.device)[None, :, None]
                setattr(layer, name, torch.cat(each)[rows[:, None, None], heads, source[:, None, :]])
    whole = caches[0]
    whole.layers = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in whole.layers]
    return whole
