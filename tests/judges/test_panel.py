"""Are all judges heard, and does one that fails take nothing with it?"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import healthy

from data.schema import Prompt
from pipeline.artifacts.run import Run
from pipeline.judges import panel
from pipeline.judges.judge import Judge, JudgeError, by_scores, optimised
from pipeline.judges.over_training import over_training
from pipeline.settings.config import Config

MODELS = ("base", "sft", "ppo")


def rows(prompts: int = 4) -> list[dict[str, Any]]:
    return [row | {"_prompt": row["prompt"], "scores": {}} for row in healthy(prompts)]


def longer(prompts: Any, completions: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def broken(prompts: Any, completions: Any) -> list[float]:
    raise JudgeError("it cannot be reached; start it")


def settings(**compare: Any) -> Config:
    return Config.model_validate({"compare": {"judges": [], **compare}})


def test_scores_go_into_the_rows_and_a_comparing_judge_is_asked_the_important_pairs_first() -> None:
    """The judge prefers the longer text: " base 0" has 7 characters, " ppo 0" and " sft 0" have 6. It leaves ties of
    equal length without a judgement."""
    asked = []

    def outcomes(prompts: Any, a: Any, b: Any) -> Any:
        asked.append((a[0], b[0]))
        return np.array([np.nan if len(x) == len(y) else float(len(x) > len(y)) for x, y in zip(a, b, strict=True)])

    llm = Judge("gpt", "LLM", outcomes, None, lambda: {"calls": len(asked)})
    samples = rows()
    opinions, problems = panel.opinions(samples, [optimised(longer), llm], MODELS)
    assert problems == [] and [row["scores"] for row in samples[:2]] == [{"reward": 7.0}, {"reward": 6.0}]
    assert asked == [(" ppo 0", " base 0"), (" ppo 0", " sft 0"), (" sft 0", " base 0")]
    said = opinions[1].outcomes
    assert said is not None and said["ppo", "base"] == {(f"p0{i}", 0): 0.0 for i in range(4)}
    assert said["ppo", "sft"] == {} and opinions[1].summary == {"calls": 3}


def test_a_judge_that_fails_is_named_and_the_others_are_heard() -> None:
    samples = rows()
    given = [optimised(longer), by_scores("mine", "independent", longer)]
    bad = Judge("gpt", "LLM", lambda prompts, a, b: broken(prompts, a))
    worse = Judge("gold", "gold", lambda prompts, a, b: np.zeros(len(a)), broken)
    opinions, problems = panel.opinions(samples, [*given, bad, worse], MODELS)
    assert [one.name for one in opinions] == ["reward", "mine"]
    assert problems == [
        f"The judge {name} gave no judgement and is left out: it cannot be reached; start it"
        for name in ("gpt", "gold")
    ]
    assert all(set(row["scores"]) == {"reward", "mine"} for row in samples)


def test_the_optimised_score_may_not_fail() -> None:
    with pytest.raises(JudgeError):
        panel.opinions(rows(), [Judge("reward", "optimised", lambda prompts, a, b: np.zeros(len(a)), broken)], MODELS)


def test_votes_and_gold_that_cannot_be_had_are_problems_not_ends(tmp_path: Path) -> None:
    config = settings(votes=[str(tmp_path / "none.jsonl")], gold=str(tmp_path / "no_model"))
    found, problems = panel.seated(config, longer, [], rows(), torch.float32, torch.device("cpu"))
    assert [judge.name for judge in found] == ["reward"]
    assert len(problems) == 2 and "gold gave no judgement" in problems[0] and "none.jsonl" in problems[1]


def test_votes_sit_on_the_panel_and_names_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps({"prompt_id": "p01", "a": "sft", "b": "ppo", "winner": "b"}) + "\n")
    called = [by_scores("reward", "independent", longer)]
    found, problems = panel.seated(
        settings(votes=[str(path)]), longer, called, rows(), torch.float32, torch.device("cpu")
    )
    assert problems == [] and [judge.name for judge in found] == ["reward", "reward (independent)", "people"]
    opinions, _ = panel.opinions(rows(), found[2:], MODELS)
    assert opinions[0].outcomes is not None and opinions[0].outcomes["ppo", "sft"] == {("p01", 0): 1.0}


def test_a_wrong_name_or_a_missing_key_is_told_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("r", root=tmp_path)
    with pytest.raises(JudgeError, match="no judge is called 'vadar'"):
        panel.called(settings(judges=["vadar"]), run)
    llm = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "NO_SUCH_KEY_HERE"}
    monkeypatch.delenv("NO_SUCH_KEY_HERE", raising=False)
    with pytest.raises(JudgeError, match="not set"):
        panel.called(settings(llm=llm), run)
    (judge,) = panel.called(settings(llm=llm | {"api_key_env": None}), run)
    assert (judge.name, judge.label) == ("m", "LLM")


def test_the_optimised_reward_model_is_no_gold(tmp_path: Path) -> None:
    run = Run("r", root=tmp_path)
    with pytest.raises(JudgeError, match="is what training maximised"):
        panel.called(settings(gold=str(tmp_path / "x" / ".." / "r" / "reward")), run)
    assert panel.called(settings(gold=str(tmp_path / "other" / "reward")), run) == []


def test_files_outside_the_run_decide_whether_a_comparison_is_up_to_date() -> None:
    config = settings(models=["sft", "org/model"], gold="g", plain_text="t", votes=["v", "w"])
    assert config.compare.files() == ["org/model", "g", "t", "v", "w"]


# Gold against proxy over training


def trained(folder: Path, scores: dict[int, list[float]], texts: dict[int, list[str]]) -> None:
    folder.mkdir()
    kept = [
        {"step": step, "prompt_id": f"p{i:02}", "completion": texts[step][i], "score": score}
        for step, values in scores.items()
        for i, score in enumerate(values)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    figures = [{"step": step, "objective/kl": step / 2} for step in (1, 2, 3, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in figures))


HELD_OUT = [Prompt(f"p{i:02}", f"Opening {i}", "s") for i in range(2)]


def test_the_gold_judge_is_heard_on_ppo_s_own_evaluations(tmp_path: Path) -> None:
    """Proxy 0, 1, 2 on average; gold counts characters: 1.5, 3, 2. Gold is best at step 2, and by prompt falls from 3, 3
    to 2, 2: by 1 on both, while the proxy rises by 1. KL is 0 before the first step, then what metrics.jsonl says."""
    scores = {0: [-1.0, 1.0], 2: [0.0, 2.0], 4: [1.0, 3.0]}
    trained(tmp_path / "ppo", scores, {0: ["a", "ab"], 2: ["abc", "abc"], 4: ["ab", "ab"]})
    sitting = [optimised(broken), by_scores("gold", "gold", longer)]
    found = over_training(tmp_path / "ppo", HELD_OUT, sitting, draws=50)
    assert found is not None
    assert [(at["step"], at["kl"]) for at in found["steps"]] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    assert [at["scores"]["reward"]["mean"] for at in found["steps"]] == [0, 1, 2]
    assert [at["scores"]["gold"]["mean"] for at in found["steps"]] == [1.5, 3, 2]
    assert found["since_peak"] == {"gold": {"step": 2, "mean": -1.0, "low": -1.0, "high": -1.0, "optimised": 1.0}}


def test_without_evaluations_there_is_no_curve(tmp_path: Path) -> None:
    assert over_training(tmp_path, HELD_OUT, [optimised(longer)]) is None
    trained(tmp_path / "ppo", {0: [1.0, math.pi]}, {0: ["a", "b"]})
    assert over_training(tmp_path / "ppo", HELD_OUT, [optimised(longer)]) is None
