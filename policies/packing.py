"""Do padded tokens cost anything? Rows of a batch laid end to end in lanes, so that a decoder runs on little else than tokens.

transformers tells the rows of a lane apart by positions that begin again. What comes out is what padded rows give, within float
tolerance; `tests/test_packing.py` holds them side by side.
"""

import heapq
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Attention is dense within a lane, so that lanes of W tokens cost 1 + W / reach times their products. Of a layer with P weights on H
# numbers reach is this times P / 2H: at 128 and at 256 tokens a lane, forward and backward cost 7 and 14% more on two cores.
REACH = 0.6
TOLD = {"inputs_embeds", "attention_mask", "position_ids", "use_cache"}  # what a decoder's forward must take
WORTH = 0.97  # of the cost of padded rows at most; for less, laying rows out and back is not worth its while


@dataclass(frozen=True)
class Lanes:
    """Where the T tokens of right-padded rows (B, L) lie in lanes of W places.

    Places left over at the end of a lane take any token, with position 0, and are read by nobody.
    """

    source: Tensor  # (lanes, W) int64, which of B·L comes to each place
    positions: Tensor  # (lanes, W) int64, its position in its row
    place: Tensor  # (T,) int64, which of lanes·W each token went to
    target: Tensor  # (T,) int64, which of B·L it came from


def lay(lengths: Sequence[int], reach: float) -> list[list[int]] | None:
    """Rows of `lengths` tokens dealt to lanes, longest first, each to the emptiest lane; None where padding them is as cheap.

    Of several numbers of lanes the one is taken at which lanes · W · (1 + W / reach) is least, W the fullest lane's tokens.
    """
    longest, total = max(lengths), sum(lengths)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best, least = None, WORTH * len(lengths) * longest * (1 + longest / reach)
    most = -(-total // longest)  # more would each be as long as the longest row, and emptier
    for count in range(1, most + 1) if most <= 16 else [*range(1, 9), *(most * n // 8 for n in range(1, 9))]:
        if total * (1 + total / count / reach) >= least:
            continue
        dealt: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, lane) for lane in range(count)]  # a heap
        for row in order:
            tokens, lane = filled[0]
            dealt[lane].append(row)
            heapq.heapreplace(filled, (tokens + lengths[row], lane))
        width = max(filled)[0]
        if (cost := count * width * (1 + width / reach)) < least:
            best, least = dealt, cost
    return best


def lanes(lengths: Sequence[int], width: int, reach: float, device: torch.device) -> Lanes | None:
    """`lay` as tensors, for rows padded to `width`; None where padding is as cheap."""
    dealt = lay(lengths, reach)
    if dealt is None:
        return None
    places = max(sum(lengths[row] for row in lane) for lane in dealt)
    source, positions = torch.zeros(2, len(dealt), places, dtype=torch.long)
    place, target = [], []
    for number, lane in enumerate(dealt):
        at = 0
        for row in lane:
            count = lengths[row]
            own = torch.arange(count)
            source[number, at : at + count] = row * width + own
            positions[number, at : at + count] = own
            place.append(number * places + at + own)
            target.append(row * width + own)
            at += count
    return Lanes(*(t.to(device) for t in (source, positions, torch.cat(place), torch.cat(target))))


class Packed:
    """In front of a decoder's class: right-padded rows without a cache are run in lanes where that is cheaper. Zero where padded."""

    def forward(self: Any, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **others: Any) -> Any:
        whole = super().forward  # type: ignore[misc]
        if attention_mask is None or attention_mask.dim() != 2 or not _plain(others, self.config):
            return whole(input_ids=input_ids, attention_mask=attention_mask, **others)
        laid = _laid(self, attention_mask)
        if laid is None:
            return whole(input_ids=input_ids, attention_mask=attention_mask, **others)
        embedded = others.get("inputs_embeds")
        if embedded is None:
            embedded = self.get_input_embeddings()(input_ids)
        out = whole(**others | {"inputs_embeds": embedded.flatten(0, 1)[laid.source], "position_ids": laid.positions})
        hidden = out.last_hidden_state.flatten(0, 1)
        rows = hidden.new_zeros((attention_mask.numel(), hidden.shape[1]))
        rows = rows.index_copy(0, laid.target, hidden.index_select(0, laid.place))
        out.last_hidden_state = rows.view(*attention_mask.shape, -1)
        return out


def _plain(others: dict[str, Any], config: Any) -> bool:
    """Whether a decoder is asked for final states alone: no cache, no positions of the caller's, nothing else by row."""
    cached = others.get("use_cache")
    if getattr(config, "use_cache", True) if cached is None else cached:
        return False
    rest = (value for name, value in others.items() if name not in ("inputs_embeds", "use_cache"))
    return all(
        value is None
        or value is False
        or (value.dim() == 0 if isinstance(value, Tensor) else type(value) in (int, float))
        for value in rest
    )


def _laid(decoder: Any, attention_mask: Tensor) -> Lanes | None:
    mask = attention_mask.bool()
    counts, place = mask.sum(1), torch.arange(mask.shape[1], device=mask.device)
    right = ((mask == (place < counts[:, None])).all(1) & (counts > 0)).all()
    *lengths, usual = torch.cat([counts, right[None]]).tolist()  # at once, as a GPU is waited for
    if not usual:
        return None  # padded on the left, where positions are the caller's affair, or a row without tokens
    return lanes(lengths, mask.shape[1], decoder.reach, mask.device)


def packs(model: Any) -> bool:
    """Whether padding costs `model` (a causal LM, a classifier, or peft's around one) next to nothing."""
    return any(isinstance(module, Packed) for module in model.modules())


@torch.no_grad()
def pack(model: Any) -> None:
    """Let the decoder of `model` run padded rows in lanes, in place, if it can be told positions and keeps the rows of a lane apart.

    Both are tried on a few tokens: states must be those of padded rows, and those of one row the same bits whatever the other says.
    """
    decoder = model.base_model
    plain, config = type(decoder), decoder.config.get_text_config()
    if not TOLD <= inspect.signature(plain.forward).parameters.keys():
        return
    vocabulary = decoder.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 5), generator=torch.Generator().manual_seed(0))
    ids = ids.to(decoder.device)  # a quantised model comes on its GPU
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    otherwise = torch.stack([(ids[0] + 1) % vocabulary, ids[1]])

    def states(ids: Tensor) -> Tensor:
        return decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    padded = states(ids)[mask.bool()]
    # under its old name, by which transformers looks up what a class can record (hidden states, attentions)
    name = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
    decoder.__class__ = type(plain.__name__, (Packed, plain), name)
    decoder.reach = math.inf
    packed, again = states(ids), states(otherwise)
    close = 1e-4 if padded.dtype == torch.float32 else 3e-2
    same = torch.allclose(padded, packed[mask.bool()], rtol=0.0, atol=close * padded.abs().max().item())
    if not same or not torch.equal(packed[1], again[1]):
        decoder.__class__ = plain
    embedding = decoder.get_input_embeddings().weight.numel()
    layer = (sum(p.numel() for p in decoder.parameters()) - embedding) / config.num_hidden_layers
    decoder.reach = REACH * layer / (2 * config.hidden_size)
