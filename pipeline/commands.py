"""How is a command of ours written, so that it can be pasted? As make takes it where make called, else as python -m pipeline.

Every hint, "next:" and remedy is made here from what the command line was given, so that none leaves out a recipe or a setting.
A command stands at the end of its line, behind "run: " or "next: ".
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.graph import STAGES, command_name

ROOT = Path(__file__).resolve().parents[1]
CALLER = (
    "PIPELINE_CALLER"  # the environment variable that says what started us: make, rlhf, or nothing: python -m pipeline
)
FROM_VARIABLES = {"DATA": "data.source=", "FORMAT": "data.format="}  # what the Makefile makes of them, before SET
PROGRAMS = {"make": (".venv/bin/python", "-m", "pipeline"), "rlhf": ("rlhf",), "": ("python", "-m", "pipeline")}
OPTIONS = {"PROMPT": "--prompt", "COMPLETION": "--completion", "MODEL": "--model", "CHAT": "--chat"}  # make's words
OPTIONS |= {"K": "--k", "PROMPTS": "--prompts", "FROM": "--from", "ROUNDS": "--rounds", "PERSON": "--person"}
SWITCHES = ("CHAT",)  # options without a value


@dataclass(frozen=True)
class Call:
    """What a command line was given; `asked` is its command as it is typed, a stage's or "all"."""

    recipe: str
    run: str
    overrides: tuple[str, ...] = ()
    nproc: int = 1
    seeds: int = 1
    asked: str = ""
    options: tuple[
        tuple[str, str], ...
    ] = ()  # further words of `asked` by their names in make, such as ("PROMPT", "A funny")
    caller: str = ""
    verify: bool = False  # whether "up to date" is told only after every file was read again

    @classmethod
    def of(cls, recipe: str | Path, run: str, overrides: Sequence[str] = (), **more: Any) -> "Call":
        return cls(str(recipe), run, tuple(overrides), caller=caller(), **more)

    def line(
        self,
        *commands: str,
        adding: Sequence[str] = (),
        models: Sequence[str] = (),
        seeds: int = 1,
        options: Sequence[tuple[str, str]] = (),
    ) -> str:
        """The whole line that gives this run `commands`, stages or names of commands, one after another.

        It has `adding` beside the settings that were given, `models` to compare, `seeds` for what is trained with several,
        and further words by their names in make.
        """
        names = [command_name(one) for one in commands]
        call = replace(self, overrides=(*self.overrides, *(one for one in adding if one not in self.overrides)))
        processes = self.nproc if any(_in_processes(one) for one in commands) else 1
        if self.caller == "make":
            return call._for_make(names, models, seeds, processes, options)
        if models:
            call = replace(call, overrides=(*call.overrides, f"compare.models=[{','.join(models)}]"))
        return " && ".join(call._for_a_shell(name, seeds, processes, options) for name in names)

    def again(self, *adding: str) -> str:
        """This very command once more, with settings beside those that it had."""
        return self.line(self.asked, adding=adding, seeds=self.seeds, options=self.options)

    def given(self) -> dict[str, Any]:
        """What the manifest keeps of a command line: {"recipe", "overrides"}.

        The recipe's path is relative to the working directory or to the project where it lies in one of them, so that it means
        the same on another machine; else it is as it was given.
        """
        recipe = Path(self.recipe)
        whole = recipe.resolve()
        place = next((folder for folder in (Path.cwd(), ROOT) if whole.is_relative_to(folder)), None)
        shown = recipe if place is None else whole.relative_to(place)
        return {"recipe": shown.as_posix(), "overrides": list(self.overrides)}

    def _for_make(
        self,
        names: Sequence[str],
        models: Sequence[str],
        seeds: int,
        nproc: int,
        options: Sequence[tuple[str, str]],
    ) -> str:
        words = ["make", *names, *assignments({"RECIPE": self.recipe, "RUN": self.run})]
        settings = list(self.overrides)
        for name, setting in FROM_VARIABLES.items():
            if settings and settings[0].startswith(setting) and settings[0] != setting:
                words += assignments({name: settings.pop(0).removeprefix(setting)})
        if settings:
            words.append(f"SET={_variable(shlex.join(settings))}")
        if seeds > 1:
            words.append(f"SEEDS={seeds}")
        if nproc > 1:
            words.append(f"NPROC={nproc}")
        if models:
            words.append(f"MODELS={_variable(' '.join(models))}")
        return " ".join([*words, *(f"{name}={_variable(value)}" for name, value in options)])

    def _for_a_shell(self, name: str, seeds: int, nproc: int, options: Sequence[tuple[str, str]]) -> str:
        words = [*PROGRAMS[self.caller], name, self.recipe, *self.overrides, "--run", self.run]
        words += ["--seeds", str(seeds)] if seeds > 1 and _in_seeds(name) else []
        words += ["--nproc", str(nproc)] if nproc > 1 else []
        for option, value in options:
            words += [OPTIONS[option], *([] if option in SWITCHES else [value])]
        return shlex.join(words)


def assignments(values: Mapping[str, str]) -> list[str]:
    """Make's variables as words of a shell."""
    return [f"{name}={_variable(value)}" for name, value in values.items()]


def caller() -> str:
    """What called: "make", "rlhf" or "" for python -m pipeline."""
    found = os.environ.get(CALLER, "")
    return found if found in PROGRAMS else ""


def settings(*given: str) -> str:
    """Settings as they are written behind a command, quoted for where they are typed: in make's SET, or as words of a shell."""
    return f"SET={_variable(shlex.join(given))}" if caller() == "make" else shlex.join(given)


def checking(source: str, recipe: str | None = None, given: Sequence[str] = (), model: str | None = None) -> str:
    """The command that looks into a source of data, by a recipe's settings and those that are given, for a model's tokenizer."""
    if caller() == "make":
        own = recipe is None and source.endswith((".yaml", ".yml"))  # a recipe's own data
        named = {"RECIPE": source, "MODEL": model} if own else {"DATA": source, "RECIPE": recipe, "MODEL": model}
        words = assignments({name: value for name, value in named.items() if value})
        return " ".join(["make data-check", *words, *([settings(*given)] if given else [])])
    options = [*(["--recipe", recipe] if recipe else []), *(["--model", model] if model else [])]
    return shlex.join([*PROGRAMS[caller()], "data-check", source, *given, *options])


def pruning(run: str | None = None) -> str:
    """The end of a message: what removes the former results that runs keep, or one run, without a question."""
    if caller() == "make":
        return f"run: {' '.join(['make prune', *assignments({'RUN': run} if run else {}), 'YES=1'])}"
    return f"run: {shlex.join([*PROGRAMS[caller()], 'prune', *(['--run', run] if run else []), '--yes'])}"


def opening(run: str) -> str:
    """The command that opens the pages on which people watch, rank, vote and chat."""
    if caller() == "make":
        return " ".join(["make web", *assignments({"RUN": run})])
    return shlex.join([*PROGRAMS[caller()], "web", "--run", run])


def learning(rows: str, run: str) -> str:
    """The command that makes a run of its own of people's rankings."""
    return Call.of("recipes/own_data.yaml", run, [f"data.source={rows}"]).line("all")


def listing(section: str = "") -> str:
    """The end of a message: what shows the settings, of one section or all."""
    return f"run: {shlex.join([*PROGRAMS[caller()], 'settings', *([section] if section else [])])}"


def install(*packages: str) -> str:
    """The end of a message: what installs packages where we run."""
    python = ".venv/bin/python" if caller() == "make" else "python"
    return f"run: {shlex.join([python, '-m', 'pip', 'install', *packages])}"


def commands(run: str, made: Mapping[str, tuple[Mapping[str, Any], int]]) -> str:
    """Lines for make that make the stages of run `run` again: stage -> (what `Call.given` returned, processes), in their order.

    Stages in a row that were given the same share a line. What was given may hold "seeds" too, how many it was trained with, and "options", further words by their names in make.
    """
    lines: list[tuple[tuple[Call, int], list[str]]] = []
    for stage, (told, processes) in made.items():
        words = tuple(told.get("options", ()))
        call = Call(told["recipe"], run, tuple(told["overrides"]), processes, options=words, caller="make")
        like = (call, told.get("seeds", 1))
        if lines and lines[-1][0] == like:
            lines[-1][1].append(stage)
        else:
            lines.append((like, [stage]))
    return "\n".join(call.line(*stages, seeds=seeds, options=call.options) for (call, seeds), stages in lines)


def _in_processes(command: str) -> bool:
    """Whether a command may be shared by several processes; some stages are the work of one."""
    name = command_name(command).replace("-", "_")
    return name == "all" or (name in STAGES and not STAGES[name].one_process)


def _in_seeds(command: str) -> bool:
    """Whether a command trains with several seeds where it is asked to."""
    name = command_name(command).replace("-", "_")
    return name == "all" or (name in STAGES and STAGES[name].seeded)


def _variable(value: str) -> str:
    """The value of one of make's variables as a word of a shell."""
    return _word(_dollars(value))


def _dollars(text: str) -> str:
    return text.replace("$", "$$")


def _word(text: str) -> str:
    """As shlex.quote, but in double quotes where these are easier to read: around single ones."""
    plain = "'" in text and not set(text) & set('"$`!\\')
    return f'"{text}"' if plain else shlex.quote(text)
