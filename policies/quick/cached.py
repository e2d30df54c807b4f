"""How is a batch decoded token by token? With a cache of its own, from which rows that have ended leave."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from policies.backbone import decoder
from policies.drawing import Completion, Drawn, Record, Wanted
from policies.logprobs import logits
from policies.quick.encoded import read_encoded
from policies.quick.masks import padding_known
from policies.quick.reading import Read, read
from policies.seq2seq import of_rows
from policies.untyped import Model

LOOK_EVERY = (
    8  # decoded steps after which an accelerator is asked which rows have ended; it is waited for then, and only then
)


@torch.no_grad()
def cached(model: Model, wanted: Wanted) -> list[Completion]:
    """A completion of each prompt, the decoder called with a cache: the quick way, for models that keep keys and values alone, or a decoder's beside an encoder's states."""
    with _watched(model, wanted.record) as seen:
        device = wanted.uniforms.device
        if of_rows(model):
            begun = read_encoded(model, wanted.prompts, wanted.pad_id, device)
        else:
            begun = read(model, wanted.prompts, wanted.pad_id, device, seen)
        return _decoded(model, wanted, begun, seen)


@contextmanager
def _watched(model: Model, record: Record | None) -> Iterator[list[Tensor]]:
    """Within the block the list gets what enters the layers above the trunk, (B, width, H), at each call of the decoder."""
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


class _Rows:
    """The rows that are still being decoded, n of the batch's B, and what the decoder needs of each."""

    def __init__(self, begun: Read, more: int, padded: bool):
        """`more`: decoded steps to come, at most. `padded`: whether prompts differ in length."""
        self.padded = padded
        device = begun.attention.device
        self.cache = begun.cache
        self.alive = torch.arange(len(begun.attention), device=device)  # which rows of the batch
        self.ended = torch.zeros(len(self.alive), dtype=torch.bool, device=device)
        self.width = begun.attention.shape[1]
        room = begun.attention.new_ones((len(self.alive), more))
        self.attention = torch.cat([begun.attention, room], dim=1)
        self.positions = begun.attention.sum(1, keepdim=True) - 1
        self.ids = self.alive[:, None]  # the tokens chosen last

    def forward(self, body: Model) -> Tensor:
        """Run the tokens chosen last: the states (n, H) that the next are chosen from."""
        self.width, self.positions = self.width + 1, self.positions + 1
        with padding_known(self.padded):
            final: Tensor = body(
                input_ids=self.ids,
                attention_mask=self.attention[:, : self.width],
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        return final

    def leave(self, *also: Tensor) -> list[Tensor] | None:
        """Let rows that have ended go, from `also` too; None where none is left. The device is waited for."""
        going = (~self.ended).nonzero().squeeze(1)
        if len(going) == len(self.alive):
            return list(also)
        if len(going) == 0:
            return None
        self.cache.batch_select_indices(going)
        self.alive, self.ended, self.ids = self.alive[going], self.ended[going], self.ids[going]
        self.attention, self.positions = self.attention[going], self.positions[going]
        return [tensor[going] for tensor in also]


def _decoded(model: Model, wanted: Wanted, begun: Read, seen: list[Tensor]) -> list[Completion]:
    body: Model = decoder(model)
    limit, record, final = wanted.limit, wanted.record, begun.final
    depth = record.depth if record is not None else 0
    # with a trunk, two more calls at most: for the last token, and for the EOS that a reward model sees after it
    steps = limit + 2 if depth else limit
    every = 1 if final.device.type == "cpu" else LOOK_EVERY
    ends = torch.tensor(list(wanted.ends)).to(final.device)
    rows, drawn = _Rows(begun, steps, len({len(p) for p in wanted.prompts}) > 1), Drawn(wanted)
    entered = final.new_zeros((len(final), steps, final.shape[1])) if depth else None
    for step in range(steps):
        if step > 0:
            final = rows.forward(body)
        if entered is not None and step > 0:
            entered[rows.alive, step - 1] = seen.pop()[:, -1]
            if step % every == 0:  # the states of their last tokens are there now
                left = rows.leave(final)
                if left is None:
                    break
                (final,) = left
        if step < limit:
            chosen = drawn.draw(logits(model, final), rows.alive, step)
            drawn.keep(final, rows.alive, step)
            rows.ended, rows.ids = rows.ended | torch.isin(chosen, ends), chosen[:, None]
        elif record is not None:
            rows.ids = torch.full_like(rows.ids, record.eos)
        if not depth and step + 1 < steps and (step + 1) % every == 0 and rows.leave() is None:
            break
    if entered is None:
        return drawn.completions()
    tail: Tensor = entered

    def states(row: int, tokens: int, finished: bool) -> Tensor:
        return torch.cat([*begun.states[row], tail[row, : tokens if finished else tokens + 1]])

    return drawn.completions(states)
