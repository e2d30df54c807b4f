"""Do the files around the code hold together: the hooks, the citation, the changelog, the picture's script?"""

import importlib.util
import re
import tomllib
from typing import Any

import yaml
from promises import MAKEFILE, ROOT, problems

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_contributing_and_changelog_name_only_what_is_there() -> None:
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        assert problems(text(name), ROOT / name) == [], name


def test_the_hooks_are_what_make_check_runs() -> None:
    hooks = [hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    rule = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert rule is not None
    wanted = [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in rule[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == wanted
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)


def test_the_citation_is_of_this_version() -> None:
    cited: dict[str, Any] = yaml.safe_load(text("CITATION.cff"))
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["cff-version"] == "1.2.0" and cited["authors"] and cited["title"]


def test_the_changelog_has_the_form() -> None:
    heads = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert heads[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", text("CHANGELOG.md"), re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_pictures_are_small_and_their_script_loads_without_a_browser() -> None:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs" / "images" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    shown = text("README.md") + "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert module.LARGEST == 150_000 and [p.name for p in pictures if p.stat().st_size >= module.LARGEST] == []
    assert [p.name for p in pictures if f"images/{p.name})" not in shown] == []
    assert {"report", "reward", "data-check", "index"} <= {p.stem for p in pictures}
