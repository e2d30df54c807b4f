"""Does what a stage reads and writes fit into its model's context? Told before anything is loaded, with the row and the setting to lower."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.schema import Prompt
from pipeline.settings.config import Config, ConfigError
from policies.blueprint import config_at, readable
from policies.errors import NotThere
from policies.template import encode_prompt

Row = tuple[str, int]
"""What a row is called, and how many tokens it has."""


def prompt_rows(tokenizer: Any, prompts: Iterable[Prompt]) -> list[Row]:
    return [(f"prompt {one.id}", len(encode_prompt(tokenizer, one.prompt))) for one in prompts]


def new_tokens(config: Config, section: str) -> tuple[str, int]:
    """The setting that limits completions in `section`, which has a `generation` of its own (compare, rft, inspect), and its tokens."""
    own: int | None = getattr(config, section).generation.max_new_tokens
    return (
        ("ppo.response_length", config.ppo.response_length)
        if own is None
        else (f"{section}.generation.max_new_tokens", own)
    )


def check_fits(
    stage: str,
    model: str | Path,
    rows: Iterable[Row],
    setting: str,
    more: int = 0,
    *,
    end: int = 0,
    revision: str | None = None,
    instead: str | None = None,
) -> None:
    """Raise ConfigError where the longest of `rows`, with `more` new tokens that `setting` allows, is longer than what `model` reads. An
    encoder–decoder reads a prompt and what it says apart, each of which is to fit: rows that are both are `template.read_at_once`. Where
    nothing is added, `setting` is what cuts rows, unless a remedy is named `instead`. `end` is 1 where a completion that was cut is read with its EOS."""
    name, length = max(rows, key=lambda row: row[1], default=("", 0))
    try:
        limit = readable(model, revision)
    except NotThere:  # who loads it says what is wrong there
        return
    if limit is None:
        return
    apart = config_at(model, revision).is_encoder_decoder
    beside = 0 if apart and more and length - 1 <= limit else length  # its encoder is not given START
    if beside + more + end <= limit:
        return
    room = limit - beside - end if more else limit
    adds = f" and {setting} adds {more}{' and an EOS' if end else ''}" if more else ""
    remedy = instead or (f"lower {setting} to {room}" if room > 0 else "take such rows out")
    remedy += ", or use a model that reads more"
    raise ConfigError(f"{stage}: {name} has {length} tokens{adds}, and {model} reads {limit}; {remedy}")
