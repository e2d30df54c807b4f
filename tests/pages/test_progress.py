"""Is progress told where it can be seen: a bar that stays on a terminal, one line a minute elsewhere, nothing from other processes?"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import running
from pipeline.artifacts.run import Run
from pipeline.pages import progress
from pipeline.pages.progress import Lines, bar, shown
from pipeline.settings.config import Config


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(Lines, "clock", staticmethod(lambda: now[0]))
    return now


def test_without_a_terminal_one_line_a_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with bar(32, "ppo", "iteration", start=2) as at:
        at.start_t -= 100  # as if it had begun 100 seconds ago
        for _ in range(30):
            clock[0] += 7
            at.set_postfix(
                shown({"objective/scores": 1.4321, "objective/kl": 2.1}, ("objective/scores", "objective/kl"))
            )
            at.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # 30 steps of 7 seconds are 210
    assert lines[0].startswith("ppo: 10 of 32 iterations, ") and lines[0].endswith(" left; scores 1.43, kl 2.1")
    assert "\r" not in "".join(lines)


def test_the_time_left_is_by_what_was_done_since_it_began(clock: list[float]) -> None:
    at = {"n": 12, "initial": 2, "total": 32, "elapsed": 50.0, "prefix": "ppo", "unit": "iteration", "postfix": None}
    assert progress.line(at, False) == "ppo: 12 of 32 iterations, 01:40 left"
    assert progress.line(at | {"n": 2}, False) == "ppo: 2 of 32 iterations"
    assert progress.line(at | {"n": 2_000_000, "total": 0, "unit": "B"}, True) == "ppo: 2.00M B"


def test_what_is_over_within_a_minute_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with bar(3, "sft", "step") as at:
        at.update(3)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_last_line_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with bar(3, "sft", "step") as at:
        at.set_postfix(shown({"loss": 2.0}, ("loss", "kl")))
        at.update(3)
    last = terminal.getvalue().rstrip("\n").rpartition("\r")[2]
    assert terminal.getvalue().endswith("\n") and "sft: 100%" in last and "3/3" in last and "loss=2" in last


def test_other_processes_are_quiet(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with bar(3, "sft", "step") as at:
        clock[0] += 100
        at.update(3)
    assert capsys.readouterr().err == ""


def test_three_figures_at_most_by_their_short_names() -> None:
    names = ("loss", "reward", "rewards/accuracies", "completions/mean_length")
    figures = {"completions/mean_length": 12.0, "loss": 1.0, "rewards/accuracies": 0.5, "reward": 3.0, "lr": 0.0}
    assert shown(figures, names) == {"loss": "1", "reward": "3", "accuracies": "0.5"}
    assert shown(figures, names[3:]) == {"length": "12"}


def told_over(seconds: float, clock: list[float], monkeypatch: pytest.MonkeyPatch, step: Callable[[], None]) -> None:
    """`step` once a second, while the clock goes on so long and the line a minute is due at any time."""
    monkeypatch.setattr(progress, "EVERY", 60.0)
    looks, looked = list[float](), threading.Event.wait

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            return looked(self, timeout)
        looks.append(clock[0])
        return looked(self, 0.001)

    monkeypatch.setattr(threading.Event, "wait", wait)
    with progress.never_silent("sft"):
        for _ in range(int(seconds)):
            clock[0] += 1
            step()
            before = len(looks)
            for _ in range(5000):
                if len(looks) > before + 1:
                    break
                time.sleep(0.001)


def test_a_stage_that_loads_for_minutes_says_that_it_is_at_work(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told_over(130, clock, monkeypatch, lambda: None)
    assert capsys.readouterr().err.splitlines() == ["sft: at work for 01:00", "sft: at work for 02:00"]


def test_a_step_that_takes_minutes_is_told_by_its_bar(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar(8, "ppo", "iteration") as at:
        at.update(2)
        told_over(130, clock, monkeypatch, lambda: None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("ppo: 2 of 8 iterations") for line in lines)


def test_what_tells_itself_is_not_told_twice(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar(200, "ppo", "iteration") as at:
        told_over(130, clock, monkeypatch, lambda: at.update())
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_other_processes_and_terminals_are_told_nothing_of_it(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    before = threading.active_count()
    with progress.never_silent("sft"):
        assert threading.active_count() == before
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.never_silent("sft"):
        assert threading.active_count() == before


def test_every_stage_is_made_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_now: list[str] = []

    @contextmanager
    def told(what: str) -> Iterator[None]:
        open_now.append(what)
        yield
        open_now.remove(what)

    seen: list[str] = []
    module = SimpleNamespace(
        quiet=lambda: None,
        base_model=lambda config: None,
        run=lambda config, run: seen.extend(open_now),
        summary=lambda manifest, run: "",
        write=lambda run: None,
    )
    monkeypatch.setattr(running, "never_silent", told)
    monkeypatch.setattr(running.importlib, "import_module", lambda name: module)
    running._make("data", Config(), Run("demo"))
    assert seen == ["data"] and open_now == []
