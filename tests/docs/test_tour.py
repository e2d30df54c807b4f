"""Can a reader of docs/tour.md run every command on it, in its order, from nothing?

Each command is given to make, which refuses unknown words, and what make would call is parsed as our command line does; recipe and settings are
read. Then the page is walked: what a command needs was made by one above it.
"""

import os
import re
import shlex
import subprocess
from functools import cache
from typing import NamedTuple

import pasting
import pytest
import typer
from promises import ROOT, runs

from pipeline.artifacts.freshness import parents
from pipeline.graph import BASELINES, PRETRAINED, STAGES, WALK
from pipeline.settings.config import Config
from pipeline.settings.recipe import load

PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
LOOKS = {"inspect", "rank", "web", "serve"}  # commands that need a model that can speak


class Called(NamedTuple):
    """What make would start: the words behind `python -m pipeline`, or a module of another name."""

    command: str
    words: list[str]

    def option(self, name: str) -> str:
        return self.words[self.words.index(name) + 1] if name in self.words else ""


def commands(page: str = PAGE) -> list[str]:
    """The commands of its tables and texts, in their order."""
    return [span for span in re.findall(r"`([^`\n]+)`", page) if span.startswith(("make ", "python "))]


@cache
def called(command: str) -> Called:
    """What make says it would start. Raises AssertionError where make refuses the command."""
    ready = ROOT / ".venv" / "ready"  # as if the environment were there: what make does about that is no part of this
    options = ["-n", "-o", str(ready.relative_to(ROOT))]
    given = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", *options, *shlex.split(command)[1:]], cwd=ROOT, env=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\\\n", " "))
    module = words.index("-m") + 1
    if words[module] != "pipeline":
        return Called(words[module], words[module + 1 :])
    return Called(words[module + 1], words[module + 1 :])


def read_by(start: Called) -> Config:
    """The recipe of a command with what the command sets. Raises ConfigError."""
    recipe = next(word for word in start.words if word.endswith(".yaml"))
    return load(ROOT / recipe, [word for word in start.words if re.match(r"[a-z_.]+=", word)])


def missing(page: str) -> list[str]:
    """Commands that need what no command above them made."""
    made: dict[str, set[str]] = {}
    found = []
    for command in commands(page):
        start = called(command)
        stage, there = start.command.replace("-", "_"), made.setdefault(start.option("--run"), set())
        if start.command == "all":
            there |= {*WALK, *PRETRAINED}
        elif stage in STAGES:
            made_first = set(BASELINES) if stage == "compare" else set()  # what is compared is made where it is missing
            found += [command] if set(parents(stage, read_by(start))) - there - made_first else []
            there.add(stage)
        elif start.command in LOOKS and not there & {"sft", "ppo"}:
            found.append(command)
    return found


def test_there_are_commands_for_the_chapters() -> None:
    assert len(commands()) >= 10 and {"make demo-zh", "make cartpole"} <= set(commands())


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_is_taken(command: str) -> None:
    start = called(command)
    if start.words[:1] != [start.command]:
        module = ROOT / (start.command.replace(".", "/") + ".py")
        assert runs(start.command) or module.is_file()
        return
    pasting.check(shlex.join(["python", "-m", "pipeline", *start.words]))
    if any(word.endswith(".yaml") for word in start.words):
        read_by(start)


def test_every_row_has_a_command_and_a_time_or_a_dash() -> None:
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    assert rows and [row for row in rows if len(row) != 4 or "`make" not in row[1]] == []


def test_what_a_command_needs_is_made_above_it() -> None:
    assert missing(PAGE) == []


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("`make data` `make ppo`", ["make ppo"]),
        ("`make demo` `make compare` `make gold`", []),
        ("`make demo RUN=a` `make compare RUN=b`", ["make compare RUN=b"]),
        ('`make inspect PROMPT="The film"` `make smoke`', ['make inspect PROMPT="The film"']),
    ],
)
def test_what_stands_in_the_wrong_order_is_found(page: str, found: list[str]) -> None:
    assert missing(page) == found


@pytest.mark.parametrize("command", ["make dmeo", "make ppo EPISODES=3", "make rank K=four"])
def test_a_command_that_is_none_is_found(command: str) -> None:
    with pytest.raises((AssertionError, typer.BadParameter)):
        test_a_command_is_taken(command)


def test_the_chapters_that_the_project_grew_from_are_there() -> None:
    """Each named by a word of its row."""
    chapters = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
    for word in WORDS:
        assert any(word in chapter for chapter in chapters), word


WORDS = (
    *(
        "clean",
        "tokenis",
        "next token",
        "masked words",
        "next sentences",
        "fine-tun",
        "rank",
        "reward",
        "PPO",
        "generat",
    ),
    *("looking inside", "positive reviews", "sentiment", "cart-pole", "chains of thought", "mathematics", "code"),
    *("LaTeX to words", "encoder–decoder", "compar"),
)
