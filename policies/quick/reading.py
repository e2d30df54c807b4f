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
from policies.untyped import Foreign, Model

SHARED_PREFIX = 16  # tokens that all prompts must have in common before they are computed once for all


def left_padded(
    prompts: Sequence[Sequence[int]], prefix: int, pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids (B, W) of the prompts past `prefix`, padded on the left, and the attention mask (B, prefix + W) of all of them."""
    width = max(len(p) for p in prompts) - prefix
    ids = [[pad_id] * (width + prefix - len(p)) + list(p[prefix:]) for p in prompts]
    attention = [[1] * prefix + [0] * (width + prefix - len(p)) + [1] * (len(p) - prefix) for p in prompts]
    return torch.tensor(ids).to(device), torch.tensor(attention).to(device)


@dataclass
class Read:
    """Prompts that the model has read, B of them, in the order given."""

    cache: DynamicCache
    final: Tensor  # (B, H) states that the first tokens are chosen from
    attention: Tensor  # (B, W) mask of what is in the cache
    # of each row what entered the layers above the trunk, in parts (n, H); empty without a trunk
    states: list[list[Tensor]]


def new_cache(model: Model) -> DynamicCache:
    """A cache that keeps all it is given, window or not: rows of different lengths can then be padded, picked and put together. The mask
    alone says how far a token sees."""
    cache = DynamicCache(config=model.config)
    cache.layers = [DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer for layer in cache.layers]
    return cache


def read(model: Model, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device, seen: list[Tensor]) -> Read:
    """Every prompt is read once, whatever number of rows it has, what all begin with once for all, and prompts of like length
    together, so that short ones are not padded to long ones. `seen` gets what enters the layers above the trunk, where there is one."""
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
        ids, attention = left_padded(asked, prefix, pad_id, device)
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, prefix:]
        with padding_known(len({len(p) for p in asked}) > 1):
            out = body(
                input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
            )
        place |= {prompt: len(place) + n for n, prompt in enumerate(asked)}
        caches.append(cache)
        finals.append(out.last_hidden_state[:, -1])
        if seen:
            entered = seen.pop()
            states += [row[entered.shape[1] + prefix - len(p) :] for row, p in zip(entered, asked, strict=True)]
    rows = [place[tuple(prompt)] for prompt in prompts]
    whole, picked = _joined(caches), torch.tensor(rows).to(device)
    whole.layers = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in whole.layers]
    whole.batch_select_indices(picked)
    _, attention = left_padded(prompts, prefix, pad_id, device)
    parts = [[*shared, states[i]] if states else [] for i in rows]
    return Read(whole, torch.cat(finals)[picked], attention, parts)


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return shortest


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
