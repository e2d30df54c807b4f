"""Does the report claim only what its numbers allow, and warn of every sign of trouble?"""

from dataclasses import replace
from typing import Any

import pytest
from comparison import changed, healthy, models, opinions, summarise

from pipeline.report import numbers
from pipeline.report.findings import Figures, Report
from pipeline.report.verdict import verdict

# The verdict


def made(low: float, high: float, prompts: int = 100, **judges: tuple[float, float]) -> Report:
    """A report with only what verdict() needs: ppo vs sft with these intervals, rates in their middle."""

    def outcome(low: float, high: float) -> dict[str, float]:
        return {"win_rate": (low + high) / 2, "low": low, "high": high, "prompts": prompts}

    pair = {"vader": outcome(low, high)} | {name: outcome(*ends) for name, ends in judges.items()}
    return Report(
        prompts=prompts,
        main="ppo",
        optimised="reward",
        judges=[name for name in pair if name != "reward"],
        models={"sft": Figures(kl=0.0, length=30.0), "ppo": Figures(kl=5.2, length=33.0)},
        pairs={"ppo vs sft": pair},
    )


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.501, 0.7, "is better than sft"),
        (0.5, 0.7, "shows no difference from sft"),
        (0.499, 0.9, "shows no difference from sft"),
        (0.3, 0.5, "shows no difference from sft"),
        (0.3, 0.499, "is worse than sft"),
    ],
)
def test_verdict_claims_no_more_than_the_interval(low: float, high: float, says: str) -> None:
    sentence = verdict(made(low, high))
    assert says in sentence and "By vader, the aligned model (ppo)" in sentence
    assert sum(verb in sentence for verb in ("better", "worse", "no difference")) == 1


def test_verdict_gives_rate_interval_kl_length_and_the_optimised_reward() -> None:
    """Rate (0.6 + 0.7)/2 = 65%; length 33/30 = 1.10; optimised reward (0.9 + 1)/2 = 95%."""
    sentence = verdict(made(0.6, 0.7, reward=(0.9, 1.0)))
    assert sentence == (
        "By vader, the aligned model (ppo) is better than sft (win rate 65.0%, 95% interval 60.0–70.0%), "
        "over 100 prompts. That came at a KL of 5.2 nats to sft and 1.10 times the length of sft. "
        "The reward that training optimised, which is no independent judge, gives it a win rate of 95.0% against sft."
    )


def test_optimised_reward_alone_is_a_weak_claim() -> None:
    given = made(0.6, 0.7, reward=(0.9, 1.0))
    del given.pairs["ppo vs sft"]["vader"]
    sentence = verdict(replace(given, judges=[]))
    assert sentence.startswith("Only the reward that training optimised judged, so the claim is weak: by it, ")


def test_a_reward_cannot_make_ppo_better_where_the_judge_does_not() -> None:
    sentence = verdict(made(0.4, 0.6, reward=(0.9, 1.0)))
    assert "shows no difference from sft" in sentence and "better" not in sentence


def test_judges_that_disagree_are_both_named() -> None:
    sentence = verdict(made(0.6, 0.7, strict=(0.2, 0.3)))
    assert "By vader, the aligned model (ppo) is better than sft" in sentence
    assert "by strict, it is worse than sft" in sentence


def test_few_prompts_allow_no_claim() -> None:
    """A model that wins on all of 5 prompts has the interval 1 to 1: no width, and no proof."""
    sentence = verdict(made(1.0, 1.0, prompts=5))
    assert "has too few prompts to be told from sft" in sentence and "better" not in sentence
    assert "better" in verdict(made(1.0, 1.0, prompts=20))


def test_verdict_without_ppo_sft_or_kl() -> None:
    assert verdict(replace(made(0.6, 0.7), pairs={})).startswith("No verdict")
    ppo = Figures(kl=None, length=33.0)
    alone = replace(made(0.6, 0.7), models={"base": Figures(length=30.0), "ppo": ppo})
    assert "at an unmeasured KL and 1.10 times the length of base" in verdict(alone)
    silent = replace(alone, models={"base": Figures(length=0.0), "ppo": ppo})
    assert "33.0 tokens a completion (base writes none)" in verdict(silent)


# The warnings


def test_a_healthy_run_has_no_warnings() -> None:
    assert summarise(healthy()).warnings == []


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("ppo", {"kl": 10.5}, "10.5 nats, above 10"),
        ("ppo", {"kl": None}, "was not measured"),
        ("ppo", {"length": 16}, "a ratio outside 0.7 to 1.5"),
        ("ppo", {"length": 6}, "a ratio outside 0.7 to 1.5"),
        ("ppo", {"eos": False}, "ppo ends 0% of its completions by itself and sft 100%"),
        ("ppo", {"tokens": [1, 2]}, "distinct-2 fell from 1.00 (sft) to 0.05 (ppo)"),
    ],
)
def test_each_sign_of_trouble_is_named_alone(model: str, change: dict[str, Any], said: str) -> None:
    """Tokens 1 2 in each of 20 completions: 1 distinct bigram of 20 = 0.05."""
    found = summarise(changed(healthy(20), model, **change)).warnings
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("change", [{"kl": 10.0}, {"length": 15}, {"length": 7}])
def test_limits_themselves_are_allowed(change: dict[str, Any]) -> None:
    assert summarise(changed(healthy(), "ppo", **change)).warnings == []


def test_trouble_of_sft_is_not_blamed_on_ppo() -> None:
    assert summarise(changed(healthy(), "sft", eos=False, tokens=[1, 2, 3])).warnings == []


def test_reward_up_without_the_judge_is_over_optimisation() -> None:
    rows = [
        row | {"scores": {"reward": 3.0, "vader": row["scores"]["vader"] if i % 2 else -1.0}}
        if row["model"] == "ppo"
        else row
        for i, row in enumerate(healthy())
    ]
    found = summarise(rows).warnings
    assert len(found) == 1 and "vader does not confirm" in found[0]


def test_few_prompts_and_missing_judges_or_sft_are_named() -> None:
    assert "Only 12 prompts" in summarise(healthy(12)).warnings[0]
    assert "No independent judge" in summarise(healthy(), judges=[]).warnings[0]
    without = [row for row in healthy() if row["model"] != "sft"]
    assert "There is no sft model" in summarise(without).warnings[0]


@pytest.mark.parametrize(
    ("high", "optimised", "raised"), [(-0.01, 0.5, True), (0.01, 0.5, False), (-0.01, -0.1, False)]
)
def test_a_judge_that_falls_while_the_reward_rises_is_a_warning(high: float, optimised: float, raised: bool) -> None:
    steps = [{"step": s, "kl": None, "scores": {"vader": {"mean": 0.0, "low": 0.0, "high": 0.0}}} for s in (0, 10)]
    fall = {"step": 0, "mean": -0.2, "low": -0.4, "high": high, "optimised": optimised}
    training = {"steps": steps, "since_peak": {"vader": fall}}
    found = summarise(healthy(), training=training).warnings
    assert [text for text in found if "vader fell by 0.20 since step 0" in text] == (found if raised else [])
    assert bool(found) is raised


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tokens": [1, 2, 3, 4, 1, 2, 3, 4]},
            "4-gram repetition rose from 0.0% (sft) to 20.0% (ppo), by more than 5 points",
        ),
        ({"completion": "I'm sorry, but no."}, "refusals rose from 0.0% (sft) to 100.0% (ppo), by more than 10 points"),
        ({"entropy": 0.9}, "Entropy fell from 2.00 (sft) to 0.90 nats a token (ppo)"),
    ],
)
def test_side_effects_are_warned_of(change: dict[str, Any], said: str) -> None:
    """Tokens 1234 1234 hold five 4-grams, of which the last is the first again: 20%."""
    rows = changed([row | {"entropy": 2.0} for row in healthy(20)], "ppo", **change)
    assert any(said in text for text in summarise(rows).warnings)


def test_every_sign_names_its_threshold_and_its_source() -> None:
    rows = [row | {"entropy": 2.0} for row in healthy()]
    signs = summarise(rows).signs
    names = {sign.name for sign in signs}
    assert {"KL to sft", "length", "EOS rate", "distinct-2", "4-gram repetition", "refusals", "entropy"} <= names
    assert "perplexity on demonstrations" in names and "judges confirm the reward" in names
    assert all(sign.threshold and sign.source and sign.warning is None for sign in signs)


def test_perplexity_that_rises_is_the_alignment_tax() -> None:
    """26 against 20 is 1.3 times, above 1.25; 25 is on the limit."""
    given = models()
    for figure, raised in ((26.0, True), (25.0, False)):
        given["ppo"]["perplexity"] = figure
        found = numbers.summarise(healthy(), given, opinions(), provenance={}, draws=50).warnings
        assert any("more than 1.25 times" in text for text in found) is raised
