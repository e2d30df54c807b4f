"""What do the tests of interrupted stages share? A Trainer stage that is stopped on its way, and started again."""

from pathlib import Path
from typing import Any

import pytest

import pipeline.training.trainers
from pipeline.running import run_stage


class Stop(Exception):
    """An interruption."""


def stopped_and_started(stage: str, config: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of 6 steps with a checkpoint of step 2 is stopped after step 3; then the same command again."""
    right, steps = pipeline.training.trainers.Report.on_step_end, list[int]()

    def stopping(self: Any, args: Any, state: Any, control: Any, **kw: Any) -> None:
        right(self, args, state, control, **kw)
        steps.append(state.global_step)
        if steps == [1, 2, 3]:
            raise Stop

    monkeypatch.setattr(pipeline.training.trainers.Report, "on_step_end", stopping)
    with pytest.raises(Stop):
        run_stage(stage, config, run.name)
    assert not (run / stage).exists() and (run / f"{stage}.partial" / "state" / "checkpoint-2").is_dir()
    run_stage(stage, config, run.name)
    assert steps == [1, 2, 3, 3, 4, 5, 6]
