"""Does the page hold two reward models against each other on the same pairs, counted by hand, and claim no more than an interval allows?"""

from pathlib import Path
from typing import Any

import pytest

from data.schema import Completion, Ranking
from pipeline.report import reward_beside, reward_model

GROUPS = 12


def held_out(count: int = GROUPS) -> list[Ranking]:
    """Two completions each, the first better; one ranking in three has them 2 apart, the others 1."""
    both = [((3.0 if i % 3 == 0 else 2.0), 1.0) for i in range(count)]
    return [
        Ranking(
            f"r{i}",
            "p",
            (Completion("a", "good", ratings=(better,)), Completion("b", "bad", ratings=(worse,))),
            (("a",), ("b",)),
            f"file:{i}",
        )
        for i, (better, worse) in enumerate(both)
    ]


def scored(right: list[bool], size: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"ranking": f"r{i}", "scores": [size, 0.0] if good else [0.0, size], "lengths": [1.0, 1.0]}
        for i, good in enumerate(right)
    ]


# of 12 pairs the first model has 9 right, the second 6; both are right on 4, both wrong on 1: the same order on 5
FIRST = [True] * 9 + [False] * 3
SECOND = [True] * 4 + [False] * 5 + [True] * 2 + [False]


def test_accuracies_difference_and_agreement_are_counted() -> None:
    found = reward_beside.compared(held_out(), scored(FIRST), scored(SECOND, 2.0), ("encoder", "sft"))
    assert found is not None
    own = found["slices"]["all pairs"]
    assert own["this"]["mean"] == pytest.approx(9 / 12) and own["other"]["mean"] == pytest.approx(6 / 12)
    assert own["difference"]["mean"] == pytest.approx(3 / 12) and own["agreement"]["mean"] == pytest.approx(5 / 12)
    assert own["difference"]["low"] < 3 / 12 < own["difference"]["high"]
    assert found["slices"]["rating gap 2.00"]["this"]["pairs"] == 4
    assert found["slices"]["rating gap 1.00"]["this"]["pairs"] == 8
    brier = (9 * 0.26894142**2 + 3 * 0.73105858**2) / 12  # 1 - σ(1), σ(1)
    assert found["calibration"][0]["brier"] == pytest.approx(brier)
    told = reward_beside.figures(found)
    assert told["beside_accuracy"] == 0.5 and told["beside_difference"] == 0.25
    assert told["beside_low"] == own["difference"]["low"]


def test_only_rankings_of_both_are_compared() -> None:
    other = scored(SECOND)[2:] + [{"ranking": "strange", "scores": [1.0, 0.0], "lengths": [1.0, 1.0]}]
    found = reward_beside.compared(held_out(), scored(FIRST), other, ("encoder", "sft"))
    assert found is not None and found["slices"]["all pairs"]["this"]["pairs"] == 10
    assert found["slices"]["all pairs"]["other"]["mean"] == pytest.approx(4 / 10)
    assert reward_beside.compared(held_out(), scored(FIRST), [], ("encoder", "sft")) is None


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([True] * 59 + [False], [True] * 20 + [False] * 40, "so that on encoder is better"),
        ([True] * 20 + [False] * 40, [True] * 59 + [False], "so that on sft is better"),
        ([True, False] * 30, [False, True] * 30, "which shows neither to be better"),
        ([True] * 8, [True] * 8, "nothing can be concluded"),
    ],
)
def test_the_sentence_claims_what_the_interval_allows(first: list[bool], second: list[bool], said: str) -> None:
    found = reward_beside.compared(held_out(len(first)), scored(first), scored(second), ("encoder", "sft"))
    assert found is not None and said in reward_beside.verdict(found)


def test_the_page_shows_both(tmp_path: Path) -> None:
    found = reward_beside.compared(held_out(), scored(FIRST), scored(SECOND), ("encoder", "sft"))
    (tmp_path / "metrics.jsonl").write_text("")
    calibration = {"ece": 0.1, "bins": [{"low": 0.5, "high": 1.0, "confidence": 0.7, "accuracy": 0.75, "count": 12}]}
    detail = {"held_out": scored(FIRST), "calibration": calibration}
    numbers = reward_model.write(tmp_path, held_out(), detail, {"run": "r"}, found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert numbers["beside"] == found and "Beside the reward model on sft" in page
    assert "75.0%" in page and "50.0%" in page and "+25.00" in page and "41.7%" in page
    reward_model.write(tmp_path, held_out(), detail, {"run": "r"})
    assert "Beside the reward model" not in (tmp_path / "report.html").read_text(encoding="utf-8")
