"""Is a row that a verifier cannot check told before anything trains, and does a verifier judge what training maximised?"""

from pathlib import Path
from typing import Any

import pytest
from own_rows import Stage, checks, write

from data.schema import Prompt
from pipeline.artifacts.run import Run
from pipeline.judges.panel import called
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.training.checked import check_rows

NUMBER = "reward.verifiers:number"


def sums(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{n} and {n * 7} is", "answer": f"it is {n * 8}"} | more for n in range(count)]


def config(**ppo: Any) -> Config:
    return Config.model_validate({"ppo": {"reward_funcs": [NUMBER]} | ppo, "compare": {"judges": []}})


def asked(*columns: dict[str, Any] | None) -> list[Prompt]:
    return [Prompt(f"p{n}", f"prompt {n}", f"rows.jsonl:{n + 1}", None, one) for n, one in enumerate(columns)]


def test_rows_are_named_with_the_setting_and_counted() -> None:
    rows = asked({"answer": 5}, None, {"answer": "five"}, *[{"answer": None}] * 4)
    with pytest.raises(ConfigError) as caught:
        check_rows(config(), rows, "ppo")
    told = str(caught.value)
    assert told.startswith(
        f"ppo.reward_funcs: {NUMBER} cannot check 6 of 7 prompts: rows.jsonl:2, prompt p1: it has no answer;"
    )
    assert "data.keep=[answer]" in told and "rows.jsonl:3, prompt p2: answer: 'five' names no number" in told
    assert told.endswith("and 3 more") and "\n" not in told
    check_rows(config(), asked({"answer": 5}, {"answer": "6"}), "ppo")


def test_functions_of_a_user_that_look_at_rows_are_asked_but_not_at_stage_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("checks_of_mine.py").write_text(
        "def right(prompts, completions, answer): return [1.0] * len(prompts)\n"
        "right.verifier = True\nright.wrong = lambda row: None if 'answer' in row else 'it is empty'\n"
    )
    mine = config(reward_funcs=["checks_of_mine:right"])
    with pytest.raises(
        ConfigError, match="checks_of_mine:right cannot check 1 of 1 prompts: rows.jsonl:1, prompt p0: it is empty"
    ):
        check_rows(mine, asked(None), "ppo")
    check_rows(mine, asked(None), "data")
    judge = called(mine, Run("nothing"))[0]
    assert (judge.name, judge.label) == ("checks_of_mine:right", "verifier")


def test_a_judge_is_looked_at_too() -> None:
    judged = Config.model_validate({"compare": {"judges": ["reward.verifiers:python_tests"]}})
    with pytest.raises(ConfigError, match="compare.judges: reward.verifiers:python_tests cannot check 1 of 1"):
        check_rows(judged, asked({"answer": 5}), "compare")
    check_rows(judged, asked({"answer": 5}), "ppo")


def test_stage_data_tells_it(stage: Stage) -> None:
    demonstrations = write("d.jsonl", [{"prompt": f"Say {n * n}:", "completion": str(n)} for n in range(40)])
    rows = sums(40)
    rows[3]["answer"] = "none"
    prompts = write("p.jsonl", rows)
    with pytest.raises(ConfigError, match=r"cannot check 1 of 40 prompts: p.jsonl:4, .* names no number"):
        stage(source=demonstrations, prompts=prompts, keep=["answer"], ppo=PPO(reward_funcs=[NUMBER]))


def test_what_training_maximised_judges_with_the_rows_columns(stage: Stage) -> None:
    demonstrations = write("d.jsonl", [{"prompt": f"Say {n * n}:", "completion": str(n)} for n in range(40)])
    manifest, _ = stage(
        source=demonstrations, prompts=write("p.jsonl", sums(40)), keep=["answer"], ppo=PPO(reward_funcs=[NUMBER])
    )
    assert "held-out rankings" not in checks(manifest), "no reward model learns from them"
    judges = called(config(), Run("r"))
    assert [(one.name, one.label) for one in judges] == [(NUMBER, "verifier")]
    assert judges[0].scores is not None
    assert judges[0].scores(["3 and 21 is", "3 and 21 is"], [" 24.", " 25."]) == [1.0, 0.0]
    assert [one.name for one in called(config(reward_funcs=["reward"]), Run("r"))] == []
