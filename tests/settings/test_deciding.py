"""Is every setting either part of a stage's identity or told to only observe? And is what differs named?"""

import warnings
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.artifacts.freshness import section_values
from pipeline.graph import STAGES
from pipeline.settings.config import PPO, Compare, Config, LLMJudge
from pipeline.settings.deciding import deciding, differences, observers, shown
from pipeline.settings.recipe import every_field
from pipeline.settings.sections import Section

WATCHES = {"save_steps", "logging_steps", "report_to", "sharding"}  # whatever section they stand in
OBSERVERS = {"compare.name", "compare.llm.api_key_env", "data.max_row_mb", "data.max_unpacked_gb", "data.max_ratio"} | {
    *("function_timeout", "data.num_proc", "report.language")
}
NO_STAGE = {"inspect", "force"}  # of a command that publishes nothing; whether to go on past a gate


def changed(config: BaseModel, path: list[str]) -> Any:
    """The same config with another value at a dotted name; nothing is validated, since any other value will do."""
    inner = getattr(config, path[0])
    value = changed(inner, path[1:]) if path[1:] else f"other than {inner!r}"
    return config.model_copy(update={path[0]: value})


def readers(name: str) -> set[str]:
    """The stages whose identity a setting is part of."""
    judge = LLMJudge(base_url="http://127.0.0.1:1/v1", model="m", api_key_env="K")
    before = Config(compare=Compare(llm=judge))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydantic's, of a value of another type
        after = changed(before, name.split("."))
        return {s for s in STAGES if deciding(section_values(before, s)) != deciding(section_values(after, s))}


def test_every_setting_decides_or_only_observes() -> None:
    """All settings, one by one: what decides makes a stage stale when it changes, what only observes makes none so."""
    for name in every_field():
        observing = name in OBSERVERS or name.split(".")[-1] in WATCHES
        nothing = observing or name.split(".")[0] in NO_STAGE
        assert (name in observers()) == observing, name
        assert bool(readers(name)) != nothing, (name, readers(name))


def test_a_setting_of_a_stage_is_part_of_that_stages_identity() -> None:
    for name in sorted(set(every_field()) - observers()):
        section = name.split(".")[0]
        if section in STAGES:
            assert section in readers(name), name


def test_what_only_observes_is_recorded_all_the_same() -> None:
    """The manifest says how often state was saved; only the identity leaves it out."""
    whole = section_values(Config(), "ppo")["ppo"]
    assert set(whole) - set(deciding(section_values(Config(), "ppo"))["ppo"]) == {"save_steps", "report_to", "sharding"}


def test_what_differs_is_named_with_both_values() -> None:
    before, after = Config(), Config(ppo=PPO(kl_coef=0.1, save_steps=77))
    (one,) = differences(section_values(before, "ppo"), section_values(after, "ppo"))
    assert one.words == "ppo.kl_coef 0.05 → 0.1"
    assert [one.words for one in differences({"a": {"gone": 1}}, {"a": {"new": None}})] == [
        "a.new is a new setting (null)", "a.gone is no setting any more (it was 1)",
    ]  # fmt: skip
    names = [one.name for one in differences({"a": {"b": 1, "gone": 2}, "c": [1]}, {"a": {"b": 1, "new": 3}, "c": [2]})]
    assert names == ["a.new", "c", "a.gone"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (None, "null"), ("last 10", "last 10"), (["a", "b"], "[a, b]"), ({}, "{}"), ("1", "'1'"), ("x" * 99, "x" * 59 + "…")],
)  # fmt: skip
def test_a_value_is_shown_as_a_recipe_has_it(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_marker_is_seen_in_every_section() -> None:
    """A section that is added with save_steps or the like inherits the mark, or the first test here fails."""
    sections = {type(value) for value in Config().__dict__.values() if isinstance(value, Section)}
    assert sum("save_steps" in kind.model_fields for kind in sections) == sum(
        name.endswith(".save_steps") for name in observers()
    )
