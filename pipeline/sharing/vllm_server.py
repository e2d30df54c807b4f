"""How is a vLLM server started that samples for stage ppo? From the run's sft model, as the trainer computes, where the recipe looks for it.

    python -m pipeline vllm-server RECIPE --run NAME --python .venv-vllm/bin/python        # make vllm-server

vLLM lives in an environment of its own, in which this package is installed too: its CPU build needs policies/vllm_plugin.py.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import torch
from transformers import AutoConfig

from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, ConfigError
from policies.vllm_plugin import TOGETHER


def server_command(config: Config, run: Run, python: Path) -> list[str]:
    """The command line of the server. Raises ArtifactError where the run has no sft model, ConfigError where the address is none."""
    run.require("sft", force=True)
    host, port = where(config)
    folder = run.folder("sft").resolve()
    dtype = (
        config.dtype
        if config.dtype != "auto"
        else str(AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype or torch.float32)
    )
    options = {
        "--model": str(folder),
        "--host": host,
        "--port": str(port),
        "--dtype": dtype.removeprefix("torch."),  # left to itself it would take half precision for float32
        "--generation-config": "vllm",  # none of the model's own defaults for sampling
        "--logprobs-mode": "processed_logprobs",  # at the temperature, as the loss sees them
        "--gpu-memory-utilization": str(config.ppo.vllm_gpu_memory_utilization),
    }
    eager = [] if torch.cuda.is_available() else ["--enforce-eager"]  # compiling for a CPU takes longer than it saves
    module = ["-m", "vllm.entrypoints.openai.api_server"]
    return [str(python), *module, *(word for pair in options.items() for word in pair), *eager]


def where(config: Config) -> tuple[str, int]:
    """Host and port that the server listens at. Raises ConfigError where the address is none."""
    given = config.ppo.vllm_server
    try:
        address = urlsplit(given)
        host, port = address.hostname, address.port or 80
    except ValueError:
        host, port = None, 0
    if host is None or address.scheme != "http":
        raise ConfigError(f"ppo.vllm_server: {given} is no address such as http://127.0.0.1:8000")
    return host, port


def check_free(host: str, port: int) -> None:
    """Raise ConfigError where nothing can listen at `host` and `port`: vLLM would say so in a traceback, after a minute."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise ConfigError(
            f"ppo.vllm_server: no server can listen at {host}:{port} ({error.strerror}); set ppo.vllm_server to another address of this "
            "machine, such as http://127.0.0.1:8001, here and in stage ppo"
        ) from None


def serve(config: Config, run: Run, python: Path) -> None:
    """Become the server. Raises ConfigError where `python` is none, or the address is taken or another machine's."""
    command = server_command(config, run, python)
    if not python.is_file():
        raise ConfigError(f"--python {python}: no such file; the target vllm-server makes the environment of vLLM")
    check_free(*where(config))
    # the first opens the door for weights
    os.execve(python, command, os.environ | {"VLLM_SERVER_DEV_MODE": "1", TOGETHER: "1"})
