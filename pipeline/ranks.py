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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import beating, ending
from pipeline.beating import BEAT, Silent
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
        with ending.passing_on(started.pid), beating.looked_at({}, Path(ends), stage) as silent:
            returned = started.wait()
        return _told(stage, Path(ends), returned, silent, call.nproc)


def _told(stage: str, ends: Path, returned: int, silent: Sequence[Silent] = (), nproc: int = 1) -> int:
    """Show what ended the `nproc` processes of a stage; the exit code. `silent`: those that did not answer."""
    said = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in ends.iterdir()
        if path.suffix != BEAT and path.name != CODES
    ]
    said.sort(key=lambda one: one["when"])
    codes = json.loads((ends / CODES).read_text(encoding="utf-8")) if (ends / CODES).is_file() else {}
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (INTERRUPTED, MISTAKE, FAULT)}
    for one in said:
        by_kind[one["kind"]].append(one)
    killed = {rank: code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if by_kind[INTERRUPTED] and (ending.asked() or not (by_kind[MISTAKE] or by_kind[FAULT] or killed or silent)):
        one = max(by_kind[INTERRUPTED], key=lambda one: "step" in one["text"])
        ending.say(INTERRUPTED, one["text"])
        return ending.code() if ending.asked() else int(one["code"])
    if silent:
        print(silent[0].sentence, file=sys.stderr, flush=True)
        return silent[0].code
    if ending.asked() or returned < 0:
        return ending.ended(f"what started the processes of {stage}", returned)
    if by_kind[MISTAKE]:
        for text, ranks in _by_text(by_kind[MISTAKE]).items():
            print(text + _where(stage, ends, ranks, nproc), file=sys.stderr, flush=True)
        return 2
    if killed:
        rank, code = next(iter(killed.items()))
        return ending.ended(f"process {rank} of {stage}", code, _step(ends, rank))
    if by_kind[FAULT]:
        first = by_kind[FAULT][0]
        print(first["text"], file=sys.stderr, end="", flush=True)
        print(
            f"error: that was process {first['rank']} of {stage}{_step(ends, first['rank'])}; the same command goes on",
            file=sys.stderr,
        )
    elif codes:
        print(f"error: the processes of {stage} ended with {', '.join(map(str, codes.values()))}", file=sys.stderr)
    return returned


def _by_text(said: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Each text once, with the ranks of the processes that said it."""
    found: dict[str, list[str]] = {}
    for one in said:
        found.setdefault(one["text"], []).append(one["rank"])
    return found


def _where(stage: str, ends: Path, ranks: Sequence[str], nproc: int) -> str:
    """Which process made a mistake, and at which step, in words; nothing where all did and none has a step."""
    step = _step(ends, ranks[0])
    return f" (process {', '.join(sorted(ranks))} of {stage}{step})" if step or len(ranks) < nproc else ""


def _step(ends: Path, rank: str) -> str:
    beat = beating.last(ends / f"{rank}{BEAT}")
    return "" if beat is None else beat.where


def main() -> None:
    """Start the processes, which end with this one, and say with what they ended."""
    ending.heed_signals()
    ending.with_parent(int(os.environ[LAUNCHER]))
    os.environ[LAUNCHER] = str(os.getpid())
    ending.beat()
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
