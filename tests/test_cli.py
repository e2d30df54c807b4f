"""Does the command line say what it can do, tell a user's mistake in a sentence, and leave a programmer's its traceback?"""

import importlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.__main__ as cli
from pipeline import ranks, running
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.gate import Gate
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.graph import BASELINES, STAGES, WALK, command_name
from pipeline.settings.config import Config, ConfigError

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC")
CALL = Call("r.yaml", "name", ("seed=1",), nproc=2)


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """python -m pipeline ARGUMENTS in `folder`."""
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER} | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=folder, env=env | environment, capture_output=True, text=True)


def mistake(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """It was told as the user's: exit code 2, one line on standard error, nothing on standard output."""
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "try.yaml"
    path.write_text("model: tiny-random\ndata:\n  source: mine.jsonl\n")
    return path


def test_help_lists_the_stages_in_order(tmp_path: Path) -> None:
    done = call(tmp_path, "--help")
    assert done.returncode == 0 and done.stderr == ""
    commands = done.stdout.partition("Commands:")[2]
    listed = [line.split()[0] for line in commands.splitlines() if line.startswith("  ") and line[2] != " "]
    assert listed == [
        "pretrain",
        "encoder",
        *WALK,
        "gold",
        "reward-encoder",
        "dpo",
        "kto",
        "rloo",
        "rft",
        "best-of-n",
        *("all", "data-check", "push", "inspect", "plan", "runs", "prune", "vllm-server", "settings"),
        *("web", "watch", "rank", "rankings", "iterate", "serve"),
    ]
    assert "…" not in commands and "..." not in commands  # no description is cut


def test_a_stage_explains_itself(tmp_path: Path) -> None:
    done = call(tmp_path, "ppo", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for part in ("python -m pipeline ppo", "PPO", "recipes/film_reviews.yaml", "ppo.kl_coef=0.1", "--run", "--nproc"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["ppo", "nowhere.yaml"], ["nowhere.yaml: no such recipe"]),
        (["data", "try.yaml", "ppo.kl_coeff=1"], ["ppo.kl_coeff=1: ", "did you mean ppo.kl_coef?"]),
        (["all", "try.yaml", "seed=x"], ["seed=x: seed: ", "whole number"]),
        (["sft", "try.yaml"], ["no finished data in runs/try; run: python -m pipeline data try.yaml --run try\n"]),
        (["reward", "try.yaml", "seed=1", "--run", "other"], ["no finished data in runs/other; run: python -m pipeline data try.yaml seed=1 --run other\n"]),
        (["ppo", "try.yaml"], ["no finished data in runs/try"]),
        (["compare", "try.yaml"], ["no finished data in runs/try"]),
        (["best-of-n", "try.yaml"], ["no finished data in runs/try"]),
        (["compare", "try.yaml", "compare.models=[sft, pqo]"], ['"pqo" is no model of this project; did you mean ppo?']),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(recipe: Path, arguments: list[str], parts: list[str]) -> None:
    mistake(call(recipe.parent, *arguments), *parts)


@pytest.mark.parametrize("arguments", [["pppo", "try.yaml"], ["ppo"], ["ppo", "try.yaml", "--nproc", "0"]])
def test_a_wrong_call_shows_the_usage(recipe: Path, arguments: list[str]) -> None:
    done = call(recipe.parent, *arguments)
    assert done.returncode == 2 and "Usage" in done.stderr and "Traceback" not in done.stderr


def test_missing_parents_are_told_before_anything_heavy_is_imported(recipe: Path) -> None:
    """A wrong order of stages should not cost the seconds that torch takes."""
    code = (
        "import sys\nfrom pipeline.running import run_stage\nfrom pipeline.settings.recipe import load\n"
        "try: run_stage('ppo', load('try.yaml'), 'try')\nexcept Exception as e: print(type(e).__name__, 'torch' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=recipe.parent, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "ArtifactError False", done.stderr


def test_several_mistakes_are_a_line_each(recipe: Path) -> None:
    recipe.write_text("seed: x\nppo:\n  gama: 1\n")
    done = call(recipe.parent, "data", "try.yaml")
    assert done.returncode == 2
    assert [line.split(": ")[1 if i == 0 else 0] for i, line in enumerate(done.stderr.splitlines())] == [
        "try.yaml:1",
        "try.yaml:3",
    ]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed=0", ["mine.jsonl", "no such file"]),
        ("model=./nowhere", ["model: ./nowhere: no such folder", "or a Hub id"]),
    ],
)
def test_a_mistake_that_only_the_stage_sees_is_a_sentence_too(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], override: str, parts: list[str]
) -> None:
    """In this process, because torch takes its time to start."""
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(SystemExit) as left:
        cli.app(["data", "try.yaml", override])
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.startswith("error: ") and len(told.splitlines()) == 1
    assert all(part in told for part in parts), told
    assert not Path("runs/try/data").exists()


def test_a_mistake_in_the_users_own_code_keeps_its_traceback(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data.source` may name a function; what it raises is a programmer's business."""
    (recipe.parent / "their_rows.py").write_text(
        "def rows():\n    yield {'prompt': 'a'}\n    raise KeyError('my bug')\n"
    )
    monkeypatch.chdir(recipe.parent)
    monkeypatch.syspath_prepend(recipe.parent)
    with pytest.raises(KeyError, match="my bug") as caught:
        cli.app(["data", "try.yaml", "data.source=their_rows:rows"])
    assert Path(caught.traceback[-1].path).name == "their_rows.py"


def test_a_traceback_leaves_with_1(recipe: Path) -> None:
    code = (
        "import sys, types\n"
        "def run(config, run): raise ZeroDivisionError('ours')\n"
        "sys.modules['pipeline.stages.data'] = types.SimpleNamespace(run=run)\n"
        "sys.modules['pipeline.training.context'] = types.SimpleNamespace(quiet=lambda: None, base_model=lambda config: None)\n"
        "from pipeline.__main__ import app\napp(['data', 'try.yaml'])"
    )
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=recipe.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ZeroDivisionError: ours\n")
    assert "error:" not in done.stderr


def test_a_world_of_another_size_is_refused(recipe: Path) -> None:
    """Two processes were asked for, but the launcher gave this one no world: each would train alone and publish."""
    mistake(call(recipe.parent, "sft", "try.yaml", PIPELINE_NPROC="2"), "2 processes were asked for and 1 started")
    mistake(call(recipe.parent, "sft", "try.yaml", PIPELINE_NPROC="1", WORLD_SIZE="4"), "1 processes", "4 started")


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.one_process])
def test_a_stage_of_one_process_refuses_a_launcher(recipe: Path, stage: str) -> None:
    started = call(recipe.parent, command_name(stage), "try.yaml", WORLD_SIZE="2", RANK="0")
    told = f"{stage} is the work of one process, and a launcher started 2; without it, run: python -m pipeline {command_name(stage)}"
    mistake(started, told, "try.yaml")


def test_any_process_tells_a_mistake_which_may_be_its_own_alone(recipe: Path) -> None:
    done = call(recipe.parent, "sft", "try.yaml", WORLD_SIZE="2", RANK="1")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def guarded(error: BaseException) -> int | str | None:
    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        running.guarded(work)
    return left.value.code


def test_every_error_of_ours_that_a_user_can_mend_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Each class of an error that our modules define for users leaves with 2; a missing name would be a traceback."""
    named = {
        "data.schema": "DataError", "pipeline.artifacts.embedded": "FetchError", "pipeline.judges.judge": "JudgeError",
        "policies.backbone": "BackboneError", "reward.functions": "RewardError", "reward.model": "ScoringError", "pipeline.sharing.push": "PushError",
    }  # fmt: skip
    found = {getattr(importlib.import_module(module), name) for module, name in named.items()}
    assert found | {ArtifactError, ConfigError} == set(running.user_errors())
    ours = {
        error
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").split(".")[0] in ("data", "policies", "reward", "pipeline")
        for error in vars(module).values()
        if isinstance(error, type) and error.__module__ == module.__name__ and error.__name__.endswith("Error")
        if issubclass(error, Exception) and not error.__module__.startswith("pipeline.bench")  # a command of its own
    }
    assert {error for error in ours if not issubclass(error, running.user_errors())} == set()
    assert guarded(ArtifactError("say what")) == 2
    assert capsys.readouterr().err == "error: say what\n"


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert guarded(KeyboardInterrupt()) == 130
    assert "same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bug"), OSError("disk"), KeyError("x"), AssertionError()])
def test_other_errors_pass_through(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        running.guarded(work)
    assert caught.value is error


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every stage is one that publishes an empty folder; the list says which ran."""
    ran: list[str] = []

    class Stage:
        def __init__(self, name: str):
            self.name = name

        def run(self, config: Config, run: Run) -> Any:
            ran.append(self.name)
            made = working_folder(run, self.name, config) / "made"
            made.mkdir()
            (made / "x").write_text(f"{self.name} {config.seed}")
            return publish(run, self.name, config, made, tokenizer="", model={}, dtype="", metrics={}, gate=Gate([])
            )  # fmt: skip

        def summary(self, manifest: Any, run: Run) -> str:
            return f"{manifest.stage} made"

    for stage in STAGES:
        monkeypatch.setitem(sys.modules, f"pipeline.stages.{stage}", Stage(stage))  # type: ignore[arg-type]
    monkeypatch.setitem(
        sys.modules, "pipeline.training.context", SimpleNamespace(quiet=lambda: None, base_model=lambda config: None)
    )  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    return ran


def test_a_stage_runs_once_and_is_then_up_to_date(stages: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for stage in WALK:
        running.run_stage(stage, Config(), "r")
    assert stages == list(WALK)
    assert capsys.readouterr().out.splitlines() == [f"{stage} made" for stage in WALK]
    for stage in WALK:
        running.run_stage(stage, Config(), "r")
    assert stages == list(WALK)
    assert capsys.readouterr().out.splitlines()[3] == "ppo: runs/r/ppo is up to date (gate pass)"
    running.run_stage("data", Config(seed=1), "r")
    assert stages[-1] == "data"


@pytest.mark.parametrize("stage", [*WALK, *BASELINES])
def test_every_parent_is_asked_for(stages: list[str], stage: str) -> None:
    for other in parents(stage, Config()):
        running.run_stage(other, Config(), "r")
    for parent in parents(stage, Config()):
        shutil.move(f"runs/r/{parent}", "elsewhere")
        with pytest.raises(ArtifactError, match=f"no finished {parent} in runs/r"):
            running.run_stage(stage, Config(), "r")
        shutil.move("elsewhere", f"runs/r/{parent}")
    assert stage not in stages


class Processes:
    """In place of processes: what they were asked for, and what each of them returns."""

    def __init__(self, *codes: int):
        self.calls: list[tuple[Any, ...]] = []
        self.codes = list(codes)

    def __call__(self, work: Any, *arguments: Any) -> int:
        assert work is running.make_guarded
        self.calls.append(arguments)
        return self.codes.pop(0) if self.codes else 0


def test_all_stages_run_one_after_another_until_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Processes(0, 0, -9)
    monkeypatch.setattr(running, "in_a_process", started)
    monkeypatch.setattr(running, "_check_made", lambda *_: None)
    monkeypatch.setattr(running, "due_seed", lambda *_: True)
    with pytest.raises(SystemExit) as left:
        running.chain(["data", "sft", "reward", "ppo"], CALL, Config())
    assert left.value.code == 137  # 128 + 9, as a shell has it
    assert [call[0] for call in started.calls] == ["data", "sft", "reward"]
    assert started.calls[0] == ("data", CALL, 0, True)


def test_a_stage_that_is_up_to_date_gets_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Processes()
    monkeypatch.setattr(running, "in_a_process", started)
    monkeypatch.setattr(running, "_check_made", lambda *_: None)
    monkeypatch.setattr(running, "due_seed", lambda config, call, stage, further: stage != "sft")
    running.chain(["data", "sft", "best_of_n"], CALL, Config())
    assert [call[0] for call in started.calls] == ["data", "best_of_n"]


def test_compare_makes_the_baselines_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = Processes()
    monkeypatch.setattr(running, "in_a_process", started)
    monkeypatch.setattr(running, "_check_made", lambda *_: None)
    monkeypatch.setattr(running, "due", lambda *_: True)
    missing = partial(only_rloo_is_there, running.lineage.baselines_to_make)
    monkeypatch.setattr(running.lineage, "baselines_to_make", missing)
    recipe = str(ROOT / "recipes/smoke.yaml")
    models = "compare.models=[base,few_shot,sft,ppo,best_of_2,dpo,rloo]"
    cli.app(["compare", recipe, models, "--run", "r"], standalone_mode=False)
    assert [call[0] for call in started.calls] == ["dpo", "best_of_n", "compare"]
    assert started.calls[0] == ("dpo", Call(recipe, "r", (models,), asked="compare"), 0, True)


def only_rloo_is_there(missing: Any, run: Run, config: Config) -> list[str]:
    every: list[str] = missing(run, config)
    assert every == ["dpo", "rloo", "best_of_n"]
    return [stage for stage in every if stage != "rloo"]


APART = """
import os, sys
from pipeline import ranks, running
from pipeline.commands import Call
if __name__ == "__main__":
    sft = (running.make_guarded, "sft", Call("nothing.yaml", "r"), 0)
    codes = [running.in_a_process(*sft), running.in_a_process(print, "said")]
    sys.exit(f"{codes} {os.environ.get('OMP_NUM_THREADS')}")
"""


def test_a_stage_of_a_chain_is_a_process_of_its_own_that_says_what_is_wrong(tmp_path: Path) -> None:
    script = tmp_path / "apart.py"
    script.write_text(APART)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=environment)
    # a number of threads set here would be every process's when the stage starts several
    assert done.stderr.splitlines()[-1] == "[2, 0] None"
    assert "error: nothing.yaml" in done.stderr and "said" in done.stdout
    assert "Traceback" not in done.stderr


def test_processes_share_the_cores_and_know_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Ended:
        """A launcher that has done its work."""

        pid = 0

        def __init__(self, call: list[str], env: dict[str, str]):
            started.append((call, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(ranks.subprocess, "Popen", Ended)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert ranks.launch("sft", CALL) == 0
    command, env = started[0]
    assert command[-4:] == ["pipeline", "sft", "r.yaml", "seed=1"] and "--nproc" not in command
    assert env["PIPELINE_RUN"] == "name"
    assert (env["OMP_NUM_THREADS"], env["PIPELINE_NPROC"]) == ("4", "2")
    assert str(ROOT) in env["PYTHONPATH"].split(os.pathsep)
