"""How is `python -m pipeline vllm-server` refused where vLLM would end in a traceback?"""

import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.run import Run
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.sharing import vllm_server


def at(address: str) -> Config:
    return Config(ppo=PPO(vllm_server=address))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "https://127.0.0.1:8000", "http://", "http://127.0.0.1:99999", "http://[::1"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match=r"ppo.vllm_server: .* is no address such as http://127.0.0.1:8000"):
        vllm_server.where(at(address))


def test_where_it_listens() -> None:
    assert vllm_server.where(at("http://127.0.0.1:8001")) == ("127.0.0.1", 8001)
    assert vllm_server.where(at("http://127.0.0.1")) == ("127.0.0.1", 80)  # where the trainer asks, too


def test_a_port_that_is_taken_and_a_host_that_is_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setattr(vllm_server, "server_command", lambda *_: ["python"])
    monkeypatch.setattr(vllm_server.os, "execve", lambda *given: started.append(given))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"no server can listen at {address} \(Address already in use\); set ppo.vllm_server to"
        ):
            vllm_server.serve(at(f"http://{address}"), Run("r"), python)
    with pytest.raises(ConfigError, match="no server can listen at 203.0.113.1:8000"):
        vllm_server.serve(at("http://203.0.113.1:8000"), Run("r"), python)
    assert not started
    vllm_server.serve(at(f"http://{address}"), Run("r"), python)
    ((_, _, environment),) = started
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
