"""Is what a stage made still what it would make? The settings, files and parents that decide it."""

import glob
import sys
from pathlib import Path
from typing import Any

from data.reading.sources import ADAPTER
from pipeline.artifacts import other_runs, seeds
from pipeline.artifacts.files import digest, sha256
from pipeline.artifacts.manifest import CONTRACT, Manifest
from pipeline.artifacts.run import Run
from pipeline.graph import BASELINES, STAGES, parents_of
from pipeline.settings.config import Config, best_of
from pipeline.settings.deciding import deciding


def parents(stage: str, config: Config) -> tuple[str, ...]:
    """The stages whose results `stage` reads; the reward stage only where its score is maximised, and of what is compared only
    what compare.models names."""
    unused = {"reward"} if "reward" not in config.ppo.reward_funcs and stage != "reward" else set()
    if stage == "compare":
        named = {"best_of_n" if best_of(name) else name for name in config.compare.models}
        unused |= {"ppo", *BASELINES} - named
    return tuple(parent for parent in parents_of(stage) if parent not in unused)


def section_values(config: Config, stage: str) -> dict[str, Any]:
    """The settings that a stage reads, resolved, as plain JSON."""
    whole = config.model_dump(mode="json")
    out: dict[str, Any] = {}
    for name in STAGES[stage].reads:
        value: Any = whole
        for part in name.split("."):
            value = value[part]
        out[name] = value
    return out


def function_files(stage: str, config: Config) -> list[Path]:
    """The modules of the user's own functions (module:function) that a stage calls: a change there makes it stale. Nothing
    is imported, and what a module imports in its turn is not looked at."""
    names: list[str | None] = []
    if stage == "data":
        names += [*config.data.sources(), *(part.map for part in config.data.parts())]
    if stage == "compare":
        names += config.judges()
    if {"ppo", "ppo.reward_funcs"}.intersection(STAGES[stage].reads):
        names += config.ppo.reward_funcs
    found = [ADAPTER.fullmatch(name) for name in names if name is not None and not Path(name).expanduser().exists()]
    files = [_module_file(match["module"]) for match in found if match is not None]
    return [file for file in files if file is not None]


def _module_file(module: str) -> Path | None:
    """Where Python finds a module; None where there is no such file, which the stage itself will say."""
    for folder in (Path.cwd(), *map(Path, sys.path)):
        path = folder.joinpath(*module.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def sources(stage: str, config: Config) -> list[str]:
    """What a stage reads outside the run, as the recipe names it."""
    return {"data": config.data.sources(), "compare": config.compare.files()}.get(stage, [])


def local_files(source: str) -> list[Path]:
    """The files of a data source that lies on this machine: the file itself, all in the folder (before a #split) or beside
    a dataset_info.json#name, or what the pattern finds."""
    path, folder = Path(source).expanduser(), Path(source.partition("#")[0]).expanduser()
    if path.is_file():
        return [path]
    folder = folder.parent if folder.is_file() else folder
    found = folder.rglob("*") if folder.is_dir() else map(Path, glob.iglob(str(path), recursive=True))
    return sorted(p for p in found if p.is_file())


def read_by(run: Run, stage: str, config: Config) -> tuple[str, ...]:
    """All that `stage` reads of this run: its parents, and what compare takes where it is there: the gold reward model,
    the models of further seeds, and those of other runs. Raises ArtifactError where one of another run is missing."""
    found = parents(stage, config)
    if stage != "compare":
        return found
    others = other_runs.of_other_runs(run, config)
    gold = ("gold",) if config.compare.gold is None and run.manifest("gold") is not None else ()
    return (*found, *gold, *(one.folder for one in seeds.further(run, config)), *others)


def inputs_of(run: Run, stage: str, config: Config) -> str:
    """Hash of everything that decides what a stage makes: its settings but those that only observe, its parents' contents, its
    local input files."""
    local = []
    for source in sources(stage, config):
        local += [sha256(path) for path in local_files(source)]
    local += [sha256(path) for path in function_files(stage, config)]
    identities = {parent: run.identity(parent) for parent in read_by(run, stage, config)}
    return digest(
        {
            "contract": CONTRACT,
            "stage": stage,
            "settings": deciding(section_values(config, stage)),
            "parents": identities,
            "local": local,
        }
    )


def finished(run: Run, stage: str, config: Config) -> Manifest | None:
    """The manifest, if the stage is already made from these very inputs and settings and all its files are there."""
    found = run.manifest(stage)
    if found is None or found.inputs != inputs_of(run, stage, config):
        return None
    present = all(
        (run.folder(stage) / f["path"]).is_file() and (run.folder(stage) / f["path"]).stat().st_size == f["size"]
        for f in found.files
    )
    return found if present else None
