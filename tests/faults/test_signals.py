"""Is nobody left behind, whichever process a signal ends, and does the same command go on to the same weights?"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import CLEAN, REWARDS, ROOT, SETTINGS, SMOKE, Started, copied, resumed, start, weights

HUP, INT, KILL, TERM = signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM
LINE = re.compile(r"interrupted at step (\d+) of (\d+); the same command goes on\n")


@dataclass(frozen=True)
class Case:
    """A signal to one process of a command, and the exit code of the command."""

    words: tuple[str, ...]
    to: str
    number: signal.Signals
    code: int
    again: bool = False  # whether the same command is run to its end

    @property
    def stage(self) -> str:
        return "ppo" if self.words[0] in ("all", "make") else self.words[0]

    def __str__(self) -> str:
        return f"{self.number.name} to {self.to} of {' '.join(self.words)}"


ALL, PPO, SFT, TWO, MAKE = ("all",), ("ppo",), ("sft",), ("ppo", "--nproc", "2"), ("make", "ppo")
CASES = [
    *(Case(SFT, "command", number, code, True) for number, code in ((TERM, 143), (INT, 130), (HUP, 129), (KILL, -9))),
    *(Case(PPO, "command", number, code, True) for number, code in ((TERM, 143), (INT, 130), (HUP, 129), (KILL, -9))),
    Case(PPO, "group", INT, 130),
    Case(PPO, "holder", KILL, 137, True),
    *(Case(ALL, "command", number, code, True) for number, code in ((TERM, 143), (INT, 130), (HUP, 129), (KILL, -9))),
    *(Case(ALL, "holder", number, code) for number, code in ((TERM, 143), (INT, 130), (KILL, 137))),
    Case(ALL, "group", HUP, 129),
    *(Case(MAKE, "command", number, code, True) for number, code in ((TERM, -15), (KILL, -9))),
    *(Case(TWO, "command", number, code) for number, code in ((TERM, 143), (INT, 130), (KILL, -9))),
    *(Case(TWO, "launcher", number, code) for number, code in ((TERM, 143), (KILL, 137))),
    *(Case(TWO, "rank 1", number, code) for number, code in ((TERM, 143), (KILL, 137))),
    Case(TWO, "rank 0", KILL, 137),
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of data, sft and ppo, whose weights are those that every resumed one must have."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "rewards.py").write_text(REWARDS)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    resumed(folder, "data", "sft", "ppo")
    return folder


def started(case: Case, folder: Path) -> Started:
    if case.words[0] != "make":
        return start(folder, *case.words, PACE="0.3")
    line = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/ready", case.words[1], f"RECIPE={SMOKE}", "RUN=r"]
    return start(folder, line=[*line, f"SET={' '.join(map(repr, SETTINGS))}"], PACE="0.3")


def process_of(one: Started, case: Case) -> int:
    """The process that the signal goes to; the group is that of a terminal."""
    if case.to in ("command", "group"):
        return one.process.pid if case.to == "command" else -one.process.pid
    if case.to == "holder":
        lock = one.folder / "runs" / "r" / f"{case.stage}.partial" / "lock"
        return int(json.loads(lock.read_text())["pid"])
    for process, line in one.alive().items():
        if case.to == "launcher" and "pipeline.ranks" in line:
            return process
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        if case.to.startswith("rank") and f"RANK={case.to[-1]}".encode() in environment:
            return process
    raise AssertionError(f"no {case.to} among {one.alive()}")


def tried(case: Case, folder: Path, prepared: Path) -> None:
    copied(prepared, folder, without=case.stage)
    one = started(case, folder)
    try:
        one.rows(case.stage, 3)
        os.kill(process_of(one, case), case.number)
        code = one.wait(30)
        one.gone(5)
        assert code == case.code, one.told
        for word in ("Traceback", "ChildFailedError", "Sending process", "failed (exitcode"):
            assert word not in one.told
        assert not (folder / "runs" / "r" / case.stage).exists(), "published without a parent"
        if case.number != KILL:
            check_line(one, case)
        elif case.code > 0:
            assert one.told.count("was ended by SIGKILL") == 1 == one.told.count("\n"), one.told
    finally:
        one.end()
    if case.again:
        resumed(folder, case.stage)
        assert weights(folder, case.stage) == weights(prepared, case.stage)
    assert not list((folder / "runs" / "r").glob("*.partial")) or not case.again


def check_line(one: Started, case: Case) -> None:
    """One line tells the step; the state of that very step is there, unless it was to end at once."""
    told = "".join(line for line in one.told.splitlines(keepends=True) if not line.startswith("make: "))
    found = LINE.fullmatch(told)
    assert found is not None, one.told
    if case.number == INT:
        return
    state = one.folder / "runs" / "r" / f"{case.stage}.partial" / "state"
    if case.stage == "sft":
        assert (state / f"checkpoint-{found[1]}").is_dir(), os.listdir(state)
    else:
        assert f'"step": {found[1]}' in "".join(path.read_text() for path in state.glob("**/state.json"))


@pytest.mark.slow
def test_no_signal_leaves_anything_behind(tmp_path: Path, prepared: Path, tally: Callable) -> None:  # type: ignore[type-arg]
    with ThreadPoolExecutor(4) as pool, tally("signals") as cases:
        done = {case: pool.submit(tried, case, tmp_path / str(n), prepared) for n, case in enumerate(CASES)}
        for case, end in done.items():
            with cases(str(case)):
                end.result()


# The same of a small program, which imports nothing heavy

PROGRAM = """
import os, signal, sys, time
from pipeline import ending
ending.GRACE = 0.5
ending.supervise("work")
from pipeline.running import guarded
def work():
    steps = "steps" in sys.argv
    for step in range(100):
        if steps:
            ending.reached(step, 100)
        print(os.getpid(), flush=True)
        if "exit" in sys.argv: os._exit(0)
        if "leave" in sys.argv: sys.exit(0)
        if "break" in sys.argv: raise KeyboardInterrupt
        if "kill" in sys.argv: os.kill(os.getpid(), 9)
        try:
            time.sleep(100 if "stuck" in sys.argv else 0.05)
        except BaseException:
            if "deaf" not in sys.argv: raise
            time.sleep(100)
        if steps and ending.asked():
            ending.leave(ending.asked())
guarded(work)
"""


def program(*words: str, before: str = "") -> "subprocess.Popen[str]":
    line = [*before.split(), sys.executable, "-c", PROGRAM, *words]
    environment = CLEAN | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SMALL = {
    ("steps", "TERM"): (143, "interrupted at step \\d+ of 100; the same command goes on\n"),
    ("steps", "HUP"): (129, "interrupted at step \\d+ of 100; the same command goes on\n"),
    ("steps", "INT"): (130, "interrupted at step \\d+ of 100; the same command goes on\n"),
    ("whole", "TERM"): (143, "interrupted; the same command goes on\n"),
    ("steps stuck", "TERM"): (143, "interrupted at step 0 of 100; the same command goes on\n"),
    ("deaf", "INT"): (130, "interrupted; the same command goes on\n"),
    ("steps stuck", "TERM TERM"): (143, "interrupted at step 0 of 100; the same command goes on\n"),
    ("whole", "KILL"): (-9, ""),
    ("exit", ""): (2, "error: work was ended from within before it was done, .*\n"),
    ("leave", ""): (2, "error: <string>:.*: it ended the program .*\n"),
    ("break", ""): (130, "interrupted by .* raised KeyboardInterrupt; the same command goes on\n"),
    ("kill", ""): (137, "error: work was ended by SIGKILL, .*\n"),
}  # fmt: skip


def check_small(words: str, signals: str, code: int, told: str) -> None:
    process = program(*words.split())
    assert process.stdout is not None
    child = int(process.stdout.readline())
    for number, name in enumerate(signals.split()):
        time.sleep(0.55 * number)
        process.send_signal(getattr(signal, f"SIG{name}"))
    err = process.communicate(timeout=15)[1]
    assert process.returncode == code and re.fullmatch(told, err), (process.returncode, err)
    deadline = time.monotonic() + 3
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.02)


def test_the_end_of_a_small_program(tally: Callable) -> None:  # type: ignore[type-arg]
    with ThreadPoolExecutor(4) as pool, tally("signals") as cases:
        done = {name: pool.submit(check_small, *name, *expected) for name, expected in SMALL.items()}
        for name, end in done.items():
            with cases(" ".join(name)):
                end.result()
        with cases("a hangup that nohup has switched off"):
            process = program("whole", before="nohup")
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(HUP)
            time.sleep(0.3)
            assert process.poll() is None
            process.terminate()
            process.communicate(timeout=10)
            assert process.returncode == 143
