"""Can every prompt's row be checked by the verifiers that will check it? Told before anything trains or samples."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data.schema import Prompt
from pipeline.settings.config import VERIFIERS, Config, ConfigError

SHOWN = 3


def check_rows(config: Config, asked: Iterable[Prompt], stage: str) -> None:
    """Raise ConfigError, a line for each verifier among the functions that `stage` calls, with the first rows that it cannot check and how
    many there are. Of stage data they are those of ours that any stage will call; modules of a user are not run there."""
    from reward.functions import resolve
    from reward.verifiers import wrong

    functions = [("ppo.reward_funcs", name) for name in config.ppo.reward_funcs]
    functions += [("compare.judges", name) for name in config.judges()] if stage in ("data", "compare") else []
    prompts = list(asked)
    told = []
    for name, setting in {name: setting for setting, name in reversed(functions)}.items():
        if ":" not in name or Path(name).exists() or (stage == "data" and not name.startswith(VERIFIERS)):
            continue
        function = resolve(name)
        found = [(one, said) for one in prompts if (said := wrong(function, one.columns or {})) is not None]
        if found:
            told.append(f"{setting}: {name} cannot check {len(found)} of {len(prompts)} prompts: {_rows(found)}")
    if told:
        raise ConfigError("\n".join(told))


def _rows(found: Sequence[tuple[Prompt, str]]) -> str:
    shown = "; ".join(f"{one.source}, prompt {one.id}: {said}" for one, said in found[:SHOWN])
    return shown if len(found) <= SHOWN else f"{shown}; and {len(found) - SHOWN} more"
