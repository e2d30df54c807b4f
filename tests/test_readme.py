"""Does README.md promise only what is there, within its length? And is every make target explained?"""

import json
import re
import subprocess

import pytest
from promises import COMMANDS, MAKEFILE, ROOT, code, problems, runs, targets

from data.forms import detection
from data.forms.shapes import signature

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_only_what_is_there() -> None:
    assert problems(README) == []


def test_the_readme_is_searched_at_all() -> None:
    """The README's own commands and tree are found, so the test above does not pass on nothing."""
    lines = code(README)
    assert any(line.startswith("make demo") for line in lines) and any("python -m pipeline" in line for line in lines)
    assert any("docs/architecture.md" in line for line in README.splitlines()) and any(
        "ppo.kl_coef" in line for line in lines
    )


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 130 and len(README.split()) <= 1400


def test_the_readme_leads_to_every_page() -> None:
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert "data.md" in pages and [page for page in pages if f"(docs/{page})" not in README] == []


def test_its_rows_of_preferences_are_read_as_what_it_says() -> None:
    rows = [json.loads(row) for row in re.findall(r"^\| `(\{.*?\})` \|", README, re.MULTILINE)]
    assert [detection.matching(signature(row)) for row in rows] == [("ranking",), ("ratings",), ("preference",)]


def test_the_readme_names_no_commit() -> None:
    """Measurements, which belong to a commit, are in docs/measured.md."""
    assert re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b", README) == []


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
        ("`compare.generation`, `compare.llm.base_url=x`, `compare.llm.base_ulr=x`", ["compare.llm.base_ulr"]),
        ("`rft.nn=3` and `inspect.generaton`", ["rft.nn", "inspect.generaton"]),
        ("`policies/ppo.py:gae`, `policies/ppo.py:gaee`, `policies/roles.py:Roles.sampler`", ["policies/ppo.py:gaee"]),
        ("[a](docs/data.md#cleaning) [b](docs/none.md) [c](docs/data.md#none)", ["docs/none.md", "docs/data.md#none"]),
        ("```\nfrom reward.losses import k_wise, k_wide\n```", ["reward.losses.k_wide"]),
        ("make sense of `ppo.kl_coef=0.1`, `ppo.value: shared`, `data.skip_bad=true`", []),
    ],
)
def test_what_is_not_there_is_found(text: str, found: list[str]) -> None:
    assert problems(text) == found


def rule(name: str) -> re.Match[str] | None:
    return re.search(rf"^{re.escape(name)}:.*## (\S.*)$", MAKEFILE, re.MULTILINE)


def test_every_target_is_phony_and_explained() -> None:
    """data and reward are folders too: not phony, make would call them up to date and do nothing."""
    told = subprocess.run(["make", "-npC", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    phony = [name for line in re.findall(r"^\.PHONY:(.*)$", told, re.MULTILINE) for name in line.split()]
    assert sorted(phony) == sorted(targets())
    assert {"demo", "data", "sft", "reward", "ppo", "compare", "all", "test", "help"} <= set(phony)
    assert [name for name in phony if rule(name) is None] == []


def test_the_makefile_calls_only_what_is_there() -> None:
    for module in re.findall(r"-m (pipeline\.[\w.]+)", MAKEFILE):
        assert runs(module), module
    for command in re.findall(r"\$\(CALL\) ([\w-]+)", MAKEFILE):
        assert command in COMMANDS
    for path in re.findall(r"(?:recipes|tests)/[\w.]+", MAKEFILE):
        assert (ROOT / path).exists() or path == "recipes/x.yaml", path  # x.yaml stands for any


def test_help_is_in_groups() -> None:
    groups = re.split(r"^##@ (.+)$", MAKEFILE, flags=re.MULTILINE)[1:]
    found = {name: targets(rules) for name, rules in zip(groups[::2], groups[1::2], strict=True)}
    assert list(found) == ["Set up", "Stages", "Baselines", "People", "Look", "Develop"] and all(found.values())
    assert sorted(name for names in found.values() for name in names) == sorted(targets())
    assert {"dpo", "rloo"} <= set(found["Baselines"]) and "demo" in found["Set up"] and "test" in found["Develop"]
