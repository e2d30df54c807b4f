"""What does a recipe say? One YAML file with a section a stage, and `key=value` overrides, to a Config.

    config = load("recipes/film_reviews.yaml", ["ppo.kl_coef=0.1"])

Everything wrong with it is reported at once, each with its file and line.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline import redaction
from pipeline.commands import listing
from pipeline.settings import limited_yaml
from pipeline.settings.config import Config, ConfigError, is_section
from pipeline.settings.sections import CUTS
from pipeline.settings.wrong import told, untagged

IN_ITS_PLACE = "a key belongs in an environment variable: take it out, export it, and name the variable in compare.llm.api_key_env (the Hub's is HF_TOKEN)"
LONGEST_SHOWN = 200
"""Characters of what a user wrote that a message repeats."""


def _lines(
    node: yaml.Node | None, path: tuple[str, ...], found: dict[tuple[str, ...], int], errors: list[str], file: str
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in found:
                errors.append(f"{file}:{key.start_mark.line + 1}: {_shown('.'.join(inner))}: given twice; keep one")
            found[inner] = key.start_mark.line + 1
            _lines(value, inner, found, errors, file)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            inner = (*path, str(place))
            found[inner] = value.start_mark.line + 1
            _lines(value, inner, found, errors, file)


def fields(model: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every setting by its dotted name, with pydantic's FieldInfo (annotation, default, description)."""
    out: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        if is_section(kind := info.annotation):
            out |= fields(kind, (*path, name))
        else:
            out[".".join((*path, name))] = info
    return out


def every_field() -> dict[str, Any]:
    """As `fields`, with those within a section that may be null (compare.llm) too, which `fields` knows as one setting."""
    out: dict[str, Any] = {}
    for name, info in fields().items():
        out[name] = info
        for kind in get_args(info.annotation) if get_origin(info.annotation) is UnionType else ():
            if is_section(kind):
                out |= fields(kind, tuple(name.split(".")))
    return out


def _in_a_mapping(key: str) -> bool:
    """Whether a dotted name stands within a setting that is a mapping, such as chat_template_kwargs.enable_thinking."""
    section, _, name = key.rpartition(".")
    known = fields().get(section)
    return bool(name) and known is not None and get_origin(known.annotation) is dict


def _kind(section: str) -> Any:
    """What a setting of the run itself is, None where there is none of that name."""
    info = Config.model_fields.get(section)
    return info.annotation if info is not None else None


def _nearest(name: str) -> str:
    known = every_field()
    if len(name) > LONGEST_SHOWN:  # nothing of ours is like that, and to look how near it comes would take its time
        return listing("")
    section, leaf = name.split(".")[0], name.split(".")[-1]
    if section in ("ppo", "rloo") and leaf in ("generation", "do_sample", "num_beams", *CUTS):
        return (
            f"{section} learns from draws of the whole distribution at ppo.temperature, whose log-probabilities its loss compares; "
            f"what a comparison says is set by compare.generation{'' if leaf == 'generation' else f'.{leaf}'}"
        )
    place = "compare" if section == "best_of_n" else section
    if (meant := f"{place}.generation.{leaf}") in known:
        return f"did you mean {meant}?"
    close = (
        # near by more than the section that they share
        difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        or [k for k in known if k.split(".")[-1] == name.split(".")[-1]][:1]
    )
    if not close:
        leaves = {k.split(".")[-1]: k for k in known}
        close = [leaves[m] for m in difflib.get_close_matches(name.split(".")[-1], list(leaves), n=1)]
    return (
        f"did you mean {close[0]}?"
        if close
        else listing(section if section != name and is_section(_kind(section)) else "")
    )


def _read(file: Path, errors: list[str]) -> tuple[dict[Any, Any], dict[tuple[str, ...], str]]:
    """A recipe's settings, and the `file:line` of each. Raises ConfigError for what is no recipe at all, or holds a key."""
    lines: dict[tuple[str, ...], int] = {}
    with file.open("rb") as stream:
        whole = stream.read(limited_yaml.LARGEST + 1)
    if len(whole) > limited_yaml.LARGEST:
        raise ConfigError(f"{file}: more than {limited_yaml.LARGEST // 1024} KB, which no recipe has; name a recipe")
    text = ""
    try:
        text = whole.decode("utf-8-sig")
        node = limited_yaml.composed(text)
        _refuse_secrets(node, (), str(file))
        _lines(node, (), lines, errors, str(file))
        raw = limited_yaml.value_of(node)
    except UnicodeDecodeError as error:
        line = whole.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, problem = limited_yaml.problem_of(error, text)
        raise ConfigError(f"{file}:{line}: {problem}") from None
    if not isinstance(raw, dict | None):
        raise ConfigError(f"{file}:1: a recipe is a mapping of settings, such as 'seed: 0'")
    return raw or {}, {path: f"{file}:{line}" for path, line in lines.items()}


def _refuse_secrets(node: yaml.Node | None, path: tuple[str, ...], file: str) -> None:
    """Raise ConfigError where a recipe holds a key, without repeating it."""
    if isinstance(node, yaml.ScalarNode) and (why := redaction.reason(str(node.value))) is not None:
        name = _shown(".".join(path))
        raise ConfigError(
            f"{file}:{node.start_mark.line + 1}: {name + ': ' if name else ''}it holds {why}; {IN_ITS_PLACE}"
        )
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _refuse_secrets(key, path, file)
            _refuse_secrets(value, (*path, str(key.value)), file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_secrets(value, path, file)


def _shown(text: str) -> str:
    """What a user wrote as a message repeats it: on one line, not long, without a key."""
    text = redaction.redacted(text)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _written(override: str) -> str:
    """An override as messages repeat it: without its value where a key may stand, at its place or at a wrong one."""
    key = override.partition("=")[0]
    secret = re.fullmatch(redaction.NAMES, key, re.I) or key.startswith("compare.llm")
    return _shown(f"{key}=…" if secret and "=" in override else override)


def _override(override: str, raw: dict[Any, Any], where: dict[tuple[str, ...], str], errors: list[str]) -> None:
    """Put one `key=value` into the recipe's settings; a section given whole replaces the recipe's."""
    key, equals, value = override.partition("=")
    written = _written(override)
    if (why := redaction.reason(override)) is not None:
        raise ConfigError(f"{written}: it holds {why}; {IN_ITS_PLACE}")
    if not equals or not key:
        errors.append(f"{written}: not key=value; write for instance ppo.kl_coef=0.1")
        return
    if not any(name == key or name.startswith(f"{key}.") for name in every_field()) and not _in_a_mapping(key):
        errors.append(f"{written}: {_shown(key)}: no such setting; {_nearest(key)}")
        return
    try:
        parsed = limited_yaml.loaded(value)
    except limited_yaml.Unreadable:
        parsed = value
    except limited_yaml.BeyondLimit as error:
        errors.append(f"{written}: {error.problem}")
        return
    except yaml.YAMLError:
        parsed = value
    path = tuple(key.split("."))
    target = raw
    for part in path[:-1]:
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
        if not isinstance(target, dict):
            return  # the recipe has a value where a section belongs: told when it is validated
    target[path[-1]] = parsed
    for inner in [p for p in where if p[: len(path)] == path]:
        del where[inner]
    where[path] = written


def _place(
    path: tuple[str, ...], message: str, where: dict[tuple[str, ...], str], overrides: Sequence[str]
) -> str | None:
    """Where a mistake was made: at a setting below `path` that the message names (an override before the recipe), else at `path`
    or what holds it; None for a default."""
    words = set(re.findall(r"[\w.]+", message))
    named = [place for p, place in where.items() if p[: len(path)] == path and ".".join(p[len(path) :]) in words]
    around = [where[path[:n]] for n in range(len(path), 0, -1) if path[:n] in where]
    return next((place for place in named if place in overrides), next(iter([*named, *around]), None))


def _by_setting(invalid: ValidationError) -> list[tuple[tuple[str, ...], list[Any]]]:
    """Pydantic's errors by the setting that they are about. Of the alternatives that it tried those that came furthest count."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for error in invalid.errors():
        path = tuple(str(part) for part in error["loc"])
        found.setdefault(untagged(path, every_field()), []).append(error)
    return [
        (path, errors)
        for path, errors in found.items()
        if not any(path != other and other[: len(path)] == path for other in found)
        or errors[0]["type"] == "value_error"
    ]


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `key=value` overrides (values as YAML). Raises ConfigError with every mistake, each by file and line."""
    file = Path(recipe)
    if not file.is_file():
        if "=" in file.name and any(name.startswith(str(file).partition("=")[0]) for name in every_field()):
            raise ConfigError(
                f"{file}: a setting where the recipe belongs; write the recipe first, such as recipes/own_data.yaml {file}"
            )
        known = ", ".join(sorted(str(p) for p in Path("recipes").glob("*.yaml"))) or "none here"
        raise ConfigError(f"{file}: no such recipe; shipped: {known}")
    errors: list[str] = []
    raw, where = _read(file, errors)
    for override in overrides:
        _override(override, raw, where, errors)
    given = [_written(override) for override in overrides]
    try:
        config = Config.model_validate(raw)
    except ValidationError as invalid:
        for path, found in _by_setting(invalid):
            e, name = found[0], ".".join(path)
            shown = _shown(name)
            if e["type"] == "extra_forbidden":
                messages = [f"no such setting; {_nearest(name)}"]
            elif e["type"] == "missing":
                messages = [f"is needed too; write {name}=…" if name in every_field() else "is needed too"]
                if beside := [place for other, place in where.items() if other[:-1] == path[:-1]]:
                    where[path] = beside[0]
            elif e["type"] == "value_error":
                messages = str(e["ctx"]["error"]).splitlines()
            else:
                messages = [told(found, name, every_field(), _place(path, "", where, given) in given)]
            for message in messages:
                place = _place(path, message if e["type"] == "value_error" else "", where, given) or file
                errors.append(f"{place}: {shown + ': ' if shown else ''}{message}")
        raise ConfigError("\n".join(errors)) from None
    if errors:
        raise ConfigError("\n".join(errors))
    return config
