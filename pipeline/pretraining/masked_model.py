"""How does a BERT learn masked words and next sentences, and how good is it at them on documents that it never saw?"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.pretraining.masked import IGNORED, MaskedCollator
from pipeline.pretraining.training import RowTrainer
from pipeline.statistics import ratio_interval

FIGURES = ("masked_loss", "masked_accuracy", "next_sentence_loss", "next_sentence_accuracy")
DRAWS = 10_000


@contextmanager
def _only(model: Any, places: Tensor) -> Iterator[None]:
    """Within the block the head over the vocabulary is computed for `places` (B, L) bool alone: a seventh of all."""

    def picked(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][places],)

    handle = model.cls.predictions.register_forward_pre_hook(picked)
    try:
        yield
    finally:
        handle.remove()


def losses(model: nn.Module, bare: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses (M,) of all masked tokens and (B,) of all rows, 0 for those that are no pair; and which are guessed right, bool."""
    labels, follows = inputs["labels"], inputs["next_sentence_label"]
    places = labels != IGNORED
    read = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with _only(bare, places):
        said = model(**read)
    words, pairs, wanted = said.prediction_logits.float(), said.seq_relationship_logits.float(), labels[places]
    masked = cross_entropy(words, wanted, reduction="none")
    next_sentence = cross_entropy(pairs, follows, reduction="none", ignore_index=IGNORED)
    return masked, next_sentence, words.argmax(-1) == wanted, pairs.argmax(-1) == follows


class MaskedTrainer(RowTrainer):
    """Trains a BertForPreTraining: mean loss of the masked tokens of an optimizer step, plus that of its pairs, whatever the micro-batches
    and processes they are dealt to. Each log has FIGURES of the rows since the last one, before they were learned."""

    arguments = {"adam_beta2": 0.98}  # as RoBERTa (Liu et al. 2019, 1907.11692, section 3.1)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agreed = torch.zeros(6, dtype=torch.float64, device=self.args.device)
        self.pairs_of_step: Any = None
        self.model_accepts_loss_kwargs = True  # the loss is divided by the masked tokens of the whole optimizer step

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = sum(int((batch["next_sentence_label"] != IGNORED).sum()) for batch in batches)
        self.pairs_of_step = self.accelerator.reduce(torch.tensor(pairs, device=device), "sum")
        return batches, tokens

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        masked, pairs, right, judged = losses(model, self.accelerator.unwrap_model(model), inputs)
        is_pair = inputs["next_sentence_label"] != IGNORED
        tokens = len(masked) if num_items_in_batch is None else num_items_in_batch
        both = int(is_pair.sum()) if self.pairs_of_step is None else self.pairs_of_step
        loss = masked.sum() / max(tokens, 1) + pairs.sum() / max(both, 1)
        counted = [masked.sum(), right.sum(), len(masked), pairs.sum(), (judged & is_pair).sum(), is_pair.sum()]
        self.agreed += torch.stack([torch.as_tensor(one).detach().to(self.agreed) for one in counted])
        loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes; the sum is wanted
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            told = self.accelerator.reduce(self.agreed, "sum").tolist()
            for names, (loss, right, count) in zip((FIGURES[:2], FIGURES[2:]), (told[:3], told[3:]), strict=True):
                if count:
                    logs |= dict(zip(names, (loss / count, right / count), strict=True))
            self.agreed = torch.zeros_like(self.agreed)
        super().log(logs, *args, **kwargs)


@dataclass(frozen=True)
class Guess:
    """What a model makes of a row: the loss of its masked tokens, nats, how many it guesses right, how many there are; the loss of its pair, and
    whether it is judged right, None where the row is no pair."""

    loss: float
    right: int
    count: int
    pair: float
    judged: bool | None


@torch.no_grad()
def guesses(model: Any, rows: Sequence[dict[str, Any]], pad: int, batch_size: int) -> list[Guess]:
    """What a model in eval mode makes of each row; rows of like length are run together."""
    collate, order = MaskedCollator(pad), sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    found: dict[int, Guess] = {}
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        inputs = {name: tensor.to(model.device) for name, tensor in collate([rows[i] for i in part]).items()}
        masked, pairs, right, judged = losses(model, model, inputs)
        row = (inputs["labels"] != IGNORED).nonzero()[:, 0]
        sums = torch.zeros(3, len(part), dtype=torch.float64, device=model.device)
        sums.index_add_(1, row, torch.stack([masked.double(), right.double(), torch.ones_like(masked).double()]))
        told = (sums.T.tolist(), pairs.tolist(), judged.tolist(), inputs["next_sentence_label"].tolist())
        for i, (loss, hits, count), pair, good, label in zip(part, *told, strict=True):
            found[i] = Guess(loss, int(hits), int(count), pair, None if label == IGNORED else good)
    return [found[i] for i in range(len(rows))]


def figures(
    said: Sequence[Guess], rows: Sequence[dict[str, Any]], documents: Sequence[int], intervals: bool = True
) -> dict[str, float]:
    """How good a model's `guesses` of held-out `rows` are: "masked_loss" and "next_sentence_loss", nats, "masked_accuracy" over all tokens that
    are guessed, "next_sentence_accuracy" over all pairs; and, with `intervals`, "…_low" and "…_high", their 95% intervals over documents."""
    owners = np.asarray(documents)
    judged = np.array([one.judged is not None for one in said])
    parts = {
        "masked": ([one.loss for one in said], [one.right for one in said], [one.count for one in said]),
        "next_sentence": ([one.pair for one in said], [one.judged or 0 for one in said], judged),
    }
    found = dict[str, float]()
    for name, (loss, right, count) in parts.items():
        total, hits = np.array(count, dtype=float), np.array(right, dtype=float)
        found[f"{name}_loss"] = math.fsum(loss) / total.sum()
        found[f"{name}_accuracy"] = float(hits.sum() / total.sum())
        if intervals:
            some = total > 0
            names = [str(document) for document in owners[some]]
            ends = ratio_interval(hits[some], total[some], names, DRAWS, 0)
            found |= {f"{name}_{end}": value for end, value in zip(("low", "high"), ends, strict=True)}
    return found


def always(token: int, rows: Sequence[dict[str, Any]]) -> float:
    """The share of all that is to be guessed in `rows` that is `token`: the accuracy of always saying it."""
    wanted = [label for row in rows for label in row["labels"] if label != IGNORED]
    return wanted.count(token) / len(wanted)
