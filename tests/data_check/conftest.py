"""Which fixture do several tests of data-check share? The check of rows with the tiny tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checking import lines

from pipeline.data_check import check as data_check


@pytest.fixture
def checked(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Check rows with the tiny tokenizer, of which a token is a character."""
    monkeypatch.chdir(tmp_path)

    def check(rows: list[Any], *settings: str) -> dict[str, Any]:
        lines(tmp_path / "mine.jsonl", rows)
        return data_check.check(data_check.configured("mine.jsonl", settings), str(tiny_folder))

    return check
