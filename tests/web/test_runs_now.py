"""What lies in a run, who works there and how far, with which settings, and what did the comparison say?"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from watched import DOUBTED, REPORT, attempt, compared, row, stage, text

from pipeline.artifacts.gate import Gate, below, check
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.web import begun, runs_now
from pipeline.web.curves import Log
from pipeline.web.news import News

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "recipes" / "smoke.yaml")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("demo")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever a lock's file names holds it."""
    monkeypatch.setattr(runs_now, "at_work", lambda partial: "somebody")


def before_ppo(run: Run, **more: Any) -> None:
    for name in ("data", "sft", "reward"):
        stage(run, name, **more)


def by_folder(run: Run) -> dict[str, runs_now.Stage]:
    return {one.folder: one for one in runs_now.stages(run)}


def test_stages_with_gates_those_that_are_not_made_and_one_that_cannot_be_read(run: Run) -> None:
    stage(run, "data", {"samples.md": "x"}, metrics={"rankings_train": 1234.0}, gate=DOUBTED)
    stage(run, "sft", gate=Gate([check("loss", 2.5, must=below(2))]))
    (Path("runs/demo") / "reward").mkdir()
    (Path("runs/demo") / "reward" / "manifest.json").write_text("{")
    found = by_folder(run)
    assert list(found) == ["data", "sft", "reward", "ppo", "compare"]
    assert [one.state for one in found.values()] == ["made", "made", "unreadable", "missing", "missing"]
    assert (found["data"].gate, found["sft"].gate) == ("warn", "fail") and found["data"].pages == ("samples.md",)
    assert (
        found["data"].doubts == ("prompts 3 (at least 100, better 100): add rows",)
        or "add rows" in found["data"].doubts[0]
    )
    assert ("rankings to learn from", "1,234") in found["data"].figures


def test_who_works_and_what_nobody_goes_on_with(run: Run, held: None) -> None:
    stage(run, "data")
    folder = attempt(run, "sft", began="2099-01-01T00:00:00+00:00")
    assert by_folder(run)["sft"].work == "working"
    lock = json.loads((folder / "lock").read_text())
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (folder / "lock").write_text(json.dumps(lock | {"pid": int(dead.stdout)}))
    assert by_folder(run)["sft"].work == "stopped", "its process is gone"
    (folder / "lock").write_text("{torn")
    assert by_folder(run)["sft"].work == "working", "who holds it has just begun to write"
    (folder / "lock").unlink()
    assert by_folder(run)["sft"].work == "stopped"


def test_a_look_takes_no_lock_of_a_process_that_is_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could be in the way of one that begins at that very moment."""
    stage(run, "data")
    folder = attempt(run, "sft")
    lock = json.loads((folder / "lock").read_text())
    (folder / "lock").write_text(json.dumps(lock | {"pid": 2**22 + 1}))
    tried: list[Path] = []
    monkeypatch.setattr(runs_now, "at_work", tried.append)
    runs_now.stages(run)
    assert tried == []


@pytest.mark.parametrize("seed", [None, 1])
def test_the_settings_of_an_attempt_are_those_that_give_its_hash(run: Run, seed: int | None, held: None) -> None:
    given = ("ppo.max_kl=3.5", "ppo.total_episodes=64")
    config, call = load(SMOKE, given), Call(SMOKE, "demo", given)
    before_ppo(Run("demo", call=Call(SMOKE, "demo", ())), config=config)
    other = Run("demo", call=call)
    stage(other, "sft", config=config)
    stage(Run("demo", call=Call(SMOKE, "demo", ())), "reward", config=config)
    folder = "ppo" if seed is None else f"ppo_seed_{seed}"
    own = config if seed is None else config.model_copy(update={"seed": seed})
    attempt(Run("demo", beside={"ppo": folder}), "ppo", own)
    found = begun.config_of(run, folder)
    assert found is not None and found.ppo.max_kl == 3.5 and found.seed == (seed or 0)
    assert runs_now.limits_of(run, folder, True)["KL to sft"]["value"] == 3.5


def test_settings_that_do_not_give_the_hash_are_not_taken(run: Run) -> None:
    call = Call(SMOKE, "demo", ())
    before_ppo(Run("demo", call=call), config=load(SMOKE))
    attempt(run, "ppo", load(SMOKE, ["ppo.max_kl=3.5"]))
    assert begun.config_of(run, "ppo") is None and runs_now.limits_of(run, "ppo", True) == {}


def test_commands_of_the_process_that_works_and_those_above_it(run: Run) -> None:
    before_ppo(run, config=load(SMOKE))
    folder = attempt(run, "ppo", load(SMOKE, ["ppo.max_kl=4.5"]))
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    words = [sys.executable, "-c", code, "ppo", SMOKE, "ppo.max_kl=4.5", "--run", "demo"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        for _ in range(500):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children:
                break
            time.sleep(0.02)
        (folder / "lock").write_text(json.dumps({"pid": int(children[0]), "host": os.uname().nodename}))
        found = begun.config_of(run, "ppo")
        process.communicate(b"\n")
    assert found is not None and found.ppo.max_kl == 4.5


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["python", "-m", "pipeline", "all", "r.yaml", "a=1", "--run", "demo"], ("r.yaml", ("a=1",))),
        (["accelerate", "--x", "pipeline", "ppo", "r.yml", "--run", "d", "--nproc=2"], ("r.yml", ())),
        (["bash"], None),
        ([""], None),
    ],
)
def test_words_of_a_command_line(words: list[str], given: Any) -> None:
    assert begun.given_in(words) == given


def test_how_far_and_how_long(run: Run, held: None) -> None:
    call = Call(SMOKE, "demo", ())
    before_ppo(Run("demo", call=call), config=load(SMOKE))
    folder = attempt(Run("demo"), "ppo", load(SMOKE))
    log = Log(Path("runs/demo"), "ppo")
    assert runs_now.progress(run, by_folder(run)["ppo"], log).step is None
    (folder / "metrics.jsonl").write_text(text([row(1)]))
    log.more()
    far = runs_now.progress(run, by_folder(run)["ppo"], log)
    assert (far.step, far.steps) == (1, 4) and far.left is not None and 8 <= far.left <= 12, "three iterations of 4 s"


def test_limits_of_a_finished_stage_are_its_own(run: Run) -> None:
    before_ppo(run)
    stage(run, "ppo", config=Config.model_validate({"ppo": {"max_kl": 7.0}}))
    assert runs_now.limits_of(run, "ppo", False)["KL to sft"]["value"] == 7.0
    assert runs_now.limits_of(run, "sft", False) == {}


def test_the_answer_and_an_example_that_is_neither_the_best_nor_the_worst(run: Run) -> None:
    before_ppo(run)
    stage(run, "ppo")
    compared(run)
    (answer,) = runs_now.shown(run, runs_now.stages(run))["answers"]
    assert (answer["word"], answer["why"]) == ("Yes", "Preferred to the original in 9 of 10 answers.")
    assert answer["example"]["prompt"] == "Prompt 2", "ppo gains 1, 2 and 9"
    assert [one["model"] for one in answer["example"]["answers"]] == ["base", "sft", "ppo"]


@pytest.mark.parametrize(
    "broken", ["{", "{}", json.dumps(REPORT | {"main": "other"}), json.dumps(REPORT | {"judges": [3]})]
)
def test_a_report_that_cannot_be_read_costs_the_example_alone(run: Run, broken: str) -> None:
    before_ppo(run)
    stage(run, "ppo")
    compared(run)
    Path("runs/demo/compare/report.json").write_text(broken)
    (answer,) = runs_now.shown(run, runs_now.stages(run))["answers"]
    assert answer["word"] == "Yes" and answer["example"] is None


def test_news_is_told_once(run: Run, held: None) -> None:
    call = Call(SMOKE, "demo", ())
    before_ppo(Run("demo", call=call), config=load(SMOKE))
    folder = attempt(Run("demo"), "ppo", load(SMOKE))
    (folder / "metrics.jsonl").write_text(text([row(1)]))
    news = News(Path("runs"), [("demo", "ppo"), ("demo", "../../etc"), ("no", "ppo")])
    first = dict(news.look())
    assert set(first) == {"runs", "points", "limits", "samples", "progress"}
    assert first["points"]["of"] == "demo/ppo" and first["points"]["anew"] and len(first["points"]["points"]) == 1
    assert first["runs"][0]["working"] == ["ppo"] and first["progress"]["demo/ppo"]["steps"] == 4
    assert {event for event, _ in news.look()} <= {"progress"}, "nothing but the time left changes"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text([row(2)]))
    again = dict(news.look())
    assert not again["points"]["anew"] and [point["step"] for point in again["points"]["points"]] == [2]
    stage(run, "ppo", {"metrics.jsonl": text([row(1), row(2)])}, config=load(SMOKE))
    (folder / "lock").unlink()  # as who held it does
    folder.rmdir()
    last = dict(news.look())
    assert "points" not in last and last["runs"][0]["working"] == [] and last["progress"] == {}


def test_folders_of_strangers_and_names_that_are_none_do_not_stop_it(run: Run) -> None:
    stage(run, "data")
    for name in ("..evil", "x.partial", ".hidden", "other.partial"):
        (Path("runs/demo") / name).mkdir()
    Path("runs/nothing").mkdir()
    assert [one.name for one in runs_now.runs()] == ["demo"]
    assert list(by_folder(run)) == ["data", "sft", "reward", "ppo", "compare"]
    assert runs_now.run_named("../demo") is None and runs_now.run_named("demo") is not None
