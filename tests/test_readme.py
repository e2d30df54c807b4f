"""Does README.md promise only what is there: make targets, files, stages, settings? And is every target listed by make help?"""

import re
from pathlib import Path

import pytest

from pipeline.__main__ import app
from pipeline.settings.recipe import fields

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ROOMS = ("pipeline", "data", "reward", "policies", "recipes", "tests", "docs", ".ci")
COMMANDS = {command.name for command in app.registered_commands}


def targets(makefile: str) -> list[str]:
    """Names of the rules that a person may call (not files such as .venv/ready)."""
    found = re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE)
    return list(dict.fromkeys(found))


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


def problems(text: str) -> list[str]:
    """What a README names that does not exist."""
    found = []
    paths = rf"(?<![\w./<>-])(?:{'|'.join(map(re.escape, ROOMS))})/[\w./-]*|(?<![\w./<>-])(?:Makefile|pyproject\.toml|constraints\.txt)"
    for line in code(text):
        for name in re.findall(r"(?:^|\s)make ([a-z][\w-]*)", line):
            if name not in targets(MAKEFILE):
                found.append(f"make {name}")
        for call in re.findall(r"python -m pipeline\b(?!\.)([^#]*)", line):
            words = call.split()
            if words and words[0] not in COMMANDS | {"STAGE"}:
                found.append(f"python -m pipeline {words[0]}")
        for module in re.findall(r"python -m (pipeline\.[\w.]+)", line):
            if not runs(module):
                found.append(f"python -m {module}")
        for path in re.findall(paths, line):
            if not (ROOT / path.rstrip(".")).exists():
                found.append(path)
        for key in re.findall(r"(?<![\w./])((?:data|sft|reward|ppo|compare)\.[a-z_][\w.]*)(?=\s*[=:]|$)", line):
            if key not in fields() and not key.endswith(".py"):
                found.append(key)
        for key in re.findall(r"(?:SET=\"|^|\s)([a-z_]+)=(?!=)", line):
            if line.startswith(("python -m pipeline", "make")) and key not in fields():
                found.append(key)
    return found


def test_the_readme_names_only_what_is_there() -> None:
    assert problems(README) == []


def test_the_readme_is_searched_at_all() -> None:
    """The README's own commands and tree are found, so the test above does not pass on nothing."""
    lines = code(README)
    assert any(line.startswith("make demo") for line in lines) and any("python -m pipeline" in line for line in lines)
    assert any("pipeline/artifacts.py" in line for line in lines) and any("ppo.kl_coef" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```\nmake dmeo  # all\n```", ["make dmeo"]),
        ("see `make\nbeautiful`", ["make beautiful"]),
        ("`python -m pipeline pppo recipes/film_reviews.yaml`", ["python -m pipeline pppo"]),
        ("`python -m pipeline ppo recipes/none.yaml`", ["recipes/none.yaml"]),
        ("`python -m pipeline.nothing`", ["python -m pipeline.nothing"]),
        ("`python -m pipeline.bench` and `python -m pipeline.judges`", ["python -m pipeline.judges"]),
        ("`python -m pipeline ppo recipes/smoke.yaml ppo.kl_cof=1 sed=2`", ["ppo.kl_cof", "sed"]),
        ('```\nmake ppo SET="ppo.gama=1"\n```', ["ppo.gama"]),
        ("`ppo.report_two: [tensorboard]`", ["ppo.report_two"]),
        ("`policies/none.py` and `tests/none.py`", ["policies/none.py", "tests/none.py"]),
        ("```\npipeline/nowhere.py   what\n```", ["pipeline/nowhere.py"]),
        ("`.ci/run`, `runs/mine/data/samples.md`, `python -m pipeline STAGE`, `data/`, `make help`", []),
        ("make sense of `ppo.kl_coef=0.1`, `ppo.value: shared`, `data.skip_bad=true`", []),
    ],
)
def test_what_is_not_there_is_found(text: str, found: list[str]) -> None:
    assert problems(text) == found


def rule(name: str) -> re.Match[str] | None:
    return re.search(rf"^{re.escape(name)}:.*## (\S.*)$", MAKEFILE, re.MULTILINE)


def test_every_target_is_phony_and_explained() -> None:
    """data and reward are folders too: not phony, make would call them up to date and do nothing."""
    phony = [name for line in re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE) for name in line.split()]
    assert sorted(phony) == sorted(targets(MAKEFILE))
    assert {"demo", "data", "sft", "reward", "ppo", "compare", "all", "test", "help"} <= set(phony)
    assert [name for name in phony if rule(name) is None] == []


def test_the_makefile_calls_only_what_is_there() -> None:
    for module in re.findall(r"-m (pipeline\.[\w.]+)", MAKEFILE):
        assert runs(module), module
    for command in re.findall(r"\$\(CALL\) ([\w-]+)", MAKEFILE):
        assert command in COMMANDS
    for path in re.findall(r"(?:recipes|tests)/[\w.]+", MAKEFILE):
        assert (ROOT / path).exists() or path == "recipes/x.yaml", path  # x.yaml stands for any


def test_every_shipped_file_of_the_tree_has_its_room() -> None:
    """The README's tree names each module of pipeline/, the room a reader enters by, each of a package's where it tells of
    the package, and each stem of the other rooms."""
    tree = README.partition("## The tree")[2].partition("\n## ")[0]
    stems = {
        path: path.stem for room in ("pipeline", "data", "policies", "reward") for path in (ROOT / room).glob("*.py")
    }
    unnamed = [str(p.relative_to(ROOT)) for p, stem in stems.items() if stem != "__init__" and stem not in tree]
    entries = {entry.split()[0]: entry for entry in re.split(r"\n(?=\S)", tree) if entry.strip()}
    for path in (ROOT / "pipeline").glob("*/*.py"):
        entry = entries[f"pipeline/{path.parent.name}/"]
        if not path.stem.startswith("__") and not re.search(rf"(?<![\w./]){path.stem}\b", entry):
            unnamed.append(str(path.relative_to(ROOT)))
    assert unnamed == []
