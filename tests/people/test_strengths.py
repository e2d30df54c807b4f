"""Do all votes that count make one standing, with intervals where there is enough to draw again?"""

import math
from typing import Any

import pytest

from pipeline.people.store import Event
from pipeline.people.strengths import strengths


def vote(
    n: int, outcome: str = "a", person: str = "Anna", models: tuple[str, str] = ("ppo", "sft"), **more: Any
) -> Event:
    sides = {side: {"model": model, "text": f"{model} {n}"} for side, model in zip("ab", models, strict=True)}
    body = {
        "prompt": f"p{n}",
        "prompt_id": None,
        **sides,
        "outcome": outcome,
        "why": "",
        "seconds": 1,
        "set_aside": False,
    }
    return Event(
        f"e{n}{person}{outcome}", "2026-01-01T00:00:00+00:00", person, "vote", body | {"decoding": None} | more
    )


def test_votes_on_ones_own_prompts_make_a_standing() -> None:
    """Three of four wins: the maximum of σ(s) = ¾ is s = ln 3 between the two, half of it on each side of 0 but for the weak prior."""
    events = [vote(n, "b" if n % 4 == 0 else "a", person) for n in range(20) for person in ("Anna", "Ben")]
    found = strengths(events)
    first, second = found["models"]
    assert (first["name"], second["name"], found["votes"], found["people"], found["prompts"]) == (
        "ppo",
        "sft",
        40,
        2,
        20,
    )
    assert first["score"] == pytest.approx(math.log(3) / 2, abs=0.005) == -second["score"] and first["votes"] == 40
    assert 0 < first["low"] < first["score"] < first["high"] and found["linked"]


def test_what_counts_is_the_first_vote_and_none_that_was_set_aside() -> None:
    events = [
        vote(1),
        vote(1, "b"),
        vote(2, "b", set_aside=True),
        vote(3, "bad"),
        Event("u", "", "Anna", "undo", {"event": "e3Annabad"}),
    ]
    found = strengths(events)
    assert found["votes"] == 1 and found["models"][0]["name"] == "ppo"


def test_few_prompts_and_models_that_never_met_have_no_interval() -> None:
    few = strengths([vote(n, outcome) for n, outcome in enumerate(("a", "b", "tie", "bad"))])
    assert (
        few["linked"]
        and {one["low"] for one in few["models"]} == {None}
        and few["models"][0]["score"] == pytest.approx(0)
    )
    apart = strengths([vote(n, "ab"[n % 2], models=models) for n, models in enumerate([("a", "b"), ("c", "d")] * 6)])
    assert not apart["linked"] and {one["high"] for one in apart["models"]} == {None}
    assert strengths([]) == {"models": [], "votes": 0, "people": 0, "prompts": 0, "linked": False}
