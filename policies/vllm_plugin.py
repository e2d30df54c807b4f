"""What of vLLM has to be other than it is? Its CPU build packs weights at load, which then cannot be loaded once more, and its processes
outlive the one that started them.

vLLM calls `register` in every process of its own (entry point vllm.general_plugins of this package).
"""

import ctypes
import multiprocessing
import os
import signal
import sys

TOGETHER = "PIPELINE_VLLM_TOGETHER"  # in the environment of a vLLM that we start
_SET_PDEATHSIG = 1  # <linux/prctl.h>


def register() -> None:
    """Keep vLLM from packing weights by oneDNN: packed ones are refused when new ones come, or stay as they were where the
    embedding is tied to the output layer. Nothing on a GPU. And where we started it, end its processes with the one that started them:
    killed, that one would leave them behind, with their memory."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        import vllm._custom_ops  # noqa: F401

        sys.modules["vllm._custom_ops"].__dict__["_supports_onednn"] = False
    parent = multiprocessing.parent_process()
    if TOGETHER in os.environ and parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it went before
            os.kill(os.getpid(), signal.SIGKILL)
