"""Which fixture do several tests of artifacts share? A run in an empty folder."""

from pathlib import Path

import pytest

from pipeline.artifacts.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("demo")
