"""Which rows did stage data publish? Its files, read as what they hold."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data.schema import Demonstration, Judgement, Prompt, PromptText, Ranking
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


def columns_of(run: Run) -> Callable[[Sequence[PromptText]], dict[str, list[Any]]]:
    """What gives prompts the other columns of their rows, by name, one value a prompt; None where a row has no such column, as for
    a prompt that is none of the run's. Each prompt stands once in a run, in the first of its rows."""
    known: dict[str, dict[str, Any]] = {}
    for side in ("train", "eval"):
        for row in rows(run, f"prompts.{side}"):
            if "columns" in row:
                known.setdefault(_exact(row["prompt"]), row["columns"])
    names = list(dict.fromkeys(name for columns in known.values() for name in columns))

    def columns(prompts: Sequence[PromptText]) -> dict[str, list[Any]]:
        found = [known.get(_exact(prompt), {}) for prompt in prompts] if names else []
        return {name: [one.get(name) for one in found] for name in names}

    return columns


def _exact(prompt: PromptText) -> str:
    return json.dumps(prompt, ensure_ascii=False)


def source_of(place: str) -> str:
    """The source in which a row stands at "source:line": all lines of a file are one source."""
    return re.sub(r":\d+$", "", place)
