"""Which layers does no role adapt? The trunk: the lowest layers, whose states are the same for every role and every epoch.

Where adapters sit in the last layers only (`lora.layers: last 10`), the states that enter the first adapted layer are computed once for
a token sequence, in the rollout or here, and what follows runs the upper layers alone.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from policies.quick.windows import short_windows
from policies.trials import alike, body_name, tell, trial_rows
from policies.untyped import Arguments, Foreign, Model


def first_adapted(model: nn.Module, adapters: Sequence[str]) -> int:
    """The number of the lowest decoder layer that has one of `adapters`; 0 where layers have no numbers."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and any(adapter in module.lora_A for adapter in adapters):
            found.append(next((int(part) for part in name.split(".") if part.isdigit()), 0))
    return min(found, default=0)


class Trunk:
    """The lowest `depth` layers of a decoder, and the layers above them, as two models on the same weights.

    `known` holds states (L, H) by token ids (a tuple of L ints), for as long as the caller wants them kept. What `states` computes
    joins them while there is `room` (bytes), which is none unless the caller gives some.
    """

    def __init__(self, decoder: Model, depth: int):
        self.room = 0.0
        self.depth = depth
        self.lower = _part(decoder, slice(0, depth), nn.Identity())
        self.upper = _part(decoder, slice(depth, None), decoder.norm)
        self.known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What enters the layers above, (B, L, H), for right-padded rows: looked up where known, else computed. Zero where padded."""
        ids = [tuple(row[:n]) for row, n in zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)]
        found = [self.known.get(row) for row in ids]
        missing = [i for i, states in enumerate(found) if states is None]
        if missing:
            rows = torch.tensor(missing, device=input_ids.device)
            width = max(len(ids[i]) for i in missing)
            fresh = self.lower(
                input_ids=input_ids[rows, :width].contiguous(),
                attention_mask=attention_mask[rows, :width].contiguous(),
                use_cache=False,
            ).last_hidden_state
            for place, i in enumerate(missing):
                found[i] = states = fresh[place, : len(ids[i])]
                size = states.numel() * states.element_size()
                if size <= self.room:
                    self.known[ids[i]] = states.clone()
                    self.room -= size
        return padded([states for states in found if states is not None], input_ids.shape[1])

    def above(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Final hidden states (B, L, H) from what enters the upper layers."""
        return self.upper(inputs_embeds=states, attention_mask=attention_mask, use_cache=False).last_hidden_state

    @contextmanager
    def in_place_of(self, model: Model) -> Iterator[None]:
        """Within the block `model` (a causal LM or classifier on this decoder) runs the upper layers alone on what `states` gives.

        Its inputs are token ids as ever, and the attention mask of rows that are padded on the right.
        """
        name = body_name(model)
        assert name is not None, "the model is a decoder without a head"
        whole = getattr(model, name)
        upper = _part(self.upper, slice(None), self.upper.norm)
        above = upper.forward

        def forward(input_ids: Tensor, attention_mask: Tensor, **others: Arguments) -> Foreign:
            return above(
                inputs_embeds=self.states(input_ids, attention_mask),
                attention_mask=attention_mask,
                **{key: value for key, value in others.items() if value is not None},
            )

        upper.forward = forward
        setattr(model, name, upper)
        try:
            yield
        finally:
            setattr(model, name, whole)


def padded(rows: Sequence[Tensor], width: int) -> Tensor:
    """Rows (L_i, H) as one tensor (B, width, H), zero to the right."""
    out = rows[0].new_zeros((len(rows), width, rows[0].shape[1]))
    for row, states in enumerate(rows):
        out[row, : len(states)] = states
    return out


@torch.no_grad()
def find_trunk(decoder: Model, depth: int) -> Trunk | None:
    """The trunk of `decoder` below layer `depth`, or None where there is none or the decoder cannot be run in two parts.

    Decoders differ in what they do before their layers (some scale embeddings), so both parts are tried on a few tokens against the
    whole: with windows of attention as they are, and so short that the tokens pass them.
    """
    if depth == 0:
        return None
    try:
        trunk = Trunk(decoder, depth)
        sound = _same(trunk, decoder)
        with short_windows(decoder, trunk.lower, trunk.upper) as widths:
            sound = sound and (not widths or _same(trunk, decoder))
    except Exception:  # what a decoder of somebody's own raises cannot be foreseen
        sound = False
    if not sound:
        tell(
            f"{type(decoder).__name__}: cannot be run in two parts, so layers without an adapter are run each time, which takes more time"
        )
    return trunk if sound else None


def _same(trunk: Trunk, decoder: Model) -> bool:
    """Whether both parts, one after the other, give what the whole gives."""
    ids, mask = trial_rows(decoder)
    whole = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return alike(trunk.above(trunk.states(ids, mask), mask), whole, mask)


def _part(decoder: Model, which: "slice[int | None, int | None, None]", norm: nn.Module) -> Model:
    """A decoder of some of the layers of another, on the same weights. Not a copy: the modules are the same objects."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.layers, part.norm = nn.ModuleList(decoder.layers[which]), norm
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = len(part.layers)
    part.config.use_cache = False
    if getattr(decoder.config, "layer_types", None) is not None:  # which layers see a sliding window, by number
        part.config.layer_types = decoder.config.layer_types[which]
    return part
