"""Do the examples of docs/extending.md work, each in its place in a copy of the project?"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from promises import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
HEADER = re.compile(r"(?:# |\{# )(?P<file>[\w/.]+)(?:, (?:before: (?P<before>.*)|at the end))?(?: #\})?")

USE = """
import json, warnings
from data.forms.table import FORMATS
from data.loading import to_rows
from pipeline.graph import COMPARED, STAGES
from pipeline.judges.judge import independent
from pipeline.running import run_stage
from pipeline.settings.recipe import load
from reward.functions import call_checked, resolve

config = load("recipes/smoke.yaml", ["data.source=data/smoke.jsonl", "sft.num_train_epochs=1", "compare.models=[sft,halfway]"])
for stage in ("data", "lengths", "sft", "halfway"):
    run_stage(stage, config, "try")
run_stage("halfway", config, "try")
rows = to_rows("votes.jsonl")
said = [row.to_json()["ranking"] for row in rows.rows]
because = call_checked(resolve("my_rewards:because"), "because", ["a", "b"], ["yes, because", "no"]).tolist()
brief = independent("my_judges:brief").outcomes(["a"], ["one two"], ["one"]).tolist()
print(json.dumps({"format": rows.format, "said": said, "because": because, "brief": brief}))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def put(root: Path, block: str) -> None:
    """Put a block where its first line says: into a file of its own, before a line of a file, or at its end."""
    header, _, body = block.partition("\n")
    found = HEADER.fullmatch(header)
    assert found is not None, header
    path = root / found["file"]
    if found["before"] is not None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines.insert(lines.index(found["before"] + "\n"), body)
        body = "".join(lines)
    elif "at the end" in header:
        body = path.read_text(encoding="utf-8") + "\n\n" + body
    else:
        assert not path.exists(), path
    path.write_text(body, encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with every example in its place."""
    root = tmp_path_factory.mktemp("project")
    for room in ("data", "pipeline", "policies", "reward", "recipes"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    for language in ("python", "html", "make"):
        for block in blocks(language):
            put(root, block)
    (root / "votes.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    return root


def run(root: Path, *call: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(call, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def used(project: Path) -> tuple[list[str], dict[str, Any]]:
    """What the stages print, and what the functions gave."""
    *told, last = run(project, sys.executable, "-c", USE).stdout.strip().splitlines()
    return told, json.loads(last)


def test_every_kind_of_extension_has_an_example() -> None:
    heads = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert heads == ["A reward function", "A judge", "A form of data", "A stage", "A page", "A baseline"]
    assert len(blocks("python")) == 11 and len(blocks("html")) == len(blocks("make")) == len(blocks("json")) == 1


def test_the_reward_function_and_the_judge_are_called(used: tuple[list[str], dict[str, Any]]) -> None:
    assert used[1]["because"] == [1.0, 0.0]
    assert used[1]["brief"] == [0.0]


def test_the_form_is_recognised_and_read(used: tuple[list[str], dict[str, Any]]) -> None:
    assert used[1]["format"] == "votes"
    assert used[1]["said"] == [[["c1"], ["c0"]], [["c0", "c1"], ["c2"]], [["c0"], ["c1"]]]


def test_the_stages_publish_and_are_up_to_date(project: Path, used: tuple[list[str], dict[str, Any]]) -> None:
    lines = {line.split(":")[0]: line for line in used[0]}
    assert "mean words" in lines["lengths"] and lines["halfway"].endswith("is up to date (gate pass)")
    manifest = json.loads((project / "runs/try/halfway/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["share"] == 0.5 and manifest["metrics"]["loss"] < manifest["metrics"]["base_loss"]
    assert {file["path"] for file in manifest["files"]} >= {"model.safetensors", "README.md"}


def test_the_page_is_filled(project: Path, used: tuple[list[str], dict[str, Any]]) -> None:
    page = (project / "runs/try/lengths/lengths.html").read_text(encoding="utf-8")
    assert re.search(r"<td>\d+ words</td><td>\d+</td>", page) and "{%" not in page


def test_make_and_the_command_line_know_them(project: Path) -> None:
    assert (
        "-m pipeline lengths 'recipes/smoke.yaml'"
        in run(project, "make", "-n", "lengths", "RECIPE=recipes/smoke.yaml").stdout
    )
    told = run(project, sys.executable, "-m", "pipeline", "settings").stdout
    assert "halfway.share = 0.5    # share of the sft model's weights" in told
    assert "the mean of the base model's" in run(project, sys.executable, "-m", "pipeline", "halfway", "--help").stdout
