"""Several processes of one group, forked from a test that has imported the libraries: what torchrun starts, without its imports."""

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from torch import distributed as dist

OF_A_LAUNCHER = ("PIPELINE_NPROC", "PIPELINE_RUN", "PIPELINE_CALLER")


def several(world: int, work: Callable[[], None], seconds: float = 1200) -> None:
    """Do `work` in `world` processes of one gloo group. Raises AssertionError, with what they wrote, where one of them fails or so many
    seconds have passed; then none is left."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory() as told:
        running = {}
        for rank in range(world):
            out = Path(told, str(rank))
            if (child := os.fork()) == 0:
                _share(rank, world, port, work, out)
            running[child] = out
        outs, deadline, failed = dict(running), time.monotonic() + seconds, ""
        while running and not failed:
            for child in list(running):
                done, status = os.waitpid(child, os.WNOHANG)
                if done and (running.pop(child), os.waitstatus_to_exitcode(status))[1]:
                    failed = failed or outs[child].read_text(errors="replace")[-4000:]
            if not failed and time.monotonic() > deadline:
                failed = "no end:\n" + "\n".join(out.read_text(errors="replace")[-1000:] for out in running.values())
            time.sleep(0.01)
        for child in running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert not failed, failed


def _share(rank: int, world: int, port: int, work: Callable[[], None], out: Path) -> None:
    code = 1
    try:
        for number in (1, 2):
            os.dup2(os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))
        for name in OF_A_LAUNCHER:
            os.environ.pop(name, None)
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in here.items()}, MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")  # fmt: skip
        AcceleratorState._reset_state(reset_partial_state=True)  # those of the test that this is forked from
        GradientState._reset_state()
        assert PartialState(cpu=True).num_processes == world
        torch.set_num_threads(1)
        work()
        dist.barrier()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
