"""Are training seeds told apart from sampling noise, and is no more said than the wider interval allows?"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.report import seed_spread
from pipeline.report.seed_spread import Trained
from pipeline.statistics import seed_spread as spread_of


def rows_of(model: str, values: list[float]) -> list[dict[str, Any]]:
    return [{"model": model, "prompt_id": f"p{i}", "seed": 0, "scores": {"j": v}} for i, v in enumerate(values)]


def test_the_block_by_hand() -> None:
    """Wins of 4: 3, 2 and 4, so rates ¾, ½ and 1: mean ¾, sd ¼, and t(0.975, 2) = 4.303 gives ¾ ± 4.303·¼/√3 = ¾ ± 0.621, and no rate is above 1.

    Seeds by prompts, wins as 1: rows 1110, 1100, 1111; columns' means 1, 1, 2/3, 1/3. The residuals' squares sum to 5/6;
    over 2·3 degrees of freedom and 4 prompts that is 5/144, so by chance alone the sd would be √5/12 = 0.186.
    """
    by_seed = {7: rows_of("a", [1, 1, 1, -1]), 8: rows_of("b", [1, 1, -1, -1]), 9: rows_of("c", [1, 1, 1, 1])}
    given = {"ppo": Trained("sft", rows_of("sft", [0, 0, 0, 0])[::-1], by_seed)}  # in any order of rows
    own = seed_spread.block(given, ["j"], draws=100)["ppo"]["j"]
    assert [(one["seed"], one["win_rate"], one["score"]) for one in own["per_seed"]] == [
        (7, 0.75, 0.5),
        (8, 0.5, 0),
        (9, 1, 1),
    ]
    assert (own["mean"], own["sd"], own["min"], own["max"]) == pytest.approx((0.75, 0.25, 0.5, 1.0))
    assert (own["low"], own["high"]) == pytest.approx((0.129, 1.0), abs=1e-3)
    assert own["sd_by_chance"] == pytest.approx(math.sqrt(5) / 12) and own["reading"] == "too few prompts"


def test_chance_is_what_equal_seeds_show() -> None:
    """2,000 times 3 seeds of one quality on 50 prompts of unlike difficulty: the variance between seeds is chance² on average;
    with several samples a prompt, too. A real difference between seeds leaves chance as it is."""
    draw = np.random.default_rng(0)
    for samples in (1, 2):
        prompts = [f"p{i:02}" for i in range(50) for _ in range(samples)]
        ease = np.repeat(draw.uniform(0.1, 0.9, 50), samples)
        tables = [(draw.random((3, len(prompts))) < ease).astype(float) for _ in range(1000)]
        seen = np.mean([table.mean(1).var(ddof=1) for table in tables])
        by_chance = [seed_spread.chance(table, prompts) ** 2 for table in tables]
        assert np.mean(by_chance) == pytest.approx(seen, rel=0.1)
        apart = tables[0] + np.array([[0.0], [0.2], [0.4]])
        assert seed_spread.chance(apart, prompts) == pytest.approx(math.sqrt(by_chance[0]))
    assert seed_spread.chance(np.array([[1.0], [0.0]]), ["p"]) == 0


@pytest.mark.parametrize(
    ("rates", "low", "high", "prompts", "reading"),
    [
        ([0.70, 0.71, 0.72], 0.6, 0.8, 100, "better"),
        ([0.70, 0.71, 0.72], 0.49, 0.9, 100, "no difference shown"),  # the prompts leave it open
        ([0.50, 0.70, 0.90], 0.6, 0.8, 100, "no difference shown"),  # the seeds do
        ([0.30, 0.31, 0.32], 0.2, 0.4, 100, "worse"),
        ([0.30, 0.31, 0.32], 0.6, 0.8, 100, "no difference shown"),  # they contradict each other
        ([0.70, 0.71, 0.72], 0.6, 0.8, 19, "too few prompts"),
    ],
)
def test_no_more_is_said_than_the_wider_interval_allows(
    rates: list[float], low: float, high: float, prompts: int, reading: str
) -> None:
    first = {"win_rate": rates[0], "low": low, "high": high, "prompts": prompts}
    assert seed_spread.said(spread_of(rates), first) == reading
    own = {"against": "sft", "per_seed": [first], **spread_of(rates), "reading": reading}
    seeds = {"ppo": {"reward": own, "vader": own}, "dpo": {"vader": own}}
    given: Any = SimpleNamespace(main="ppo", optimised="reward", seeds=seeds)
    (sentence,) = seed_spread.sentences(given)  # of the main model, and not by the reward that was optimised
    assert (
        f"by vader is {sum(rates) / 3:.1%} on average" in sentence
        and f"{100 * low:.1f}–{high:.1%} for one seed" in sentence
    )
    claim = sentence.rpartition(" Allowing for both, ")[2]
    assert ("is better than sft" in claim, "is worse than sft" in claim) == (reading == "better", reading == "worse")
