"""Do trl's trainers learn on our pairs, tokens and rewards?"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import EOS, STOP, lora, vowels
from trl import DPOConfig, RLOOConfig

from data.schema import Completion, Ranking
from pipeline.settings.config import PPO, Config
from pipeline.stages.dpo import as_tokens, drawn_pairs
from pipeline.stages.rloo import rewarded
from pipeline.training.trl_trainers import PairTrainer, PromptTrainer
from policies.backbone import load_causal
from policies.template import encode_completion, encode_prompt
from reward.functions import combine

# Pairs


def ranking(texts: Sequence[str], tiers: Sequence[Sequence[int]], prompt: Any = "To be") -> Ranking:
    completions = tuple(Completion(str(i), text) for i, text in enumerate(texts))
    return Ranking("r", prompt, completions, tuple(tuple(map(str, tier)) for tier in tiers), "f:1")


def test_pairs_are_those_of_the_order_and_ties_are_none(tiny_tokenizer: Any) -> None:
    """Of four completions ranked 3 > {0, 2} > 1 the pairs are 3>0, 3>2, 3>1, 0>1, 2>1: all six but the tie."""
    group = as_tokens(tiny_tokenizer, ranking([" a", " b", " c", " d"], [[3], [0, 2], [1]]), 64)
    assert sorted(group.pairs) == [(0, 1), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert as_tokens(tiny_tokenizer, ranking([" a", " b"], [[0, 1]]), 64).pairs == []


def test_pairs_are_rendered_as_everywhere_else(tiny_tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "To be?"}]
    for prompt in ("To be", chat):
        group = as_tokens(tiny_tokenizer, ranking([" or", " not"], [[1], [0]], prompt), 64)
        assert group.prompt == encode_prompt(tiny_tokenizer, prompt)
        assert group.completions == [encode_completion(tiny_tokenizer, prompt, text) for text in (" or", " not")]
        assert all(ids[-1] == EOS for ids in group.completions)


def test_what_the_limit_makes_equal_is_no_pair(tiny_tokenizer: Any) -> None:
    """One token a character: "To be" and six more are 11; the first six of " not so" and " not you" are equal, " not" is not."""
    texts = [" not so", " not you", " not"]
    group = as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 10)
    assert [len(ids) for ids in group.completions] == [5, 5, 5] and group.pairs == [(0, 2), (1, 2)]
    assert len(as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 64).pairs) == 3
    assert as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 5).pairs == []  # no room at all


def test_a_ranking_weighs_the_same_however_many_completions_it_has(tiny_tokenizer: Any) -> None:
    """Twelve passes over a ranking of four (6 pairs) and one of two (1 pair): 12 draws each, every pair of the four twice."""
    groups = [
        as_tokens(tiny_tokenizer, ranking([" a", " b", " c", " d"], [[0], [1], [2], [3]]), 64),
        as_tokens(tiny_tokenizer, ranking([" a", " b"], [[1], [0]]), 64),
    ]
    order = [0, 1] * 12
    drawn = drawn_pairs(groups, order, seed=3)
    of_four, of_two = drawn[::2], drawn[1::2]
    assert set(Counter(of_four).values()) == {2} and len(set(of_four)) == 6
    assert set(of_four[:6]) == set(of_four[6:]) == set(groups[0].pairs)
    assert of_two == [(1, 0)] * 12
    assert of_four[:6] != groups[0].pairs or of_four[6:] != groups[0].pairs  # in a random order
    assert drawn_pairs(groups, order[:9], seed=3) == drawn[:9]


# trl's trainers


def trainer_arguments(folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder), "report_to": [], "bf16": False, "use_cpu": True, "remove_unused_columns": False}


def test_dpo_trains_on_our_tokens(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """trl would render "What?" and " yes" in one go and cut at the common prefix. What goes into the model here is prompt + completion
    + EOS, with the mask on the completion; and before any step the loss is log 2, as π = π_ref (Rafailov et al. 2023, eq. 7)."""
    group = as_tokens(tiny_tokenizer, ranking([" yes", " no"], [[0], [1]], "What?"), 64)
    row = {"prompt_ids": group.prompt, "chosen_ids": group.completions[0], "rejected_ids": group.completions[1]}
    trainer = PairTrainer(
        model=load_causal(tiny_folder, tiny_tokenizer, torch.float32),
        args=DPOConfig(**trainer_arguments(tmp_path), per_device_train_batch_size=1, max_length=None),
        train_dataset=Dataset.from_list([row]),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    width = len(group.prompt) + len(" yes") + 1
    rejected = [*group.prompt, *group.completions[1]]
    pad = [tiny_tokenizer.pad_token_id] * (width - len(rejected))
    assert batch["input_ids"].tolist() == [[*group.prompt, *group.completions[0]], [*rejected, *pad]]
    assert batch["completion_mask"].tolist() == [[0] * 5 + [1] * 5, [0] * 5 + [1] * 4 + [0]]
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_rloo_renders_prompts_as_everywhere_else(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Texts and messages side by side, which trl cannot hold in one data set."""
    prompts: list[Any] = ["To be", [{"role": "user", "content": "To be?"}], ""]
    rows = [{"prompt": json.dumps(prompt)} for prompt in prompts]
    trainer = PromptTrainer(
        model=load_causal(tiny_folder, tiny_tokenizer, torch.float32),
        reward_funcs=lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids],
        args=RLOOConfig(**trainer_arguments(tmp_path), per_device_train_batch_size=2, max_completion_length=3),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(2)])
    mask = batch["prompt_mask"].bool()
    given = [ids[own].tolist() for ids, own in zip(batch["prompt_ids"], mask, strict=True)]
    assert given[::2] == given[1::2] == [encode_prompt(tiny_tokenizer, prompt) for prompt in prompts]
    assert batch["completion_ids"].shape[1] <= 3


@pytest.mark.parametrize(
    ("rule", "unfinished"),
    [
        ({"missing_eos_score": -1.0}, -1.0),
        ({"missing_eos_score": None}, 0.8),
        ({"missing_eos_score": None, "missing_eos_penalty": 0.5}, 0.3),
    ],
)
def test_rloo_is_rewarded_as_ppo_is(tiny_tokenizer: Any, rule: dict[str, Any], unfinished: float) -> None:
    """`vowels` gives "ae" 2 - 0.2 and "b" -0.1; "oxi…" without an end gets 2 - 1.2 = .8 or what the rule says. Both ends count."""
    heard: list[Any] = []

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> torch.Tensor:
        heard.extend(zip(prompts, completions, strict=True))
        return vowels(prompts, completions)

    reward = rewarded(tiny_tokenizer, combine({"vowels": score}, [1.0]), [EOS, STOP], Config(ppo=PPO(**rule)))
    ids = [tiny_tokenizer(text)["input_ids"] for text in ("ae", "b", "oxi         ")]
    chat = [{"role": "user", "content": "x"}]
    asked = [json.dumps(prompt) for prompt in ("p", chat, "q")]
    values = reward(
        prompts=asked, completion_ids=[[*ids[0], EOS], [*ids[1], STOP], ids[2]], completions=[], trainer=None
    )
    assert values == pytest.approx([1.8, -0.1, unfinished])
    assert heard == [("p", "ae"), (chat, "b"), ("q", "oxi         ")]
