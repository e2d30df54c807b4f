"""Does one process of several that raises, dies or stops end all of them, with its own words, and does the same command go on to the same weights?"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import CLEAN, ROOT, SMOKE, Started, start, weights

from pipeline import beating
from pipeline.running import run_stage
from pipeline.settings.recipe import load

SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *("sft.max_steps=6", "sft.save_steps=2", "sft.eval_rows=2", "sft.max_new_tokens=4", "force=true"),
    *("reward.max_steps=6", "reward.save_steps=2", "reward.normalise_samples=4", "reward.eval_rows=4"),
    *("ppo.total_episodes=96", "ppo.batch_size=16", "ppo.response_length=4", "ppo.save_steps=2", "ppo.eval_prompts=2"),
]
STAGES = ("sft", "reward", "ppo")
WHERE = r"process {rank} of {stage} at step 3 of 6"
TOLD = {
    "raise": (1, r"Traceback .*LookupError: a fault of mine\nerror: that was " + WHERE + r"; the same command goes on\n"),
    "kill": (137, r"error: process {rank} of {stage} was ended by SIGKILL at step 3 of 6, .*; the same command goes on\n"),
    "stop": (147, r"error: process {rank} of {stage} was stopped at step 3 of 6 by a signal .*; the same command goes on\n"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    act: str
    stage: str
    rank: int

    def __str__(self) -> str:
        return f"{self.act}: process {self.rank} of {self.stage}"


CASES = [Case(act, stage, rank) for act in TOLD for stage in STAGES for rank in (0, 1)]


def two(folder: Path, stage: str, *more: str, **environment: str) -> Started:
    """The stage in two processes, one of which is as `faulty.py` makes it."""
    (folder / "sitecustomize.py").write_text((Path(__file__).parent / "faulty.py").read_text())
    line = [sys.executable, "-m", "pipeline", stage, str(SMOKE), *SHRUNK, *more, "--run", "r", "--nproc", "2"]
    return start(folder, line=line, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", **environment)


def made(folder: Path, stage: str, *more: str, **environment: str) -> None:
    """The stage, to its end."""
    one = two(folder, stage, *more, **environment)
    try:
        assert one.wait(300) == 0, one.told
        one.gone()
    finally:
        one.end()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stages two processes made without a fault."""
    folder = tmp_path_factory.mktemp("prepared")
    for stage in ("data", *STAGES):
        made(folder, stage)
    return folder


def before(prepared: Path, folder: Path, stage: str) -> Path:
    """The run before `stage` was made."""
    shutil.copytree(prepared, folder)
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / "runs" / "r" / later)
    return folder


def tried(case: Case, folder: Path, prepared: Path) -> None:
    before(prepared, folder, case.stage)
    one = two(folder, case.stage, FAULT=f"{case.act} {case.rank} 3")
    code, told = TOLD[case.act]
    try:
        assert one.wait(300) == code, one.told
        took = time.time() - float((folder / "fault").read_text())
        assert took < 30, took
        assert re.fullmatch(told.format(rank=case.rank, stage=case.stage), one.told, re.DOTALL), one.told
        assert one.told.count("Traceback") == (case.act == "raise")
        one.gone()
    finally:
        one.end()
    assert not (folder / "runs" / "r" / case.stage).exists()
    state = folder / "runs" / "r" / f"{case.stage}.partial" / "state"
    saved = state / "seal.json" if case.stage == "ppo" else state / "checkpoint-2" / "seal.json"
    assert saved.is_file(), list(state.glob("*"))
    made(folder, case.stage)
    log = (folder / "runs" / "r" / case.stage / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in log] == sorted({json.loads(row)["step"] for row in log})
    assert weights(folder, case.stage) == weights(prepared, case.stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_one_process_ends_all_and_the_same_command_goes_on(
    tmp_path: Path,
    prepared: Path,
    tally: Callable,
    stage: str,  # type: ignore[type-arg]
) -> None:
    with ThreadPoolExecutor(2) as pool, tally("signals") as cases:
        some = [case for case in CASES if case.stage == stage]
        done = {case: pool.submit(tried, case, tmp_path / str(n), prepared) for n, case in enumerate(some)}
        for case, end in done.items():
            with cases(str(case)):
                end.result()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_publishing_may_take_longer_than_processes_wait_for_each_other(
    prepared: Path, tmp_path: Path, stage: str
) -> None:
    folder = before(prepared, tmp_path / "slow", stage)
    made(folder, stage, LIMIT="15", PUBLISHING="25")
    assert weights(folder, stage) == weights(prepared, stage)


@pytest.mark.slow
def test_what_keeps_pythons_lock_is_ended_by_function_timeout(prepared: Path, tmp_path: Path) -> None:
    """No thread of that process can say so, nor end it."""
    folder = before(prepared, tmp_path / "held", "sft")
    one = two(folder, "sft", "function_timeout=5", FAULT="hold 1 3")
    try:
        assert one.wait(200) == 2, one.told
        assert re.fullmatch(
            r"error: process 1 of sft has not answered for 5 s at step 3 of 6, .* set function_timeout .*\n", one.told
        )
        one.gone()
    finally:
        one.end()


def test_a_process_that_is_stopped_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a second in place of STOPPED, before anything heavy is imported: the other one waits for ever."""
    monkeypatch.chdir(tmp_path)
    run_stage("data", load(SMOKE, SHRUNK), "r")
    one = two(tmp_path, "sft", FAULT="stop 1 begin", STOPPED="1")
    try:
        assert one.wait(100) == 128 + signal.SIGSTOP, one.told
        assert re.fullmatch(
            r"error: process 1 of sft was stopped by a signal \(SIGSTOP\) .* 1 s.*; the same command goes on\n",
            one.told,
        ), one.told
        one.gone()
    finally:
        one.end()


# The same of a small program, which imports nothing heavy

PROGRAM = """
import os, sys, threading, time
from pipeline import beating, ending
beating.EVERY, beating.STOPPED = 0.1, 1.0
ending.supervise("work")
beating.allow(1.0)
ending.reached(2, 5)
print(os.getpid(), flush=True)
if "hold" in sys.argv:
    import ctypes
    ctypes.PyDLL(None).sleep(60)
time.sleep(3 if "slow" in sys.argv else 60)
ending.done()
"""


def program(*words: str, **environment: str) -> "tuple[subprocess.Popen[str], int]":
    line = [sys.executable, "-c", PROGRAM, *words]
    environment = CLEAN | {"PYTHONPATH": str(ROOT), "RANK": "1", "WORLD_SIZE": "2"} | environment
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(
    ("words", "number", "code", "told"),
    [
        ("", signal.SIGSTOP, 147, r"error: process 1 of work was stopped at step 2 of 5 by a signal .*\n"),
        ("", signal.SIGKILL, 137, r"error: process 1 of work was ended by SIGKILL at step 2 of 5, .*\n"),
        ("hold", None, 2, r"error: process 1 of work has not answered for 1 s at step 2 of 5, .* set function_timeout .*\n"),
        ("slow", None, 0, ""),
    ],
)  # fmt: skip
def test_who_started_a_process_tells_what_became_of_it(words: str, number: int | None, code: int, told: str) -> None:
    """A process that another launcher started has one of ours above it. One that sleeps, longer than it may be stopped, is alive."""
    one, child = program(*words.split())
    if number is not None:
        os.kill(child, number)
    err = one.communicate(timeout=20)[1]
    assert one.returncode == code and re.fullmatch(told, err), (one.returncode, err)
    assert not Path(f"/proc/{child}").exists()


def test_one_process_alone_may_be_stopped() -> None:
    """Nobody waits for it but its user, who stopped it."""
    one, child = program("slow", WORLD_SIZE="1")
    os.kill(child, signal.SIGSTOP)
    time.sleep(2)
    assert one.poll() is None
    os.kill(child, signal.SIGCONT)
    assert one.wait(20) == 0


def test_time_in_which_nobody_looked_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole machine slept, or a terminal stopped all of them: they get their time when they wake up."""
    stopped = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"])
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    looking, beats = beating.Looking(), {"it": beating.Beat(stopped.pid, 0)}
    looking.look(beats)
    for seconds in (3600.0, 1.0, 1.0):
        now[0] += seconds
        looking.look(beats)
    assert looking.found == [] and stopped.poll() is None
    for _ in range(20):
        now[0] += 1.0
        looking.look(beats)
    assert [one.stopped for one in looking.found] == [True]
    assert stopped.wait(10) == -signal.SIGKILL
