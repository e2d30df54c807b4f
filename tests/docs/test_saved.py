"""Do the examples of the pages work, each saved where its first line says, as a user saves them? Those of extending.md have a file of their own."""

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

USE = """
import json
from data.loading import to_rows
from data.reading.options import Options
found = [to_rows("stars.jsonl"), to_rows("votes.jsonl", Options(map="mine.adapters:from_votes"))]
print(json.dumps([{"format": one.format, "row": one.rows[0].to_json()} for one in found]))
"""
REWARDED = """
import json
from reward.functions import combine, figures_of, resolve
names = ["my_rewards:helpful", "my_rewards:right"]
score = combine({name: resolve(name) for name in names}, [1.0, 2.0], lambda prompts: {"answer": ["5", None]})
print(json.dumps([score(["2+3=", "Why?"], ["5", "because"]).tolist(), figures_of(score.taken())]))
"""


def saved(page: str, folder: Path) -> list[str]:
    """Put each block of Python that names a file into it; the names."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = []
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        found = re.match(r"# ([\w/]+\.py)(, at the end)?\n", block)
        if found is None:
            continue
        path = folder / found[1]
        assert path.exists() == bool(found[2]), f"{page}: {path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n\n" if found[2] else "") + block)
        names.append(found[1])
    return names


def told(program: str, folder: Path, *rooms: Path) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, rooms))}
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_form_and_a_function_of_rows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    assert saved("data.md", tmp_path) == ["mine/adapters.py", "data/forms/stars.py", "data/forms/table.py"]
    stars = {"question": "Tea?", "first": "No.", "second": "Yes.", "stars": [2, 5]}
    votes = {"question": "Tea?", "a": "No.", "b": "Yes.", "votes_a": 1, "votes_b": 3}
    for name, row in (("stars", stars), ("votes", votes)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    own, mapped = told(USE, tmp_path, tmp_path)
    assert own["format"] == "stars" and own["row"]["ranking"] == [["c1"], ["c0"]]
    assert mapped["format"] == "preference" and mapped["row"]["prompt"] == "Tea?"
    assert [one["text"] for one in mapped["row"]["completions"]] == ["Yes.", "No."]


def test_reward_functions(tmp_path: Path) -> None:
    """They lie where the command is called, and find the columns that they name."""
    assert saved("rewards.md", tmp_path) == ["my_rewards.py"]
    scores, figures = told(REWARDED, tmp_path, ROOT)
    assert scores == [2.0, 1.0]
    assert figures["rewards/my_rewards:right/failures"] == 0.5 and figures["rewards/my_rewards:right/mean"] == 1.0
    assert figures["rewards/my_rewards:helpful/mean"] == 0.5 and figures["rewards/my_rewards:helpful/std"] == 0.5


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_function_that_a_page_names_is_on_a_page(page: str) -> None:
    """my_rewards:helpful in the README is the one that rewards.md shows."""
    shown = "".join(
        (ROOT / "docs" / one).read_text(encoding="utf-8") for one in ("rewards.md", "extending.md", "data.md")
    )
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"\b(?:my_\w+|mine\.adapters):(\w+)", text)
    missing = [
        name for name in named if f"def {name}(" not in shown and name != "rows"
    ]  # rows: any function of that kind
    assert missing == []
