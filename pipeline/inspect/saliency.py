"""Where does the reward look? Gradient × input of each token that the reward model reads.

The gradient of the score by a token's embedding, times that embedding (Shrikumar et al. 1605.01713, §2): to first order, how much the score
would lose if the embedding were made zero. It is exact for a score that is linear in the embeddings, which no transformer is: the sum over
the tokens stands beside the score, so that one sees how far from linear it is.
"""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.inspect.tokens import shown
from policies.template import PromptText
from reward.model import Reading, padded, takes_types
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
    model takes no embeddings in place of tokens, or is held in 4 or 8 bit."""
    if getattr(model, "is_quantized", False):
        return None
    model.float()
    row = render(reads.tokenizer, reads.manner, prompt, completion, reads.max_length)
    ids, mask, *types = (one.to(model.device) for one in padded([row], reads.tokenizer.pad_token_id))
    more = {"token_type_ids": types[0]} if types and takes_types(model) else {}
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, **more).logits.float().item()
        embeddings = model.get_input_embeddings()(ids)
    embeddings = embeddings.detach().float().requires_grad_()
    try:
        score = model(inputs_embeds=embeddings, attention_mask=mask, **more).logits.float().sum()
    except (NotImplementedError, TypeError, ValueError):
        return None
    if abs(score.item() - plain) > 1e-3 * max(1.0, abs(plain)):
        return None  # what it makes of embeddings is not what it makes of their tokens
    (gradient,) = torch.autograd.grad(score, embeddings)
    of_tokens = (gradient * embeddings).sum(-1)[0].tolist()
    with torch.no_grad():
        blank = model(inputs_embeds=torch.zeros_like(embeddings), attention_mask=mask, **more).logits.float().item()
    texts = [shown(reads.tokenizer, token) for token in row.ids]
    return Saliency(list(zip(texts, of_tokens, strict=True)), sum(of_tokens), plain, blank)
