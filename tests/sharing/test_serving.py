"""How do programs talk to a model of a run? By transformers' own server, which is started on what was published and on nothing else."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.sharing import serving


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    found: list[Any] = []
    (tmp_path / "demo/ppo").mkdir(parents=True)
    (tmp_path / "demo/ppo/config.json").write_text("{}")
    monkeypatch.setattr(os, "execv", lambda path, words: found.append((path, words)))
    monkeypatch.setattr(serving, "models", lambda run: ["sft", "ppo", "reward"])
    monkeypatch.setattr(Run, "require", lambda self, stage, **how: found.append(stage))
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_the_server_is_transformers_own_on_the_published_folder(
    started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    serving.serve(Run("demo", tmp_path), "ppo", port)
    (opened, (path, words)) = started
    assert opened == "ppo", "its files are checked before it is served"
    assert words == [path, "serve", str(tmp_path / "demo/ppo"), "--host", "127.0.0.1", "--port", str(port)]
    assert os.access(path, os.X_OK), "the program is there"
    told = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}/v1" in told and " chat " in told and "vllm serve" in told


@pytest.mark.parametrize("model", ["reward", "gpt", "../ppo", ""])
def test_what_does_not_speak_is_refused_with_what_does(started: list[Any], tmp_path: Path, model: str) -> None:
    with pytest.raises(ArtifactError, match="there are sft, ppo$"):
        serving.serve(Run("demo", tmp_path), model, free_port())
    assert started == []


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(started: list[Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ArtifactError, match="choose another PORT"):
            serving.serve(Run("demo", tmp_path), "ppo", taken.getsockname()[1])


def test_an_encoder_decoder_is_refused_before_the_server_refuses_it(started: list[Any], tmp_path: Path) -> None:
    (tmp_path / "demo/ppo/config.json").write_text('{"is_encoder_decoder": true}')
    with pytest.raises(ArtifactError, match="is an encoder–decoder"):
        serving.serve(Run("demo", tmp_path), "ppo", free_port())


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="fastapi is not installed; run: .*serving"):
        serving.serve(Run("demo", tmp_path), "ppo", free_port())
