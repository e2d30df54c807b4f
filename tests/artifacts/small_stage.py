"""What do the tests of artifacts share? A stage of two small files, and the message of a refusal."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Gate, at_least, below, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config

GOOD = Gate([check("rows", 3.0, must=at_least(1))])
BAD = Gate([check("rows", 3.0, must=at_least(1)), check("loss", 2.5, must=below(2))])


def prepare(run: Run, stage: str = "data", config: Config | None = None, text: str = "rows\n") -> Path:
    """The folder of a stage's two small files, not yet published."""
    made = working_folder(run, stage, config or Config()) / "made"
    (made / "inner").mkdir(parents=True, exist_ok=True)
    (made / "rows.jsonl").write_text(text)
    (made / "inner" / "weights.bin").write_bytes(bytes(range(9)))
    return made


def published(run: Run, made: Path, stage: str = "data", config: Config | None = None, **more: Any) -> Manifest:
    settings: dict[str, Any] = {
        "tokenizer": "f" * 64, "model": {"base": "tiny", "revision": None}, "dtype": "float32",
        "metrics": {"loss": 0.5}, "gate": GOOD,
    }  # fmt: skip
    return publish(run, stage, config or Config(), made, **{**settings, **more})


def make(run: Run, stage: str = "data", config: Config | None = None, text: str = "rows\n", **more: Any) -> Manifest:
    return published(run, prepare(run, stage, config, text), stage, config, **more)


def refused(call: Any, *parts: str) -> str:
    """The message of the ArtifactError, one line that holds all `parts`."""
    with pytest.raises(ArtifactError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message
