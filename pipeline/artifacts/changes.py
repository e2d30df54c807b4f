"""What will be made again, and why? One sentence before anything starts, such as

ppo.kl_coef 0.1 → 0.05: ppo and compare are made again; what was there is kept in runs/demo/.kept
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished, inputs_of, read_by, read_now, section_values
from pipeline.artifacts.kept import former_results
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import MANIFEST
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.settings.deciding import Difference, differences

MOST = 4  # settings that are named; more are counted

Step = tuple[str, Config, Run]
"""A stage that a command makes where it is due, with the config and the run that it is made with (seeds.with_seed)."""


@dataclass
class _Again:
    """What is made again, by the names of folders, and the reasons."""

    folders: list[str] = field(default_factory=list)
    recipes: dict[str, None] = field(default_factory=dict)
    settings: dict[str, Difference] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)


def announcement(steps: Sequence[Step], command: dict[str, Any] | None = None) -> str | None:
    """The sentence about the finished results that the steps of a command, in their order, replace; None where they replace
    none. `command` is what its command line was given (commands.Call.given)."""
    made: set[str] = set()  # also what is made for the first time
    again = _Again()
    for stage, config, run in steps:
        folder, live = run.folder(stage).name, run.manifest(stage)
        if not _due(stage, config, run, made):
            continue
        if live is not None:
            again.folders.append(folder)
            _reasons(again, stage, config, run, live, made, command)
        made.add(folder)
    if not again.folders:
        return None
    run = steps[0][2]
    several = len(again.folders) > 1
    told = f"{_why(again)}: {_listed(again.folders)} {'are' if several else 'is'} made again; what was there is kept in {run.kept}"
    if left := _made_of(run, made, {run.folder(stage).name for stage, _, run in steps}):
        told += f", and {_listed(left)} still {'belong' if len(left) > 1 else 'belongs'} to it"
    return told


def _due(stage: str, config: Config, run: Run, made: set[str]) -> bool:
    """Whether a stage will be made: a parent will, or it is not up to date and nothing that is kept is what it would make."""
    try:
        if made.intersection(read_by(run, stage, config)):
            return True
        if finished(run, stage, config) is not None:
            return False
        kept = former_results(run, run.folder(stage).name).values()
        return all(one.inputs != inputs_of(run, stage, config, one.outside) for one in kept)
    except ArtifactError:  # a parent that is not there: told when the stage's turn comes
        return True


def _reasons(
    again: _Again,
    stage: str,
    config: Config,
    run: Run,
    live: Manifest,
    made: set[str],
    command: dict[str, Any] | None,
) -> None:
    """Add why a finished stage is made again: what differs in its settings, its parents, or else the files it reads."""
    was, now = live.command and live.command["recipe"], (command or {}).get("recipe")
    settings = differences(live.config["settings"], section_values(config, stage))
    if settings and was and now and was != now:
        again.recipes[f"recipe {was} → {now}"] = None
    again.settings |= {one.name: one for one in settings if one.name not in again.settings}
    before = {parent["role"]: parent["sha256"] for parent in live.parents}
    parents = read_by(run, stage, config)
    others = [
        parent
        for parent in dict.fromkeys([*before, *parents])
        if parent not in made and (parent not in parents or _identity(run, parent) != before.get(parent))
    ]
    for parent in others:
        again.others[f"{parent} is not the one that {run.folder(stage).name} was made of"] = None
    if settings or others or made.intersection(parents):
        return
    if live.inputs == inputs_of(run, stage, config, live.outside):
        again.others[f"{run.folder(stage)} is not whole"] = None
        return
    now = read_now(run, stage, config, live.outside).outside
    read = [name for name in dict.fromkeys([*live.outside, *now]) if live.outside.get(name) != now.get(name)]
    if read:
        again.others[f"what {stage} reads has changed ({', '.join(read)})"] = None


def _identity(run: Run, parent: str) -> str | None:
    try:
        return run.identity(parent)
    except ArtifactError:
        return None


def _why(again: _Again) -> str:
    settings = list(again.settings.values())
    told = [*again.recipes, *(one.words for one in settings[:MOST]), *again.others]
    if more := len(settings) - MOST:
        told += [f"{more} more setting{'s' if more > 1 else ''}"] * (more > 0)
    return _listed(told) if told else "made by another version"


def _made_of(run: Run, made: set[str], steps: set[str]) -> list[str]:
    """The finished folders that no step makes and that were made of what is made again, or of those."""
    every: dict[str, Manifest] = {}
    for path in sorted((run.root / run.name).glob(f"*/{MANIFEST}")):
        try:
            if (found := run.manifest(path.parent.name)) is not None:
                every[path.parent.name] = found
        except ArtifactError:  # told by whoever needs it
            continue
    gone, left = set(made), list[str]()
    while new := [
        name
        for name, one in every.items()
        if name not in gone and name not in steps and gone.intersection(parent["role"] for parent in one.parents)
    ]:
        gone, left = gone | set(new), left + new
    return left


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
