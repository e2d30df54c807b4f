"""How much memory may a process of a stage still take, and what limits it? The machine, its control group, ulimit, the GPU."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GB = 1e9
CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # bytes: what version 1 writes where there is no limit is about eight times as much


def available(processes: int = 1) -> tuple[float, str]:
    """GB that each of so many `processes` on this machine may still take, and where: what is least among the GPU's memory, or else the
    machine's, its control groups' and this process's own limits."""
    import psutil
    import torch

    together = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if torch.cuda.is_available():
        on_one = -(-together // max(1, torch.cuda.device_count()))
        return torch.cuda.mem_get_info()[0] / GB / on_one, "on the GPU"
    found = [(float(psutil.virtual_memory().available), "here"), *_control_groups()]
    each = f", for each of {together} processes" if together > 1 else ""
    found = [(max(0.0, free) / together, f"{where}{each}") for free, where in found]
    free, where = min([*found, *_own_limits()])
    return free / GB, where


def whole() -> float:
    """GB of all the memory that the GPU has, or else the machine."""
    import psutil
    import torch

    return (torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else psutil.virtual_memory().total) / GB


def _control_groups() -> Iterator[tuple[float, str]]:
    """Bytes left under the limit of each control group that this process is in, by version 2 and 1."""
    lines = OWN.read_text(encoding="utf-8").splitlines() if OWN.is_file() else ["0::/"]
    for line in lines:
        number, kinds, path = line.split(":", 2)
        second = number == "0" and not kinds
        if not second and "memory" not in kinds.split(","):
            continue
        files = ("memory.max", "memory.current", "inactive_file")
        files = files if second else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for root in (CGROUP, CGROUP / "unified") if second else (CGROUP / "memory", CGROUP / kinds):
            inner = root / path.strip("/")
            for folder in dict.fromkeys((inner, *inner.parents, root)):
                if folder.is_relative_to(root):
                    yield from _left(folder, *files)


def _left(folder: Path, limit: str, used: str, given_back: str) -> Iterator[tuple[float, str]]:
    """What one control group has left. Files that were read, such as a model's weights, count as used there and are given back when
    memory is wanted."""
    with suppress(OSError, ValueError):  # no limit ("max"), or none that can be read
        ceiling = float((folder / limit).read_text())
        if ceiling < UNLIMITED:
            free = ceiling - float((folder / used).read_text())
            with suppress(OSError):
                rows = [row.split() for row in (folder / "memory.stat").read_text().splitlines()]
                free += sum(float(row[1]) for row in rows if row[0] == given_back)
            yield free, f"in this control group ({limit} is {ceiling / GB:.3g} GB)"


def _own_limits() -> Iterator[tuple[float, str]]:
    """Bytes that this process may still take by its resource limits."""
    import psutil

    memory = psutil.Process().memory_info()
    for kind, option, used in (
        (resource.RLIMIT_AS, "v", memory.vms),
        (resource.RLIMIT_DATA, "d", getattr(memory, "data", 0)),
    ):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield float(max(0, limit - used)), f"under ulimit -{option} ({limit / GB:.3g} GB)"
