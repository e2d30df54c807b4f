"""Does a sentence ever claim more than its interval?"""

from typing import Any

import pytest

from pipeline import statistics
from pipeline.report import ranking_models
from pipeline.report.sentences import clauses, difference_sentence, ends, reading, seeds_sentence


def won(low: float | None, high: float | None, prompts: int = 100, rate: float = 0.6, **more: Any) -> dict[str, Any]:
    return {"win_rate": rate, "low": low, "high": high, "prompts": prompts} | more


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (won(0.501, 0.7), "better"),
        (won(0.5, 0.7), "no difference shown"),
        (won(0.4, 0.6), "no difference shown"),
        (won(0.3, 0.5), "no difference shown"),
        (won(0.3, 0.499), "worse"),
        (won(0.8, 0.9, prompts=19), "too few prompts"),
        (won(0.8, 0.9, prompts=20), "better"),
        (won(None, None), "too few prompts"),
        (won(0.8, 0.9, overlap=False), "length decides"),
        (won(0.8, 0.9, overlap=True), "better"),
        (won(1.0, 1.0, prompts=20, rate=1.0), "better"),
        (won(0.0, 0.0, prompts=20, rate=0.0), "worse"),
        (won(0.5, 0.5, prompts=20, rate=0.5), "no difference shown"),
        (won(0.55, 0.55, prompts=20, rate=0.55), "no difference shown"),
    ],
)
def test_reading_goes_no_further_than_the_interval(outcome: dict[str, Any], said: str) -> None:
    """The last: an interval without width is no proof. 11 of 20 by Wilson reaches from 0.34 to 0.74."""
    assert reading(outcome) == said


def test_an_interval_without_width_becomes_wilsons() -> None:
    """20 of 20: Newcombe's table gives 0 to 0.1611 for 0 of 20, so 83.9% to 100%."""
    assert difference_sentence("ppo", "sft", won(1.0, 1.0, prompts=20, rate=1.0)) == (
        "ppo is better than sft (win rate 100.0%, 95% interval 83.9–100.0%), over 20 prompts."
    )
    assert ends(won(0.2, 0.3)) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (won(0.6, 0.7, rate=0.65), "is better than b (win rate 65.0%, 95% interval 60.0–70.0%), over 100 prompts."),
        (won(0.1, 0.2, rate=0.15), "is worse than b (win rate 15.0%, 95% interval 10.0–20.0%), over 100 prompts."),
        (
            won(0.4, 0.6, rate=0.5),
            "shows no difference from b (win rate 50.0%, 95% interval 40.0–60.0%), over 100 prompts.",
        ),
        (
            won(0.9, 0.95, prompts=1, rate=0.9),
            "has too few prompts to be told from b (win rate 90.0%, 95% interval 90.0–95.0%), over 1 prompt.",
        ),
        (won(None, None, 7), "has too few prompts to be told from b (win rate 60.0%, no interval), over 7 prompts."),
        (
            won(0.6, 0.7, overlap=False),
            "differs in length too steadily to be compared under length control with b "
            "(win rate 60.0%, 95% interval 60.0–70.0%), over 100 prompts.",
        ),
    ],
)
def test_a_difference_in_a_sentence(outcome: dict[str, Any], sentence: str) -> None:
    assert difference_sentence("a", "b", outcome) == f"a {sentence}"


def test_the_same_model_twice_shows_no_difference() -> None:
    """The sft model passed as ppo: equal scores tie everywhere, the rate is ½, and nothing is claimed."""
    scores, prompts = [0.1 * i for i in range(40)], [str(i) for i in range(40)]
    sentence = difference_sentence("ppo", "sft", statistics.win_rate(scores, scores, prompts, draws=50))
    assert sentence.startswith("ppo shows no difference from sft (win rate 50.0%") and "better" not in sentence
    controlled = ranking_models.length_controlled_win_rate([0.5] * 40, scores, scores, prompts, draws=50)
    assert "shows no difference" in difference_sentence("ppo", "sft", controlled)


def test_opponents_with_one_reading_share_its_verb() -> None:
    given = {"base": won(0.6, 0.7), "sft": won(0.4, 0.6, rate=0.5), "few_shot": won(0.8, 0.9)}
    assert clauses(given) == (
        "is better than base (win rate 60.0%, 95% interval 60.0–70.0%) and few_shot (60.0%, 80.0–90.0%) "
        "and shows no difference from sft (50.0%, 40.0–60.0%)"
    )


def test_seeds_and_sampling_are_told_apart() -> None:
    """0.5, 0.6, 0.7: t-interval 35.2% to 84.8% (by hand in test_statistics), with ½ inside: no direction is claimed."""
    sentence = seeds_sentence("the win rate of ppo", statistics.seed_spread([0.5, 0.6, 0.7]), (0.55, 0.65))
    assert sentence == (
        "Over 3 training seeds, the win rate of ppo is 60.0% on average, from 50.0% to 70.0%; the 95% t-interval over "
        "seeds is 35.2–84.8%, with 50% inside it, so other seeds could turn it round. Apart from that, the choice of "
        "prompts alone leaves 55.0–65.0% for one seed."
    )
    sure = seeds_sentence("it", statistics.seed_spread([0.7, 0.71, 0.72]), (0.6, 0.8))
    assert "all of it above 50%" in sure
    unsure = seeds_sentence("it", statistics.seed_spread([0.3, 0.31, 0.32]), (0.2, 0.4))
    assert "all of it below 50%" in unsure
    alike = seeds_sentence("it", statistics.seed_spread([0.1, 0.1, 0.1]), (0.2, 0.4))
    assert "of no width" in alike and "all of it" not in alike
