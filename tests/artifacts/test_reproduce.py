"""Do the commands in a report make it again, when pasted into a shell?"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.artifacts.reproduce import commands, given

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "smoke.yaml"


def test_a_recipe_is_named_so_that_it_is_found_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the working directory, else to the project; a recipe somewhere else stays as it was given."""
    own = tmp_path / "here" / "own.yaml"
    own.parent.mkdir()
    own.touch()
    assert given(own, ["seed=1"]) == {"recipe": str(own), "overrides": ["seed=1"]}
    assert given(RECIPE, [])["recipe"] == "recipes/smoke.yaml"
    monkeypatch.chdir(tmp_path)
    assert [given(own, [])["recipe"], given(Path("here/../here/own.yaml"), [])["recipe"]] == ["here/own.yaml"] * 2
    assert given(RECIPE, [])["recipe"] == "recipes/smoke.yaml"
    monkeypatch.chdir(own.parent)
    assert given(Path("own.yaml"), [])["recipe"] == "own.yaml"


def test_stages_that_were_given_the_same_share_a_line() -> None:
    one, other = {"recipe": "r.yaml", "overrides": []}, {"recipe": "r.yaml", "overrides": ["ppo.kl_coef=0.1", "seed=1"]}
    made = {"data": (one, 1), "sft": (one, 1), "ppo": (other, 2), "best_of_n": (one, 1), "compare": (other, 1)}
    assert commands("x", made).splitlines() == [
        "make data sft RECIPE=r.yaml RUN=x",
        "make ppo RECIPE=r.yaml RUN=x SET='ppo.kl_coef=0.1 seed=1' NPROC=2",
        "make best-of-n RECIPE=r.yaml RUN=x",
        "make compare RECIPE=r.yaml RUN=x SET='ppo.kl_coef=0.1 seed=1'",
    ]


@pytest.mark.parametrize(
    ("recipe", "run", "overrides"),
    [
        ("recipes/smoke.yaml", "smoke", []),
        ("recipes/smoke.yaml", "smoke", ["seed=1", "compare.models=[base,sft,best_of_16]"]),
        ("my recipes/it's one.yaml", "two words", ["compare.llm={base_url: http://h/v1, model: m}", "revision='a\"b'"]),
        ("r.yaml", "r", ["data.source=a #split", "revision=$HOME $(date) `date` \\ !x ; *", "seed="]),
    ],
)
def test_pasted_commands_say_to_the_pipeline_what_it_was_told(
    tmp_path: Path, recipe: str, run: str, overrides: list[str]
) -> None:
    """Through a real shell, the real Makefile and the shell that make starts; only the interpreter is one that notes its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", ".venv/ready"):  # in this order, so that make finds it ready
        (tmp_path / name).touch()
    python = bin / "python"
    python.write_text(
        '#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open("said", "a"))\n'
    )
    python.chmod(0o755)
    told = {"recipe": recipe, "overrides": overrides}
    line = commands(run, {"sft": (told, 1), "compare": (told, 1)})
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [json.loads(text) for text in (tmp_path / "said").read_text().splitlines()]
    assert [arguments[2] for arguments in said] == ["sft", "compare"]
    for arguments in said:
        assert arguments[:2] == ["-m", "pipeline"] and arguments[3 : 4 + len(overrides)] == [recipe, *overrides]
        assert arguments[arguments.index("--run") + 1] == run
