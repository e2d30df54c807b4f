"""Which fixtures do several tests of policies share? A machine that seems to have CUDA, and a policy away from its reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saying import ALONE, SETTINGS
from tiny import make_roles, randomise

from policies.engines import Engine, make_engine
from policies.roles import POLICY, Roles


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """`make_engine` on a machine that seems to have CUDA; afterwards torch tells the truth again."""

    def make(name: str, roles: Roles, folder: Path, settings: Any = SETTINGS) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return make_engine(name, roles, folder, settings, ALONE, folder / "sampler")

    return make


@pytest.fixture
def lora(tiny_folder: Path, tiny_tokenizer: Any) -> Roles:
    roles = make_roles(tiny_folder, tiny_tokenizer)
    randomise(roles, POLICY)
    return roles
