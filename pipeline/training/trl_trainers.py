"""How do trl's trainers get our tokens? The one place that bends around trl 1.16.

trl renders prompts and completions itself: DPO tokenizes each completion together with its prompt, RLOO calls the tokenizer
as it is. Ours are rendered by `policies.template`, for every method alike, so each class here replaces the one method that
tokenizes. Both can go when trl takes token ids.
"""

import json
from typing import Any

import trl

from pipeline.training.sharded import SharedOut
from pipeline.training.trainers import OneDevice
from policies.template import encode_prompt


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


class PairTrainer(Replaces, SharedOut, trl.DPOTrainer):
    """trl.DPOTrainer on rows of token ids, {"prompt_ids", "chosen_ids", "rejected_ids"}, taken as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class JudgementArguments(OneDevice, trl.KTOConfig):
    """trl.KTOConfig for one device a process."""


class JudgementTrainer(Replaces, SharedOut, trl.KTOTrainer):
    """trl.KTOTrainer on rows of token ids, {"prompt_ids", "completion_ids", "KL_completion_ids", "label"}, taken as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class PromptArguments(OneDevice, trl.RLOOConfig):
    """trl.RLOOConfig for one device a process."""


class PromptTrainer(Replaces, SharedOut, trl.RLOOTrainer):
    """trl.RLOOTrainer on rows {"prompt": JSON of a text or messages}, each rendered as everywhere else.

    JSON, because a column of a data set holds one type and trl takes all prompts for what the first one is.
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode_prompt(self._tokenizer, json.loads(prompt)) for prompt in prompts], None, {}
