"""Would a command that stands in a message be taken, when it is pasted? Parsed by bash's rules, the Makefile's words and our command line."""

import re
import shlex
from functools import cache
from pathlib import Path

import typer

from pipeline.words import flaw

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


@cache
def known() -> tuple[list[str], list[str]]:
    """The Makefile's targets, and the variables that it reads."""
    text = MAKEFILE.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", text, re.M)
    return targets, sorted(set(re.findall(r"^([A-Z]+) *\?=", text, re.M)) | {"NAME", "PROMPT", "COMPLETION", "CHAT"})


def check(line: str) -> None:
    """Raise AssertionError or click's UsageError for a line that would not be taken."""
    for words in _commands(line):
        if words[0] == "make":
            given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            goals = [word for word in words[1:] if "=" not in word]
            assert goals and flaw(goals, *known(), given) is None, line
        else:
            start = words.index("pipeline") if "pipeline" in words else words.index("rlhf")
            _parse(words[start + 1 :], line)


def _commands(line: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _parse(words: list[str], line: str) -> None:
    from pipeline.__main__ import app

    group = typer.main.get_command(app)
    command = group.commands.get(words[0])  # type: ignore[attr-defined]
    assert command is not None, line
    command.make_context(words[0], words[1:])
