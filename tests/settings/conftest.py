"""Which fixture do several tests of settings share? A recipe written to a file."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Writes a recipe: recipe("seed: 1") -> its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
