"""Is every row of every example recognised as its own format and no other?"""

from pathlib import Path

import pytest
from asked import EXAMPLES, example, read

from data.forms import detection, reader
from data.forms.shapes import signature
from data.forms.table import FORMATS
from data.reading import sources

AXIS = {"pku_saferlhf": "safer"}
FILES = sorted(EXAMPLES.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_row_fits_the_format_its_file_is_named_after_and_no_other(path: Path) -> None:
    """The file names are the oracle: <format>.<container>, or <format>.<published set>.<container>."""
    problems: list = []
    rows = list(sources.read(str(path), problems))
    assert problems == [] and len(rows) >= 3
    name = path.name.split(".")[0]
    assert {detection.matching(signature(reader.prepared(row.row))) for row in rows if row.row is not None} == {(name,)}
    assert read(path, axis=AXIS.get(name)).format == name


def test_every_format_has_an_example_and_every_example_a_format() -> None:
    assert {path.name.split(".")[0] for path in FILES} == set(FORMATS)


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.kind == "rankings"])
def test_a_format_of_rankings_says_what_is_better(name: str) -> None:
    assert FORMATS[name].polarity


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.kind == "rankings"])
def test_reverse_turns_every_ranking_round_and_the_polarity_says_so(name: str) -> None:
    axis = "safer" if name == "pku_saferlhf" else None  # which has no axis of its own choice
    plain, reversed_ = (read(example(name), axis=axis, reverse=flag) for flag in (False, True))
    assert plain.rows and [row.ranking[::-1] for row in plain.rows] == [row.ranking for row in reversed_.rows]
    assert reversed_.account.polarity == f"{plain.account.polarity} (reversed by request)"
