"""What would a model say after each of its layers? The states of every layer, read by the model's own last norm and output layer.

The logit lens (nostalgebraist 2020, "interpreting GPT"): an early layer's states are not made to be read so, and its guesses are a way of
looking, no claim of what the layer knows. The last layer's are the model's own, which is checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inspect.maps import evenly
from pipeline.inspect.tokens import shown
from policies.backbone import decoder
from policies.logprobs import logits
from policies.trials import close, output_layer

LAYERS = 12  # shown at most, the last always
STEPS = 32  # of the completion, the first ones


@dataclass(frozen=True)
class Guess:
    """What one layer would say in one place: its likeliest token with its probability, and rank and probability of the token that was said."""

    text: str
    probability: float
    rank: int
    of_said: float


@dataclass(frozen=True)
class Lens:
    """Of one model: layer (from 1; 0 is what enters the first) -> a guess for each token of the completion."""

    model: str
    layers: dict[int, list[Guess]]
    normed: bool  # whether the model has a last norm, which was applied


@torch.no_grad()
def lens(name: str, model: Any, tokenizer: Any, ids: Sequence[int], prompt: int) -> Lens | None:
    """The guesses of `model`, a causal LM, for the tokens `ids`, of which the first `prompt` are the prompt. None where reading the last
    layer's states so does not give the model's own logits, as in a model that does more between its layers and its output."""
    device = next(model.parameters()).device
    given = torch.tensor([list(ids)], device=device)
    with _Watched(decoder(model)) as watched:
        out = model(input_ids=given, attention_mask=torch.ones_like(given), output_hidden_states=True, use_cache=False)
    states = out.hidden_states
    if not states:
        return None
    norm, before = watched.last_norm(states[-1])
    at = slice(prompt - 1, min(len(ids) - 1, prompt - 1 + STEPS))
    said = given[0, at.start + 1 : at.stop + 1]
    count = len(states) - 1
    layers = {}
    for i in evenly(count + 1, LAYERS):
        # the last of what transformers hands out is normed already
        read = states[-1] if i == count else states[i] if norm is None else norm(states[i])
        if read.shape[-1] != output_layer(model).width:  # something between layers and output makes them narrower
            return None
        layers[i] = logits(model, read[0, at])
    if not close(layers[count], out.logits[0, at].float(), next(model.parameters()).dtype):
        return None
    if norm is not None and before is not None and not close(norm(before), states[-1]):
        return None
    return Lens(name, {i: _guesses(tokenizer, z, said) for i, z in layers.items()}, norm is not None)


def _guesses(tokenizer: Any, z: Tensor, said: Tensor) -> list[Guess]:
    p = torch.softmax(z, -1)
    best, tokens = p.max(-1)
    of_said = p.gather(1, said[:, None]).squeeze(1)
    ranks = 1 + (z > z.gather(1, said[:, None])).sum(-1)
    columns = (tokens.tolist(), best.tolist(), ranks.tolist(), of_said.tolist())
    return [Guess(shown(tokenizer, token), *rest) for token, *rest in zip(*columns, strict=True)]


class _Watched:
    """Which module of a decoder gave its last states, and from what? Its children are tried, not known by name."""

    def __init__(self, body: nn.Module):
        self.body, self.seen, self.hooks = body, list[tuple[nn.Module, Any, Any]](), list[Any]()

    def __enter__(self) -> "_Watched":
        stacks = (one for one in self.body.modules() if isinstance(one, nn.ModuleList))
        inside = {id(part) for stack in stacks for part in stack.modules()}  # a layer's own norm is not the last of all
        for child in self.body.modules():
            if child is not self.body and id(child) not in inside:
                self.hooks.append(child.register_forward_hook(self._note))
        return self

    def _note(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Tensor) and len(given) == 1 and isinstance(given[0], Tensor) and given[0].shape == out.shape:
            self.seen = [*self.seen[-3:], (module, given[0], out)]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def last_norm(self, last: Tensor) -> tuple[Any, Tensor | None]:
        """The module whose output is the decoder's last states, and what it was given; (None, None) where no module of one tensor is it."""
        for module, given, out in reversed(self.seen):
            if torch.equal(out, last) and not torch.equal(given, out):  # a dropout at rest is no norm
                return module, given
        return None, None
