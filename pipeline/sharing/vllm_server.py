"""How is a vLLM server started that samples for stage ppo? From the run's sft model, as the trainer computes, where the recipe looks for it.

    python -m pipeline vllm-server RECIPE --run NAME --python .venv-vllm/bin/python        # make vllm-server

vLLM lives in an environment of its own, in which this package is installed too: its CPU build needs policies/vllm_plugin.py.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

import torch
from transformers import AutoConfig

from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, ConfigError


def server_command(config: Config, run: Run, python: Path) -> list[str]:
    """The command line of the server. Raises ArtifactError where the run has no sft model, ConfigError where the address is none."""
    run.require("sft", force=True)
    address = urlsplit(config.ppo.vllm_server)
    if address.hostname is None or address.scheme != "http":
        raise ConfigError(f"ppo.vllm_server: {config.ppo.vllm_server} is no address such as http://127.0.0.1:8000")
    folder = run.folder("sft").resolve()
    dtype = (
        config.dtype
        if config.dtype != "auto"
        else str(AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype or torch.float32)
    )
    options = {
        "--model": str(folder),
        "--host": address.hostname,
        "--port": str(address.port or 8000),
        "--dtype": dtype.removeprefix("torch."),  # left to itself it would take half precision for float32
        "--generation-config": "vllm",  # none of the model's own defaults for sampling
        "--logprobs-mode": "processed_logprobs",  # at the temperature, as the loss sees them
        "--gpu-memory-utilization": str(config.ppo.vllm_gpu_memory_utilization),
    }
    eager = [] if torch.cuda.is_available() else ["--enforce-eager"]  # compiling for a CPU takes longer than it saves
    module = ["-m", "vllm.entrypoints.openai.api_server"]
    return [str(python), *module, *(word for pair in options.items() for word in pair), *eager]


def serve(config: Config, run: Run, python: Path) -> None:
    """Become the server. Raises ConfigError where `python` is none."""
    command = server_command(config, run, python)
    if not python.is_file():
        raise ConfigError(f"--python {python}: no such file; the target vllm-server makes the environment of vLLM")
    os.execve(python, command, os.environ | {"VLLM_SERVER_DEV_MODE": "1"})  # which opens the door for weights
