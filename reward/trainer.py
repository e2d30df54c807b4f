"""How is a reward model trained? transformers' Trainer with one group of K completions as one batch element.

InstructGPT, section 3.5: all C(K, 2) pairs of a prompt are one element, weighted 1 / C(K, 2), and every completion is encoded once;
shuffled into single pairs, each completion would be seen K - 1 times in a pass and overfit.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer

from policies.quick.batching import together
from policies.quick.moving import moved, with_lengths
from policies.quick.packing import packs
from policies.quick.trunk import Trunk
from policies.sharding import sharded
from policies.untyped import Arguments, Foreign, Json, Model
from reward.losses import k_wise, plackett_luce


@dataclass(frozen=True)
class RankingCollator:
    """Groups {"input_ids": K token lists, "ranks": K ints, "ratings": K floats or none} to padded tensors.

    Gives input_ids and attention_mask (N, L) int64 of all N completions one after another, token_type_ids where groups have them, ranks (G, K) int64 padded with -1,
    ratings (G, K) float32 (zeros where unknown), and labels (G,) int64, -100 where all of a group is tied: the number of the others is
    what the loss is divided by.
    """

    pad_id: int

    def __call__(self, groups: Sequence[dict[str, Json]]) -> dict[str, Tensor]:
        rows = [torch.tensor(ids) for group in groups for ids in group["input_ids"]]
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        ranks = [torch.tensor(group["ranks"]) for group in groups]
        ratings = [
            torch.tensor(group["ratings"] or [0.0] * len(group["ranks"]), dtype=torch.float32) for group in groups
        ]
        types = [torch.tensor(one) for group in groups for one in group.get("token_type_ids") or ()]
        more = {"token_type_ids": nn.utils.rnn.pad_sequence(types, batch_first=True)} if types else {}
        return more | {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long(),
            "ranks": nn.utils.rnn.pad_sequence(ranks, batch_first=True, padding_value=-1),
            "ratings": nn.utils.rnn.pad_sequence(ratings, batch_first=True),
            "labels": torch.tensor([1 if len(set(group["ranks"])) > 1 else -100 for group in groups]),
        }


def encode_rows(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
) -> Tensor:
    """Scores (N,) float32 of right-padded rows, in passes of like length, where padding costs, so that short rows are not padded to long ones."""
    lengths, parts = attention_mask.sum(1).tolist(), []
    # where layers are shared out, all processes are to run as many passes
    groups = [list(range(len(lengths)))] if sharded(model) else together(lengths, padding=not packs(model))
    (order,) = moved([torch.tensor(sum(groups, []))], input_ids.device)
    start = 0
    for rows in groups:
        width, picked = max(lengths[i] for i in rows), order[start : start + len(rows)]
        mask = with_lengths(attention_mask[picked, :width], [lengths[i] for i in rows])
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids[picked, :width]}
        parts.append(model(input_ids=input_ids[picked, :width], attention_mask=mask, **more).logits[:, 0])
        start += len(rows)
    scores = torch.cat(parts).float()
    return torch.zeros_like(scores).index_copy(0, order, scores)


class RankingTrainer(Trainer):
    """Trains a sequence classifier with one output on rankings.

    `loss` is k_wise or plackett_luce; `label_smoothing` and `margin` (per unit of rating difference) belong to k_wise. The loss is the
    mean over all rankings of the optimizer step, whatever the micro-batches and processes they are dealt to. With `trunk` the layers that
    the adapter leaves alone are run once for each completion, as long as there is room for their states, and kept over the epochs.
    Each log has `accuracy`, the share of pairs since the last one that the model ordered as people do, before it learned from them.
    """

    def __init__(
        self,
        *args: Arguments,
        loss: str,
        label_smoothing: float = 0.0,
        margin: float = 0.0,
        trunk: Trunk | None = None,
        **kwargs: Arguments,
    ):
        super().__init__(*args, **kwargs)
        self.trunk = trunk
        self.ranking_loss, self.ranking_smoothing, self.ranking_margin = loss, label_smoothing, margin
        self.agreed = torch.zeros(
            2, device=self.args.device
        )  # pairs ordered as people do (½ for equal scores), all pairs
        self.model_accepts_loss_kwargs = True  # the loss below is divided by the rankings of the whole optimizer step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Json],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Foreign:
        ranks, ratings = inputs["ranks"], inputs["ratings"]
        bare: Model = self.accelerator.unwrap_model(model)
        bare = bare.get_base_model() if isinstance(bare, PeftModel) else bare
        with nullcontext() if self.trunk is None else self.trunk.in_place_of(bare):
            flat = encode_rows(model, inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids"))
        scores = torch.zeros(ranks.shape, device=flat.device).masked_scatter(ranks >= 0, flat)
        self._count(scores.detach(), ranks)
        if self.ranking_loss == "plackett_luce":
            mean = plackett_luce(scores, ranks)
        else:
            margin = (
                self.ranking_margin * (ratings[:, :, None] - ratings[:, None, :]).clamp(min=0.0)
                if self.ranking_margin
                else None
            )
            mean = k_wise(scores, ranks, self.ranking_smoothing, margin)
        untied = (inputs["labels"] != -100).sum()
        groups = num_items_in_batch if num_items_in_batch is not None else untied
        loss = mean * untied / (groups.clamp(min=1) if isinstance(groups, Tensor) else max(groups, 1))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes; the sum is wanted
        return (loss, {"logits": flat}) if return_outputs else loss

    def _count(self, scores: Tensor, ranks: Tensor) -> None:
        pairs = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] >= 0)
        right = (1 + (scores[:, :, None] - scores[:, None, :]).sign()) / 2
        self.agreed += torch.stack([(right * pairs).sum(), pairs.sum()])

    def log(self, logs: dict[str, float], *args: Arguments, **kwargs: Arguments) -> None:
        if "loss" in logs:
            right, pairs = self.accelerator.reduce(self.agreed, "sum").tolist()
            if pairs:
                logs["accuracy"] = right / pairs
            self.agreed = torch.zeros_like(self.agreed)
        super().log(logs, *args, **kwargs)
