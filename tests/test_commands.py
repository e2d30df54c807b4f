"""Do the commands in messages and reports do what they say, when pasted into a shell?"""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.commands import CALLER, Call, commands, settings

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "smoke.yaml"
HARD = ["data.source=a #split", "revision=$HOME $(date) `date` \\ !x ; *", "data.columns={prompt: question}", "seed="]


def test_a_recipe_is_named_so_that_it_is_found_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the working directory, else to the project; a recipe somewhere else stays as it was given."""

    def given(recipe: Path, overrides: list[str]) -> dict[str, object]:
        return Call.of(recipe, "x", overrides).given()

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


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """A folder with the real Makefile, whose interpreter only notes its arguments, in the file `said`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", ".venv/ready"):  # in this order, so that make finds it ready
        (tmp_path / name).touch()
    for python in (bin / "python", tmp_path / "python"):
        python.write_text(
            '#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]), file=open("said", "a"))\n'
        )
        python.chmod(0o755)
    return tmp_path


def pasted(line: str, folder: Path) -> list[list[str]]:
    """What the pipeline is told by a line that is pasted into a real shell."""
    done = subprocess.run(["bash", "-c", f'PATH="$PWD:$PATH"; {line}'], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (line, done.stderr)
    arguments = [json.loads(text) for text in (folder / "said").read_text().splitlines()]
    assert all(one[:2] == ["-m", "pipeline"] for one in arguments)
    return [one[2:] for one in arguments]


@pytest.mark.parametrize(
    ("recipe", "run", "overrides"),
    [
        ("recipes/smoke.yaml", "smoke", []),
        ("recipes/smoke.yaml", "smoke", ["seed=1", "compare.models=[base,sft,best_of_16]"]),
        ("my recipes/it's one.yaml", "two words", ["compare.llm={base_url: http://h/v1, model: m}", "revision='a\"b'"]),
        ("r.yaml", "r", HARD),
    ],
)
@pytest.mark.parametrize("caller", ["make", ""])
def test_pasted_commands_say_to_the_pipeline_what_it_was_told(
    said: Path, recipe: str, run: str, overrides: list[str], caller: str
) -> None:
    call = Call(recipe, run, tuple(overrides), nproc=2, caller=caller)
    found = pasted(call.line("sft", "best_of_n", "ppo", seeds=3), said)
    assert [arguments[0] for arguments in found] == ["sft", "best-of-n", "ppo"]
    for arguments in found:
        assert arguments[1 : 2 + len(overrides)] == [recipe, *overrides]
        assert arguments[arguments.index("--run") + 1] == run
        assert arguments[arguments.index("--nproc") + 1] == "2"
    assert found[2][found[2].index("--seeds") + 1] == "3"


@pytest.mark.parametrize("caller", ["make", ""])
def test_words_of_single_commands_are_told_too(said: Path, caller: str) -> None:
    call = Call(
        "r.yaml",
        "a",
        ("seed=1",),
        nproc=2,
        asked="inspect",
        options=(("PROMPT", "it's $5"), ("CHAT", "1")),
        caller=caller,
    )
    (compared,) = pasted(call.line("compare", models=("sft", "best_of_4")), said)
    assert compared[:3] == ["compare", "r.yaml", "seed=1"] and "compare.models=[sft,best_of_4]" in compared
    assert compared[compared.index("--nproc") + 1] == "2"
    (said / "said").unlink()
    (inspected,) = pasted(call.again("force=true"), said)
    assert inspected[:4] == ["inspect", "r.yaml", "seed=1", "force=true"]
    assert inspected[-1] == "--chat"
    assert caller == "make" or inspected[-3:-1] == ["--prompt", "it's $5"]  # the Makefile gives it by the environment


def test_settings_alone_are_quoted_for_where_they_are_typed(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for caller, line in (("make", "make sft RECIPE=r.yaml RUN=x "), ("", "python -m pipeline sft r.yaml ")):
        monkeypatch.setenv(CALLER, caller)
        (arguments,) = pasted(line + settings(*HARD), said)
        assert arguments[2 : 2 + len(HARD)] == HARD
        (said / "said").unlink()


def test_make_says_that_it_called(said: Path) -> None:
    (said / ".venv/bin/python").write_text('#!/bin/sh\nprintf %s "$PIPELINE_CALLER" > caller\n')
    for target in ("data", "all", "inspect", "demo"):
        done = subprocess.run(["make", target], cwd=said, capture_output=True, text=True)
        assert done.returncode == 0 and (said / "caller").read_text() == "make", done.stderr
        (said / "caller").unlink()


def test_a_stage_of_a_further_seed_is_made_again_with_so_many_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run("a", call=Call("r.yaml", "a", nproc=2, caller="make"))
    monkeypatch.setattr(Run, "manifest", lambda self, stage: type("Made", (), {"seed": 1}) if stage == "ppo" else None)
    with pytest.raises(ArtifactError) as told:
        run.require("ppo_seed_3")
    assert str(told.value).endswith("; run: make ppo RECIPE=r.yaml RUN=a SEEDS=3 NPROC=2")
    assert run.remedy("sft", "gold", anew=True) == (
        "run: rm -r runs/a/sft runs/a/gold && make sft gold RECIPE=r.yaml RUN=a NPROC=2"
    )


TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
BY_HAND = re.compile(rf"\bmake ({'|'.join(TARGETS)})\b|python -m pipeline\b|\bpip install\b|\brun \"")
# The one place, what make itself is told with all that it was given, and the page that says how it is made.
WRITTEN = {
    "pipeline/commands.py",
    "pipeline/words.py",
    "pipeline/artifacts/cleaning.py",
    "pipeline/settings/listing.py",
}


def texts(source: str) -> list[str]:
    """The texts of a module that are no docstrings, those in f-strings too."""
    tree = ast.parse(source)
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in found if isinstance(node.value, str)]


def test_no_message_writes_a_command_by_hand() -> None:
    """A command that is written down without what the user gave would do another thing than it says."""
    assert len(TARGETS) > 20
    assert [bool(BY_HAND.search(text)) for text in ("run make sft", "make ppo RUN=x", "make it so", 'run "x"')] == [
        True, True, False, True,
    ]  # fmt: skip
    places = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "data").rglob("*.py"), *(ROOT / "reward").rglob("*.py")]
    for path in [*places, *(ROOT / "policies").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if name not in WRITTEN and not name.startswith("pipeline/bench/"):
            by_hand = [text for text in texts(path.read_text(encoding="utf-8")) if BY_HAND.search(text)]
            assert by_hand == [] or name == "pipeline/__main__.py", (name, by_hand)
