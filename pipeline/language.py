"""In which language does a page speak? In English as it is written in the code, or in Chinese by one table, chinese.toml.

A sentence of the code is `phrase("… {share:.1%} …", share=…)`; a constant that becomes one later is `fixed("…")`. Templates and
scripts are written in English alone: `in_language` puts the table's words in place of theirs, before they are read.
What the table lacks stays English; tests/pages/test_chinese.py finds it.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")
TAGS = {"en": "en", "zh": "zh-CN"}  # what `lang` of a page says
PHRASES, STORED, DATA = "phrases", "stored", "data"
"""Sections of the table: sentences of the code, what lies in manifests in English, and what is said of rows that somebody gave."""
TABLE = Path(__file__).parent / "chinese.toml"
_TIGHT = re.compile(r" *([，。；：、（）！？“”…]) *")  # full-width punctuation has its own space
_APART = re.compile(r"(?<=[\u4e00-\u9fff])(?=[−+-]?[A-Za-z0-9])|(?<=[A-Za-z0-9%])(?=[\u4e00-\u9fff])")
_HELD = "\0"  # between the letters of a name, so that no space is put into it or taken out
_now: ContextVar[str] = ContextVar("language", default="en")


class Phrase(str):
    """A sentence that knows of what it was made, so that it can be told again in another language."""

    template: str
    values: Mapping[str, Any]

    def __new__(cls, text: str, template: str = "", values: Mapping[str, Any] | None = None) -> "Phrase":
        made = super().__new__(cls, text)
        made.template, made.values = template, values or {}
        return made


@contextmanager
def spoken(language: str) -> Iterator[None]:
    """What is written within the block is written in `language`, one of LANGUAGES."""
    before = _now.set(language)
    try:
        yield
    finally:
        _now.reset(before)


def language_now() -> str:
    return _now.get()


def named(page: str) -> str:
    """What a page's file is called in the language that is spoken: report.html, report.zh.html."""
    own = language_now()
    return page if own == "en" else f"{Path(page).stem}.{own}{Path(page).suffix}"


def fixed(text: str) -> str:
    """The text itself: it stands in the table, and is given to `phrase` where it is shown."""
    return text


def phrase(template: str, **values: Any) -> str:
    """A sentence in the language that is spoken, its figures written as the template says (`str.format`); values that are phrases are
    told in that language too."""
    own = {name: retold(value) for name, value in values.items()}
    if language_now() == "en":
        return Phrase(template.format(**own) if own else template, template, values)
    found = table()[PHRASES].get(template, template)
    own = {name: _HELD.join(value) if type(value) is str else value for name, value in own.items()}
    return Phrase(_spaced(found.format(**own) if own else found).replace(_HELD, ""), template, values)


def _spaced(text: str) -> str:
    """One space between Chinese and Latin letters or digits, none beside full-width punctuation, whatever was put in."""
    return _TIGHT.sub(r"\1", _APART.sub(" ", text))


def phrases(*texts: str) -> tuple[str, ...]:
    return tuple(map(phrase, texts))


def retold(value: Any) -> Any:
    """A phrase in the language that is spoken; everything else as it is."""
    return phrase(value.template, **value.values) if isinstance(value, Phrase) else value


def recognised(text: str, section: str = STORED) -> str:
    """What another process or package said in English, in the language that is spoken: by a section, STORED or DATA, whose names in
    braces stand for any text, which is recognised in turn. What is not known stays as it is."""
    if language_now() == "en":
        return text
    own = table()[section]
    if text in own:
        return own[text]
    for pattern, template in _patterns(section):
        if (found := pattern.fullmatch(text)) is not None:
            parts = {name: recognised(part, section) for name, part in found.groupdict().items()}
            return _spaced(template.format(**{name: _HELD.join(part) for name, part in parts.items()})).replace(
                _HELD, ""
            )
    return text


@lru_cache(maxsize=2)
def _patterns(section: str) -> list[tuple[re.Pattern[str], str]]:
    """The keys of a section that have names in braces, as patterns, with what they become."""
    own = table()[section]
    keys = [key for key in own if "{" in key]
    return [(re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(key)), re.DOTALL), own[key]) for key in keys]


def in_language(name: str, source: str) -> str:
    """The source of a template or script, by the name of its file, in the language that is spoken. White space of the table's keys
    stands for any white space."""
    if language_now() == "en":
        return source
    source = source.replace('<html lang="en">', f'<html lang="{TAGS[language_now()]}">')
    replace = _replacing(name)
    return source if replace is None else replace(source)


@lru_cache(maxsize=64)
def _replacing(name: str) -> Callable[[str], str] | None:
    found = table().get(name)
    if not found:
        return None
    keys = sorted(found, key=len, reverse=True)
    values = {_squeezed(key): found[key] for key in keys}
    pattern = re.compile("|".join(r"\s+".join(map(re.escape, key.split())) for key in keys))
    return lambda source: pattern.sub(lambda match: values[_squeezed(match[0])], source)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, str]]:
    """Section -> English -> Chinese. A section is a file of templates or scripts, or one of PHRASES, STORED, DATA."""
    return {PHRASES: {}, STORED: {}, DATA: {}} | tomllib.loads(TABLE.read_text(encoding="utf-8"))
