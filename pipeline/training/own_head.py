"""How does trl learn from an encoder–decoder? By log-probabilities of the model's own logits, where trl would make them itself.

trl gives a model a head of its own: final states of `base_model` times the output embedding. T5 scales between the two, BART adds a bias, and
neither has a body that reads rows (`policies.seq2seq`). To be dropped when trl asks a model for its logits.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from policies.logprobs import logits
from policies.seq2seq import of_rows
from policies.trials import bare, decoder


class OwnHead:
    """Goes before a trainer of trl that calls its model with `fused_lm_head`. Of causal models nothing changes."""

    def __init__(self: Any, *given: Any, **more: Any):
        super().__init__(*given, **more)  # type: ignore[misc]
        for model in (self.model, getattr(self, "ref_model", None)):
            if model is not None and of_rows(model):
                _give_head(bare(model), getattr(self, "temperature", 1.0))


def _give_head(model: Any, temperature: float) -> None:
    """Put a head in the place of trl's, which lies on the instance."""
    vars(model).pop("forward", None)
    plain = model.forward

    def forward(self: Any, *given: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **more: Any) -> Any:
        if not fused_lm_head or labels is None:
            return plain(*given, **more | ({} if labels is None else {"labels": labels}))
        return _fused(self, more["input_ids"], more["attention_mask"], labels[:, 1:], temperature)

    model.forward = MethodType(forward, model)


def _fused(model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, temperature: float) -> Any:
    """What trl's head gives of rows (B, L): each figure (B, L - 1), zero where the label of the next token, (B, L - 1), is -100."""
    mask = labels != -100
    hidden = decoder(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    z, wanted = logits(model, hidden[:, :-1][mask]) / temperature, labels[mask]
    table = z.log_softmax(-1)

    def spread(of_tokens: Tensor) -> Tensor:
        return of_tokens.new_zeros(mask.shape).masked_scatter(mask, of_tokens)

    with torch.no_grad():
        p = table.exp()
        figures = {
            "entropy": -(p * table).sum(-1),
            "log_sum_sq_probs": (2 * table).logsumexp(-1),
            "mean_logits": z.mean(-1),
            "is_top1": z.argmax(-1) == wanted,
        }
    log_probs = table.gather(-1, wanted[:, None])[:, 0]
    return FusedCausalLMOutput(
        log_probs=spread(log_probs), label_mask=mask, **{name: spread(one) for name, one in figures.items()}
    )
