"""From which checkpoint does a Trainer go on, and what does it hold that the Trainer's own does not? Sums since the last log, the log, hashes.

A Trainer's checkpoint holds weights, optimizer, scheduler, random numbers and the step. Here it is completed by what a log line is made
of (losses and figures since the last one, tokens so far, what reward functions said), by the log as it was, and last by a seal with the
hash of every file. The checkpoint before it goes only then.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.trainer.base_trainer import _BaseTrainer

from pipeline.artifacts.ownership import begun_from
from policies.sealed import newest_whole, seal, set_aside
from reward.functions import WeightedScore

LOG, SUMS, COUNTS = "metrics.jsonl", "sums.json", "counts.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest(trainer: Any, folder: Path) -> Path | None:
    """The newest whole checkpoint in a stage's partial folder, the same on every process; newer ones that are not whole are told."""
    found: list[Path | None] = [None]
    if trainer.is_world_process_zero():
        if (state := folder / "state").exists() and not state.is_dir():
            set_aside(state, "no folder")
        found = [newest_whole(reversed(_checkpoints(state)), begun_from(folder))]
    if trainer.accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def complete(trainer: Any, folder: Path, score: WeightedScore | None) -> None:
    """Complete the checkpoint that the trainer has just saved, and remove those before it. To be called on every process."""
    state = folder / "state"
    checkpoint = state / f"checkpoint-{trainer.state.global_step}"
    sums = gather_object([_sums(trainer)])
    if not trainer.is_world_process_zero():
        return
    (checkpoint / SUMS).write_text(json.dumps(sums), encoding="utf-8")
    if score is not None:
        (checkpoint / COUNTS).write_text(json.dumps(score.counts()), encoding="utf-8")
    shutil.copyfile(folder / LOG, checkpoint / LOG)
    seal(checkpoint, begun_from(folder))
    for other in _checkpoints(state):
        if other != checkpoint:
            shutil.rmtree(other)


def go_on(trainer: Any, checkpoint: Path | None, folder: Path, score: WeightedScore | None) -> None:
    """Put back what `complete` wrote beside the trainer's own; without a checkpoint the log is begun."""
    if checkpoint is not None:
        _put_back(trainer, json.loads((checkpoint / SUMS).read_text(encoding="utf-8")))
        if score is not None:
            score.count_on(json.loads((checkpoint / COUNTS).read_text(encoding="utf-8")))
    if trainer.is_world_process_zero():
        # a log of fewer steps than logging_steps is empty, and there; what was logged after the checkpoint will be once more
        (folder / LOG).write_bytes(b"" if checkpoint is None else (checkpoint / LOG).read_bytes())


def _checkpoints(state: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    found = [path for path in state.iterdir() if _NAME.fullmatch(path.name)] if state.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def _sums(trainer: Any) -> dict[str, Any]:
    """What the next log line of this process is made of, as JSON. Raises ImportError where a library has it no longer."""
    try:
        found = {"loss": trainer._tr_loss.item(), "logged": trainer._globalstep_last_logged}
        if _BaseTrainer in type(trainer).__mro__:
            found |= {"figures": dict(trainer._metrics["train"]), "tokens": trainer._total_train_tokens}
        if hasattr(trainer, "agreed"):  # reward.trainer.RankingTrainer
            found |= {"agreed": trainer.agreed.tolist()}
    except AttributeError as error:
        raise ImportError(f"this version keeps its sums elsewhere: {error}; install those in constraints.txt") from None
    return found


def _put_back(trainer: Any, saved: list[dict[str, Any]]) -> None:
    """Each process its own sums; those of another number of processes in equal shares."""
    world = trainer.accelerator.num_processes
    own = saved[trainer.accelerator.process_index] if len(saved) == world else saved[0]
    trainer._globalstep_last_logged = own["logged"]
    trainer._tr_loss.fill_(own["loss"] if len(saved) == world else sum(one["loss"] for one in saved) / len(saved))
    if "figures" in own:
        trainer._metrics["train"].update({name: list(values) for name, values in own["figures"].items()})
        trainer._total_train_tokens = own["tokens"]
    if "agreed" in own:
        every = [one["agreed"] for one in saved]
        shared = [sum(values) / world for values in zip(*every, strict=True)]
        trainer.agreed = trainer.agreed.new_tensor(own["agreed"] if len(saved) == world else shared)
