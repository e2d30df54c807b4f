"""What does every stage need before it starts? The base model's folder, the process's accelerator, the line that closes it."""

import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import data
from pipeline.artifacts.embedded import embedded_model, tiny_model
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.graph import PRETRAINED
from pipeline.settings.config import EMBEDDED_MODEL, TINY_MODEL, Config
from pipeline.training.launcher import own_settings
from pipeline.waiting import others_wait
from policies.told import tell


def quiet() -> None:
    """Only our own lines and errors on the terminal: no progress bars, deprecation notes and load reports of libraries."""
    importlib.import_module("pipeline.training.quiet_imports")
    import datasets
    import huggingface_hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if sys.stderr.isatty():
        huggingface_hub.utils.enable_progress_bars()  # those of downloads, which the line above silences too
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def base_model(config: Config, run: Run | None = None) -> str:
    """What `from_pretrained` takes for the recipe's base model: a folder or a Hub id. Makes the embedded ones when they are missing.
    `run` is whose stage pretrain made it, where the recipe says model: pretrain."""
    return base_at(config.model, config.revision, run)


def base_at(model: str, revision: str | None, run: Run | None = None) -> str:
    """The same for the setting `model`. Raises ArtifactError where it is one that a stage of a run makes, and there is no run."""
    if model in PRETRAINED:
        if run is None:
            raise ArtifactError(
                f"model: {model} is made by that stage of a run, and here is no run; name a folder or a Hub id"
            )
        return str(run.folder(model))
    if model == EMBEDDED_MODEL:
        return str(embedded_model())
    if model == TINY_MODEL:
        return str(tiny_model(Path(data.__file__).with_name("smoke.jsonl").read_text(encoding="utf-8").splitlines()))
    if not Path(model).exists():
        told_fetching(model, revision)
    return model


def told_fetching(model: str, revision: str | None) -> None:
    """Say that a Hub model is being fetched, where it is not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model) and not isinstance(
        try_to_load_from_cache(model, "config.json", revision=revision), str
    ):
        tell(f"fetching {model} from the Hub, once; a large model takes minutes")


def make_accelerator(**arguments: Any) -> Any:
    """The Accelerator of this process; on CPU also with several processes. What a user's accelerate would decide about numbers is left to
    the recipe, here and in the trainers made after this, and the terminal is told so. Raises ConfigError where it would split a model."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    told = own_settings()
    if told is not None and os.environ.get("RANK", "0") == "0":
        print(told, file=sys.stderr, flush=True)
    if sys.platform == "linux" and not torch.cuda.is_available():
        _keep_freed_memory()
    # a process may wait for one that calls a user's function
    waits = InitProcessGroupKwargs(timeout=others_wait())
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waits], **arguments)


def _keep_freed_memory() -> None:
    """Let glibc hand freed blocks out again instead of giving them back to the kernel, which zeroes every page anew (about a tenth of
    a training step here)."""
    import ctypes

    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def closing(manifest: Manifest, run: Run, figures: Iterable[str], following: str) -> str:
    """How a stage closes: a line for each figure that is not as it should be, with what helps; then what was made, its key figures,
    its gate, and the next command, or what is to be mended before there is a next."""
    doubts = [
        f"{manifest.stage}: {'warning' if c['result'] == 'warn' else 'failed'}: {c['name']} {_short(c['figure'])} ({c['threshold']})"
        + (f": {c['why']}" if c["why"] else "")
        for c in manifest.gate["checks"]
        if c["result"] != "pass"
    ]
    shown = ", ".join(
        f"{name.replace('_', ' ')} {_short(manifest.metrics[name])}" for name in figures if name in manifest.metrics
    )
    if manifest.gate["result"] == "fail" and not manifest.forced:
        causes = [c["why"] or c["name"] for c in manifest.gate["checks"] if c["result"] == "fail"]
        following = f"mend {manifest.stage} ({'; '.join(dict.fromkeys(causes))}), then {run.remedy(manifest.stage)}"
    last = f"{manifest.stage}: {run.folder(manifest.stage)}: {shown}; gate {manifest.gate['result']}; next: {following}"
    return "\n".join([*doubts, last])


def _short(figure: float | None) -> str:
    return "none" if figure is None else f"{figure:.4g}"
