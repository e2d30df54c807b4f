"""Which GPUs are known, what do their vendors say of them, and what can this machine do?

Peaks are the vendors' own figures, dense (without sparsity), links in one direction. What of a peak is reached is no fact but an
assumption, which every plan prints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import median

from pipeline.bench.machine import SIZES, matrix_rate, ram_gb, read_rate
from pipeline.plan.calls import Calls, measured

NODE = 8  # GPUs of a node
EAGER = Calls(2e-3, 5e-4, 2e-3, 2e-3, 1e-3, 2e-2)
"""What calls cost where Python starts every kernel of a GPU, assumed; nothing here was run on one."""


@dataclass(frozen=True)
class Machine:
    """What one process computes with, and how it reaches the others."""

    name: str
    tflops: Mapping[str, float]  # of dense matrix products, by dtype
    memory_gb: float
    read_gb_per_s: float
    link_gb_per_s: float  # from one process to another on the same node
    network_gb_per_s: float  # of one process to other nodes; assumed
    source: str
    node: int = NODE
    resident_gb: float = 1.0  # what a process takes before it holds anything; on GPUs assumed: CUDA's context
    calls: Calls = EAGER
    latency_s: float = 2e-5  # of a message
    products: float = 0.4  # share of the peak that learning and scoring reach
    decoding: float = 0.5  # share of either peak that sampling reaches
    dtype: str = "bfloat16"  # of frozen weights, where the recipe says auto
    gpu: bool = True

    def rate(self, processes: int) -> float:
        """Bytes a second from one of so many processes to the next: of the slowest link that a ring goes over."""
        inside = processes <= self.node
        return 1e9 * (self.link_gb_per_s if inside else min(self.link_gb_per_s, self.network_gb_per_s))

    def assumed(self) -> list[str]:
        """What in a plan for it is neither counted nor measured nor a vendor's figure, a line each."""
        cost = self.calls
        out = [f"{self.products:.0%} of the products' peak is reached in learning and scoring, {self.decoding:.0%} of a peak in sampling"]  # fmt: skip
        if self.source != MEASURED:
            out.append(
                f"calls cost, however little they compute: sampling a token {cost.step * 1e3:.2g} ms and {cost.layer * 1e3:.2g} a layer, "
                f"a micro-batch forward and backward {cost.batch * 1e3:.2g} ms and {cost.learned * 1e3:.2g} a layer; "
                f"an iteration {cost.iteration * 1e3:.2g} ms and {cost.episode * 1e3:.2g} for each of its episodes"
            )
            out.append(f"a process takes {self.resident_gb:.2g} GB before it holds anything")
        if self.node < 1000:
            out.append(
                f"{self.network_gb_per_s:.4g} GB/s for each process between nodes of {self.node}, a message takes {self.latency_s * 1e6:.0f} µs; "
                "nothing that is sent is hidden behind work"
            )
        return out


MEASURED = "measured here"
KNOWN = {
    # 1,979 TFLOP/s with sparsity, so half of it; NVLink 900 GB/s both ways. A network card of 400 Gb/s a GPU.
    "h200": Machine("H200 SXM", {"bfloat16": 989.5, "float32": 67}, 141, 4800, 450, 50, "https://www.nvidia.com/en-us/data-center/h200/"),
    # NVLink 600 GB/s both ways. A network card of 200 Gb/s a GPU.
    "a100-80": Machine("A100 SXM 80 GB", {"bfloat16": 312, "float32": 19.5}, 80, 2039, 300, 25, "https://www.nvidia.com/en-us/data-center/a100/"),
    # Products of bfloat16 summed in float32. No NVLink: PCIe 4.0 x16. A network of 25 Gb/s for eight.
    "4090": Machine("RTX 4090", {"bfloat16": 165.2, "float32": 82.6}, 24, 1008, 31.5, 0.39, "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"),
    # One core of an EPYC with avx512_bf16, as `python -m pipeline.plan.held` found it.
    "cpu": Machine("CPU core", {"bfloat16": 0.459, "float32": 0.106}, 12, 35, 2, 1.25, "docs/measured.md", 2, 0.55, Calls(4.5e-4, 2.4e-4, 9e-4, 1.5e-3, 4e-4, 9.5e-3), products=0.7, dtype="float32", gpu=False),
}  # fmt: skip
HERE = "here"


def here(processes: int = 1) -> Machine:
    """This machine, measured in some ten seconds; each of several processes has its share of the memory."""
    import psutil
    import torch

    gpu = torch.cuda.is_available()
    resident = 1.0 if gpu else psutil.Process().memory_info().rss / 1e9
    rates = {dtype: matrix_rate(dtype) for dtype in SIZES}
    device = torch.device("cuda" if gpu else "cpu")
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if gpu else ram_gb() / processes
    return of_rates(rates, read_rate(), measured(device), memory, resident, gpu)


def of_rates(
    gflops: Mapping[str, float], read_gb_per_s: float, calls: Calls, memory_gb: float, resident_gb: float, gpu: bool
) -> Machine:
    """A machine of which only this is known: on a CPU processes send each other what one of them writes and the other reads."""
    import torch

    from policies.precision import pick_dtype

    device = torch.device("cuda" if gpu else "cpu")
    return Machine(
        torch.cuda.get_device_name() if gpu else "this machine's CPU",
        {dtype: rate / 1e3 for dtype, rate in gflops.items()},
        memory_gb,
        read_gb_per_s,
        read_gb_per_s / 4,
        read_gb_per_s / 4,
        MEASURED,
        node=NODE if gpu else 1 << 20,
        resident_gb=resident_gb,
        calls=calls,
        products=0.7,
        decoding=0.5,
        dtype=str(pick_dtype("auto", device)).removeprefix("torch."),
        gpu=gpu,
    )


def middle(found: list[Calls]) -> Calls:
    """The median of each."""
    names = [one.name for one in fields(Calls)]
    return Calls(*(median(getattr(one, name) for one in found) for name in names))
