"""Does every file stand in its room, import only what the room may, and stay readable in one sitting? This is the law of the house."""

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
# What a word is, is one question in one place; of the rest of data/ reward knows nothing.
BESIDE = {"reward": {"data.units"}}
# The rooms of pipeline/ from the ground up: each imports only what stands before it. Beside them, modules of their own.
ORDER = (
    *(
        "beating",
        "ending",
        "waiting",
        "language",
        "graph",
        "statistics",
        "redaction",
        "commands",
        "words",
        "settings",
        "artifacts",
        "pages",
        "rows",
    ),
    *(
        "training",
        "pretraining",
        "data_check",
        "comparison",
        "judges",
        "report",
        "inspect",
        "stages",
        "sharing",
        "bench",
        "plan",
    ),
    *("people", "web", "ranks", "nodes", "running", "rounds", "arguments", "with_people", "__main__"),
)
LONGEST_FILE, LONGEST_FUNCTION = 400, 80  # lines
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(source: str, modules: set[str] | None = None) -> set[str]:
    """Modules that a source imports, at its top or inside a function, or by an import_module with a literal; those among `modules`
    where they are given, the longest name that is one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if not node.level else {"." * node.level}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            literal = node.args[0]
            if isinstance(literal, ast.JoinedStr):  # f"pipeline.{…}": its beginning says the room
                literal = literal.values[0]
            if isinstance(literal, ast.Constant):
                found.add(str(literal.value))
    if modules is None:
        return found
    return {one if one in modules else one.rpartition(".")[0] for one in found} & modules


def rooms_imported(source: str, room: str) -> set[str]:
    """Rooms that a module in `room` imports."""
    found = {room if one.startswith(".") else one.split(".")[0] for one in imported(source)}
    return found & (set(MAY_IMPORT) | {"tests"})


def imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports; a package's docstring is no import."""
    return {one: imported(path.read_text(encoding="utf-8"), set(MODULES)) - {one} for one, path in MODULES.items()}


def in_a_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen, todo = set[str](), list(graph[start])
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += graph[one]
        return seen

    return sorted(one for one in graph if one in reached(one))


def test_the_rooms_are_found() -> None:
    """A pattern that matches nothing would let every other test here pass."""
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)
    assert ROOT / "data/forms/trl.py" in FILES and ROOT / "tests/data/forms/test_trl.py" in TESTS
    assert ROOT / "pipeline/__main__.py" in FILES and ROOT / "pipeline/report/numbers.py" in FILES
    assert ROOT / "policies/trainer.py" in FILES
    graph = imports()
    assert "policies.ppo" in graph["policies.update"] and "pipeline.graph" in graph["pipeline.running"]
    assert sum(map(len, graph.values())) > 500


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
    beside = imported(path.read_text(encoding="utf-8"), set(MODULES)) & BESIDE.get(room, set())
    allowed = MAY_IMPORT[room] | ({"data"} if beside else set())
    assert rooms_imported(path.read_text(encoding="utf-8"), room) <= allowed
    assert not beside or {one for one in imports()[module(path)] if one.startswith("data")} <= beside


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert in_a_circle(imports()) == []
    assert in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a room of pipeline/ to one that stands above it."""

    def room(one: str) -> str:
        return one.split(".")[1]

    inside = [
        (a, b) for a in graph for b in graph[a] if a.count(".") and b.count(".") and a[:9] == b[:9] == "pipeline."
    ]
    return [f"{a} imports {b}" for a, b in sorted(inside) if ORDER.index(room(a)) < ORDER.index(room(b))]


def test_the_rooms_of_the_pipeline_import_only_downward() -> None:
    rooms = {one.split(".")[1] for one in MODULES if one.startswith("pipeline.")}
    assert rooms == set(ORDER), "a new room gets its place in ORDER"
    assert upward(imports()) == []
    assert upward({"pipeline.rows.a": {"pipeline.stages.b", "pipeline.pages.c"}}) == ["pipeline.rows.a imports pipeline.stages.b"]  # fmt: skip


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=name)
def test_a_folder_of_modules_is_a_package_that_says_its_question(folder: Path) -> None:
    """One without __init__.py would not be installed. It is one docstring, so that a name has one place."""
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and len(tree.body) == 1


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_bench_and_the_plan_import_the_bench(path: Path) -> None:
    """What measures is no part of what is measured. A plan counts as the bench does, and is held against what the bench runs."""
    inside = any(path.is_relative_to(ROOT / room) for room in ("pipeline/bench", "pipeline/plan"))
    assert inside or "pipeline.bench" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=name)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_function_is_seen_at_a_glance(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    lines = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in found}
    assert {one: count for one, count in lines.items() if count > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_module_asks_whether_it_is_tested(path: Path) -> None:
    """Behaviour that knows it is being tested is not the behaviour that users get."""
    text = path.read_text(encoding="utf-8")
    assert "PYTEST" not in text and "import pytest" not in text


def test_the_command_line_starts_without_heavy_libraries() -> None:
    """A wrong recipe is told before torch is loaded; so neither settings, artifacts nor the command line may import it."""
    heavy = ["torch", "transformers", "datasets", "peft", "trl", "accelerate", "matplotlib"]
    ours = "pipeline.__main__, pipeline.artifacts.publish, pipeline.settings.config"
    code = f"import sys, {ours}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them all as modules without packages, and could collect only one of two."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    assert sorted({name for name in names if names.count(name) > 1 and name.startswith("test_")}) == []
