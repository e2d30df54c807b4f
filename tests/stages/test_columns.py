"""Do reward functions get the other columns of a prompt's row, from the file to the function, and are they figures of their own?"""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from own_rows import Stage

from data.loading import _plain
from data.schema import DataError
from pipeline.artifacts.run import Run
from pipeline.rows.published import columns_of, prompts
from reward.functions import RewardError, call_checked, combine, figures_of


def written(path: str, rows: list[dict[str, Any]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{n} and {n * 7} is", "answer": f"it is {n * 8}", **more} for n in range(count)]


def test_columns_that_are_kept_come_with_their_prompts(stage: Stage) -> None:
    demonstrations = written("d.jsonl", [{"prompt": f"Say {n * n}:", "completion": str(n)} for n in range(40)])
    asked = written("p.jsonl", sums(40, level=2.5))
    _, files = stage(source=demonstrations, prompts=asked, keep=["answer", "level"])
    row = files["prompts.train"][0]
    assert row["columns"]["answer"].startswith("it is ") and row["columns"]["level"] == 2.5
    both = [*prompts(Run("r"), "eval"), *prompts(Run("r"), "train")]
    found = columns_of(Run("r"))([*(one.prompt for one in both), "a prompt of nobody"])
    assert list(found) == ["answer", "level"] and found["answer"][-1] is None
    assert all(
        answer == f"it is {int(one.prompt.split()[0]) * 8}" for one, answer in zip(both, found["answer"], strict=False)
    )  # type: ignore[union-attr]


def test_what_json_cannot_hold_is_a_text_or_nothing() -> None:
    """As a Parquet file may give it."""
    assert _plain({"a": float("nan"), "b": date(2026, 1, 2), "c": [1, "x"]}) == {
        "a": None,
        "b": "2026-01-02",
        "c": [1, "x"],
    }


def test_those_of_rankings_go_to_the_prompts_made_of_them(stage: Stage) -> None:
    rows = [row | {"chosen": f" {n}.", "rejected": " no."} for n, row in enumerate(sums(40))]
    _, files = stage(source=written("r.jsonl", rows), keep=["answer"])
    assert files["prompts.train"][0]["columns"]["answer"].startswith("it is ")
    assert "columns" not in files["rankings.train"][0] and "columns" not in files["demonstrations.train"][0]


def test_a_column_that_no_row_has_is_told_and_one_that_is_not_kept_names_the_setting(stage: Stage) -> None:
    source = written("r.jsonl", [row | {"chosen": f" {n}.", "rejected": " no."} for n, row in enumerate(sums(40))])
    with pytest.raises(DataError, match='data.keep: no row has a column "anwser"; write a column'):
        stage(source=source, keep=["anwser", "answer"])
    with pytest.raises(DataError, match=r"keep it for a reward function with data.keep=\[answer\]"):
        stage(source=source)


def given(prompts: list[str]) -> dict[str, list[Any]]:
    return {"answer": ["5", None][: len(prompts)], "level": [1, 2][: len(prompts)]}


def named(prompts: Any, completions: Any, answer: Any) -> list[float | None]:
    return [None if a is None else float(a in c) for c, a in zip(completions, answer, strict=True)]


def every(prompts: Any, completions: Any, **others: Any) -> list[float]:
    assert list(others) == ["answer", "level"]
    return [float(level) for level in others["level"]]


def none(prompts: Any, completions: Any) -> list[float]:
    return [0.0] * len(prompts)


def test_a_function_gets_what_it_names_or_all() -> None:
    score = combine({"named": named, "every": every, "none": none}, [10.0, 1.0, 1.0], given)
    assert score(["2+3=", "why"], ["5", "b"]).tolist() == [11.0, 2.0]
    figures = figures_of(score.taken())
    assert figures["rewards/named/failures"] == 0.5 and figures["rewards/named/mean"] == 1.0
    assert figures["rewards/every/mean"] == 1.5 and figures["rewards/every/std"] == 0.5
    assert figures["rewards/every/failures"] == 0.0 and score.taken() == {}


def test_what_fails_alone_or_everywhere_is_an_error() -> None:
    alone = combine({"named": named}, [1.0], given)
    with pytest.raises(RewardError, match="named returned None at index 1"):
        alone(["2+3=", "why"], ["5", "b"])
    both = combine({"named": named, "again": named}, [1.0, 1.0], given)
    with pytest.raises(RewardError, match="named, again: no reward function gave a number for prompt 'why'"):
        both(["2+3=", "why"], ["5", "b"])


def test_a_column_that_is_not_kept_is_named() -> None:
    with pytest.raises(RewardError, match="cannot be called with prompts and completions and the rows' columns level;"):
        call_checked(named, "mine", ["a"], ["b"], {"level": [1]})
    with pytest.raises(RewardError, match="alone; data.keep names other columns"):
        call_checked(named, "mine", ["a"], ["b"])
    assert torch.equal(call_checked(none, "mine", ["a"], ["b"], {"level": [1]}), torch.zeros(1))


def test_a_rows_own_tag_names_its_task_where_it_is_kept(stage: Stage) -> None:
    """In a mixture beside the source's tag, and without one; a row without a tag has its source's, or none."""
    said = [{"prompt": f"Say {n * n}:", "completion": str(n)} for n in range(40)]
    asked = [row | {"tag": "hard"} if n % 2 else row for n, row in enumerate(sums(40))]
    _, files = stage(source=written("d.jsonl", said), prompts=written("p.jsonl", asked), keep=["answer", "tag"])
    rows = files["prompts.train"] + files["prompts.eval"]
    assert {row["prompt"].startswith(("1 ", "3 ")) for row in rows if row.get("tag") == "hard"} == {True, False}
    assert {row.get("tag") for row in rows} == {"hard", None}
    part = {"source": written("q.jsonl", asked), "tag": "sums", "keep": ["answer", "tag"]}
    _, files = stage(mixture=[{"source": "d.jsonl", "tag": "say"}, part])
    assert {row["tag"] for row in files["prompts.train"]} == {"hard", "sums"}
