"""How are processes started? One a stage, so that each gives its memory back, and several a stage through accelerate or torchrun."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.graph import STAGES, command_name


def _environment(nproc: int) -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nproc))} if nproc > 1 else {}
    return {
        **threads,
        **os.environ,  # OMP_NUM_THREADS as the user has it, where it is set
        "PIPELINE_NPROC": str(nproc),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def launch(stage: str, recipe: Path, overrides: list[str], run: str, nproc: int, further: int = 0) -> None:
    """Run one stage in `nproc` processes; exits with the stage's code.

    accelerate launch starts them on GPUs; on CPU it would start one process where no MPI is installed, so torchrun does.
    """
    import torch

    call = ["-m", "pipeline", stage, str(recipe), *overrides]
    if torch.cuda.is_available():
        launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(nproc), "--multi_gpu"]
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)]
    # these go by the environment: torchrun takes a --run behind its own options for one of them, abbreviated
    ours = {"PIPELINE_RUN": run, "PIPELINE_FURTHER_SEED": str(further)}
    started = subprocess.Popen([sys.executable, *launcher, *call], env=_environment(nproc) | ours)
    with _ending_too(started, started.wait):
        returned = started.wait()
    sys.exit(_code(returned))


def chain(
    stages: list[str],
    recipe: Path,
    overrides: list[str],
    run: str,
    nproc: int,
    seeds: int,
    due: Callable[[str, int], bool],
) -> None:
    """Run the stages that are `due` (stage, further seed), each in a process of its own, those that are seeded once a seed; exits
    with the code of the first that fails."""
    for stage in stages:
        for further in range(seeds if STAGES[stage].seeded else 1):
            if not due(stage, further):
                continue
            call = [command_name(stage), str(recipe), *overrides, "--run", run, "--nproc", str(nproc)]
            returned = apart([*call, *(["--further-seed", str(further)] if further else [])])
            if returned:
                sys.exit(_code(returned))


def apart(call: list[str]) -> int:
    """One command of ours in a process of its own: its exit code, or minus the signal that ended it.

    The process is forked from one that has imported the libraries and done nothing else, so that they are imported once and
    not by every stage.
    """
    os.environ.update(_environment(1))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["pipeline.stages.compare", "pipeline.stages.ppo"])
    process = forks.Process(target=_command, args=(call,))
    process.start()
    with _ending_too(process, process.join):
        process.join()
    assert process.exitcode is not None
    return process.exitcode


@contextmanager
def _ending_too(process: Any, wait: Callable[[], Any]) -> Iterator[None]:
    """Within the block SIGTERM ends `process` too, and is waited for, so that nothing works on when this process is gone."""

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)  # raised where the process is waited for: a wait inside of a wait would never end

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        process.terminate()
        wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _command(call: list[str]) -> None:
    _end_with_parent()
    from pipeline.__main__ import app

    app(call, prog_name="python -m pipeline")


def _code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned
