"""What do several commands take? A recipe, settings in its place, the name of a run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands import Call

Recipe = Annotated[Path, typer.Argument(help="a YAML recipe, such as recipes/film_reviews.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings that replace the recipe's, such as ppo.kl_coef=0.1", show_default=False),
]
Name = Annotated[
    str | None, typer.Option("--run", envvar="PIPELINE_RUN", help="folder under runs/; default: the recipe's name")
]
Demo = Annotated[str, typer.Option("--run", envvar="PIPELINE_RUN", help="folder under runs/")]


Language = Annotated[
    Literal["en", "zh"] | None,
    typer.Option("--lang", help="in which language pages are shown: report.language", show_default=False),
]


def called(
    asked: str, recipe: Path, overrides: list[str] | None, run: str | None, lang: str | None = None, **more: int
) -> Call:
    """`lang` is short for the setting report.language."""
    given = [*(overrides or []), *([] if lang is None else [f"report.language={lang}"])]
    return Call.of(recipe, recipe.stem if run is None else run, given, asked=asked, **more)
