"""Is what a stage made still what it would make? The settings, files and parents that decide it."""

import glob
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.reading.sources import ADAPTER
from pipeline.artifacts import other_runs, seeds
from pipeline.artifacts.embedded import EMBEDDED_FOLDER, TINY_FOLDER
from pipeline.artifacts.files import digest
from pipeline.artifacts.hashes import hashed, memory
from pipeline.artifacts.manifest import CONTRACT, Manifest
from pipeline.artifacts.run import Inputs, Run
from pipeline.graph import BASELINES, PRETRAINED, REWARD_MODELS, STAGES, parents_of
from pipeline.settings.config import CHINESE_REVIEWS, EMBEDDED_MODEL, EMBEDDED_REVIEWS, TINY_MODEL, Config, best_of
from pipeline.settings.deciding import deciding


def parents(stage: str, config: Config) -> tuple[str, ...]:
    """The stages whose results `stage` reads; the reward stage only where its score is maximised, of what is compared only
    what compare.models names, and of PRETRAINED what the recipe starts from."""
    itself = stage in ("reward", "reward_encoder")  # the second is held against the first
    unused = {"reward"} if "reward" not in config.ppo.reward_funcs and not itself else set()
    if stage == "compare":
        named = {"best_of_n" if best_of(name) else name for name in config.compare.models}
        unused |= {"ppo", *BASELINES} - named
    unused |= set(PRETRAINED) - ({config.model} if reads_base(stage, config) else set()) - {own_base(stage, config)}
    return tuple(parent for parent in parents_of(stage) if parent not in unused)


def own_base(stage: str, config: Config) -> str | None:
    """The base of a stage that makes a reward model, as its section names it; None where it is the sft model, and of other stages."""
    section = REWARD_MODELS.get(stage)
    base: str | None = None if section is None else getattr(config, section).model
    return base


def reads_base(stage: str, config: Config) -> bool:
    """Whether `stage` reads the base model, or its tokenizer."""
    return stage in ("data", "sft") or (
        stage == "compare" and bool({"base", "few_shot"}.intersection(config.compare.models))
    )


def section_values(config: Config, stage: str) -> dict[str, Any]:
    """The settings that a stage reads, resolved, as plain JSON."""
    whole = config.model_dump(mode="json")
    out: dict[str, Any] = {}
    for name in STAGES[stage].reads:
        if stage in PRETRAINED and name.startswith("data.") and not _splits(name, getattr(config, stage).source):
            continue
        value: Any = whole
        for part in name.split("."):
            value = value[part]
        out[name] = value
    return out


def _splits(setting: str, corpus: str | None) -> bool:
    """Whether a setting of data decides how an embedded corpus is split; that of another is split by its own section."""
    return corpus == CHINESE_REVIEWS or (corpus == EMBEDDED_REVIEWS and setting == "data.eval_fraction")


def function_files(stage: str, config: Config) -> list[Path]:
    """The modules of the user's own functions (module:function) that a stage calls: a change there makes it stale. Nothing
    is imported, and what a module imports in its turn is not looked at."""
    names: list[str | None] = []
    if stage in PRETRAINED:
        names += getattr(config, stage).sources()
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
    made: dict[str, list[str]] = {one: getattr(config, one).sources() for one in PRETRAINED}
    found = made | {"data": config.data.sources(), "compare": config.compare.files()}
    return found.get(stage, [])


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


def models_read(stage: str, config: Config) -> dict[str, Path]:
    """The folders of models outside the run that a stage reads, by the setting that names them; a Hub id is none, as its revision
    says what it is, and neither is what `sources` names."""
    named: dict[str, str | None] = {}
    if reads_base(stage, config) and config.model not in PRETRAINED:
        named["model"] = config.model
    if (base := own_base(stage, config)) not in PRETRAINED:
        named[f"{REWARD_MODELS.get(stage)}.model"] = base
    if {"ppo", "ppo.reward_funcs"}.intersection(STAGES[stage].reads):
        named |= {f"ppo.reward_funcs {name}": name for name in config.ppo.reward_funcs if name != "reward"}
    own = {EMBEDDED_MODEL: EMBEDDED_FOLDER, TINY_MODEL: TINY_FOLDER}
    folders = {setting: own.get(name, Path(name)) for setting, name in named.items() if name is not None}
    return {setting: path for setting, path in folders.items() if path.is_dir() or path in own.values()}


def _outside(run: Run, stage: str, config: Config, known: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The hashes of the rows, texts and functions that a stage reads, in their order; and all that it reads, by name. A model of
    ours that was removed to be made again when it is needed is taken to be what is `known` of it."""
    rows = {source: local_files(source) for source in sources(stage, config)}
    rows |= {f"module {path.stem}": [path] for path in function_files(stage, config)}
    models = models_read(stage, config)
    inside = {setting: _files_of(folder) for setting, folder in models.items()}
    every = [path for paths in (*rows.values(), *inside.values()) for path in paths]
    of = hashed(dict.fromkeys(every), memory(run.root), run.verify)
    named = {name: digest([of[path] for path in paths]) for name, paths in rows.items() if paths}
    for setting, paths in inside.items():
        told = [[path.relative_to(models[setting]).as_posix(), of[path]] for path in paths]
        named[setting] = digest(told) if paths else known.get(setting, digest([]))
    return [of[path] for paths in rows.values() for path in paths], named


def _files_of(folder: Path) -> list[Path]:
    """All files of a model's folder but those of version control and of download tools, which no library reads."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not {".git", ".cache"}.intersection(path.relative_to(folder).parts))


def read_now(run: Run, stage: str, config: Config, known: Mapping[str, str] | None = None) -> Inputs:
    """Everything that decides what a stage makes, as it is now: its settings but those that only observe, its parents' contents, its
    local input files and models. `known` is what was found outside of the run before. Raises ArtifactError."""
    local, outside = _outside(run, stage, config, known or {})
    identities = {parent: run.identity(parent) for parent in read_by(run, stage, config)}
    models = {setting: outside[setting] for setting in models_read(stage, config)}
    found = {
        "contract": CONTRACT,
        "stage": stage,
        "settings": deciding(section_values(config, stage)),
        "parents": identities,
        "local": local,
    }
    return Inputs(digest(found | ({"models": models} if models else {})), identities, outside)


def inputs_of(run: Run, stage: str, config: Config, known: Mapping[str, str] | None = None) -> str:
    """The hash of `read_now`."""
    return read_now(run, stage, config, known).sha256


def finished(run: Run, stage: str, config: Config) -> Manifest | None:
    """The manifest, if the stage is already made from these very inputs and settings and all its files are what was published.

    Raises ArtifactError where it cannot be told: a parent is missing, or its folder holds what nobody published.
    """
    found = run.manifest(stage)
    if found is None:
        return None
    now = read_now(run, stage, config, found.outside)
    if found.inputs != now.sha256 or {one["role"]: one["sha256"] for one in found.parents} != now.parents:
        return None
    return found if run.flaw(stage, found, anew=run.verify) is None else None


def replaced(before: Inputs, now: Inputs) -> list[str]:
    """The names of what was read and is another one now."""
    both = ((before.parents, now.parents), (before.outside, now.outside))
    return [name for old, new in both for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
