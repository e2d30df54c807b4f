"""Do votes from /arena count where the comparison sampled the very answers that people saw, and nowhere else?"""

import json
from pathlib import Path
from typing import Any

import pytest

from data.schema import DataError
from pipeline.artifacts.run import Run
from pipeline.judges import votes
from pipeline.judges.judge import JudgeError
from pipeline.people.export import export
from pipeline.people.store import open_store
from policies.template import show_prompt

CHAT = [{"role": "user", "content": "Wie?"}]


def sample(prompt: Any, model: str, text: str, seed: int = 0, prompt_id: str = "p") -> dict[str, Any]:
    return {"prompt_id": prompt_id, "prompt": show_prompt(prompt), "model": model, "seed": seed, "completion": text}


SAMPLES = [
    *(sample("Was?", model, f"{model} {seed}", seed) for model in ("sft", "ppo") for seed in (0, 1)),
    *(sample(CHAT, model, f"{model} chat", 0, "q") for model in ("sft", "ppo")),
]


def said(model: str, text: str) -> dict[str, str]:
    return {"model": model, "text": text}


def row(prompt: Any, a: dict[str, str], b: dict[str, str], winner: str, who: str = "Anna") -> dict[str, Any]:
    return {"prompt": prompt, "a": a, "b": b, "winner": winner, "annotator": who, "comment": "", "both_bad": False}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    (path := folder / "votes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_a_vote_counts_where_both_answers_were_sampled(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        row("Was?", said("ppo", "ppo 1"), said("sft", "sft 1"), "a"),
        row("Was?", said("sft", "sft 1"), said("ppo", "ppo 1"), "tie", "Ben"),
        row(CHAT, said("sft", "sft chat"), said("ppo", "ppo chat"), "b"),
        row("Was?", said("sft", "sft 1"), said("ppo", "ppo 0"), "a"),  # of two samples: nothing that was compared
        row("Was?", said("sft", "another"), said("ppo", "ppo 0"), "a"),
        row("Free?", said("sft", "x"), said("ppo", "y"), "a"),
        row("Was?", said("sft", "sft 0"), said("sft", "sft 0"), "a", "Cleo"),
    )
    judge = votes.load([path], SAMPLES)
    found = judge.outcomes(["Was?", "Was?", CHAT], ["ppo 1", "ppo 0", "ppo chat"], ["sft 1", "sft 0", "sft chat"])
    assert found[0] == 0.75 and found[1] != found[1] and found[2] == 1.0
    assert judge.summary() == {"votes": 3, "annotators": 2, "pairs": 2, "votes on other answers": 4}


def test_votes_of_which_none_is_on_what_was_sampled_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, row("Free?", said("sft", "x"), said("ppo", "y"), "a"))
    with pytest.raises(
        JudgeError, match="none of the 1 votes in .*votes.jsonl is on answers that this comparison sampled"
    ):
        votes.load([path], SAMPLES)


def test_mistakes_are_told_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        row("Was?", said("ppo", "ppo 1"), said("sft", "sft 1"), "A"),
        row("Was?", {"model": "ppo"}, said("sft", "sft 1"), "a"),
        row("", said("ppo", "ppo 1"), said("sft", "sft 1"), "a"),
        row("Was?", said("ppo", "ppo 1"), said("sft", "sft 1"), "a") | {"score": 1},
        row("Was?", said("ppo", "ppo 1"), said("sft", "sft 1"), "a"),
        row("Was?", said("sft", "sft 1"), said("ppo", "ppo 1"), "a"),
    )
    with pytest.raises(DataError) as told:
        votes.read([path], SAMPLES)
    text = str(told.value)
    for line, why in (
        (1, "winner: it is no winner"),
        (2, "a: it is no answer with a model"),
        (3, "prompt: it is blank"),
    ):
        assert f"votes.jsonl:{line}: {why}" in text
    assert "votes.jsonl:4: score: there is no such field" in text and "votes.jsonl:6: annotator: " in text


def test_what_rankings_exports_is_read(tmp_path: Path) -> None:
    run = Run("demo", tmp_path)
    body = {"prompt": "Was?", "a": said("ppo", "ppo 0"), "b": said("sft", "sft 0"), "outcome": "a", "why": "kürzer"}
    open_store(run).add("v1", "Anna", "vote", body | {"prompt_id": "p", "set_aside": False, "seconds": 2})
    open_store(run).add("v2", "Ben", "vote", body | {"outcome": "bad", "set_aside": False})
    open_store(run).add("v3", "Cleo", "vote", body | {"outcome": "b", "set_aside": True})
    path = export(run).folder / "votes.jsonl"
    assert votes.load([path], SAMPLES).outcomes(["Was?"], ["ppo 0"], ["sft 0"]).tolist() == [0.75]
