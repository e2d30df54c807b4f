"""Does data-check judge as stage data of the same recipe would?"""

from collections.abc import Callable
from pathlib import Path

import pytest
from checking import lines

from pipeline.commands import CALLER
from pipeline.data_check.check import check, configured
from pipeline.settings.config import ConfigError

LONG = [{"prompt": f"{letter * 90}", "chosen": "a", "rejected": "b"} for letter in "uvwxyz"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", LONG)

    def write(text: str) -> Path:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return Path(path.name)

    return write


@pytest.mark.parametrize("length", [64, 128])
@pytest.mark.parametrize("more", ["{}", "{too_long: drop}"])
def test_its_verdict_is_by_the_recipes_length(
    recipe: Callable[[str], Path], tiny_folder: Path, length: int, more: str
) -> None:
    config = configured("mine.jsonl", [], recipe(f"data: {{max_length: {length}, clean: {more}}}"))
    assert (config.data.max_length, config.data.source) == (length, "mine.jsonl")
    assert check(config, str(tiny_folder))["sound"] == (length == 128)


def test_a_recipe_names_its_own_source(recipe: Callable[[str], Path]) -> None:
    path = recipe("data: {source: mine.jsonl, max_length: 64, format: preference}")
    config = configured(str(path), ["max_rows=2"])
    assert (config.data.source, config.data.max_length, config.data.max_rows) == ("mine.jsonl", 64, 2)


@pytest.mark.parametrize(
    ("caller", "told"),
    [("make", "run: make data-check DATA=mine.jsonl RECIPE=own.yaml"),
     ("", "run: python -m pipeline data-check mine.jsonl --recipe own.yaml")],
)  # fmt: skip
def test_of_a_mixture_one_source_is_looked_at(
    recipe: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caller: str, told: str
) -> None:
    monkeypatch.setenv(CALLER, caller)
    path = recipe("data: {mixture: [{source: mine.jsonl}, {source: other.jsonl}], max_length: 99}")
    with pytest.raises(ConfigError) as caught:
        configured(str(path), [])
    assert str(caught.value).endswith(told)
    assert configured("mine.jsonl", [], path).data.max_length == 99


def test_the_film_reviews_are_checked(recipe: Callable[[str], Path]) -> None:
    for source in ("film_reviews", str(recipe("seed: 1"))):
        with pytest.raises(
            ConfigError, match="and checked; name data of your own; run: python -m pipeline data-check my_pref"
        ):
            configured(source, [])
