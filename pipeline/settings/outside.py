"""Is what a recipe names outside the run there: models, judges, reward functions, files? Looked at before anything trains or samples.

Nothing is loaded and no module of a user runs; what only loading can tell, each stage tells itself.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.commands import install
from pipeline.graph import REWARD_MODELS
from pipeline.settings.config import CHINESE_REVIEWS, CHINESE_SENTIMENT, VADER, Config, ConfigError

REWARDED = ("ppo", "rloo", "rft", "best_of_n")  # the stages that call the reward functions


def check_outside(config: Config, stages: Sequence[str]) -> None:
    """Raise ConfigError, a line for each thing that `stages` will read and that is not there."""
    told = _models(config, stages)
    if set(stages) & set(REWARDED):
        told += [_function("ppo.reward_funcs", name) for name in config.ppo.reward_funcs if ":" in name]
    if "compare" in stages:
        told += [_judge(name, config) for name in config.judges()]
        files = [("compare.votes", path) for path in config.compare.votes]
        files += [("compare.plain_text", path) for path in (config.compare.plain_text,) if path is not None]
        told += [
            f"{setting}: {path}: no such file; mend the path or leave it out"
            for setting, path in files
            if not Path(path).is_file()
        ]
        told.append(_key(config))
    if wrong := [sentence for sentence in told if sentence is not None]:
        raise ConfigError("\n".join(wrong))


def _models(config: Config, stages: Sequence[str]) -> list[str | None]:
    named: list[tuple[str, str | None, bool]] = [("model", config.model, True)]
    read = {section for stage, section in REWARD_MODELS.items() if stage in stages}
    named += [
        (f"{one}.model", getattr(config, one).model, one in read) for one in dict.fromkeys(REWARD_MODELS.values())
    ]
    named.append(("compare.gold", config.compare.gold, "compare" in stages))
    return [
        f"{setting}: {name}: no such folder; give a folder that holds a model, or a Hub id"
        for setting, name, read in named
        if read and name is not None and _is_a_path(name) and not Path(name).exists()
    ]


def _is_a_path(name: str) -> bool:
    """Whether a name can be no Hub id, or begins with a folder that is here."""
    first = Path(name).parts[0] if name else ""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or (name.count("/") == 1 and Path(first).is_dir())


def _judge(name: str, config: Config) -> str | None:
    if name == CHINESE_SENTIMENT:
        none = f"compare.judges: {name} learns from reviews that data.source={CHINESE_REVIEWS} sets apart; leave it out of this run"
        return None if config.data.chinese() else none
    if name == VADER:
        missing = find_spec("vaderSentiment") is None
        remedy = f"leave it out, or {install('vaderSentiment==3.3.2')}"
        return f"compare.judges: vader needs the package vaderSentiment; {remedy}" if missing else None
    if ":" not in name:
        return f'compare.judges: no judge is called {name!r}; use "{VADER}", "{CHINESE_SENTIMENT}", or "module:function" for your own'
    return _function("compare.judges", name)


def _function(setting: str, name: str) -> str | None:
    """What is wrong with `module:function`, as far as it can be told without running the module."""
    module = name.partition(":")[0]
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = bool(module) and not module.startswith(".") and find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of a folder above it; of a module that has no spec
        found = module in sys.modules
    return (
        None
        if found
        else f"{setting}: {name}: no module {module} in {here} or installed; give its name without .py, folders parted by dots"
    )


def _key(config: Config) -> str | None:
    variable = None if config.compare.llm is None else config.compare.llm.api_key_env
    if variable is None or os.environ.get(variable, "").strip():
        return None
    return (
        "compare.llm.api_key_env: the environment variable that it names is not set; export it, or set compare.llm=null"
    )
