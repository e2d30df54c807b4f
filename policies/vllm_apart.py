"""How does vLLM sample a model that does not learn? In processes of its own, which end with the block and give their memory back."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from policies.untyped import Foreign
from policies.vllm_plugin import TOGETHER
from policies.vllm_start import Generate, generate, start

OF_TORCHRUN = ("RANK", "WORLD_SIZE", "GROUP_", "ROLE_", "LOCAL_", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_")
"""How variables begin that tell a process which one of several it is: vLLM is started by each of them, and is alone."""


@contextmanager
def started_apart(
    asker: str, source: str | Path, revision: str | None, dtype: torch.dtype, memory: float, longest: int
) -> Iterator[Generate]:
    """Within the block vLLM serves the model at `source`, a folder or a Hub id; what is given asks it. Raises BackboneError as `start`."""
    with patch.dict(os.environ, _environment(), clear=True):
        llm, sampling_params = start(asker, source, dtype, memory, longest, revision=revision)
    try:
        yield partial(generate, asker, llm, sampling_params)
    finally:
        engine: Foreign = llm.llm_engine.engine_core
        engine.shutdown()
        del llm, engine
        gc.collect()


def _environment() -> dict[str, str]:
    """That of a vLLM of this process alone, on this process's GPU."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(OF_TORCHRUN)}
    found |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn", TOGETHER: "1"}
    if torch.cuda.is_available():
        here = torch.cuda.current_device()
        every = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        found["CUDA_VISIBLE_DEVICES"] = every[here] if every else str(here)
    return found
