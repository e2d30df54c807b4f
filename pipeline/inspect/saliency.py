"""Where does the reward look? Gradient × input of each token that the reward model reads.

The gradient of the score by a token's embedding, times that embedding (Shrikumar et al. 1605.01713, §2): to first order, how much the score
would lose if the embedding were made zero. It is exact for a score that is linear in the embeddings, which no transformer is: the sum over
the tokens stands beside the score, so that one sees how far from linear it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.inspect.landscape import inputs
from pipeline.inspect.tokens import shown
from policies.template import PromptText
from reward.model import Reading
from reward.rendering import render


@dataclass(frozen=True)
class Saliency:
    """Each token with its gradient × input, in the units of the raw score; their sum; the raw score; the score with all embeddings zero."""

    tokens: list[tuple[str, float]]
    total: float
    score: float
    blank: float


def saliency(model: Any, reads: Reading, prompt: PromptText, completion: str) -> Saliency | None:
    """Of `model`, a classifier of one output. Gradients are float32, whatever the model is held in: it is left in float32. None where the
    model is held in 4 or 8 bit, takes no embeddings in place of tokens, gives no gradient, or has no room for one."""
    if getattr(model, "is_quantized", False):
        return None
    row = render(reads.tokenizer, reads.manner, prompt, completion, reads.max_length)
    try:
        model.set_attn_implementation("eager")  # others may not know float32
        found = _by_gradient(model.float(), inputs(model, reads, [row]))
    except (RuntimeError, TypeError, ValueError):  # each kind says in its own way that it reads tokens alone
        return None
    if found is None:
        return None
    of_tokens, score, blank = found
    texts = [shown(reads.tokenizer, token) for token in row.ids]
    return Saliency(list(zip(texts, of_tokens, strict=True)), sum(of_tokens), score, blank)


def _by_gradient(model: Any, given: dict[str, Tensor]) -> tuple[list[float], float, float] | None:
    """Gradient × input of each token, the score, and that of embeddings of zero; None where embeddings make another score than their tokens."""
    with torch.no_grad():
        plain = model(**given).logits.float().item()
    embeddings = model.get_input_embeddings()(given.pop("input_ids")).detach().requires_grad_()
    score = model(inputs_embeds=embeddings, **given).logits.float().sum()
    if abs(score.item() - plain) > 1e-3 * max(1.0, abs(plain)):
        return None
    (gradient,) = torch.autograd.grad(score, embeddings)
    with torch.no_grad():
        blank = model(inputs_embeds=torch.zeros_like(embeddings), **given).logits.float().item()
    return (gradient * embeddings).sum(-1)[0].tolist(), plain, blank
