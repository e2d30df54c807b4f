"""Which commands make this again? What the command line was given, kept with every stage, and written down as lines for make."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.graph import command_name

ROOT = Path(__file__).resolve().parents[2]


def given(recipe: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What the manifest keeps of a command line: {"recipe", "overrides"}.

    The recipe's path is relative to the working directory or to the project where it lies in one of them, so that it means the
    same on another machine; else it is as it was given.
    """
    whole = recipe.resolve()
    place = next((folder for folder in (Path.cwd(), ROOT) if whole.is_relative_to(folder)), None)
    return {"recipe": (recipe if place is None else whole.relative_to(place)).as_posix(), "overrides": list(overrides)}


def commands(run: str, made: Mapping[str, tuple[Mapping[str, Any], int]]) -> str:
    """Lines for a shell that make the stages of run `run` again: stage -> (what `given` returned, processes), in their order.

    Stages in a row that were given the same share a line. What was given may hold "seeds" too, how many it was trained with.
    """
    lines: list[tuple[list[str], str]] = []
    for stage, (told, processes) in made.items():
        arguments = f"RECIPE={_for_make(told['recipe'])} RUN={_word(_dollars(run))}"
        if told["overrides"]:
            arguments += f" SET={_word(_dollars(shlex.join(told['overrides'])))}"
        if told.get("seeds", 1) > 1:
            arguments += f" SEEDS={told['seeds']}"
        if processes > 1:
            arguments += f" NPROC={processes}"
        if lines and lines[-1][1] == arguments:
            lines[-1][0].append(command_name(stage))
        else:
            lines.append(([command_name(stage)], arguments))
    return "\n".join(f"make {' '.join(stages)} {arguments}" for stages, arguments in lines)


def _for_make(value: str) -> str:
    """One word, for the shell that make starts, and so for make, and so for the shell that it is pasted into."""
    return _word(_dollars(shlex.quote(value)))


def _dollars(text: str) -> str:
    return text.replace("$", "$$")


def _word(text: str) -> str:
    """As shlex.quote, but in double quotes where these are easier to read: around single ones."""
    plain = "'" in text and not set(text) & set('"$`!\\')
    return f'"{text}"' if plain else shlex.quote(text)
