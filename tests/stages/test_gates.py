"""Does every gate pass, warn and fail where its words say? Each limit at its edge and right beside it."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.artifacts.gate import NONE, Gate, Limit, above, at_least, at_most, below, between, check, check_interval
from pipeline.report.findings import Report
from pipeline.stages import best_of_n, compare, data, dpo, gold, ppo, reward, rft, rloo, sft
from pipeline.training import merging
from pipeline.training.baselines import Gains

UP, DOWN = math.inf, -math.inf


def beside(value: float, towards: float) -> float:
    return math.nextafter(value, towards)


@pytest.mark.parametrize(
    ("limit", "words", "holds", "fails"),
    [
        (above(0.5), "above 0.5", [beside(0.5, UP)], [0.5, DOWN]),
        (at_least(20), "at least 20", [20, 21], [beside(20, DOWN)]),
        (below(2.34567, "the loss before"), "below 2.346, the loss before", [2.34], [2.34567, 2.4]),
        (at_most(10), "at most 10", [10, -3], [beside(10, UP)]),
        (between(0.7, 1.5), "0.7 to 1.5", [0.7, 1.5], [beside(0.7, DOWN), beside(1.5, UP)]),
        (NONE, "exactly 0", [0, 0.0], [1, -1]),
    ],
)
def test_a_limit_holds_where_its_words_say(limit: Limit, words: str, holds: list[float], fails: list[float]) -> None:
    assert str(limit) == words
    assert all(map(limit.holds, holds)) and not any(map(limit.holds, fails))


@pytest.mark.parametrize(
    ("must", "should", "words"),
    [
        (at_least(1), at_least(100), "at least 1, better 100"),
        (above(0), at_least(0.5), "above 0, better at least 0.5"),
        (at_most(3), between(0.7, 1.5), "at most 3, better 0.7 to 1.5"),
        (at_most(3), None, "at most 3"),
        (None, NONE, "exactly 0"),
    ],
)
def test_a_threshold_is_composed_of_its_limits(must: Limit | None, should: Limit | None, words: str) -> None:
    assert check("x", 0.0, must=must, should=should).threshold == words


def test_what_must_be_goes_before_what_should_be() -> None:
    results = [check("x", figure, must=at_least(1), should=at_least(3)).result for figure in (0, 1, 2, 3)]
    assert results == ["fail", "warn", "warn", "pass"]


def test_an_interval_says_which_end_is_held_against_what() -> None:
    found = check_interval("x", 0.6, 0.5, 0.7, must=above(0.1), upper_must=at_least(0.55), lower_should=above(0.5))
    words = "interval 0.500 to 0.700: above 0.1, its upper end at least 0.55, better its lower end above 0.5"
    assert (found.result, found.figure, found.threshold) == ("warn", 0.6, words)


def results(gate: Gate) -> dict[str, str]:
    """The checks that did not pass."""
    return {line.name: line.result for line in gate.checks if line.result != "pass"}


DATA: dict[str, Any] = {
    "prompts": 100,
    "held_out_prompts": 50,
    "rankings": 9,
    "held_out_rankings": 30,
    "on_both_sides": 0,
    "decontaminated": 0.1,
    "sources_without_rows": [],
    "set_aside": 100,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"prompts": 99}, {"training prompts": "warn"}),
        ({"prompts": 1}, {"training prompts": "warn"}),
        ({"prompts": 0}, {"training prompts": "fail"}),
        ({"held_out_prompts": 49}, {"held-out prompts": "warn"}),
        ({"held_out_prompts": 1}, {"held-out prompts": "warn"}),
        ({"held_out_prompts": 0}, {"held-out prompts": "fail"}),
        ({"held_out_rankings": 29}, {"held-out rankings": "warn"}),
        ({"held_out_rankings": 0}, {"held-out rankings": "fail"}),
        ({"held_out_rankings": 0, "rankings": 0}, {}),  # stage reward says what it lacks
        ({"on_both_sides": 1}, {"prompts seen on both sides": "fail"}),
        ({"decontaminated": beside(0.1, UP)}, {"share of training rows that repeated held-out prompts": "warn"}),
        ({"decontaminated": 0.0}, {}),
        ({"sources_without_rows": ["a"]}, {"sources of the mixture without training rows": "warn"}),
        ({"sources_without_rows": None}, {}),
        ({"set_aside": 99}, {"rankings set aside for stage gold": "warn"}),
        ({"set_aside": 1}, {"rankings set aside for stage gold": "warn"}),
        ({"set_aside": 0}, {"rankings set aside for stage gold": "fail"}),
        ({"set_aside": None}, {}),
    ],
)
def test_data(change: dict[str, Any], expected: dict[str, str]) -> None:
    assert results(data.gate(DATA | change)) == expected


def test_data_says_nothing_of_what_does_not_apply() -> None:
    found = data.gate(DATA | {"decontaminated": 0.0, "sources_without_rows": None, "set_aside": None})
    assert len(found.checks) == 4 and len(data.gate(DATA).checks) == 7


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"loss_after": 2.0}, {"held-out loss": "fail"}),
        ({"loss_after": beside(2.0, DOWN)}, {}),
        ({"loss_after": 2.0, "train_rows": 0.0}, {}),  # the model was taken as it is
        ({"eos_rate": beside(0.5, DOWN)}, {"EOS rate": "warn"}),
        ({"eos_rate": beside(0.0, UP)}, {"EOS rate": "warn"}),
        ({"eos_rate": 0.0}, {"EOS rate": "fail"}),
        ({"dtype/kept": beside(0.98, DOWN)}, {"share of the update that dtype keeps": "warn"}),
        ({"dtype/kept": -40.0}, {"share of the update that dtype keeps": "warn"}),
    ],
)
def test_sft(change: dict[str, float], expected: dict[str, str]) -> None:
    figures = {"train_rows": 9.0, "loss_before": 2.0, "loss_after": 1.5, "eos_rate": 0.5, "dtype/kept": 0.98}
    assert results(sft.gate(figures | change)) == expected


MERGED = {"merged/kl": 0.01, "merged/kept": 0.98, "merged/score_gap": 0.1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"merged/kl": beside(0.01, UP)}, {"merged against adapter, KL": "warn"}),
        ({"merged/kl": 0.1}, {"merged against adapter, KL": "warn"}),
        ({"merged/kl": beside(0.1, UP)}, {"merged against adapter, KL": "fail"}),
        ({"merged/score_gap": beside(0.1, UP)}, {"merged against adapter, scores": "warn"}),
        ({"merged/kept": beside(0.98, DOWN)}, {"share of the update kept": "fail"}),
    ],
)
def test_merged_against_adapter(change: dict[str, float], expected: dict[str, str]) -> None:
    """In every stage that trains an adapter; nothing is said where none was."""
    figures = (
        {"train_rows": 9.0, "loss_before": 2.0, "loss_after": 1.5, "eos_rate": 0.5, "dtype/kept": 1.0} | MERGED | change
    )
    assert results(Gate(merging.checks(figures))) == results(sft.gate(figures)) == expected
    assert results(ppo.gate(PPO | figures, None, None, 25.0)) == expected
    assert merging.checks({"loss_after": 1.0}) == []


ACCURACY = "held-out pairwise accuracy"


@pytest.mark.parametrize(
    ("low", "high", "gain", "std", "expected"),
    [
        (beside(0.5, UP), 0.55, (beside(0, UP), 1.0), beside(1e-6, UP), {}),
        (0.5, 0.55, (0.1, 0.2), 1.0, {ACCURACY: "warn"}),
        (0.4, beside(0.55, DOWN), (0.1, 0.2), 1.0, {ACCURACY: "fail"}),
        (0.52, beside(0.55, DOWN), (0.1, 0.2), 1.0, {ACCURACY: "fail"}),
        (0.6, 0.7, (0.0, 0.1), 1.0, {"gain over a length-only null model": "warn"}),
        (0.6, 0.7, (-0.1, 0.0), 1.0, {"gain over a length-only null model": "warn"}),
        (0.6, 0.7, (-0.1, beside(0, DOWN)), 1.0, {"gain over a length-only null model": "fail"}),
        (0.6, 0.7, (0.1, 0.2), 1e-6, {"spread of scores on sft samples": "fail"}),
    ],
)
def test_reward_and_gold(
    low: float, high: float, gain: tuple[float, float], std: float, expected: dict[str, str]
) -> None:
    figures = {
        "pairwise_accuracy": {"pairwise_accuracy": (low + high) / 2, "low": low, "high": high},
        "gain_over_length_only": {"gain": sum(gain) / 2, "low": gain[0], "high": gain[1]},
        "score_std": std,
    }
    assert results(reward.gate(figures)) == results(gold.gate(figures)) == expected


def test_reward_says_that_the_interval_must_reach_055() -> None:
    """The text once said "above 0.5" where 0.55 was checked."""
    figures = {
        "pairwise_accuracy": {"pairwise_accuracy": 0.52, "low": 0.5, "high": 0.54},
        "gain_over_length_only": {"gain": 0.1, "low": 0.05, "high": 0.2},
        "score_std": 1.0,
    }
    words = "interval 0.500 to 0.540: its upper end at least 0.55, better its lower end above 0.5"
    assert reward.gate(figures).checks[0].threshold == words


PPO = {
    "first/objective/kl": 0.0,
    "first/completions/mean_length": 10.0,
    "first/policy/entropy_avg": 2.0,
    "objective/kl": 10.0,
    "completions/mean_length": 15.0,
    "policy/entropy_avg": 0.6,
}
GAIN = {"mean": 0.2, "low": 0.1, "high": 0.3}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"first/objective/kl": 0.001}, {}),
        ({"first/objective/kl": -0.001}, {}),
        ({"first/objective/kl": beside(0.001, UP)}, {"KL at step 0": "fail"}),
        ({"first/objective/kl": beside(-0.001, DOWN)}, {"KL at step 0": "fail"}),
        ({"objective/kl": beside(10.0, UP)}, {"KL": "warn"}),
        ({"objective/kl": 25.0}, {"KL": "warn"}),
        ({"objective/kl": beside(25.0, UP)}, {"KL": "fail"}),
        ({"completions/mean_length": 7.0}, {}),
        ({"completions/mean_length": 6.99}, {"length against the start": "warn"}),
        ({"completions/mean_length": 15.01}, {"length against the start": "warn"}),
        ({"completions/mean_length": 30.0}, {"length against the start": "warn"}),
        ({"completions/mean_length": 30.01}, {"length against the start": "fail"}),
        ({"policy/entropy_avg": 0.599}, {"entropy against the start": "warn"}),
    ],
)
def test_ppo(change: dict[str, float], expected: dict[str, str]) -> None:
    assert results(ppo.gate(PPO | change, None, GAIN, 25.0)) == expected


def test_ppo_that_halted_or_never_began_fails() -> None:
    assert results(ppo.gate(PPO, "KL 31", GAIN, 25.0)) == {"halted by a limit": "fail"}
    (line,) = ppo.gate({}, "score not finite", None, 25.0).checks
    assert (line.result, line.figure, line.why) == ("fail", 0.0, "score not finite")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(beside(0, UP), 1, None), (0, 1, "warn"), (-1, 0, "warn"), (-1, beside(0, DOWN), "fail")],
)
def test_a_gain_in_held_out_score(low: float, high: float, expected: str | None) -> None:
    gain = {"mean": (low + high) / 2, "low": low, "high": high}
    found = {} if expected is None else {"gain in held-out score": expected}
    assert results(ppo.gate(PPO, None, gain, 25.0)) == found
    assert len(ppo.gate(PPO, None, None, 25.0).checks) == 5
    assert results(rloo.gate(Gains({"eval/kl": 10.0}, gain, 1.0))) == found


@pytest.mark.parametrize(
    ("kl", "ratio", "expected"),
    [
        (10.0, 1.5, {}),
        (beside(10.0, UP), 0.7, {"KL to sft": "warn"}),
        (0.0, beside(0.7, DOWN), {"length against sft": "warn"}),
        (0.0, beside(1.5, UP), {"length against sft": "warn"}),
        (0.0, 3.0, {"length against sft": "warn"}),
        (0.0, beside(3.0, UP), {"length against sft": "fail"}),
    ],
)
def test_rloo_and_rft(kl: float, ratio: float, expected: dict[str, str]) -> None:
    figures = Gains({"eval/kl": kl}, GAIN, ratio)
    assert results(rloo.gate(figures)) == results(rft.gate(figures)) == expected


@pytest.mark.parametrize(
    ("accuracy", "low", "expected"),
    [(beside(0.5, UP), beside(0.5, UP), None), (0.6, 0.5, "warn"), (0.5, 0.4, "fail"), (0.4, 0.3, "fail")],
)
def test_dpo(accuracy: float, low: float, expected: str | None) -> None:
    figures = {"pairwise_accuracy": accuracy, "pairwise_accuracy_low": low, "pairwise_accuracy_high": 0.9}
    name = "held-out pairwise accuracy of implicit rewards"
    assert results(dpo.gate(figures)) == ({} if expected is None else {name: expected})


@pytest.mark.parametrize(
    ("prompts", "best", "expected"),
    [
        (20, 1.1, {}),
        (19, 1.1, {"held-out prompts": "warn"}),
        (20, 1.0, {"score of best_of_16 over one sample": "warn"}),
    ],
)
def test_best_of_n(prompts: float, best: float, expected: dict[str, str]) -> None:
    figures = {"prompts": prompts, "n": 16.0, "best_of_1/score": 1.0, "best_of_16/score": best}
    assert results(best_of_n.gate(figures)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"prompts": 199}, {"held-out prompts": "warn"}),
        ({"judges": []}, {"independent judges": "warn"}),
        ({"warnings": ["KL"]}, {"warnings in the report": "warn"}),
    ],
)
def test_compare_warns_and_never_fails(change: dict[str, Any], expected: dict[str, str]) -> None:
    assert results(compare.gate(replace(Report(prompts=200, judges=["vader"]), **change))) == expected
