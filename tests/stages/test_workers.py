"""Do several processes make of rows what one makes, tell what is wrong as one does, and end with who waits for them?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from small_walk import settings

from data.schema import DataError, Problem
from pipeline.rows import workers
from pipeline.running import run_stage
from pipeline.settings.config import ConfigError

WAITING = """
import os, time
from pipeline.rows import workers
workers.FEW = workers.PORTION = 1
workers.worked(range(2), lambda rows: os.write(1, f"{os.getpid()}\\n".encode()) and time.sleep(600) or rows, 2, "rows are read")
"""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are many."""
    monkeypatch.setattr(workers, "FEW", 1)
    monkeypatch.setattr(workers, "PORTION", 7)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_results_stand_in_the_order_of_the_rows(eager: None, processes: int) -> None:
    def squared(rows: Sequence[int]) -> list[tuple[int, int]]:
        return [(row * row, os.getpid()) for row in rows]

    found = workers.worked(range(50), squared, processes, "rows are squared")
    assert [square for square, _ in found] == [row * row for row in range(50)]
    own = {by for _, by in found}
    assert (own == {os.getpid()}) == (processes == 1)


def test_stage_data_publishes_the_same_bytes(
    eager: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rankings that are too long for the model, and answers that are equal once they are cut."""
    monkeypatch.chdir(tmp_path)
    made = []
    for processes in (1, 3):
        more = ["data.max_length=40", "data.clean.too_long=drop", f"data.num_proc={processes}"]
        run_stage("data", settings(*more), f"by-{processes}")
        folder = Path(f"runs/by-{processes}/data")
        made.append({path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"})
    assert made[0] == made[1] and len(made[0]["rankings.train.jsonl"]) > 1000
    assert capsys.readouterr().out.count("rows are tokenised by 3 processes (data.num_proc)") == 1


def data_error(rows: Sequence[int]) -> list[int]:
    raise DataError([Problem("rows.jsonl", 3, "prompt", "it is no text", "write one")])


def killed(rows: Sequence[int]) -> list[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize(
    ("work", "kind", "told"),
    [
        (data_error, DataError, "rows.jsonl:3: prompt: it is no text; write one"),
        (
            killed,
            ConfigError,
            "data.num_proc: one of 2 processes was ended while rows were read, .*set data.num_proc=1",
        ),
    ],
)
def test_what_is_wrong_in_a_process_is_told(
    eager: None, work: Callable[[Sequence[int]], list[int]], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        workers.worked(range(50), work, 2, "50 rows are read")


def test_processes_end_with_the_one_that_waits_for_them() -> None:
    root = str(Path(__file__).resolve().parents[2])
    waiting = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert waiting.stdout is not None
    told = [waiting.stdout.readline() for _ in range(3)]  # that there are two, and their numbers
    children = psutil.Process(waiting.pid).children()
    assert sorted(int(line) for line in told[1:]) == sorted(child.pid for child in children)
    waiting.kill()
    waiting.wait()
    gone_by = time.monotonic() + 20
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < gone_by
        time.sleep(0.1)
