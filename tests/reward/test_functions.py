"""Is a reward function found, called and checked as its user expects, and are sums and ensembles right?"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from policies.template import PromptText
from reward.functions import RewardError, brevity_penalty, call_checked, combine, ensemble, resolve

PROMPTS: list[PromptText] = ["What is rain?", [{"role": "user", "content": "And snow?"}]]
COMPLETIONS = ["Water.", "Frozen water."]


def lengths(prompts: list[Any], completions: list[str]) -> list[int]:
    return [len(completion) for completion in completions]


def vowels(prompts: list[Any], completions: list[str]) -> list[float]:
    return [float(sum(completion.count(vowel) for vowel in "aeiou")) for completion in completions]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory is an empty folder; import path and modules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_function_of_the_current_directory_is_found(here: Path) -> None:
    (here / "tastes_of_mine.py").write_text("def short(prompts, completions): return [-len(c) for c in completions]\n")
    package = here / "house_rules"
    package.mkdir()
    (package / "style.py").write_text("def flat(prompts, completions): return [0.0] * len(completions)\n")
    assert resolve("tastes_of_mine:short")(PROMPTS, COMPLETIONS) == [-6, -13]
    assert resolve("house_rules.style:flat")(PROMPTS, COMPLETIONS) == [0.0, 0.0]


def test_a_module_written_after_the_first_look_is_found(here: Path) -> None:
    """The import system looks again only when the folder's time has changed, so a clock too coarse is made here."""
    with pytest.raises(RewardError):
        resolve("late_taste:f")
    before = here.stat()
    (here / "late_taste.py").write_text("def f(prompts, completions): return [1] * len(completions)\n")
    os.utime(here, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolve("late_taste:f")(PROMPTS, COMPLETIONS) == [1, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tastes_here", "not of the form module:function"),
        (":short", "not of the form module:function"),
        ("tastes_here:", "not of the form module:function"),
        (".tastes_here:short", "not of the form module:function"),
        ("nowhere_at_all:short", "no module nowhere_at_all in .* or among the installed packages"),
        ("tastes_here.py:short", "no module tastes_here.py .* without .py"),
        ("tastes/here.py:short", "no module tastes/here.py"),
        ("tastes_here:shrot", "tastes_here.py has no function shrot; did you mean short\\?"),
        ("tastes_here:zzz", "has no function zzz; check its spelling"),
        ("tastes_here:BONUS", "is a float, which cannot be called"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(here: Path, name: str, message: str) -> None:
    (here / "tastes_here.py").write_text("BONUS = 1.0\ndef short(prompts, completions): return []\n")
    with pytest.raises(RewardError, match=message) as caught:
        resolve(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_error_inside_the_users_module_keeps_its_own_name(here: Path) -> None:
    (here / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    (here / "misspelt.py").write_text("def f(:\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        resolve("needs_more:f")
    with pytest.raises(SyntaxError):
        resolve("misspelt:f")


@pytest.mark.parametrize(
    "result",
    [
        [1, 0.5],
        (1.0, 0.5),
        np.array([1.0, 0.5]),
        [np.float32(1.0), np.float64(0.5)],
        [torch.tensor(1.0), np.array(0.5)],
        torch.tensor([1.0, 0.5], dtype=torch.bfloat16),
        torch.tensor([1.0, 0.5], requires_grad=True),
        [True, 0.5],
    ],
)
def test_any_row_of_numbers_becomes_a_float32_tensor(result: Any) -> None:
    scores = call_checked(lambda prompts, completions: result, "mine", PROMPTS, COMPLETIONS)
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    assert not scores.requires_grad
    assert scores.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("result", "returned"),
    [
        (None, "returned None;"),
        (3.0, "returned a float;"),
        ("ab", "returned a str;"),
        ({"score": 1}, "returned a dict;"),
        ((score for score in (1.0, 2.0)), "returned a generator;"),
        ([1.0], "returned a list of 1;"),
        ([1.0, 2.0, 3.0], "returned a list of 3;"),
        (torch.zeros(2, 1), r"returned a Tensor of shape \(2, 1\);"),
        (np.float64(1), "returned a float64;"),
        (torch.tensor(1.0), r"returned a Tensor of shape \(\);"),
        (np.zeros((1, 2)), r"returned a ndarray of shape \(1, 2\);"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused_by_name(result: Any, returned: str) -> None:
    message = f"reward function mine {returned}.* it must return 2 finite numbers, one a completion"
    with pytest.raises(RewardError, match=message):
        call_checked(lambda prompts, completions: result, "mine", PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1e39, "1e+39"),
        (10**400, "1000"),
        (None, "None"),
        ("1.0", "'1.0'"),
        ([1.0], r"[1.0]"),
        (1j, "1j"),
    ],
)
def test_a_bad_number_is_named_with_its_index_prompt_and_completion(bad: Any, shown: str) -> None:
    """1e39 is finite, but float32 ends at 3.4e38."""
    with pytest.raises(RewardError) as caught:
        call_checked(lambda prompts, completions: [0.0, bad], "mine", PROMPTS, COMPLETIONS)
    message = str(caught.value)
    assert message.startswith(f"reward function mine returned {shown}")
    assert "at index 1, for prompt [{'role': 'user', 'content': 'And snow?'}] and completion 'Frozen water.'" in message


def test_nan_in_a_tensor_is_named_too_and_long_texts_are_cut() -> None:
    with pytest.raises(RewardError, match="returned nan at index 0") as caught:
        call_checked(lambda prompts, completions: torch.tensor([math.nan]), "mine", ["p" * 500], ["c" * 500])
    assert len(str(caught.value)) < 400


def test_functions_are_called_by_keyword_and_else_by_position() -> None:
    """The third has its parameters the other way round: by position it would measure the prompts."""

    def like_trl(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    def by_position(p: list[Any], c: list[str]) -> list[float]:
        return [float(len(completion)) for completion in c]

    def turned(completions: list[str], prompts: list[Any]) -> list[float]:
        return [float(len(completion)) for completion in completions]

    for function in (like_trl, by_position, turned, lambda *both: lengths(*both)):
        assert call_checked(function, "mine", PROMPTS, COMPLETIONS).tolist() == [6.0, 13.0]


def test_a_function_that_wants_other_things_is_refused() -> None:
    """By position, (completions, answers) would silently take the prompts for the completions."""

    def compares(completions: list[str], answers: list[str]) -> list[float]:
        raise AssertionError("must not be called")

    def alone(completions: list[str]) -> list[float]:
        raise AssertionError("must not be called")

    for function in (compares, alone):
        with pytest.raises(RewardError, match=r"mine\(completions.* let it take \(prompts, completions\)"):
            call_checked(function, "mine", PROMPTS, COMPLETIONS)


def test_what_the_function_raises_comes_through() -> None:
    def broken(prompts: list[Any], completions: list[str]) -> list[float]:
        raise KeyError("their own mistake")

    with pytest.raises(KeyError, match="their own mistake"):
        call_checked(broken, "mine", PROMPTS, COMPLETIONS)
    with pytest.raises(ValueError, match="2 prompts for 1 completions"):
        call_checked(lengths, "mine", PROMPTS, COMPLETIONS[:1])


def test_a_function_that_empties_its_lists_does_not_harm_ours() -> None:
    def greedy(prompts: list[Any], completions: list[str]) -> list[float]:
        prompts.clear()
        return [float(len(completions.pop())) for _ in range(len(completions))]

    prompts, completions = list(PROMPTS), list(COMPLETIONS)
    call_checked(greedy, "greedy", prompts, completions)
    assert (prompts, completions) == (PROMPTS, COMPLETIONS)


def test_scores_are_computed_without_a_graph() -> None:
    """A reward model in a user's function would else keep its activations alive for nothing."""
    seen: list[bool] = []

    def watch(prompts: list[Any], completions: list[str]) -> list[float]:
        seen.append(torch.is_grad_enabled())
        return [0.0, 0.0]

    with torch.enable_grad():
        call_checked(watch, "mine", PROMPTS, COMPLETIONS)
    assert seen == [False]


def test_weighted_sum_and_its_parts() -> None:
    """Lengths 6 and 13, vowels 2 (a, e) and 4 (o, e, a, e): 2·6 - ½·2 = 11, 2·13 - ½·4 = 24."""
    score = combine({"length": lengths, "vowels": vowels}, [2.0, -0.5])
    assert_close(score(PROMPTS, COMPLETIONS), torch.tensor([11.0, 24.0]))
    parts = score.parts(PROMPTS, COMPLETIONS)
    assert {name: part.tolist() for name, part in parts.items()} == {"length": [6.0, 13.0], "vowels": [2.0, 4.0]}
    assert_close(score.total(parts), torch.tensor([11.0, 24.0]))


def test_the_total_of_parts_calls_nothing_again() -> None:
    calls: list[int] = []

    def counted(prompts: list[Any], completions: list[str]) -> list[float]:
        calls.append(len(completions))
        return [float(len(calls))] * len(completions)

    score = combine({"counted": counted}, [3])
    assert score.total(score.parts(PROMPTS, COMPLETIONS)).tolist() == [3.0, 3.0]
    assert calls == [2]


def test_a_fault_in_a_part_names_the_part() -> None:
    score = combine({"length": lengths, "empty": lambda prompts, completions: []}, [1, 1])
    with pytest.raises(RewardError, match="reward function empty returned a list of 0"):
        score(PROMPTS, COMPLETIONS)


def test_ensembles_take_the_mean_or_the_worst_case_of_each_completion() -> None:
    """Members say (1, 5), (3, 1), (5, 3): means 3 and 3, minima 1 and 1, of different members."""
    members: dict[str, Callable[..., Any]] = {
        "a": lambda prompts, completions: [1, 5],
        "b": lambda prompts, completions: [3, 1],
        "c": lambda prompts, completions: [5, 3.6],
    }
    assert_close(ensemble(members)(PROMPTS, COMPLETIONS), torch.tensor([3.0, 3.2]))
    assert_close(ensemble(members, how="min")(PROMPTS, COMPLETIONS), torch.tensor([1.0, 1.0]))
    pooled = combine({"models": ensemble(members, "min"), "length": lengths}, [1.0, 0.1])
    assert_close(pooled(PROMPTS, COMPLETIONS), torch.tensor([1.6, 2.3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combine({}, []), "name at least one in reward_funcs"),
        (lambda: combine({"a": lengths}, [1.0, 2.0]), "reward_weights: 2 for 1 reward_funcs; give one each"),
        (lambda: combine({"a": lengths}, [math.nan]), "reward_weights: nan for a; give a finite number"),
        (lambda: ensemble({}), "an ensemble needs members"),
        (lambda: ensemble({"a": lengths}, "max"), '"max" is no way to pool scores; choose mean or min'),  # type: ignore[arg-type]
    ],
)
def test_impossible_sums_and_ensembles_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        make()


def test_each_word_short_of_ten_costs_one() -> None:
    long = " ".join(["word"] * 25)
    assert brevity_penalty(["p", "p", "p"], ["", " two  words", long]) == [-10.0, -8.0, 0.0]
    assert brevity_penalty(["p"] * 3, ["iPhone 很好用！", "这部电影真的非常好看。", "ดีมาก"]) == [-6.0, 0.0, -6.0]
