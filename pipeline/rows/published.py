"""Which rows did stage data publish? Its files, read as what they hold."""

import re
from collections.abc import Iterator
from typing import Any

from data.schema import Demonstration, Judgement, Prompt, Ranking
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.run import Run


def rows(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file of the data stage, such as rankings.train."""
    yield from read_rows(run.folder("data") / f"{name}.jsonl")


def demonstrations(run: Run, side: str) -> list[Demonstration]:
    return [Demonstration.from_json(row) for row in rows(run, f"demonstrations.{side}")]


def rankings(run: Run, side: str) -> list[Ranking]:
    return [Ranking.from_json(row) for row in rows(run, f"rankings.{side}")]


def judgements(run: Run, side: str) -> list[Judgement]:
    """None where the data had none, as there is no file then."""
    if not (run.folder("data") / f"judgements.{side}.jsonl").is_file():
        return []
    return [Judgement.from_json(row) for row in rows(run, f"judgements.{side}")]


def prompts(run: Run, side: str) -> list[Prompt]:
    return [Prompt.from_json(row) for row in rows(run, f"prompts.{side}")]


def source_of(place: str) -> str:
    """The source in which a row stands at "source:line": all lines of a file are one source."""
    return re.sub(r":\d+$", "", place)
