"""What do several test files share? The tiny model's folder and tokenizer, a browser, and one thread."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pasting
import pytest
import torch
from tiny import save_tiny

from pipeline.commands import Call
from policies.tokenizers import load_tokenizer

torch.set_num_threads(1)

LONG = (  # the files that take longest come first, so that no process is left alone with one at the end
    *("whole/test_walk.py", "whole/test_quantized.py", "training/test_launcher.py", "stages/test_baselines.py"),
    *("artifacts/test_seeds.py", "stages/test_kto.py", "whole/test_bfloat16.py", "inspect/test_inspect.py"),
    *("artifacts/test_ownership.py", "policies/test_engines.py", "whole/test_tokenizers.py", "policies/test_chat.py"),
    *("artifacts/test_same_runs.py", "docs/test_extending.py", "policies/test_waits.py", "policies/test_resuming.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by LONG, the others behind as they were."""
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(LONG)}
    assert all(path.is_file() for path in place), "a file of LONG moved"
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def every_command_can_be_pasted() -> Iterator[None]:
    """Any command that a test makes a message name is parsed as if it were pasted; one that would not be taken fails the test."""
    line = Call.line

    def checked(self: Call, *commands: str, **more: Any) -> str:
        made = line(self, *commands, **more)
        pasting.check(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Call, "line", checked)
        yield


@pytest.fixture(scope="module")  # longer, its event loop would be in the way of other files'
def chromium() -> Iterator[Any]:
    """The system's Chromium (apt install chromium), driven by playwright, which downloads nothing here."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "no Chromium here: apt install chromium"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder: Path) -> Any:
    return load_tokenizer(tiny_folder)
