"""What can this machine do, and what does a PPO iteration ask of it? Rates measured, operations counted.

    python -m pipeline.bench.machine        # the measured machine as one line of JSON

Counting follows the shape of a Llama-like decoder: two operations a multiply-add, attention's products over the tokens
that a causal mask leaves, norms and activations left out. It is what the iteration needs, not what a program happens to
do: a trunk that no role adapts is run in the rollout alone, and no forward is run twice for the same weights.
"""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZES = {"float32": 4, "bfloat16": 2}  # bytes a number


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = True

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """From a config.json of a Llama-like model. Raises KeyError where it has other names."""
        heads = config["num_attention_heads"]
        return cls(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"],
            config.get("tie_word_embeddings", False),
        )

    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the seven matrices of a layer: query, key, value, output, gate, up, down."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden)]
        return attention + [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]

    def layer_weights(self) -> int:
        return sum(a * b for a, b in self.matrices())

    def lora_weights(self, rank: int) -> int:
        """Weights of one layer's adapter on all seven matrices."""
        return sum(rank * (a + b) for a, b in self.matrices())

    def parameters(self) -> int:
        """All weights but the norms'."""
        return self.layers * self.layer_weights() + self.vocab * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True)
class Work:
    """One PPO iteration. `prompt` and `completion` are mean tokens an episode (attention, a few percent, is counted at
    the mean)."""

    episodes: int
    prompt: float
    completion: float
    epochs: int
    critic: str  # adapter, head (on the policy) or full (a model of its own)
    rank: int | None  # of the LoRA adapters; None: all weights are trained
    adapted: int  # layers that are trained: all but the rollout run only these, from kept hidden states


def _trunk(shape: Shape, layers: int, tokens: float, rank: int, passes: tuple[int, int, int] = (1, 1, 1)) -> float:
    """Operations of `layers` on one row of `tokens`. `passes`: how often base weights, adapter and attention's products
    are gone through."""
    base, lora, attention = passes
    weights = 2 * tokens * (base * shape.layer_weights() + lora * (shape.lora_weights(rank) if rank else 0))
    # query·key and probabilities·value, each 2 operations for every dimension of every head and every pair of tokens
    products = 4 * shape.heads * shape.head_dim * tokens * (tokens + 1) / 2
    return layers * (weights + attention * products)


def iteration_flops(shape: Shape, work: Work) -> dict[str, float]:
    """Floating-point operations of one iteration by phase: rollout, score, reference, values, update.

    A forward is 1 pass over a matrix; its backward 1 more where the matrix is frozen (the gradient of its input) and 2
    more where it is trained or is a product of two activations. The last token of a completion is scored, but never an
    input of anything else. A completion cut at its limit gains an EOS before it is scored, which is not counted. The
    forward that gives a critic's values is the first epoch's, and counted under values alone; a head on the policy has
    its states from the rollout, and the policy its log-probabilities.
    """
    rank = work.rank or 0
    seen, scored = work.prompt + work.completion - 1, work.prompt + work.completion
    head = 2 * shape.hidden * shape.vocab * work.completion
    trained = 2 if work.rank else 3
    train = _trunk(shape, work.adapted, seen, rank, (trained, 3, 3))
    values = 0.0 if work.critic == "head" else _trunk(shape, work.adapted, seen, rank)
    models = 1 if work.critic == "head" else 2
    each = {
        "rollout": _trunk(shape, shape.layers, seen, 0) + head,
        "score": _trunk(shape, work.adapted, scored, rank),
        "reference": _trunk(shape, work.adapted, seen, 0) + head,
        "values": values,
        "update": work.epochs * (models * train + trained * head) - values,
    }
    return {phase: work.episodes * flops for phase, flops in each.items()}


def decode_bytes(shape: Shape, work: Work, longest: float, size: int) -> float:
    """Bytes read while decoding, all episodes in one batch: the weights once for each of `longest` steps (the prompts'
    pass is the first), and each row's keys and values at each step after that. `size`: bytes a number."""
    weights = longest * (shape.layers * shape.layer_weights() + shape.hidden * shape.vocab)
    # the first token comes from the prompt's pass; the pass for token t = 2 … completion looks at prompt + t - 1 tokens
    seen = (work.completion - 1) * (work.prompt + work.completion / 2)
    cache = work.episodes * seen * 2 * shape.kv_heads * shape.head_dim * shape.layers
    return size * (weights + cache)


def peak_gb() -> float:
    """Most memory this process had so far, GB of 1e9 bytes: of the GPU where torch uses one, else resident.

    On Linux from VmHWM: ru_maxrss is inherited from the process that started this one.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def ram_gb() -> float:
    """Main memory, GB of 1e9 bytes, or what the control group leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(total, int(text) if text.isdigit() else total) / 1e9


def _median_seconds(
    work: Callable[[], object], times: int, wait: Callable[[], object], timer: Callable[[], float]
) -> float:
    for _ in range(3):
        work()
    wait()
    seconds = []
    for _ in range(times):
        started = timer()
        work()
        wait()
        seconds.append(timer() - started)
    return statistics.median(seconds)


def matrix_rate(dtype: str, times: int = 15, timer: Callable[[], float] = time.perf_counter) -> float:
    """GFLOP/s of a matrix product as the models have it: (1280, 576)·(576, 1536) on CPU, 8192 cubed on a GPU, which a
    small one would keep waiting for its launch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, inner, columns = (1280, 576, 1536) if device == "cpu" else (8192, 8192, 8192)
    x = torch.randn(rows, inner, device=device).to(getattr(torch, dtype))
    w = torch.randn(columns, inner, device=device).to(getattr(torch, dtype))
    with torch.no_grad():
        seconds = _median_seconds(lambda: torch.nn.functional.linear(x, w), times, _waiter(), timer)
    return 2 * rows * inner * columns / seconds / 1e9


def read_rate(times: int = 7, numbers: int = 2**26, timer: Callable[[], float] = time.perf_counter) -> float:
    """GB/s at which memory is read: the sum of `numbers` float32, far more than a cache holds."""
    import torch

    x = torch.ones(numbers, device="cuda" if torch.cuda.is_available() else "cpu")
    return 4 * numbers / _median_seconds(x.sum, times, _waiter(), timer) / 1e9


def _waiter() -> Callable[[], object]:
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure() -> dict[str, Any]:
    """The machine: names, sizes, gflops by dtype, read_gb_per_s. Takes about a second."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gb": ram_gb(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_gb": torch.cuda.get_device_properties(0).total_memory / 1e9 if gpu else None,
        "torch": torch.__version__,
        "gflops": {dtype: matrix_rate(dtype) for dtype in SIZES},
        "read_gb_per_s": read_rate(),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
