"""Which stages read what? The parents and the settings of each: what decides whether a stage is up to date."""

import glob
import sys
from pathlib import Path
from typing import Any

from data.sources import ADAPTER
from pipeline.config import BASELINES, Config, best_of

PARENTS = {
    "data": (),
    "sft": ("data",),
    "reward": ("data", "sft"),
    "gold": ("data", "sft"),
    "ppo": ("data", "sft", "reward"),
    "dpo": ("data", "sft"),
    "rloo": ("data", "sft", "reward"),
    "rft": ("data", "sft", "reward"),
    "best_of_n": ("data", "sft", "reward"),
    "compare": ("data", "sft", "reward", "ppo", *BASELINES),
}
SEEDED = (
    "ppo",
    "dpo",
    "rloo",
    "rft",
)  # stages that `seeds` makes again with further seeds, the stages before them shared


def parents(stage: str, config: Config) -> tuple[str, ...]:
    """The stages whose results `stage` reads; the reward stage only where its score is maximised, and of what is compared only
    what compare.models names."""
    unused = {"reward"} if "reward" not in config.ppo.reward_funcs and stage != "reward" else set()
    if stage == "compare":
        named = {"best_of_n" if best_of(name) else name for name in config.compare.models}
        unused |= {"ppo", *BASELINES} - named
    return tuple(parent for parent in PARENTS[stage] if parent not in unused)


def command_name(stage: str) -> str:
    """What a stage is called on the command line and in make; the model of a further seed goes by its stage."""
    return stage.partition("_seed_")[0].replace("_", "-")


_SCORE = ("ppo.reward_funcs", "ppo.reward_weights", "ppo.missing_eos_score", "ppo.missing_eos_penalty")
_SAMPLING = ("ppo.response_length", "ppo.temperature")
# What else than its own section decides what a stage makes.
READS = {
    "data": ("model", "revision", "seed", "data"),
    "sft": ("model", "revision", "dtype", "seed", "sft", "data.max_length"),
    "reward": ("model", "revision", "dtype", "seed", "reward", "data.max_length", "ppo.temperature"),
    "gold": ("model", "revision", "dtype", "seed", "reward", "data.max_length", "ppo.temperature"),
    "ppo": ("model", "revision", "dtype", "seed", "ppo", "data.max_length"),
    "dpo": ("model", "revision", "dtype", "seed", "dpo", "data.max_length", "ppo.kl_coef"),
    "rloo": (
        *("model", "revision", "dtype", "seed", "rloo", "data.max_length"),
        *("ppo.total_episodes", "ppo.kl_coef", "ppo.eval_prompts", *_SAMPLING, *_SCORE),
    ),
    "rft": (
        *("model", "revision", "dtype", "seed", "rft", "data.max_length"),
        *("ppo.total_episodes", "ppo.eval_prompts", *_SAMPLING, *_SCORE),
    ),
    "best_of_n": (
        *("model", "revision", "dtype", "seed", "best_of_n", "data.max_length"),
        *("compare.generation", *_SAMPLING, *_SCORE),
    ),
    "compare": (
        *("model", "revision", "dtype", "seed", "compare", "data.source", "data.mixture", "data.max_length"),
        *("ppo.reward_funcs", "ppo.reward_weights", *_SAMPLING),
    ),
}


def section_values(config: Config, stage: str) -> dict[str, Any]:
    """The settings that a stage reads, resolved, as plain JSON."""
    whole = config.model_dump(mode="json")
    out: dict[str, Any] = {}
    for name in READS[stage]:
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
    if {"ppo", "ppo.reward_funcs"}.intersection(READS[stage]):
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


def local_files(source: str) -> list[Path]:
    """The files of a data source that lies on this machine: the file itself, all in the folder (before a #split) or beside
    a dataset_info.json#name, or what the pattern finds."""
    path, folder = Path(source).expanduser(), Path(source.partition("#")[0]).expanduser()
    if path.is_file():
        return [path]
    folder = folder.parent if folder.is_file() else folder
    found = folder.rglob("*") if folder.is_dir() else map(Path, glob.iglob(str(path), recursive=True))
    return sorted(p for p in found if p.is_file())
