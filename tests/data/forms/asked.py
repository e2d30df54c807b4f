"""What do the tests of all formats share? The example files, and reading rows as a user's file is read."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data.loading import Loaded, to_rows
from data.reading.options import Options
from data.schema import DataError

EXAMPLES = Path(__file__).parent / "examples"
GONE = object()
"""Stands for a key that is taken away."""

Row = dict[str, Any]


def example(name: str) -> Path:
    return EXAMPLES / f"{name}.jsonl"


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in example(name).read_text(encoding="utf-8").splitlines()]


def read(path: Path, **options: Any) -> Loaded:
    return to_rows(str(path), Options(**options))


def write(folder: Path, rows: list[Row], ending: str = "jsonl") -> Path:
    """The rows as a file of one container: JSON lines, CSV with every cell as text, or Parquet."""
    path = folder / f"rows.{ending}"
    if ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def but(row: Row, *where: Any) -> Row:
    """The row with another value, the last of `where`, at the keys and positions before it; GONE takes the key away."""
    made = copy.deepcopy(row)
    *path, last, value = where
    inner: Any = made
    for step in path:
        inner = inner[step]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return made


def orders(loaded: Loaded) -> list[list[list[str]]]:
    """The completions' ids of every row kept, in tiers, in the order of the completions within one."""
    return [[sorted(tier) for tier in row.ranking] for row in loaded.rows]


def account(loaded: Loaded) -> tuple[int, int, dict[str, int]]:
    """(rows read, rows kept, rows left out by reason) where nothing was wrong."""
    assert loaded.problems == [] and loaded.rejects == [] and loaded.account.rejected == {}
    left_out = {reason: count for reason, count in loaded.account.left_out.items() if count}
    assert loaded.read == len(loaded.rows) + sum(left_out.values())
    return loaded.read, len(loaded.rows), left_out


def problems_of(folder: Path, rows: list[Row], **options: Any) -> list[tuple[int | None, str, str]]:
    """What is wrong with these rows, as (line, field, problem)."""
    with pytest.raises(DataError) as caught:
        read(write(folder, rows), **options)
    return [(problem.line, problem.field, problem.problem) for problem in caught.value.problems]


def told(folder: Path, name: str, bad: Row, **options: Any) -> tuple[str, str]:
    """(field, problem) of one bad row below the sound ones of the example, be the format named or found."""
    rows = [*rows_of(name), bad]
    found = problems_of(folder, rows, **options)
    assert found == problems_of(folder, rows, format=name, **options)
    assert [line for line, _, _ in found] == [len(rows)], found
    kept = read(folder / "rows.jsonl", skip_bad=True, **options)
    assert kept.format == name
    assert [reject.line for reject in kept.rejects] == [len(rows)]
    assert kept.read == len(rows) == len(kept.rows) + kept.account.left_out.total() + len(kept.rejects)
    assert len(kept.rows) == len(read(example(name), **options).rows)
    return found[0][1:]
