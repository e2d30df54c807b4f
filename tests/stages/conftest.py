"""Which fixture do several tests of stage data share? The stage in an empty folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from own_rows import Made, Stage

from pipeline.artifacts.run import Run
from pipeline.settings.config import PPO, Config, Data
from pipeline.stages import data as prepare


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Stage:
    """Runs stage data in an empty folder, one token a character: stage(source=…) -> manifest, rows by file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "base_model", lambda config, run: str(tiny_folder))

    def make(seed: int = 0, ppo: PPO | None = None, **settings: Any) -> Made:
        manifest = prepare.run(Config(seed=seed, ppo=ppo or PPO(), data=Data(**settings)), Run("r"))
        files = {path.stem: path for path in Path("runs/r/data").glob("*.jsonl")}
        return manifest, {n: [json.loads(line) for line in p.read_text().splitlines()] for n, p in files.items()}

    return make
