"""Did the score see whole texts? Refused before anything runs where it could see nothing of an answer, counted where it saw a part."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.schema import Prompt
from pipeline.artifacts.gate import NONE, Check, at_most, check
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, ConfigError
from reward.model import Scorer, reading_of
from reward.rendering import render

MOST_CUT = at_most(0.1)  # of the texts that were scored: above, the score is of other texts than those that were said


def models_that_score(config: Config, run: Run) -> Iterator[tuple[str, str | Path]]:
    """What ppo.reward_funcs names that is no function: its name, and its folder or Hub id."""
    for name in config.ppo.reward_funcs:
        if name == "reward":
            yield name, run.folder("reward")
        elif ":" not in name or Path(name).exists():
            yield name, name


def check_seen(stage: str, config: Config, asked: Iterable[Prompt], models: Iterable[tuple[str, str | Path]]) -> None:
    """Raise ConfigError where a prompt alone fills what one of `models` reads: two opposite answers would get the same score.

    Also raises what `reading_of` raises, before anything is sampled.
    """
    prompts = list(asked)
    for name, path in models:
        reads = reading_of(path, config.chat_template_kwargs)
        shortest = "a" if reads.manner == "pair" else ""  # a pair without a second text has no second separator
        for one in prompts:
            length = len(render(reads.tokenizer, reads.manner, one.prompt, shortest, reads.max_length + 1).ids)
            if length > reads.max_length:
                raise ConfigError(
                    f"{stage}: prompt {one.id} alone fills the {reads.max_length} tokens that {name} reads, so it would see "
                    "nothing of an answer; take such prompts out, or use a reward model that reads more"
                    + (" (data.max_length when it was trained)" if name == "reward" else "")
                )


def seen(scorers: Iterable[Any]) -> dict[str, float]:
    """How many texts reward models were given, and how many of them were longer than they read; nothing where only functions score."""
    counted = [one.counts for one in scorers if isinstance(one, Scorer)]
    return {f"scored/{what}": float(sum(one[what] for one in counted)) for what in ("texts", "cut")} if counted else {}


def check_cut(figures: Mapping[str, float]) -> list[Check]:
    """A gate's line on the share of scored texts that were cut, where reward models scored any."""
    texts, cut = figures.get("scored/texts", 0.0), figures.get("scored/cut", 0.0)
    why = f"cut: {cut:.0f} of {texts:.0f}; shorter answers, or a reward model that reads more"
    return (
        [check("share of scored texts that were cut", cut / texts, must=MOST_CUT, should=NONE, why=why)]
        if texts
        else []
    )
