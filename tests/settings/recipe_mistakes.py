"""What do the tests of settings share? The lines in which a recipe's mistakes are told."""

from pathlib import Path

import pytest

from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load


def told(path: Path, *overrides: str) -> list[str]:
    """The lines of the ConfigError, the recipe's folder cut from each."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()
