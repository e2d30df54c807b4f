"""Does `make watch` show a run on a terminal, and write one line a minute where there is none?"""

import io
from pathlib import Path

import pytest
from rich.console import Console
from watched import attempt, compared, row, stage, text

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.web import runs_now, terminal
from pipeline.web.terminal import Watched


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "sft", "reward"):
        stage(Run("demo"), name, metrics={"loss_after": 1.5})
    return Run("demo")


@pytest.fixture
def sft(run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The partial folder of a stage that somebody makes again."""
    monkeypatch.setattr(runs_now, "at_work", lambda partial: "somebody")
    folder = attempt(run, "sft", Config(seed=3), began="2099-01-01T00:00:00+00:00")  # it went on from a state
    (folder / "metrics.jsonl").write_text(trained(5))
    return folder


def trained(*steps: int) -> str:
    return text([{"step": s, "loss": s / 10, "mean_token_accuracy": 0.5, "epoch": s / 20} for s in steps])


def test_one_line_a_minute_then_how_it_ended(run: Run, sft: Path) -> None:
    now, told = [0.0], list[str]()

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] == 30:
            (sft / "metrics.jsonl").write_text(trained(5, 10))
        if now[0] == 150:
            stage(run, "sft", config=Config(seed=3), metrics={"loss_after": 1.25})
            (sft / "lock").unlink()
            sft.rmdir()

    for line in terminal.lines(Watched(run), lambda: now[0], sleep):
        told.append(f"{now[0]:.0f} {line}")
    assert told[:2] == ["0 data: gate pass", "0 sft: 5 of 20 steps; token accuracy 50.0%, loss 0.5"]
    assert told[3].startswith("60 sft: 10 of 20 steps, ") and told[3].endswith(" left; token accuracy 50.0%, loss 1")
    assert told[4].startswith("120 sft: 10 of 20") and told[5] == "150 sft: gate pass; held-out loss after 1.25"
    assert len(told) == 6 and now[0] < 160, "it ends where nobody works any more"


def test_a_run_that_is_done_is_told_and_left(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PAUSES", 1)
    stage(run, "ppo")
    compared(run)
    terminal.watch("demo")
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "sft: gate pass; held-out loss after 1.5"
    assert out[-1] == "compare: gate warn; Yes. Preferred to the original in 9 of 10 answers."


def test_a_table_with_a_bar_and_texts_that_are_no_markup(run: Run, sft: Path) -> None:
    stage(run, "ppo", {"metrics.jsonl": text([row(1)])})
    compared(run, "Yes. [red]Preferred[/red] \x1b[31m")
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    console.print(terminal._table(Watched(run)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5 of 20" in shown and "✓ pass" in shown and "━" in shown and "! warn" in shown
    assert "[red]Preferred[/red]" in shown and "\x1b" not in shown


def test_a_run_that_is_not_there(run: Run) -> None:
    with pytest.raises(ArtifactError, match="no run other in runs; there are demo"):
        terminal.watch("other")
