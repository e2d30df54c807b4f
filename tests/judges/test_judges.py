"""Does a judge see the right text, and is a wrong judge refused in one sentence?"""

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pipeline.judges.judge import Judge, JudgeError, Label, by_scores, gold, independent, optimised, vader
from pipeline.statistics import outcomes
from policies.backbone import BackboneError, new_classifier
from reward.model import load_scorer, write_contract


@pytest.fixture
def lexicon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for the optional package: score = 0.1 for each "good"; returns the texts that it was shown."""
    seen: list[str] = []

    class SentimentIntensityAnalyzer:
        def polarity_scores(self, text: str) -> dict[str, float]:
            seen.append(text)
            return {"neg": 9.0, "neu": 9.0, "pos": 9.0, "compound": 0.1 * text.count("good")}

    inner = types.ModuleType("vaderSentiment.vaderSentiment")
    inner.SentimentIntensityAnalyzer = SentimentIntensityAnalyzer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vaderSentiment", types.ModuleType("vaderSentiment"))
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", inner)
    return seen


def test_vader_judges_prompt_and_completion_as_one_text(lexicon: list[str]) -> None:
    assert vader(["not a good", "Bad"], [" film, not good", " film"]) == [pytest.approx(0.2), 0.0]
    assert lexicon == ["not a good film, not good", "Bad film"]


def test_vader_leaves_another_speakers_messages_out(lexicon: list[str]) -> None:
    assert vader([[{"role": "user", "content": "good good"}]], ["good"]) == [pytest.approx(0.1)]


def test_vader_refuses_prompts_that_do_not_match(lexicon: list[str]) -> None:
    with pytest.raises(ValueError):
        vader(["one"], ["a", "b"])


def test_a_missing_package_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.delitem(sys.modules, "vaderSentiment.vaderSentiment", raising=False)
    with pytest.raises(
        JudgeError, match=r"; leave it out of compare\.judges, or run: python -m pip install vaderSentiment==3\.3\.2$"
    ):
        vader(["a"], ["b"])


def scores_of(name: str, prompts: list[str], completions: list[str]) -> list[float]:
    judge = independent(name)
    assert judge.label == "independent" and judge.scores is not None
    return judge.scores(prompts, completions)


def test_vader_is_found_by_name(lexicon: list[str]) -> None:
    assert scores_of("vader", [""], ["good"]) == [pytest.approx(0.1)]


@pytest.fixture
def users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judges.py").write_text(
        "def length(prompts, completions): return [len(c) for c in completions]\n"
        "def short(prompts, completions): return [1.0]\n"
        "def broken(prompts, completions): return [float('nan') for _ in completions]\n"
        "def words(prompts, completions): return completions\n"
        "def nothing(prompts, completions): return None\n"
        "def fails(prompts, completions): return 1 / 0\n"
        "number = 3\n"
    )
    (tmp_path / "needy_judges.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("my_judges", "needy_judges"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_a_function_of_the_user_is_found(users_file: None) -> None:
    scores = scores_of("my_judges:length", ["", ""], ["four", "sixsix"])
    assert scores == [4.0, 6.0]
    assert all(type(score) is float for score in scores)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vadr", "no judge is called 'vadr': use \"vader\""),
        (":length", "not of the form module:function"),
        ("my_judges:", "not of the form module:function"),
        ("no_such_module:length", "no module no_such_module in "),
        ("no_such_module.inner:length", "no module no_such_module.inner in "),
        ("my_judges:lenght", "has no function lenght; did you mean length"),
        ("my_judges:number", "is a int, which cannot be called"),
    ],
)
def test_a_judge_that_does_not_exist_is_one_sentence(users_file: None, name: str, said: str) -> None:
    with pytest.raises(JudgeError, match=said) as error:
        independent(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", "returned a list of 1; it must return 2 finite numbers"),
        ("broken", "returned nan at index 0"),
        ("words", "returned 'a' at index 0"),
        ("nothing", "returned None; it must return 2 finite numbers"),
    ],
)
def test_unusable_scores_are_refused(users_file: None, name: str, said: str) -> None:
    with pytest.raises(JudgeError, match=said):
        scores_of(f"my_judges:{name}", ["p", "p"], ["a", "b"])


def test_a_programmers_mistake_keeps_its_own_error(users_file: None) -> None:
    with pytest.raises(ZeroDivisionError):
        scores_of("my_judges:fails", ["p"], ["a"])
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        independent("needy_judges:length")


# Judges of one form


def length(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_the_higher_score_wins_and_equal_ones_tie() -> None:
    judge = by_scores("length", "independent", length)
    found = judge.outcomes(["p", "p", "p"], ["long", "no", "one"], ["no", "long", "two"])
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 0.0, 0.5]
    assert judge.scores is not None and judge.scores(["p", "q"], ["ab", "c"]) == [2.0, 1.0]
    assert judge.summary() == {}


def test_scores_within_the_tolerance_tie() -> None:
    assert outcomes([1.0, 1.0, 1.0, 1.0], [0.8, 0.7, 1.2, 1.3], tie=0.25).tolist() == [0.5, 1.0, 0.5, 0.0]
    assert outcomes([1.0], [1.0 + 1e-6]).tolist() == [0.0]


def test_a_completion_is_scored_once_whomever_it_meets() -> None:
    """A score that changes from call to call still ties equal completions, and two comparisons agree."""
    asked: list[tuple[Any, str]] = []

    def moody(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [float(len(asked) + n) for n in range(len(completions))]

    judge = by_scores("moody", "independent", moody)
    turns = [{"role": "user", "content": "p"}]
    assert judge.outcomes(["p", "p"], ["x", "y"], ["x", "z"]).tolist()[0] == 0.5
    assert judge.outcomes(["p"], ["y"], ["x"]).tolist() == (1 - judge.outcomes(["p"], ["x"], ["y"])).tolist()
    judge.outcomes(["q", turns], ["x", "x"], ["x", "x"])
    assert asked == [("p", "x"), ("p", "y"), ("p", "z"), ("q", "x"), (turns, "x")]


@pytest.mark.parametrize("bad", [[1.0], [1.0, float("nan")], None])
def test_a_judge_refuses_scores_that_are_none(bad: Any) -> None:
    judge = by_scores("odd", "gold", lambda prompts, completions: bad)
    with pytest.raises(JudgeError, match="judge odd returned"):
        judge.outcomes(["p", "p"], ["a", "b"], ["a", "b"])


def test_a_judge_refuses_texts_that_do_not_match() -> None:
    judge = by_scores("length", "independent", length)
    with pytest.raises(ValueError):
        judge.outcomes(["p", "p"], ["a"], ["b", "c"])


def test_every_judge_says_how_far_to_trust_it(users_file: None, lexicon: list[str]) -> None:
    made = [optimised(length), independent("vader"), independent("my_judges:length")]
    assert [(one.name, one.label) for one in made] == [
        ("reward", "optimised"),
        ("vader", "independent"),
        ("my_judges:length", "independent"),
    ]
    assert all(isinstance(one, Judge) and one.label in get_args(Label) for one in made)
    assert made[1].outcomes(["a "], ["good"], ["film"]).tolist() == [1.0]
    assert made[2].outcomes(["a "], ["good"], ["films"]).tolist() == [0.0]


def test_an_independent_judge_must_exist(users_file: None) -> None:
    with pytest.raises(JudgeError, match="no judge is called 'vadr'"):
        independent("vadr")
    with pytest.raises(JudgeError, match='judge "my_judges:lenght".*did you mean length'):
        independent("my_judges:lenght")


def test_a_gold_model_scores_by_its_own_contract(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Raw scores of the same folder, brought to its mean 2 and standard deviation 4, by hand."""
    folder = tmp_path / "gold"
    new_classifier(tiny_folder, tiny_tokenizer, torch.float32, 4).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    write_contract(folder, mean=2.0, std=4.0, max_length=64, tokenizer=tiny_tokenizer, template="")
    judge = gold(folder, torch.float32, torch.device("cpu"))
    prompts, completions = ["What?", "oh"], [" yes, it is a long one", " no"]
    raw = load_scorer(folder, torch.float32, torch.device("cpu"), 2).raw(prompts, completions)
    assert judge.scores is not None
    assert judge.scores(prompts, completions) == pytest.approx(((raw - 2) / 4).tolist(), abs=1e-6)
    assert (judge.name, judge.label) == ("gold", "gold")
    better = 1.0 if raw[0] > raw[1] else 0.0
    assert judge.outcomes(["oh"], [" no"], [" no"]).tolist() == [0.5]
    first, second = load_scorer(folder, torch.float32, torch.device("cpu"), 2).raw(["oh", "oh"], [" no", " ah"])
    assert judge.outcomes(["oh"], [" no"], [" ah"]).tolist() == [1.0 if first > second else 0.0]
    assert outcomes(judge.scores(prompts[:1], completions[:1]), judge.scores(prompts[1:], completions[1:])) == better


def test_a_gold_model_that_is_none_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError):
        gold(tmp_path / "nothing", torch.float32, torch.device("cpu"))
    with pytest.raises(BackboneError):  # a language model has no trained score head
        gold(tiny_folder, torch.float32, torch.device("cpu"))
