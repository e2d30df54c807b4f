"""What of vLLM has to be other than it is? Its CPU build packs weights at load, which then cannot be loaded once more.

vLLM calls `register` in every process of its own (entry point vllm.general_plugins of this package).
"""

import sys


def register() -> None:
    """Keep vLLM from packing weights by oneDNN: packed ones are refused when new ones come, or stay as they were where the
    embedding is tied to the output layer. Nothing on a GPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        import vllm._custom_ops  # noqa: F401

        sys.modules["vllm._custom_ops"].__dict__["_supports_onednn"] = False
