"""What do the README and the pages of docs/ name, and is it there: commands, files, functions, modules, settings, links?"""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

from pipeline import with_people
from pipeline.__main__ import app
from pipeline.settings.listing import markdown

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ROOMS = ("pipeline", "data", "reward", "policies", "recipes", "tests", "docs", ".ci")
COMMANDS = {command.name for one in (app, with_people.app) for command in one.registered_commands}
SETTINGS = set(re.findall(r"^\| `([\w.]+)` \|", markdown(), re.MULTILINE))
SECTIONS = {name.split(".")[0] for name in SETTINGS if "." in name}
PATH = rf"(?<![\w./<>-])(?:{'|'.join(map(re.escape, ROOMS))})/[\w./*-]*|(?<![\w./<>-])(?:Makefile|pyproject\.toml|constraints\.txt|CONTRIBUTING\.md)"
SETTING = rf"(?<![\w./:]){'(?:' + '|'.join(sorted(SECTIONS)) + ')'}\.[a-z_][\w.]*(?=\s*[=:]|$)"
PARTS = {name[: at.start()] for name in SETTINGS for at in re.finditer(r"\.", name)} - SECTIONS


def targets(makefile: str = MAKEFILE) -> list[str]:
    """Names of the rules that a person may call (not files such as .venv/ready)."""
    return list(dict.fromkeys(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE)))


def runs(module: str) -> bool:
    """Whether `python -m` finds this module, or a package's __main__."""
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def code(text: str) -> list[str]:
    """Lines of fenced blocks and spans in backticks, a span that runs over a line's end included."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in fenced for line in block.splitlines()] + [
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)
    ]


@cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes and their methods as Class.method, names that are assigned."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{one.name}" for one in inner if isinstance(one, ast.FunctionDef)}
        targets_of = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets_of if isinstance(target, ast.Name)}
    return frozenset(found)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown file."""
    heads = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere; links to the web are not followed."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        to = (page.parent / name).resolve() if name else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            found.append(link)
    return found


def problems(text: str, page: Path = ROOT / "README.md") -> list[str]:
    """What a page names that does not exist."""
    found = broken_links(text, page)
    for line in code(text):
        for name in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", line):
            if name not in targets():
                found.append(f"make {name}")
        for call in re.findall(r"python -m pipeline\b(?!\.)([^#]*)", line):
            words = call.split()
            if words and words[0] not in COMMANDS | {"STAGE"}:
                found.append(f"python -m pipeline {words[0]}")
        for module in re.findall(r"python -m (pipeline\.[\w.]+)", line):
            if not runs(module):
                found.append(f"python -m {module}")
        for path in re.findall(PATH, line):
            if not (any(ROOT.glob(path)) if "*" in path else (ROOT / path.rstrip(".")).exists()):
                found.append(path)
        for path, name in re.findall(r"((?:pipeline|data|reward|policies)/[\w/]+\.py):([A-Za-z_][\w.]*)", line):
            if (ROOT / path).exists() and name not in defined(ROOT / path):
                found.append(f"{path}:{name}")
        for path, name in re.findall(r"(tests/[\w/]+\.py)::([A-Za-z_]\w*)", line):
            if (ROOT / path).exists() and name not in defined(ROOT / path):
                found.append(f"{path}::{name}")
        for key in re.findall(SETTING, line):
            file = key.endswith((".py", ".html", ".json", ".csv", ".md"))  # report.html is a page
            if key not in SETTINGS | PARTS and not file and not runs(key):  # data.loading is a module
                found.append(key)
        for key in re.findall(r"(?:SET=\"|^|\s)([a-z_]+)=(?!=)", line):
            if line.startswith(("python -m pipeline", "make")) and key not in SETTINGS:
                found.append(key)
        for module, names in re.findall(r"^from ((?:pipeline|data|reward|policies)[\w.]*) import ([\w, ]+)$", line):
            found += [f"{module}.{name}" for name in names.split(", ") if not _importable(module, name)]
    return found


def _importable(module: str, name: str) -> bool:
    try:
        return (
            hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None
        )
    except ImportError:
        return False
