"""How does an encoder–decoder read and speak as everything here expects of a causal language model? As rows: prompt, START, completion.

A row of an encoder–decoder is the prompt's tokens as its encoder wants them, START, and the completion's tokens. START is no token of any
vocabulary: it says where the decoder begins, which reads `decoder_start_token_id` there. The state at START chooses the completion's first
token, as the state at a causal model's last prompt token does; so the places of a `logprobs.Batch`, masks and losses are the same for both.
States and logits of the prompt's own tokens are zero: nothing is said there.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from policies.errors import BackboneError
from policies.framing import START as START
from policies.untyped import Arguments, Foreign, Model


def of_rows(model: Model) -> bool:
    """Whether a model, or peft's around one, is an encoder–decoder that reads rows, or the body of one."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return isinstance(inner, Rows | Stacks)


def prompt_of(model: Model, ids: list[int]) -> list[int]:
    """Token ids that `model` reads as a prompt, for trials: those, and START where it is an encoder–decoder."""
    return [*ids, START] if of_rows(model) else ids


def spoken(input_ids: Tensor, mask: Tensor) -> Tensor:
    """Of the tokens in `mask` (B, L) those that a model says something at, (B, L) bool: all, or from START on in rows that have one."""
    begun = (input_ids == START).cumsum(1)
    return mask.bool() & ((begun > 0) | (begun[:, -1:] == 0))


def unread_rows(model: Model, length: int) -> dict[str, Tensor]:
    """What a body without numbers is run on: one row of `length` tokens; an encoder–decoder has it in both halves, as nothing can be cut."""
    ids = torch.zeros(1, length, dtype=torch.long)
    return {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}


@dataclass(frozen=True)
class Halves:
    """Rows (B, L) in two: what the encoder reads (B, E) and what the decoder reads (B, D), both padded on the right."""

    prompt: Tensor  # (B, E) int64
    prompt_mask: Tensor  # (B, E) int64
    said: Tensor  # (B, D) int64, decoder_start_token_id first
    said_mask: Tensor  # (B, D) int64
    at: Tensor  # (N,) int64, which of B·L each of the decoder's tokens came from, row by row
    shape: tuple[int, int]  # (B, L)

    @classmethod
    def of(cls, input_ids: Tensor, mask: Tensor | None, start: int, pad: int) -> "Halves":
        """The halves of rows that are padded on either side and hold one START each. Raises ValueError where one does not."""
        found = input_ids == START
        if not bool((found.sum(1) == 1).all()):
            raise ValueError("a row of an encoder–decoder holds START once, between prompt and completion")
        seen = torch.ones_like(input_ids) if mask is None else mask
        first, length = seen.long().argmax(1), seen.long().sum(1)
        cut = found.long().argmax(1)
        prompts, saids = cut - first, first + length - cut
        width, height = int(prompts.max()), int(saids.max())
        place = torch.arange(max(width, height), device=input_ids.device)[None]
        prompt_mask, said_mask = place[:, :width] < prompts[:, None], place[:, :height] < saids[:, None]

        def taken(begin: Tensor, count: int, kept: Tensor) -> Tensor:
            index = (begin[:, None] + place[:, :count]).clamp(max=input_ids.shape[1] - 1)
            return input_ids.gather(1, index).where(kept, pad)

        said = taken(cut, height, said_mask)
        said[:, 0] = start
        rows = input_ids.shape[1] * torch.arange(len(input_ids), device=input_ids.device)
        at = (rows[:, None] + cut[:, None] + place[:, :height])[said_mask]
        prompt = taken(first, width, prompt_mask)
        return cls(prompt, prompt_mask.long(), said, said_mask.long(), at, (input_ids.shape[0], input_ids.shape[1]))

    def laid(self, states: Tensor) -> Tensor:
        """What the decoder says (B, D, N) in the places of the rows, (B, L, N); zero at the prompt's and at padding."""
        count, length = self.shape
        out = states.new_zeros((count * length, states.shape[-1]))
        return out.index_copy(0, self.at, states[self.said_mask.bool()]).view(count, length, -1)


class Begun(EncoderDecoderCache):
    """A cache of prompts that were encoded, B of them: the decoder reads on from it, one token a row."""

    def __init__(self, states: Tensor, mask: Tensor):
        """`states` (B, E, H) of the encoder, `mask` (B, E) int64."""
        super().__init__(DynamicCache(), DynamicCache())
        self.states, self.mask = states, mask

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.states, self.mask = self.states[indices], self.mask[indices]


class Stacks(nn.Module):
    """Encoder and decoder of a model without its head, as one body that gives final states of rows. The modules are the model's own."""

    def __init__(self, model: Model):
        super().__init__()
        self.encoder, self.decoder, self.config = model.get_encoder(), model.get_decoder(), model.config
        self.start, self.pad = model.begins_with, pad_of(model)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_input_embeddings(self) -> Model:
        decoder: Model = self.decoder
        return decoder.get_input_embeddings()

    def encoded(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's states (B, E, H)."""
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return states

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        past_key_values: Begun | None = None,
        use_cache: bool = False,
        **_: Arguments,
    ) -> Foreign:
        """Final states of rows (B, L), laid as `Halves.laid` has it; or with a cache those of the next token of each row, (B, 1, H). Where
        `decoder_input_ids` are given, nothing is cut: `input_ids` are the encoder's."""
        if past_key_values is not None:
            return self.decoder(
                input_ids=input_ids.where(input_ids != START, self.start),
                encoder_hidden_states=past_key_values.states,
                encoder_attention_mask=past_key_values.mask,
                past_key_values=past_key_values,
                use_cache=True,
            )
        if decoder_input_ids is not None:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return self.decoder(input_ids=decoder_input_ids, encoder_hidden_states=states, use_cache=use_cache)
        halves = Halves.of(input_ids, attention_mask, self.start, self.pad)
        out = self.decoder(
            input_ids=halves.said,
            attention_mask=halves.said_mask,
            encoder_hidden_states=self.encoded(halves.prompt, halves.prompt_mask),
            encoder_attention_mask=halves.prompt_mask,
            use_cache=False,
        )
        out.last_hidden_state = halves.laid(out.last_hidden_state)
        return out


class Rows:
    """In front of the class of an encoder–decoder: rows go through encoder and decoder. Any other call goes through as it is, so that the
    model is what transformers knows it as."""

    def forward(
        self: Model, input_ids: Tensor | None = None, attention_mask: Foreign = None, **more: Arguments
    ) -> Foreign:
        whole = super().forward  # type: ignore[misc]
        if input_ids is None or any(more.get(name) is not None for name in OWN) or not (input_ids == START).any():
            return whole(input_ids=input_ids, attention_mask=attention_mask, **more)
        halves = Halves.of(input_ids, attention_mask, self.begins_with, pad_of(self))
        ours = {"decoder_input_ids": halves.said, "decoder_attention_mask": halves.said_mask, "use_cache": False}
        out = whole(input_ids=halves.prompt, attention_mask=halves.prompt_mask, **more | ours)
        out.logits = halves.laid(out.logits)
        return out

    @torch.no_grad()
    def generate(
        self: Model,
        inputs: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Foreign = None,
        **more: Arguments,
    ) -> Foreign:
        """transformers' own; prompts that end in START come back with what is said behind them, (B, W + T)."""
        whole = super().generate  # type: ignore[misc]
        rows = input_ids if inputs is None else inputs
        if rows is None or not (rows == START).any():
            return whole(inputs=rows, attention_mask=attention_mask, **more)
        halves = Halves.of(rows, attention_mask, self.begins_with, pad_of(self))
        how = more.pop("generation_config", None) or self.generation_config
        how = GenerationConfig(**how.to_dict() | {"decoder_start_token_id": self.begins_with})
        out = whole(
            inputs=halves.prompt,
            attention_mask=halves.prompt_mask,
            decoder_input_ids=halves.said[:, :1],
            generation_config=how,
            **more,
        )
        return torch.cat([rows, out[:, 1:]], 1)


OWN = ("decoder_input_ids", "decoder_inputs_embeds", "encoder_outputs", "past_key_values", "inputs_embeds")
"""Arguments by which a caller says itself what encoder and decoder read."""


def reads_rows(model: Model, path: object) -> None:
    """Let `model`, an encoder–decoder of transformers, read rows, in place. Raises BackboneError where nothing says its decoder's first token."""
    if isinstance(model, Rows):
        return
    start = _start_of(model)
    if start is None:
        raise BackboneError(
            f"{path}: its config.json names no decoder_start_token_id, with which its decoder begins; set it to the one it was trained with"
        )
    plain: type = type(model)
    model.__class__ = _in_rows(plain)
    model.begins_with = start


@lru_cache(maxsize=64)
def _in_rows(plain: type) -> type[nn.Module]:
    """The class that reads rows, one for each class of transformers, under its old name: by that transformers looks up what a class can record,
    and writes it into config.json. It is pickled by the class that it was made of, as no module has it."""
    name = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__reduce__": _reduced}
    return type(plain.__name__, (Rows, plain), name)


def _reduced(model: Model) -> tuple[Foreign, ...]:
    return _unfilled, (type(model).__mro__[2],), model.__dict__


def _unfilled(plain: type) -> Foreign:
    return nn.Module.__new__(_in_rows(plain))


def _start_of(model: Model) -> int | None:
    """The token that a decoder reads first: as its configs name it, else as the model itself shifts labels."""
    for config in (model.generation_config, model.config):
        if (named := getattr(config, "decoder_start_token_id", None)) is not None:
            return int(named)
    try:
        return int(model.prepare_decoder_input_ids_from_labels(labels=torch.tensor([[3, 4]]))[0, 0])
    except Exception:  # what a model of somebody's own raises cannot be foreseen, and there is nothing else to ask
        return None


def pad_of(model: Model) -> int:
    """What stands where a mask says that nothing does."""
    pad: int | None = getattr(model.config, "pad_token_id", None)
    return 0 if pad is None else pad


def given_states(model: Model, states: Tensor, given: Foreign) -> Tensor:
    """Logits (N, V) that the model's own forward makes of final states (N, H), by a copy of it in which the module `given` (a decoder that
    hands back those states) stands in the decoder's place."""
    decoder = model.get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder)
    shell = _with(model, path.split("."), given)
    ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
    read = BaseModelOutput(last_hidden_state=states[None, :1])
    out: Tensor = shell(encoder_outputs=read, decoder_input_ids=ids, use_cache=False).logits
    return out[0].float()


def _with(module: Model, path: list[str], given: nn.Module) -> Model:
    """A copy of `module` on the same modules, but for the one at `path`."""
    shell = copy.copy(module)
    vars(shell).pop("forward", None)  # what a trainer put on the model would run the model, and not its shell
    shell._modules = dict(module._modules)
    shell._modules[path[0]] = given if len(path) == 1 else _with(module._modules[path[0]], path[1:], given)
    return shell


def check_engine(setting: str, name: str, model: Model) -> None:
    """Raise BackboneError, which names `setting`, where an engine other than transformers is to sample from an encoder–decoder."""
    if of_rows(model):
        kind = type(model).__name__
        raise BackboneError(
            f"{setting}: {name} samples from causal language models, and {kind} is an encoder–decoder; set {setting}=transformers"
        )
