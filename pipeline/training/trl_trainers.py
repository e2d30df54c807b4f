"""How do trl's trainers get our tokens? The one place that bends around trl 1.16.

trl renders prompts and completions itself: DPO tokenizes each completion together with its prompt, RLOO calls the tokenizer
as it is. Ours are rendered by `policies.template`, for every method alike, so each class here replaces the one method that
tokenizes. Both can go when trl takes token ids.
"""

import json
from typing import Any

from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer

from pipeline.training.trainers import OneDevice
from policies.template import encode_prompt

for _trainer, _method in ((DPOTrainer, "_prepare_dataset"), (RLOOTrainer, "_tokenize_prompts")):
    if not hasattr(_trainer, _method):  # ours would never be called, and the tokens would be others without a word
        raise ImportError(f"this trl has no {_trainer.__name__}.{_method}; install the version in constraints.txt")


class PairArguments(OneDevice, DPOConfig):
    """trl.DPOConfig for one device a process."""


class PromptArguments(OneDevice, RLOOConfig):
    """trl.RLOOConfig for one device a process."""


class PairTrainer(DPOTrainer):
    """trl.DPOTrainer on rows of token ids, {"prompt_ids", "chosen_ids", "rejected_ids"}, taken as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class PromptTrainer(RLOOTrainer):
    """trl.RLOOTrainer on rows {"prompt": JSON of a text or messages}, each rendered as everywhere else.

    JSON, because a column of a data set holds one type and trl takes all prompts for what the first one is.
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [encode_prompt(self._tokenizer, json.loads(prompt)) for prompt in prompts], None, {}
