"""Does docs/data.md promise only what is there: every form with rows that are read as such, settings, recipes, messages, code?"""

import json
import re
from pathlib import Path

import pytest
from promises import ROOT

from data.forms import detection
from data.forms.shapes import signature
from data.forms.table import FORMATS
from data.loading import to_rows
from data.reading.options import Options
from pipeline.settings.recipe import load

DOC = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^#### ", DOC, flags=re.MULTILINE)[1:]
EXAMPLES = {
    section.split("`")[1]: re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL) for section in SECTIONS
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


def test_every_form_is_explained_once() -> None:
    names = [section.split("`")[1] for section in SECTIONS]
    assert sorted(names) == sorted(FORMATS)
    assert all(len(found) == 1 and len(found[0].splitlines()) == 3 for found in EXAMPLES.values())
    assert sum(len(found) for found in EXAMPLES.values()) == len(blocks("json"))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_its_rows_are_read_as_that_form(name: str, tmp_path: Path) -> None:
    (text,) = EXAMPLES[name]
    for line in text.splitlines():
        assert detection.matching(signature(json.loads(line))) == (name,)
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    chosen = FORMATS[name]
    axis = chosen.axes[0] if chosen.axes and chosen.default_axis is None else None
    loaded = to_rows(str(path), Options(axis=axis))  # raises for any mistake
    assert (loaded.format, loaded.read) == (name, 3) and loaded.rows


@pytest.mark.parametrize("name", [name for name, chosen in FORMATS.items() if chosen.axes])
def test_every_axis_is_named(name: str) -> None:
    section = next(section for section in SECTIONS if section.startswith(f"`{name}`"))
    assert [axis for axis in FORMATS[name].axes if axis not in section] == []


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_parse(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert load(path).data.parts() or load(path).data.sources()


def test_every_message_is_one_of_ours() -> None:
    """The quoted pieces of the table of mistakes stand in the code, twenty kinds of them."""
    table = DOC.partition("| | it says | do |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 21))
    code = "\n".join(
        p.read_text(encoding="utf-8") for room in ("data", "pipeline") for p in (ROOT / room).rglob("*.py")
    )
    quoted = [piece for row in rows for piece in re.findall("“(.+?)”", row)]
    assert all(re.search("“.+?”", row) for row in rows) and [piece for piece in quoted if piece not in code] == []
