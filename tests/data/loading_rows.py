"""What do the tests of loading share? Rows of a few formats, and what loading says of them."""

import json

import pytest

from data.loading import scan, to_rows
from data.reading.options import Options
from data.schema import DataError

USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}
PAIR = {"prompt": "What is one and one?", "chosen": "Two.", "rejected": "Three."}
DEMO = {"prompt": "p", "completion": "c"}
TALKS = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def problems_of(source, **options):
    """What is wrong with the source, as (line, field, text)."""
    with pytest.raises(DataError) as caught:
        to_rows(source, Options(**options))
    return [(problem.line, problem.field, str(problem)) for problem in caught.value.problems]


def scanned(source, **options):
    """(account, rows that stood to the end, what was dropped, rejects)"""
    rows, dropped, rejects = {}, [], []

    def drop(number, problem):
        dropped.append((number, problem.line))
        del rows[number]

    account = scan(source, Options(**options), rows.__setitem__, drop, rejects.append)
    return account, rows, dropped, rejects
