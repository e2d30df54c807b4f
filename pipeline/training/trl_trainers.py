"""How do trl's trainers get our tokens? The one place that bends around trl 1.16.

trl renders prompts and completions itself: DPO tokenizes each completion together with its prompt, RLOO calls the tokenizer
as it is. Ours are rendered by `policies.template`, for every method alike, so each class here replaces the one method that
tokenizes. These can go when trl takes token ids. RLOO samples with torch's random numbers, of which each process has its own, so that
two would learn from other completions than one: here a completion is drawn with noise of its own, as everywhere.

KTO's KL is estimated from the completions of a whole optimizer step. trl's is that of a micro-batch on all devices, so that the loss, and
with it the weights, would be others with another micro-batch or number of processes.
"""

import json
from functools import partial
from typing import Any, cast

import torch
import trl
from torch import Tensor

from pipeline.training.own_head import OwnHead
from pipeline.training.sharded import SharedOut
from pipeline.training.trainers import OneDevice
from pipeline.training.weighed import Weighed, of_completions, of_judgements, of_pairs
from policies.backbone import adapter
from policies.drawing import noise
from policies.rollout import sample
from policies.sharding import whole
from policies.template import encode_prompt
from policies.tokenizers import eos_ids

OF_STEP = "ref_KL_logps"


class Replaces:
    """Goes before a trainer of trl. What a class of ours replaces must be there: else ours would never be called, and the tokens
    would be others without a word."""

    def __init_subclass__(cls) -> None:
        theirs = cls.__bases__[-1]
        for method in (name for name, value in vars(cls).items() if callable(value)):
            if not hasattr(theirs, method):
                raise ImportError(f"this trl has no {theirs.__name__}.{method}; install the version in constraints.txt")


class PairArguments(OneDevice, trl.DPOConfig):
    """trl.DPOConfig for one device a process."""


class PairTrainer(Weighed, Replaces, SharedOut, OwnHead, trl.DPOTrainer, weigh=of_pairs):
    """trl.DPOTrainer on rows of token ids, {"prompt_ids", "chosen_ids", "rejected_ids"}, taken as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class JudgementArguments(OneDevice, trl.KTOConfig):
    """trl.KTOConfig for one device a process."""


class JudgementTrainer(Weighed, Replaces, SharedOut, OwnHead, trl.KTOTrainer, weigh=of_judgements):
    """trl.KTOTrainer on rows of token ids, {"prompt_ids", "completion_ids", "KL_completion_ids", "label"}, taken as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """The micro-batches of an optimizer step, each with the mean log-ratio of the step's completions under prompts of other rows, on
        all processes. It travels under a name that trl keeps for the same and hands to no model."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            found = torch.cat([_log_ratios(self, batch) for batch in batches])
            total, count = self.accelerator.reduce(torch.stack([found.sum(), found.new_tensor(len(found))]), "sum")
            batches = [{**batch, OF_STEP: total / count} for batch in batches]
        return batches, items

    def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> Any:
        """What trl takes the mean of, under the policy and then under the reference, and subtracts."""
        known = batch.get(OF_STEP)
        if known is None:
            return super()._compute_kl_logps(model, batch)
        batch[OF_STEP] = torch.zeros_like(known)  # of the reference, which is asked for next
        return known


@torch.no_grad()
def _log_ratios(trainer: JudgementTrainer, batch: dict[str, Any]) -> Tensor:
    """log π/π_ref of each completion under the prompt of another row (N,), nats."""
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    logprobs = partial(trl.KTOTrainer._compute_kl_logps, trainer)
    own: Tensor = logprobs(policy, batch)
    if trainer.ref_model is not None:
        return own - logprobs(trainer.ref_model, batch)
    with adapter(policy, None):
        return own - logprobs(policy, batch)


class PromptArguments(OneDevice, trl.RLOOConfig):
    """trl.RLOOConfig for one device a process."""


class PromptTrainer(Weighed, Replaces, SharedOut, OwnHead, trl.RLOOTrainer, weigh=of_completions):
    """trl.RLOOTrainer on rows {"prompt": JSON of a text or messages}, each rendered and sampled as everywhere else.

    JSON, because a column of a data set holds one type and trl takes all prompts for what the first one is. The noise of a completion
    belongs to (seed, the prompt's place among all that are drawn, its number), whichever process samples it.
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode_prompt(self._tokenizer, json.loads(prompt)) for prompt in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: None, fields: dict[str, Any]
    ) -> list[list[int]]:
        state, rows, how = self.accelerator, len(prompt_ids), cast(PromptArguments, self.args)
        assert how.max_completion_length is not None
        first = (self.state.global_step * state.num_processes + state.process_index) * rows
        drawn = [divmod(first + row, self.num_generations) for row in range(rows)]
        noises = [noise(how.seed, 0, f"rloo {n}", k, how.max_completion_length) for n, k in drawn]
        model = state.unwrap_model(self.model).eval()
        with whole(model):  # processes sample different numbers of tokens
            said = sample(
                model,
                prompt_ids,
                noises,
                eos_ids=eos_ids(model, self._tokenizer),
                pad_id=self._tokenizer.pad_token_id,
                temperature=self.temperature,
                batch_size=rows,
            )
        model.train()
        return [completion.tokens for completion in said]
