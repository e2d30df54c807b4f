"""Do padded tokens cost anything? Rows of a batch laid end to end in lanes, so that a decoder runs on little else than tokens.

transformers tells the rows of a lane apart by positions that begin again. What comes out is what padded rows give, within float
tolerance; `tests/policies/quick/test_packing.py` holds them side by side.
"""

import heapq
import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from policies.quick.moving import lengths_of, moved
from policies.quick.windows import short_windows
from policies.trials import alike, close, decoder, tell
from policies.untyped import Arguments, Foreign, Json, Model, ModelConfig

# Attention is dense within a lane, so that lanes of W tokens cost 1 + W / reach times their products. Of a layer with P weights on H
# numbers reach is this times P / 2H: at 128 and at 256 tokens a lane, forward and backward cost 7 and 14% more on two cores.
ATTENTION_REACH = 0.6
MOST_OF_PADDED_COST = (
    0.97  # of the cost of padded rows at most; for less, laying rows out and back is not worth its while
)


@dataclass(frozen=True)
class Lanes:
    """Where the T tokens of right-padded rows (B, L) lie in lanes of W places.

    Places left over at the end of a lane take any token, with position 0, and are read by nobody.
    """

    source: Tensor  # (lanes, W) int64, which of B·L comes to each place
    positions: Tensor  # (lanes, W) int64, its position in its row
    place: Tensor  # (T,) int64, which of lanes·W each token went to
    target: Tensor  # (T,) int64, which of B·L it came from
    bounds: Tensor | None = None  # of one lane: (rows + 1,) int32, where each row begins, and T
    longest: int = 0  # of one lane: tokens of its longest row


def lay(lengths: Sequence[int], reach: float, limit: float = math.inf) -> list[list[int]] | None:
    """Rows of `lengths` tokens dealt to lanes, longest first, each to the emptiest lane; None where padding them is as cheap.

    Of several numbers of lanes the one is taken at which lanes · W · (1 + W / reach) is least, W the fullest lane's tokens, at most `limit`.
    """
    longest, total = max(lengths), sum(lengths)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best, least = None, MOST_OF_PADDED_COST * len(lengths) * longest * (1 + longest / reach)
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
        if width <= limit and (cost := count * width * (1 + width / reach)) < least:
            best, least = dealt, cost
    return best


def lanes(
    lengths: Sequence[int], width: int, reach: float, limit: float, device: torch.device, one: bool = False
) -> Lanes | None:
    """`lay` as tensors, for rows padded to `width`, or with `one` all rows in a single lane for an attention that is told its bounds
    and has no cost between rows; None where padding is as cheap."""
    padded = sum(lengths) >= MOST_OF_PADDED_COST * len(lengths) * width
    dealt = lay(lengths, reach, limit) if not one else None if padded else [list(range(len(lengths)))]
    if dealt is None:
        return None
    places = max(sum(lengths[row] for row in lane) for lane in dealt)
    starts = [number * places + at for number, lane in enumerate(dealt) for at in _before(lengths[row] for row in lane)]
    rows, start = torch.tensor([row for lane in dealt for row in lane]), torch.tensor(starts)
    counts = torch.tensor(lengths)[rows]
    own = torch.arange(sum(lengths)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # positions in their rows
    place, target = (start.repeat_interleave(counts) + own, (rows * width).repeat_interleave(counts) + own)
    source, positions = torch.zeros(2, len(dealt) * places, dtype=torch.long)
    source[place], positions[place] = target, own
    given = (source.view(-1, places), positions.view(-1, places), place, target, torch.tensor([*starts, places]))
    source, positions, place, target, bounds = moved(given, device)
    laid = Lanes(source, positions, place, target)
    return replace(laid, bounds=bounds.int(), longest=max(lengths)) if one else laid


def _before(counts: Iterable[int]) -> list[int]:
    """The sum of all counts before each."""
    return list(accumulate(counts, initial=0))[:-1]


class Packed:
    """In front of a decoder's class: right-padded rows without a cache are run in lanes where that is cheaper, and states are then zero
    where padded. Any other call goes through as it is."""

    def forward(
        self: Model, input_ids: Tensor | None = None, attention_mask: Foreign = None, **others: Arguments
    ) -> Foreign:
        whole = super().forward  # type: ignore[misc]
        rows = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 and _plain(others, self.config)
        laid = _laid(self, attention_mask) if rows else None
        if laid is None:
            return whole(input_ids=input_ids, attention_mask=attention_mask, **others)
        embedded = others.get("inputs_embeds")
        if embedded is None:
            embedded = self.get_input_embeddings()(input_ids)
        given = {"inputs_embeds": embedded.flatten(0, 1)[laid.source], "position_ids": laid.positions}
        if laid.bounds is not None:  # transformers would find them in the positions, in every layer
            given |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), laid.bounds)
            given |= dict.fromkeys(("max_length_q", "max_length_k"), laid.longest)
        out = whole(**others | given | {"use_cache": False})
        hidden = out.last_hidden_state.flatten(0, 1)
        states = hidden.new_zeros((attention_mask.numel(), hidden.shape[1]))
        states = states.index_copy(0, laid.target, hidden.index_select(0, laid.place))
        out.last_hidden_state = states.view(*attention_mask.shape, -1)
        return out


def _plain(others: dict[str, Json], config: ModelConfig) -> bool:
    """Whether a decoder is asked for final states alone: no cache, no positions of the caller's, nothing else by row."""
    cached = others.get("use_cache")
    cached = getattr(config, "use_cache", True) if cached is None else cached
    more = any(getattr(config, name, False) for name in ("output_hidden_states", "output_attentions"))
    if cached or more or others.get("return_dict") is False:
        return False
    rest = (value for name, value in others.items() if name not in ("inputs_embeds", "use_cache", "return_dict"))
    return all(
        value is None
        or value is False
        or (value.dim() == 0 if isinstance(value, Tensor) else type(value) in (int, float))
        for value in rest
    )


def _laid(decoder: Model, attention_mask: Tensor) -> Lanes | None:
    # these take a mask, which transformers makes of the positions of any number of lanes; others take bounds, of one
    one = decoder.config._attn_implementation not in ("sdpa", "eager")
    if (known := lengths_of(attention_mask)) is not None:
        whole = min(known) > 0
        return (
            lanes(known, attention_mask.shape[1], decoder.reach, decoder.limit, attention_mask.device, one)
            if whole
            else None
        )
    mask = attention_mask.bool()
    counts, place = mask.sum(1), torch.arange(mask.shape[1], device=mask.device)
    right = ((mask == (place < counts[:, None])).all(1) & (counts > 0)).all()
    *lengths, usual = torch.cat([counts, right[None]]).tolist()  # at once, as a GPU is waited for
    if not usual:
        return None  # padded on the left, where positions are the caller's affair, or a row without tokens
    return lanes(lengths, mask.shape[1], decoder.reach, decoder.limit, mask.device, one)


def packs(model: Model) -> bool:
    """Whether padding on the right costs `model` (a causal LM, a classifier, or peft's around one) next to nothing where it needs no cache."""
    return any(isinstance(module, Packed) for module in model.modules())


@torch.no_grad()
def enable_packing(model: Model) -> None:
    """Let the decoder of `model` run padded rows in lanes, in place, if it can be told positions and keeps the rows of a lane apart.

    Both are tried on a few tokens in two lanes: states must be those of padded rows, and those of one row the same bits whatever the
    row before it says. Windows and chunks of attention are tried once as they are and once so short that the tokens pass them. A
    decoder that cannot be called so, for whatever reason, stays as it is.
    """
    body: Model = decoder(model)
    plain, config = type(body), body.config.get_text_config()
    takes = inspect.signature(plain.forward).parameters.keys()
    told = f"{type(model).__name__}: rows of one batch cannot be laid end to end, so padding is computed, which takes more time"
    if not {"inputs_embeds", "attention_mask", "position_ids", "use_cache"} <= takes or "per_layer_inputs" in takes:
        tell(told)
        return  # per_layer_inputs: a second embedding, of ids that lanes do not have
    # under its old name, by which transformers looks up what a class can record (hidden states, attentions)
    name = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
    packed = type(plain.__name__, (Packed, plain), name)
    try:
        kept_apart = _tried(body, packed)
        with short_windows(body) as widths:
            kept_apart = kept_apart and (not widths or _tried(body, packed, every=True))
        embedding = body.get_input_embeddings().weight.numel()
        layer = (sum(p.numel() for p in body.parameters()) - embedding) / config.num_hidden_layers
        body.reach = ATTENTION_REACH * layer / (2 * config.hidden_size)
        body.limit = getattr(config, "max_position_embeddings", None) or math.inf
    except Exception:  # what a decoder of somebody's own raises cannot be foreseen, and it worked before
        kept_apart = False
    if not kept_apart:
        body.__class__ = plain
        tell(told)


def _tried(decoder: Model, packed: type, every: bool = False) -> bool:
    """Give `decoder` the class `packed`, and whether it does what it did; to `every` token where a window or a choice among tokens may
    go wrong for one alone, which looks as rounding does."""
    vocabulary = decoder.get_input_embeddings().weight.shape[0]
    device = decoder.device  # a quantised model comes on its GPU
    mask = (torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]).long().to(device)
    ids = torch.randint(vocabulary, (4, 9), generator=torch.Generator().manual_seed(0)).to(device)
    otherwise = ids.clone()
    otherwise[[0, 2]] = (ids[[0, 2]] + 1) % vocabulary  # the first of each lane; rows 3 and 1 follow them

    def states(ids: Tensor) -> Tensor:
        found: Tensor = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return found

    decoder.__class__ = packed.__mro__[2]
    padded = states(ids)
    decoder.__class__, decoder.reach, decoder.limit = packed, 40.0, math.inf  # two lanes, one place left over
    found, again = states(ids), states(otherwise)
    same = close(found[mask.bool()], padded[mask.bool()]) if every else alike(found, padded, mask)
    in_lanes = not found[~mask.bool()].any()
    return in_lanes and same and torch.equal(found[[1, 3]], again[[1, 3]])
