"""Is there room on the disk for what a stage writes? Estimated before it starts, as its memory is, and held against what is free."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.artifacts import refusals
from pipeline.artifacts.refusals import size_words
from pipeline.artifacts.run import Run
from pipeline.commands import pruning
from pipeline.graph import PRETRAINED
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.sections import Stepwise
from policies.footprint import Footprint

NUMBER = 4  # bytes of a number of float32, as which weights that were merged may have to be stored
OF_A_TOKEN = 24  # bytes of a sampled token in a row: its text, its number, and what stands beside them
SMALL = 2e6  # tokenizer, logs, pages, manifest


def of_trainer(section: Stepwise, model: Footprint, steps: int | None = None) -> dict[str, float]:
    """Bytes by part that a stage of transformers' Trainer writes: what it publishes, and its checkpoints, of which two lie there while one
    takes the other's place."""
    lora = section.tuning == "lora"
    published = model.numbers * NUMBER + (model.trained * NUMBER if lora else 0)
    at_once = 1 if steps is not None and section.save_steps >= steps else 2
    return {"weights": float(published), "checkpoints": at_once * 3.0 * model.trained * NUMBER, "other files": SMALL}


def of_ppo(config: Config, model: Footprint) -> dict[str, float]:
    """The same of stage ppo: its state, the weights to go back to, and the critic."""
    section = config.ppo
    lora, critic = section.tuning == "lora", section.value == "adapter"
    beside = (model.trained if lora else model.body) if critic else 0
    trained = model.trained + beside
    published = model.numbers + (model.trained if lora else 0) + beside
    at_once = 1 if section.save_steps >= section.iterations() else 2
    state = at_once * 3.0 * trained + 2.0 * trained
    samples = len(range(0, section.iterations() + 1, section.eval_steps)) + 1
    said = samples * section.eval_prompts * section.response_length * OF_A_TOKEN
    return {
        "weights": float(published) * NUMBER,
        "state": state * NUMBER,
        "samples": 2.0 * said,
        "other files": SMALL,
    }


def of_samples(count: float, length: int) -> dict[str, float]:
    """The same of a stage that samples so many completions of at most `length` tokens, and publishes them."""
    return {"samples": 2.0 * count * length * OF_A_TOKEN, "other files": SMALL}


def of_rows(read: float) -> dict[str, float]:
    """The same of stage data, which publishes its rows in several shapes."""
    return {"rows": 2.5 * read, "other files": SMALL}


def check(stage: str, config: Config, run: Run, parts: Mapping[str, float], sure: bool = True) -> str:
    """What the stage writes and what is free, for its line; what an interrupted attempt left counts as written. Raises ConfigError where
    there is too little room; where the estimate is not `sure`, that is told only."""
    folder = run.partial(stage)
    total = sum(parts.values())
    fewer = _fewer(stage, config)
    refusals.needed[folder] = (total, fewer)
    need, free = max(0.0, total - _written(folder)), refusals.free(folder)
    if need <= free:
        return f"writes about {size_words(total)}, {size_words(free)} are free on the disk"
    shown = ", ".join(f"{name} {size_words(part)}" for name, part in parts.items())
    former = run.kept.is_dir() and any(run.kept.iterdir())
    prune = f"; what is kept of former results goes too; {pruning(run.name)}" if former else ""
    told = (
        f"{stage}: writes about {size_words(total)} to {folder} ({shown}), and {size_words(free)} are free on its disk; make room"
        f"{f', or {fewer}' if fewer else ''}{prune}"
    )
    if sure:
        raise ConfigError(told)
    return told.removeprefix(f"{stage}: ")


def _fewer(stage: str, config: Config) -> str:
    """The settings that make a stage write less, as they are now."""
    name = "reward" if stage == "gold" else stage
    section = getattr(config, name)
    if stage == "best_of_n":
        return "lower best_of_n.n or best_of_n.prompts"
    if stage in ("data", "compare"):
        return "lower compare.prompts" if stage == "compare" else ""
    if name in PRETRAINED:
        return f"lower {name}.hidden_size or {name}.num_hidden_layers"
    found = [f"set {name}.tuning=lora"] if section.tuning == "full" else [f"lower {name}.lora.r"]
    return " or ".join([f"raise {name}.save_steps, so that one state lies there at a time,", *found])


def _written(folder: Path) -> float:
    total = 0.0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
