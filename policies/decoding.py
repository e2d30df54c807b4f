"""How is the next token taken? Greedily, by beams, or drawn from what top-k, top-p and min-p leave, for whatever trains nothing.

PPO and RLOO do not come here: their losses hold the log-probabilities of what was sampled, and those are of the whole distribution.
The names are those of transformers.GenerationConfig; what is cut off is cut off by transformers' own classes, in its order.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from policies.backbone import decoder
from policies.drawing import Choice, Completion, choose, seed_of
from policies.logprobs import completion_logprobs, pack
from policies.plain_sampling import of_one_length, own_settings
from policies.quick.reading import left_padded
from policies.rollout import sample, way_of
from policies.untyped import Foreign, Json, Model, Noise


class Resolved(Protocol):
    """How completions are made, nothing left open; the names are those of transformers.GenerationConfig."""

    @property
    def do_sample(self) -> bool: ...
    @property
    def num_beams(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def max_new_tokens(self) -> int: ...


def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    how: Resolved,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """One completion for each prompt, in the order given, decoded as `how` says: a recipe's Decoding, with nothing left open.

    The other arguments are those of `rollout.sample`, which makes all but beams: a noise's length is the limit of new tokens, and
    its numbers decide what is drawn. Log-probabilities and entropies are of the whole distribution at `how.temperature`, however
    the tokens were taken from it, so that they can be compared between models and ways of decoding.
    """
    if how.num_beams > 1:
        return _beams(model, prompts, noises, how, eos_ids, pad_id, batch_size, progress)
    return sample(
        model,
        prompts,
        noises,
        eos_ids=eos_ids,
        pad_id=pad_id,
        temperature=how.temperature,
        batch_size=batch_size,
        progress=progress,
        choice=_choice(how),
    )


def _choice(how: Resolved) -> Choice:
    if not how.do_sample:
        return greedy
    kept = warpers(how)
    return drawn_from(kept) if kept else choose


def warpers(how: Resolved) -> LogitsProcessorList:
    """What `how` cuts off, in the order of GenerationMixin.generate: top-k, top-p, min-p, all after the temperature."""
    kept = LogitsProcessorList()
    if how.top_k:
        kept.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        kept.append(TopPLogitsWarper(how.top_p))
    if how.min_p:
        kept.append(MinPLogitsWarper(how.min_p))
    return kept


def greedy(z: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """A `Choice`: the likeliest token, the first of equals."""
    tokens = z.argmax(-1)
    return tokens, *_of_the_whole(z, tokens, temperature)


def drawn_from(kept: LogitsProcessorList) -> Choice:
    """A `Choice`: drawn as `choose` does, from what `kept` leaves of the distribution at the temperature."""

    def choice(z: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        left: Foreign = kept(torch.empty((len(z), 0), dtype=torch.long, device=z.device), z.float() / temperature)  # type: ignore[arg-type]
        tokens, _, _ = choose(left, uniform, 1.0)
        return tokens, *_of_the_whole(z, tokens, temperature)

    return choice


def _of_the_whole(z: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `tokens` (B,) and entropies, (B,) float32, of the softmax of `z` (B, V) at `temperature`."""
    table = torch.log_softmax(z.float() / temperature, -1)
    entropies = -(table.exp() * table).nan_to_num(0.0).sum(-1)  # where p is 0, so is the term
    return table.gather(1, tokens[:, None]).squeeze(1), entropies


@torch.no_grad()
def _beams(
    model: Model,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    how: Resolved,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    progress: Callable[[int], object] | None,
) -> list[Completion]:
    """Beam search or beam sampling by model.generate, with transformers' defaults for all that `how` does not name.

    When it draws, transformers keeps one token more than there are EOS, whatever is cut off, so that a beam can go on.
    """
    device = next(model.parameters()).device
    # torch's generator serves a whole batch, so beams are drawn for one prompt at a time: each by its own noise
    at_once = 1 if how.do_sample else max(1, batch_size // how.num_beams)
    out: dict[int, Completion] = {}
    for rows in of_one_length(prompts, at_once) if way_of(model) != "cached" else padded(prompts, at_once):
        asked = [prompts[i] for i in rows]
        (limit,) = {len(noises[i]) for i in rows}
        settings: dict[str, Json] = {"num_beams": how.num_beams, "do_sample": how.do_sample, "max_new_tokens": limit}
        if how.do_sample:
            settings |= {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p, "min_p": how.min_p}
        ids, attention = left_padded(asked, pad_id, device)
        with own_settings(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(noises[rows[0]]))
            found = model.generate(
                input_ids=ids,
                attention_mask=attention,
                generation_config=GenerationConfig(eos_token_id=list(eos_ids), pad_token_id=pad_id, **settings),
            )
        said = [_until_the_end(tokens, eos_ids) for tokens in found[:, ids.shape[1] :].tolist()]
        made = figures(model, asked, said, how.temperature, eos_ids, pad_id, len(rows))
        out |= dict(zip(rows, made, strict=True))
        if progress is not None:
            progress(len(rows))
    return [out[i] for i in range(len(prompts))]


@torch.no_grad()
def figures(
    model: Model,
    prompts: Sequence[Sequence[int]],
    said: Sequence[list[int]],
    temperature: float,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
) -> list[Completion]:
    """The completions `said`, each of a token or more, with log-probabilities and entropies of the whole distribution at `temperature`, in
    one more pass."""
    device, out = next(model.parameters()).device, dict[int, Completion]()
    for rows in padded([[*p, *c] for p, c in zip(prompts, said, strict=True)], batch_size):
        batch = pack([prompts[i] for i in rows], [said[i] for i in rows], pad_id, device)
        of_tokens = torch.stack(completion_logprobs(model, decoder(model), batch, temperature)).cpu()
        for i, logprobs, entropies in zip(rows, *of_tokens, strict=True):
            n = len(said[i])
            out[i] = Completion(said[i], logprobs[:n], said[i][-1] in eos_ids, entropies[:n])
    return [out[i] for i in range(len(said))]


def padded(prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Rows of like length together, `most` of them, for a model that padding on the left does not mislead."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + most] for start in range(0, len(order), most)]


def _until_the_end(tokens: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Without the padding behind the first EOS."""
    end = next((i for i, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tokens[: end + 1]
