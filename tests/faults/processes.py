"""What do the tests of signals and pairs share? Commands of ours in a run that is prepared, and every process that they started.

A process is found by a word in its environment, which each that it starts inherits: so none gets away.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pipeline.stages.ppo
import pipeline.stages.sft  # noqa: F401  (before anything is forked)
from pipeline import ending
from pipeline.artifacts.files import weights_sha256
from pipeline.running import guarded, run_stage
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
MARK = "PIPELINE_TESTED"
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN", "PIPELINE_CALLER", MARK)
CLEAN = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
REWARDS = """
import os, time

def paced(prompts, completions):
    time.sleep(float(os.environ.get("PACE", "0")))
    return [sum(c in "aeiou" for c in text) / 10 for text in completions]
"""
SETTINGS = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *("sft.max_steps=200", "sft.logging_steps=1", "sft.save_steps=50", "sft.max_new_tokens=4", "sft.eval_rows=2"),
    *("ppo.reward_funcs=[rewards:paced]", "ppo.total_episodes=96", "ppo.batch_size=16", "ppo.response_length=4"),
    *("ppo.save_steps=2", "ppo.eval_prompts=2", "compare.models=[sft,ppo]", "compare.prompts=4", "compare.perplexity_rows=2"),
]  # fmt: skip


def command(*words: str) -> list[str]:
    """`python -m pipeline STAGE` by the recipe and settings of these tests, run r; words behind the stage are added."""
    return [sys.executable, "-m", "pipeline", words[0], str(SMOKE), *SETTINGS, *words[1:], "--run", "r"]


@dataclass
class Started:
    """A command that runs in `folder`."""

    process: "subprocess.Popen[str]"
    folder: Path
    mark: str
    out: str = ""
    told: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, what it wrote in `out` and `told`."""
        self.out, self.told = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def alive(self) -> dict[int, str]:
        """All processes that it started and that are there, itself too: pid -> command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:  # it has ended, or is not ours
                    continue
        return found

    def gone(self, seconds: float = 5) -> None:
        """Raise AssertionError where one of its processes is alive after so many seconds."""
        deadline = time.monotonic() + seconds
        while left := self.alive():
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.05)

    def until(self, ready: Callable[[], Any], seconds: float = 100) -> Any:
        """What `ready` returns, as soon as that is something."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"never came; {self.alive()}"
            time.sleep(0.02)
        return found

    def rows(self, stage: str, least: int) -> None:
        """Wait until so many steps of a stage are logged."""
        path = self.folder / "runs" / "r" / f"{stage}.partial" / "metrics.jsonl"
        self.until(lambda: path.is_file() and path.read_bytes().count(b"\n") >= least)

    def end(self) -> None:
        """Kill what is left."""
        for process in self.alive():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.wait(10)


def start(folder: Path, *words: str, line: list[str] | None = None, **environment: str) -> Started:
    """A command of ours, or the line that is given, in a process group of its own."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        line or command(*words),
        cwd=folder,
        env=CLEAN | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    return Started(process, folder, mark)


def copied(prepared: Path, folder: Path, without: str = "") -> Path:
    """A run of one's own, as `prepared` has it before the stage `without` was made."""
    shutil.copytree(prepared, folder, symlinks=True)
    for stage in {"": (), "sft": ("sft", "ppo"), "ppo": ("ppo",)}[without]:
        shutil.rmtree(folder / "runs" / "r" / stage)
    return folder


def resumed(folder: Path, *stages: str) -> None:
    """Make stages to their end, in a fork of this process, which has imported the libraries."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.chdir(folder)
            for stage in stages:
                run_stage(stage, load(SMOKE, SETTINGS), "r")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"{stages} could not be made"


@dataclass
class Forked:
    """A command line in a fork of this process, which has imported the libraries; what it writes goes to files."""

    pid: int
    out: Path
    code: int | None = None

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, or minus the signal that ended it."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"no end after {seconds} s: {self.told}")
            time.sleep(0.01)
        return code

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    @property
    def told(self) -> str:
        return self.out.with_suffix(".err").read_text()


def forked(folder: Path, work: Callable[[], None], **environment: str) -> Forked:
    """Do `work`, one command of ours, in `folder` as the command line does it."""
    out = folder / f"{uuid.uuid4().hex}.out"
    out.with_suffix(".err").touch()
    if child := os.fork():
        return Forked(child, out)
    try:
        for path, number in ((os.devnull, 0), (out, 1), (out.with_suffix(".err"), 2)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, how, closefd=False) for n, how in enumerate("rww"))
        for name in LAUNCHED:
            os.environ.pop(name, None)
        os.environ.update(environment)
        os.chdir(folder)
        sys.path.insert(0, str(folder))  # as python -m has it
        ending.supervise("the command")
        guarded(work)
        os._exit(0)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def weights(folder: Path, stage: str) -> str | None:
    return weights_sha256(folder / "runs" / "r" / stage)
