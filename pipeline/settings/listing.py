"""How are all settings shown: as lines on a terminal, and as the page docs/settings.md? No torch import.

python -m pipeline settings --markdown > docs/settings.md
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pipeline.commands import listing as settings_listing
from pipeline.settings.config import Config, ConfigError, is_section
from pipeline.settings.deciding import observes
from pipeline.settings.recipe import fields

TOP = """# Settings

This page is generated: `python -m pipeline settings --markdown > docs/settings.md`. A test compares it with the code.

A recipe is a YAML file with one section for each stage; `section.name=value` on the command line replaces what the recipe says, and
the value is read as YAML. A recipe need only hold what differs from the defaults. Every mistake is told with its file and line before
anything is loaded.

To change a setting makes the stages again that read it, and what is made of them; what was there is kept in `runs/NAME/.kept/`. A setting
marked *(observes)* decides nothing of a result: to change it makes nothing again.
"""
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def lines(section: str = "") -> Iterator[str]:
    """Every setting as `name = default    # meaning`; or those of one section, or one setting, with those within a section that
    may be null. Raises ConfigError where there is none of that name."""
    every = dict(_everything()) if section else fields()
    found = {name: info for name, info in every.items() if not section or f"{name}.".startswith(f"{section}.")}
    if not found:
        raise ConfigError(f"settings: {section}: no such section or setting; {_like(section, every)}")
    for name, info in found.items():
        yield f"{name} = {default_of(info)}" + (f"    # {info.description}" if info.description else "")


def _everything() -> Iterator[tuple[str, Any]]:
    for name, info in fields().items():
        yield name, info
        for kind in get_args(info.annotation) if get_origin(info.annotation) is UnionType else ():
            if is_section(kind):
                yield from _inside(kind, name).items()


def _like(section: str, every: Iterable[str]) -> str:
    near = difflib.get_close_matches(section, {part for name in every for part in (name, name.rpartition(".")[0])}, n=1)
    return f"did you mean {near[0]}?" if near else settings_listing()


def markdown() -> str:
    """The page docs/settings.md: a table for the run, and one for each section of a recipe."""
    parts, whole = [TOP], fields()
    run = {name: info for name, info in whole.items() if "." not in name}
    parts.append("## The run\n\n" + _table(run))
    for section, info in Config.model_fields.items():
        if not is_section(info.annotation):
            continue
        own = {name: one for name, one in whole.items() if name.startswith(f"{section}.")}
        question = " ".join((info.annotation.__doc__ or "").strip().split("\n\n")[0].split())
        parts.append(f"## `{section}`\n\n{question}\n\n" + _table(own))
        for name, one in own.items():
            for kind in get_args(one.annotation) if get_origin(one.annotation) is UnionType else ():
                if is_section(kind):
                    parts.append(f"### `{name}`\n\n{kind.__doc__}\n\n" + _table(_inside(kind, name)))
    return "\n".join(parts)


def default_of(info: Any) -> str:
    """A setting's default as JSON, which is YAML."""
    return "needed" if info.is_required() else _json(info.get_default(call_default_factory=True))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _inside(kind: type[BaseModel], name: str) -> dict[str, Any]:
    return {f"{name}.{leaf}": info for leaf, info in fields(kind).items()}


def _table(rows: dict[str, Any]) -> str:
    head = "| setting | default | takes | meaning |\n|---|---|---|---|\n"
    return head + "".join(
        f"| `{name}` | `{default_of(info)}` | {_cell(_takes(info))} | {_cell(_meaning(info))} |\n"
        for name, info in rows.items()
    )


def _meaning(info: Any) -> str:
    """What a setting is for, and whether it only observes."""
    return " ".join(filter(None, [info.description, "*(observes)*" if observes(info) else None]))


def _takes(info: Any) -> str:
    """What a setting may be: its choices, or its type and bounds."""
    bounds = [
        f"{sign} {getattr(one, name):g}" for one in info.metadata for name, sign in SIGNS.items() if hasattr(one, name)
    ]
    kind, optional = _kind(info.annotation), get_origin(info.annotation) is UnionType
    kind, optional = kind.removesuffix(" or null"), optional and kind.endswith(" or null")
    return " ".join([kind, *bounds]) + (", or null" if optional else "")


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (UnionType, Union):  # Literal[…] | None is the latter
        return " or ".join("null" if one is type(None) else _kind(one) for one in inner)
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"mapping of {_kind(inner[0])} to {_kind(inner[1])}"
    if is_section(annotation):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}[annotation.__name__]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
