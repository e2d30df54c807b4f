"""How is a stage shared by several processes, and what does a user read of their end? By accelerate or torchrun, in silence.

    python -m pipeline.ranks MODULE [ARGUMENT …]        # what starts them, started by `launch`

Each process says in a folder why it ended; `launch` shows what ended all of them, whichever it was.
"""

import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import ending
from pipeline.commands import Call
from pipeline.ending import ENDS, FAULT, INTERRUPTED, LAUNCHER, MISTAKE
from pipeline.graph import command_name

FURTHER_SEED, ASKED = "PIPELINE_FURTHER_SEED", "PIPELINE_ASKED"  # the environment of one process among several
CODES = "codes"  # the file with the exit codes of the processes, by rank


def environment(nproc: int) -> dict[str, str]:
    """What processes of ours have in their environment."""
    root = str(Path(__file__).resolve().parent.parent)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nproc))} if nproc > 1 else {}
    return {
        **threads,
        **os.environ,  # OMP_NUM_THREADS as the user has it, where it is set
        "PIPELINE_NPROC": str(nproc),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def launch(stage: str, call: Call, further: int = 0) -> int:
    """Run one stage in as many processes as `call` has: its exit code.

    accelerate launch starts them on GPUs; on CPU it would start one process where no MPI is installed, so torchrun does.
    """
    import torch

    if torch.cuda.is_available():
        launcher = ["accelerate.commands.launch", "--num_machines", "1", "--num_processes", str(call.nproc)]
        launcher.append("--multi_gpu")
    else:
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(call.nproc)]
    ours = ["-m", "pipeline", command_name(stage), call.recipe, *call.overrides]
    with tempfile.TemporaryDirectory(prefix="pipeline-") as ends:
        # these go by the environment: torchrun takes a --run behind its own options for one of them, abbreviated
        told = {"PIPELINE_RUN": call.run, FURTHER_SEED: str(further), ASKED: f"{call.asked} {call.seeds}"}
        told |= {ENDS: ends, LAUNCHER: str(os.getpid())}
        command = [sys.executable, "-m", "pipeline.ranks", *launcher, *ours]
        started = subprocess.Popen(command, env=environment(call.nproc) | told)
        with ending.passing_on(started.pid):
            returned = started.wait()
        return _told(stage, Path(ends), returned)


def _told(stage: str, ends: Path, returned: int) -> int:
    """Show what ended the processes of a stage; the exit code."""
    said = [json.loads(path.read_text(encoding="utf-8")) for path in ends.iterdir() if path.name != CODES]
    said.sort(key=lambda one: one["when"])
    codes = json.loads((ends / CODES).read_text(encoding="utf-8")) if (ends / CODES).is_file() else {}
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (INTERRUPTED, MISTAKE, FAULT)}
    for one in said:
        by_kind[one["kind"]].append(one)
    killed = {rank: code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if by_kind[INTERRUPTED] and (ending.asked() or not (by_kind[MISTAKE] or by_kind[FAULT] or killed)):
        one = max(by_kind[INTERRUPTED], key=lambda one: "step" in one["text"])
        ending.say(INTERRUPTED, one["text"])
        return ending.code() if ending.asked() else int(one["code"])
    if ending.asked() or returned < 0:
        return ending.ended(f"what started the processes of {stage}", returned)
    if by_kind[MISTAKE]:
        for text in dict.fromkeys(one["text"] for one in by_kind[MISTAKE]):
            print(text, file=sys.stderr, flush=True)
        return 2
    if killed:
        rank, code = next(iter(killed.items()))
        return ending.ended(f"process {rank} of {stage}", code)
    if by_kind[FAULT]:
        print(by_kind[FAULT][0]["text"], file=sys.stderr, end="", flush=True)
    elif codes:
        print(f"error: the processes of {stage} ended with {', '.join(map(str, codes.values()))}", file=sys.stderr)
    return returned


def main() -> None:
    """Start the processes, which end with this one, and say with what they ended."""
    ending.heed_signals()
    ending.with_parent(int(os.environ[LAUNCHER]))
    os.environ[LAUNCHER] = str(os.getpid())
    logging.disable(logging.CRITICAL)  # it would tell a user's mistake over a page
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except ChildFailedError as failed:
        codes = {str(rank): failure.exitcode for rank, failure in failed.failures.items()}
        Path(os.environ[ENDS], CODES).write_text(json.dumps(codes), encoding="utf-8")
        sys.exit(1)
    except SignalException as sent:
        sys.exit(128 + sent.sigval)


if __name__ == "__main__":
    main()
