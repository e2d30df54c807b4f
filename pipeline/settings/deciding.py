"""Which settings decide what a stage makes, and which only observe? And what is different between two lots of settings?

A setting that only observes (trackers, logging, how often state is saved, where a comparison is put) says so where it is defined, by
`OBSERVES`. It is no part of a stage's identity: to change it makes no stage again. No torch import.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from pipeline.settings.recipe import every_field

ABSENT = object()
LONGEST = 60  # characters of a value, in a sentence


@cache
def observers() -> frozenset[str]:
    """The settings that only observe, by their dotted names."""
    return frozenset(name for name, info in every_field().items() if observes(info))


def observes(info: Any) -> bool:
    """Whether a setting only observes, given pydantic's FieldInfo of it."""
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("observes"))


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings of a stage (freshness.section_values) without those that only observe."""
    return {name: _without(value, name) for name, value in settings.items() if name not in observers()}


def _without(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    inner = ((key, f"{path}.{key}", one) for key, one in value.items())
    return {key: _without(one, name) for key, name, one in inner if name not in observers()}


@dataclass(frozen=True)
class Difference:
    """A setting that is one thing here and another there; `words` is "ppo.kl_coef 0.1 → 0.05"."""

    name: str
    before: Any  # ABSENT: another version made it, which had no such setting
    now: Any

    @property
    def words(self) -> str:
        if self.before is ABSENT:
            return f"{self.name} is a new setting ({shown(self.now)})"
        if self.now is ABSENT:
            return f"{self.name} is no setting any more (it was {shown(self.before)})"
        return f"{self.name} {shown(self.before)} → {shown(self.now)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The settings in which two lots of a stage's settings differ, in the order of `now`, but for those that only observe."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [*new, *(name for name in old if name not in new)]
    return [
        Difference(name, old.get(name, ABSENT), new.get(name, ABSENT))
        for name in names
        if old.get(name, ABSENT) != new.get(name, ABSENT) and name not in observers()
    ]


def _leaves(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            yield name, value


def shown(value: Any) -> str:
    """A value as a recipe has it, on one line and not long."""
    text = (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n...\n").strip()
    )
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
