"""Does the first line say what the verdict's rules allow, and no more? And are its bars, example and warnings those of the comparison?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparison import Page, changed, healthy, models, opinions, sample, summarise, written

from pipeline.comparison.pairing import Opinion, paired
from pipeline.report import model_rows, numbers
from pipeline.report.answer import answer, badges, bars, example, share_in_words
from pipeline.report.curves import Evaluations
from pipeline.report.exports import write


def turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with all scores the other way round."""
    return [row | {"scores": {judge: -value for judge, value in row["scores"].items()}} for row in rows]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (healthy(), "Yes. Preferred to the original in 9 of 10 answers."),
        (turned(healthy()), "No. Preferred to the original in only 1 of 10 answers."),
        (healthy(10), "Cannot tell. Only 10 prompts: too few to tell it from the original."),
        (changed(healthy(), "ppo", scores={"reward": 1.0, "vader": 0.0}), "Cannot tell. Preferred to the original in 1 of 2 answers, which chance alone could give."),
        ([row for row in healthy() if row["model"] == "sft"], "Cannot tell. There is no other model to compare with."),
    ],
)  # fmt: skip
def test_yes_no_or_cannot_tell(rows: list[dict[str, Any]], said: str) -> None:
    assert str(answer(summarise(rows))) == said


def test_one_origin_that_it_is_not_better_than_takes_the_yes_back() -> None:
    """Better than base and few_shot, and on a par with sft, whose scores ppo then has on every second prompt."""
    rows = healthy() + [sample("few_shot", i, -1.0) for i in range(40)]
    par = [
        row | {"scores": {"reward": 1.0, "vader": 0.2 if int(row["prompt_id"][1:]) % 4 < 2 else -0.05}} if row["model"] == "ppo" else row
        for row in rows
    ]  # fmt: skip
    found = answer(summarise(par))
    assert found.word == "Cannot tell" and found.other in ("base", "sft")
    assert answer(summarise(rows)).word == "Yes"


def test_judges_that_contradict_each_other_and_the_reward_alone_give_no_yes() -> None:
    rows = [row | {"scores": row["scores"] | {"other": -row["scores"]["vader"]}} for row in healthy()]
    assert "contradict each other" in answer(summarise(rows, ["vader", "other"])).why
    same = [row | {"scores": row["scores"] | {"other": 0.0}} for row in healthy()]
    assert answer(summarise(same, ["vader", "other"])).why == "Not every judge finds it better than the original."
    alone = answer(summarise(healthy(), []))
    assert alone.word == "Cannot tell" and "no independent judge" in alone.why
    assert [bar.kind for bar in bars(summarise(healthy(), []))] == ["even", "even"]


def test_further_training_seeds_can_take_the_yes_back() -> None:
    result = summarise(healthy())
    spread = {"against": "sft", "reading": "no difference shown"}
    found = answer(replace(result, seeds={"ppo": {"vader": spread}}))
    assert found.word == "Cannot tell" and found.why.endswith(
        "9 of 10 answers, but another training seed could turn that round."
    )


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.75, "3 of 4"), (0.76, "about 3 of 4"), (0.7, "7 of 10"), (0.5, "1 of 2"), (0.51, "51 of 100"),
        (0.49, "49 of 100"), (0.97, "97 of 100"), (0.999, "99.9% of the"), (1.0, "all"), (0.0, "none of the"),
    ],
)  # fmt: skip
def test_a_share_in_words_is_near_and_on_its_side_of_a_half(rate: float, said: str) -> None:
    assert share_in_words(rate) == said


def test_the_example_is_the_middle_one() -> None:
    """ppo less base by vader: −0.5 on four prompts of 40 and 0.5 on the rest, so the middle one is a gain."""
    rows = healthy()
    result = summarise(rows)
    found = example(result, paired(rows, models()), opinions(), "base")
    assert found is not None and found.before.startswith(" base") and found.after.startswith(" ppo")
    assert int(found.prompt.split()[1]) % 10 != 0
    people = [Opinion("people", "human", {("ppo", "base"): {(f"p{i:02}", 0): float(i > 2) for i in range(5)}})]
    own = numbers.summarise(rows, models(), [*opinions(), *people], provenance={}, draws=50)
    told = example(own, paired(rows, models()), [*opinions(), *people], "base")
    assert told is not None and told.prompt == "Opening 2"  # of outcomes 0, 0, 0, 1, 1


def test_every_warning_has_a_badge_of_a_few_words(tmp_path: Path) -> None:
    rows = changed(healthy(10), "ppo", kl=10.5, length=30)
    result = summarise(rows)
    found = badges(result)
    assert len(found) == len(result.warnings) > 2 and all(len(text) <= 44 for text in found)
    assert "Only 10 prompts" in found and "KL to sft: 10.5 nats" in found
    assert all(text in written(rows, tmp_path).text for text in found[:4])


def test_the_main_model_comes_first_and_rows_of_zeros_are_only_named() -> None:
    result = summarise(healthy())
    assert model_rows.in_order(result) == ["ppo", "base", "sft"]
    writing = model_rows.details(result)[0]
    assert writing.zeros == ["4-gram repetition", "refusals"]
    assert [row.name for row in writing.rows] == ["EOS rate", "distinct-2"]
    kl = model_rows.price(replace(result, curves={"step": [1, 2], "KL to sft": [0.0, 5.5]})).rows[0]
    assert kl.cells[0][0] == "4.0" and kl.note.endswith(
        "(the last batch of training: 5.5)"
    )  # two KLs, each with its name


def test_run_task_and_training_are_on_the_page(tmp_path: Path) -> None:
    rows = healthy()
    told = {"run": {"name": "r1", "data": "reviews.jsonl", "model": "tiny"}}
    curves = {"step": [1, 2, 3], "reward": [0.0, 0.5, 1.0], "KL to sft": [0.0, 1.0, 2.0]}
    row = {"prompt": "Was it", "before": " bad", "after": " <b>good", "score_before": -1.0, "score_after": 2.5}
    write(summarise(rows, provenance=told, curves=curves), rows, opinions(), tmp_path, Evaluations(0, 3, [row]))
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Page(text)
    assert "<title>r1: Yes. Preferred" in text and ("href", "../index.html") in page.attributes
    assert "reviews.jsonl" in page.text and "Training, step by step" in page.text
    assert " <b>good" in page.text and "b" in page.tags and "at step 0 and at step 3" in page.text
    assert page.attributes.count(("aria-label", "reward at each step of ppo")) == 1
