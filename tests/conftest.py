"""What do several test files share? The tiny model's folder and tokenizer, and one thread."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny

from policies.tokenizers import load_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder: Path) -> Any:
    return load_tokenizer(tiny_folder)
