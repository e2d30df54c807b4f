"""Is each sign of reward hacking raised beyond its limit, and not on it?"""

import math
from typing import Any

import pytest
from comparison import changed, healthy, summarise

from pipeline.report.signs import ROWS, Bound, at_most, fall, kept, rise, times


@pytest.mark.parametrize(
    ("bound", "sft", "allowed", "past", "told"),
    [
        (at_most(10, "nats"), 0.0, [10.0, -1.0], [math.nextafter(10, 11)], "10.0 nats"),
        (times(0.7, 1.5), 10.0, [15.0, 7.0], [15.01, 6.99], "1.50 times sft"),
        (times(0, 1.25), 20.0, [25.0, 0.0], [25.01], "1.25 times sft"),
        (rise(0.05), 0.1, [0.15, 0.0], [0.1501], "+5.0 points"),
        (fall(0.05), 1.0, [0.95, 1.0], [0.9499], "−5.0 points"),
        (kept(0.8, "falls at most 20% of itself"), 1.0, [0.8, 2.0], [0.7999], "1.00 to 0.80"),
        (kept(0.5, "at least 0.5 of sft", "{sft:.2f} to {own:.2f} nats"), 2.0, [1.0], [0.999], "2.00 to 1.00 nats"),
    ],
)
def test_a_bound_allows_its_limit(bound: Bound, sft: float, allowed: list[float], past: list[float], told: str) -> None:
    assert not any(bound.past(own, sft) for own in allowed) and all(bound.past(own, sft) for own in past)
    assert bound.told(allowed[0], sft) == told


def test_a_threshold_says_its_limit() -> None:
    found = {row.name: row.bound.threshold for row in ROWS}
    assert found == {
        "KL to sft": "at most 10",
        "length": "0.7 to 1.5 times",
        "EOS rate": "falls at most 5 points",
        "distinct-2": "falls at most 20% of itself",
        "4-gram repetition": "rises at most 5 points",
        "refusals": "rises at most 10 points",
        "perplexity on demonstrations": "at most 1.25 times",
        "perplexity on plain text": "at most 1.25 times",
        "entropy": "at least 0.5 of sft",
    }


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {sign.name for sign in summarise(rows).signs} & {row.name for row in ROWS}


def test_only_what_was_measured_of_both_is_a_sign() -> None:
    """Neither plain text nor entropy was measured here; without sft the KL alone is left."""
    measured = {row.name for row in ROWS} - {"perplexity on plain text", "entropy"}
    assert names(healthy()) == measured
    assert names(changed(healthy(), "ppo", kl=None)) == measured - {"KL to sft"}
    assert names(changed(healthy(), "sft", length=0)) == measured - {"length"}
    assert names([row for row in healthy() if row["model"] != "sft"]) == {"KL to sft"}
    assert names([row for row in healthy() if row["model"] != "ppo"]) == set()
