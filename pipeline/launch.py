"""How are processes started? One a stage, so that each gives its memory back, and several a stage through accelerate or torchrun."""

import os
import subprocess
import sys
from pathlib import Path


def _environment(nproc: int) -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nproc))} if nproc > 1 else {}
    return {
        **threads,
        **os.environ,  # OMP_NUM_THREADS as the user has it, where it is set
        "PIPELINE_NPROC": str(nproc),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def launch(stage: str, recipe: Path, overrides: list[str], run: str, nproc: int) -> None:
    """Run one stage in `nproc` processes; exits with the stage's code.

    accelerate launch starts them on GPUs; on CPU it would start one process where no MPI is installed, so torchrun does.
    """
    import torch

    call = ["-m", "pipeline", stage, str(recipe), *overrides]
    if torch.cuda.is_available():
        launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(nproc), "--multi_gpu"]
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)]
    # the run's name goes by the environment: torchrun takes a --run behind its own options for one of them, abbreviated
    done = subprocess.run([sys.executable, *launcher, *call], env=_environment(nproc) | {"PIPELINE_RUN": run})
    sys.exit(_code(done.returncode))


def chain(stages: list[str], recipe: Path, overrides: list[str], run: str, nproc: int) -> None:
    """Run the stages, each in a process of its own; exits with the code of the first that fails."""
    for stage in stages:
        call = [sys.executable, "-m", "pipeline", stage, str(recipe), *overrides, "--run", run, "--nproc", str(nproc)]
        done = subprocess.run(call, env=_environment(1))
        if done.returncode:
            sys.exit(_code(done.returncode))


def _code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned
