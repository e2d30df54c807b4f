"""Are a log's figures means over tokens and rows, whichever micro-batch and process had them?"""

import pytest
import torch

from pipeline.training.weighed import WEIGHT, averaged, of_completions, of_judgements, of_lessons, of_pairs


def test_a_figure_is_a_mean_over_what_it_weighs() -> None:
    """Half of two tokens and none of six are right: an eighth, not a quarter. The margin is that of the means; what has no weight stays."""
    told = {
        "mean_token_accuracy": [0.5, 0.0],
        WEIGHT + "mean_token_accuracy": [2.0, 6.0],
        "rewards/chosen": [1.0, 2.0],
        WEIGHT + "rewards/chosen": [1.0, 3.0],
        "rewards/rejected": [0.5],
        WEIGHT + "rewards/rejected": [4.0],
        "rewards/margins": [0.5],
        "kl": [3.0, 3.0],
        "num_tokens": [8.0],
    }
    averaged(told)
    assert told == {
        "mean_token_accuracy": [0.125],
        "rewards/chosen": [1.75],
        "rewards/rejected": [0.5],
        "rewards/margins": [1.25],
        "kl": [3.0, 3.0],
        "num_tokens": [8.0],
    }


def test_what_is_counted_of_a_micro_batch() -> None:
    """The first token is never predicted; better completions come before worse ones, in judgements each says what it is."""
    labels = torch.tensor([[5, 6, -100, 7], [-100, -100, 8, -100]])
    assert {name: int(count) for name, count in of_lessons({"labels": labels}).items()} == {"entropy": 3, "mean_token_accuracy": 3}  # fmt: skip
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
    pairs = {name: int(count) for name, count in of_pairs({"completion_mask": mask}).items()}
    assert pairs == {"entropy": 7, "mean_token_accuracy": 4, "logits/chosen": 4, "logits/rejected": 3}
    assert {name: int(count) for name, count in of_completions({"completion_mask": mask}).items()} == {"entropy": 7}
    found = of_judgements({"completion_mask": mask, "label": [True, False, False, True]})
    assert {name: int(count) for name, count in found.items()} == {
        "entropy": 7,
        "logits/chosen": 5,
        "rewards/chosen": 2,
        "logps/chosen": 2,
        "logits/rejected": 2,
        "rewards/rejected": 2,
        "logps/rejected": 2,
    }


@pytest.mark.parametrize("weights", [[0.0, 0.0], [0.0, 3.0]])
def test_micro_batches_of_nothing_weigh_nothing(weights: list[float]) -> None:
    told = {"entropy": [0.0, 2.0 if weights[1] else 0.0], WEIGHT + "entropy": weights}
    averaged(told)
    assert told == {"entropy": [2.0 if weights[1] else 0.0]}
