"""Is progress told where it can be seen: a bar that stays on a terminal, one line a minute elsewhere, nothing from other processes?"""

import io

import pytest

from pipeline.pages import progress
from pipeline.pages.progress import Lines, bar, shown


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
