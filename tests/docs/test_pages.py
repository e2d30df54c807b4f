"""Does every page of docs/ promise only what is there?"""

import re
from pathlib import Path

import pytest
from promises import ROOT, code, problems
from test_layout import ORDER

from pipeline.settings.listing import markdown
from pipeline.settings.recipe import fields

PAGES = sorted((ROOT / "docs").glob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ("pipeline", "policies", "reward", "data")


def modules() -> list[str]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def tree() -> dict[str, str]:
    """File -> its comment, as the tree of architecture.md has them."""
    block = ARCHITECTURE.partition("## The tree")[2].split("```")[1]
    folder, found = "", {}
    for line in block.strip().splitlines():
        name, _, comment = line.strip().partition(" ")
        if line.startswith("  "):
            found[folder + name] = comment.strip()
        else:
            folder = name
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ") and code(text)
    if page.name in (
        "extending.md",
        "data.md",
    ):  # its blocks are files to come, which test_extending.py puts into their places
        text = re.sub(r"^```(?:python|html|make)\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert problems(text, page) == []


def test_the_tree_names_every_module_once_and_no_other() -> None:
    assert sorted(tree()) == modules() and all(tree().values())


def test_every_function_of_the_table_is_there() -> None:
    """`problems` checks them; here, that they are written as it finds them."""
    rows = re.findall(r"^\| … .*$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) >= 12
    assert all(re.search(r"`(?:pipeline|policies|reward|data)/[\w/]+\.py:[A-Za-z_][\w.]*`", row) for row in rows)


def test_the_order_of_the_rooms_is_the_law() -> None:
    listed = ARCHITECTURE.partition("## The order of the rooms")[2].partition("\n## ")[0]
    rooms = re.findall(r"^\d+\. (.+)$", listed, re.MULTILINE)
    assert tuple(re.findall(r"`pipeline/(\w+)", " ".join(rooms))) == ORDER


def test_the_page_of_settings_is_up_to_date() -> None:
    """To mend it: python -m pipeline settings --markdown > docs/settings.md"""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == markdown()


def test_the_page_of_settings_says_what_each_takes() -> None:
    page = markdown()
    assert [name for name in fields() if f"| `{name}` |" not in page] == []
    for row in (
        "| `ppo.batch_size` | `64` | integer ≥ 1 | episodes of one iteration, over all processes |",
        '| `ppo.engine` | `"transformers"` | transformers, continuous, vllm, vllm_server |',
        "| `data.max_rows` | `null` | integer ≥ 1, or null |",
        "| `compare.llm.base_url` | `needed` | text | such as http://127.0.0.1:8000/v1 |",
        "| `report_to` | `[]` | list of tensorboard, trackio, wandb |",
    ):
        assert row in page


def test_every_check_of_a_gate_is_explained() -> None:
    """Names of checks as the code has them; where one is put together, the parts of it."""
    page = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    files = [*(ROOT / "pipeline" / "stages").glob("*.py"), *(ROOT / "pipeline" / "training").glob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = re.findall(r"\bcheck\w*\(\s*f?\"([^\"]+)\"", source) + re.findall(
        r"^ +name = f?\"([^\"]+)\"$", source, re.MULTILINE
    )
    parts = [part for name in names for part in re.split(r"\{.*?\}", name)]
    assert len(names) > 20 and [part for part in parts if part.strip() not in page] == []


@pytest.mark.parametrize("stage", ["data", "sft", "reward", "ppo", "compare"])
def test_every_limit_of_a_gate_is_on_its_page(stage: str) -> None:
    page = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    section = next(part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"`{stage}`"))
    files = [f"pipeline/stages/{stage}.py", *(["pipeline/training/drift.py"] if stage == "ppo" else [])]
    source = "\n".join((ROOT / path).read_text(encoding="utf-8") for path in files)
    limits = re.findall(r"\b(?:at_least|above|at_most|between)\(([-\d., e]+)\)", source)
    numbers = {number.strip() for limit in limits for number in limit.split(",")} - {"1"}  # told as "none"
    assert numbers and [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.]*\d)", section)] == []


def test_every_promise_names_its_test() -> None:
    """`problems` checks that the tests are there."""
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").partition("## What is not promised")[0]
    rows = [row for row in re.findall(r"^\| (.*) \|$", page, re.MULTILINE) if row != "promise | test"]
    assert [row for row in rows if not re.search(r"\| .*`tests/[\w/]+\.py::test_\w+`", row)] == []
