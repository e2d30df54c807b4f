"""How are prompts of an encoder–decoder read before the first token is sampled? Each is encoded once, and the decoder begins behind START."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from policies.quick.batching import together
from policies.quick.moving import moved
from policies.quick.reading import Read
from policies.seq2seq import START, Begun
from policies.trials import decoder
from policies.untyped import Model


def read_encoded(model: Model, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Read:
    """Every prompt is encoded once, whatever number of rows it has, prompts of like length together; each ends in START. The mask of what is
    read (B, 1) is the decoder's, all of whose rows are of one length."""
    body: Model = decoder(model)
    different = list(dict.fromkeys(tuple(prompt[:-1]) for prompt in prompts))
    width, place = max(map(len, different)), dict[tuple[int, ...], int]()
    states, masks = list[Tensor](), list[Tensor]()
    for group in together([len(p) for p in different]):
        asked = [different[i] for i in group]
        ids, mask = _right_padded(asked, pad_id, device)
        found = body.encoded(ids, mask)
        states.append(nn.functional.pad(found, (0, 0, 0, width - found.shape[1])))
        masks.append(nn.functional.pad(mask, (0, width - mask.shape[1])))
        place |= {prompt: len(place) + n for n, prompt in enumerate(asked)}
    rows = torch.tensor([place[tuple(prompt[:-1])] for prompt in prompts]).to(device)
    cache = Begun(torch.cat(states)[rows], torch.cat(masks)[rows])
    first = torch.full((len(prompts), 1), START, device=device)
    final = body(input_ids=first, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
    return Read(cache, final, torch.ones_like(first), [[] for _ in prompts])


def _right_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, W) of prompts padded on the right."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*p, *[pad_id] * (width - len(p))] for p in prompts])
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
    there = moved((ids, mask), device)
    return there[0], there[1]
