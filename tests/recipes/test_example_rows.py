"""Do the examples' rows ask and answer rightly, say the same at every call, and keep what is held out from what is learned?"""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings.recipe import load
from reward.verifiers import exact, number, python_tests

ROOT = Path(__file__).resolve().parents[2]
LEARNED = {"arithmetic": ("corpus", "chain", "bare", "prompts"), "latex": ("corpus", "read", "write", "prompts")}


def rows(name: str, function: str) -> list[dict[str, Any]]:
    return list(getattr(importlib.import_module(f"recipes.examples.{name}"), function)())


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))


def numbers(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\d+", text.partition(":")[0].partition("=")[0]))


def test_no_sum_stands_on_both_sides_in_neither_order_nor_kind() -> None:
    held_out = {numbers(row["prompt"]) for row in rows("arithmetic", "held_out")}
    for function in LEARNED["arithmetic"]:
        learned = {numbers(row.get("prompt") or row["text"]) for row in rows("arithmetic", function)}
        assert len(learned) > 500 and not learned & held_out


def test_sums_are_right_and_longer_ones_a_slice_of_their_own() -> None:
    for row in (*rows("arithmetic", "held_out"), *rows("arithmetic", "chain"), *rows("arithmetic", "bare")):
        assert sum(map(int, re.findall(r"\d+", row["prompt"]))) == int(row["answer"])
        assert number([""], [row.get("completion", row["answer"])], [row["answer"]]) == [1]
    tags = [row["tag"] for row in rows("arithmetic", "held_out")]
    assert {tag: tags.count(tag) for tag in tags} == {
        "chain": 150,
        "bare": 150,
        "chain, more digits": 50,
        "bare, more digits": 50,
    }
    for row in rows("arithmetic", "held_out"):
        digits = {len(one) for one in re.findall(r"\d+", row["prompt"])}
        assert (digits == {3}) if "more" in row["tag"] else (digits <= {1, 2})


def test_the_steps_of_a_chain_are_those_of_school() -> None:
    """27 + 95, written by hand."""
    written = importlib.import_module("recipes.examples.arithmetic")._written
    assert written(27, 95, True) == ("steps 27+95:", " 7+5=12 2+9+1=12 so 122")
    assert written(5, 95, True) == ("steps 5+95:", " 5+5=10 9+1=10 so 100")
    assert written(27, 95, False) == ("27+95=", "122")


def test_no_expression_stands_on_both_sides() -> None:
    held_out = {row["answer"] for row in rows("latex", "held_out")}
    for function in LEARNED["latex"]:
        learned = {
            row["answer"] if "answer" in row else row["text"].partition(": ")[2] for row in rows("latex", function)
        }
        assert len(learned) > 100 and not learned & held_out, function
    for row in (*rows("latex", "read"), *rows("latex", "write")):
        assert exact([""], [row["completion"]], [row["answer"]]) == [1]


def test_right_code_passes_its_tests_and_kinds_are_apart() -> None:
    learned, held_out = rows("code", "demonstrations"), rows("code", "held_out")
    some = learned[::9]
    assert python_tests([""] * len(some), [row["completion"] for row in some], [row["tests"] for row in some]) == [
        1.0
    ] * len(some)
    kinds = [{re.sub(r"_\d+\(.*", "", row["prompt"][0]["content"]) for row in side} for side in (learned, held_out)]
    assert len(kinds[0]) == 10 and len(kinds[1]) == 5 and not kinds[0] & kinds[1]


@pytest.mark.parametrize("name", [*LEARNED, "code"])
def test_another_process_makes_the_same_rows(name: str) -> None:
    code = f"import hashlib, recipes.examples.{name} as m; print(hashlib.sha256(repr([list(f()) for f in (m.prompts, m.held_out)]).encode()).hexdigest())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1


@pytest.mark.parametrize("name", [*LEARNED, "code"])
def test_the_recipe_names_them_and_needs_no_reward_model(name: str) -> None:
    config = load(ROOT / "recipes" / f"{name}.yaml")
    functions = [one for one in (*config.data.sources(), *config.pretrain.sources()) if one.startswith("recipes.")]
    assert len(functions) >= 3 and all(
        callable(getattr(importlib.import_module(one.partition(":")[0]), one.partition(":")[2])) for one in functions
    )
    assert "reward" not in config.ppo.reward_funcs and all(
        one.startswith("reward.verifiers:") for one in config.ppo.reward_funcs
    )
