"""How is a figure of a log averaged? Over the tokens or rows of all its steps, however these are dealt to micro-batches and processes.

trl's figures are means of micro-batches' means, in which a token among few weighs more than one among many: with another micro-batch or
number of processes they were other figures of the same training. Here each comes with the number of those that it is a mean of.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

WEIGHT = "weight of "  # before a figure's name: what it weighs, beside trl's figures, and kept with them by `checkpoints.complete`
BETTER, WORSE, MARGIN = "rewards/chosen", "rewards/rejected", "rewards/margins"
Weights = Callable[[Mapping[str, Any]], dict[str, Tensor]]
"""A micro-batch -> how many tokens or rows, a scalar each, the figures of it that are no means of as many are means of."""


def of_lessons(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tokens that are learned."""
    return dict.fromkeys(("entropy", "mean_token_accuracy"), (batch["labels"][:, 1:] != -100).sum())


def of_pairs(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Completions' tokens: better ones stand in the first half, worse ones in the second."""
    better, worse = (half.sum() for half in batch["completion_mask"][:, 1:].chunk(2))
    return {
        "entropy": better + worse,
        "mean_token_accuracy": better,
        "logits/chosen": better,
        "logits/rejected": worse,
    }


def of_judgements(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Completions' tokens, and completions that were liked or disliked."""
    tokens, liked = batch["completion_mask"][:, 1:].sum(1), torch.as_tensor(batch["label"]).bool()
    liked = liked.to(tokens.device)
    found = {"entropy": tokens.sum()}
    for side, of in (("chosen", liked), ("rejected", ~liked)):
        found |= {f"logits/{side}": tokens[of].sum(), f"rewards/{side}": of.sum(), f"logps/{side}": of.sum()}
    return found


def of_completions(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tokens that were sampled."""
    return {"entropy": batch["completion_mask"].sum()}


class Weighed:
    """Goes before a trainer of trl: its log averages over what `weigh` counts."""

    def __init_subclass__(cls, weigh: Weights | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if weigh is not None:
            cls._weigh = staticmethod(weigh)  # type: ignore[attr-defined]

    def compute_loss(self: Any, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
        counts, told = self._weigh(inputs), self._metrics["train"]
        before = {name: len(told.get(name, ())) for name in counts}
        loss = super().compute_loss(model, inputs, *given, **more)  # type: ignore[misc]
        every = self.accelerator.reduce(torch.stack(list(counts.values())).float(), "sum").tolist()
        for name, count in zip(counts, every, strict=True):
            if len(told.get(name, ())) > before[name]:  # a figure of nothing is left out
                told[WEIGHT + name].append(count)
        return loss

    def log(self: Any, logs: dict[str, float], *given: Any, **more: Any) -> None:
        averaged(self._metrics["train"])
        super().log(logs, *given, **more)  # type: ignore[misc]


def averaged(told: dict[str, list[float]]) -> None:
    """Put in place of figures that have weights their means, and of the margin that of those; no weights are left."""
    for name in [name.removeprefix(WEIGHT) for name in told if name.startswith(WEIGHT)]:
        weights, values = told.pop(WEIGHT + name), told[name]
        told[name] = [sum(w * v for w, v in zip(weights, values, strict=True)) / max(sum(weights), 1.0)]
    if MARGIN in told and len(told[BETTER]) == len(told[WORSE]) == 1:
        told[MARGIN] = [told[BETTER][0] - told[WORSE][0]]
