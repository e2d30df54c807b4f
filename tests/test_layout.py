"""Does every file stand in its room, import only what the room may, and stay readable in one sitting?"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "data": {"data"},
    "policies": {"policies"},
    "reward": {"reward", "policies"},
    "pipeline": {"pipeline", "reward", "policies", "data"},
}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def rooms_imported(source: str, room: str) -> set[str]:
    """Rooms that a module in `room` imports, at its top or inside a function, relatively or by a literal import_module too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(room if node.level else str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            literal = node.args[0]
            if isinstance(literal, ast.JoinedStr):  # f"pipeline.{…}": its beginning says the room
                literal = literal.values[0]
            if isinstance(literal, ast.Constant):
                found.add(str(literal.value).split(".")[0])
    return found & (set(MAY_IMPORT) | {"tests"})


def test_the_rooms_are_found() -> None:
    """A pattern that matches nothing would let every other test here pass."""
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)
    assert ROOT / "data/forms/trl.py" in FILES and ROOT / "tests/data/forms/test_trl.py" in TESTS
    assert ROOT / "pipeline/__main__.py" in FILES and ROOT / "pipeline/report/numbers.py" in FILES
    assert ROOT / "policies/trainer.py" in FILES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, pipeline.settings.config as c", {"pipeline"}),
        ("def f():\n    from reward.model import load", {"reward"}),
        ("if 1:\n    import data", {"data"}),
        ("from . import other", {"policies"}),
        ("import importlib\nimportlib.import_module('data.refining.clean')", {"data"}),
        ("import importlib\nimportlib.import_module(f'pipeline.{x}')", {"pipeline"}),
        ("import datasets, rewarding", set()),
    ],
)
def test_the_search_sees_every_kind_of_import(source: str, found: set[str]) -> None:
    assert rooms_imported(source, "policies") == found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert rooms_imported(path.read_text(encoding="utf-8"), room) <= MAY_IMPORT[room]


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=name)
def test_a_folder_of_modules_is_a_package(folder: Path) -> None:
    """One without __init__.py would not be installed. In pipeline/ it is a docstring alone: a name has one place."""
    source = (folder / "__init__.py").read_text(encoding="utf-8")
    assert not folder.is_relative_to(ROOT / "pipeline") or len(ast.parse(source).body) == 1


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_bench_imports_the_bench(path: Path) -> None:
    """What measures is no part of what is measured."""
    inside = path.is_relative_to(ROOT / "pipeline/bench")
    assert inside or "pipeline.bench" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_module_asks_whether_it_is_tested(path: Path) -> None:
    """Behaviour that knows it is being tested is not the behaviour that users get."""
    text = path.read_text(encoding="utf-8")
    assert "PYTEST" not in text and "import pytest" not in text


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """A wrong recipe is told before torch is loaded; so neither settings, artifacts nor the command line may import it."""
    heavy = ["torch", "transformers", "datasets", "peft", "trl", "accelerate", "matplotlib"]
    code = f"import sys, pipeline.__main__, pipeline.artifacts.run, pipeline.settings.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
