"""Runs PPO on the tiny model with its weights shared out, in every process of a launcher, and writes what process 0 ends with; for test_sharding.py.

torchrun --standalone --nproc_per_node 2 tests/sharded_processes.py FOLDER OUT CASE …
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny import Figures, make_roles, run, settings
from two_processes import DEMONSTRATIONS, HELD_OUT

from pipeline.settings.config import PPO
from policies.loop import Result
from policies.roles import Roles
from policies.sharding import bytes_here, gathered
from policies.tokenizers import load_tokenizer

CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "ddp": ("lora", "adapter", "none", {}),
    "frozen": ("lora", "adapter", "frozen", {}),
    "frozen-shared": ("lora", "shared", "frozen", {"gradient_checkpointing": True}),
    "frozen-trunk": ("lora", "adapter", "frozen", {}),
    "frozen-bf16": ("lora", "adapter", "frozen", {}),
    "ddp-bf16": ("lora", "adapter", "none", {}),
    "full": ("full", "adapter", "full", {"gradient_checkpointing": True}),
    "full-shared": ("full", "shared", "full", {}),
    "full-frozen": ("full", "adapter", "frozen", {}),
}
"""Name: tuning, value, sharding, other settings. In frozen-trunk the adapter sits in the last layer alone; …-bf16 have their base in bfloat16."""
STOPPED = 2  # iterations that a run had made whose state is gone on from
HALTS = {"learning_rate": 5e-2, "max_kl": 1e-3, "ptx_coef": 0.0}  # in its second iteration


def section(case: str, **more: Any) -> PPO:
    """Three iterations in two minibatches, with everything that is summed over processes; rows of uneven lengths, so that one process
    has more micro-batches than another."""
    _, value, _, changes = CASES[case]
    base: dict[str, Any] = {
        "total_episodes": 48,
        "batch_size": 16,
        "num_mini_batches": 2,
        "micro_batch_tokens": 45,
        "learning_rate": 5e-4,
        "whiten_rewards": True,
        "ptx_coef": 0.3,
        "kl_target": 0.1,
        "eval_steps": 2,
        "eval_prompts": 1,  # of which the second process has none
        "value": value,
    }
    return settings(**(base | changes | more))


def roles_of(case: str, folder: Path, sharding: str | None = None) -> Roles:
    """Those of `case`, shared out as it says, or as `sharding` does."""
    tuning, value, own, changes = CASES[case]
    layers = [1] if case == "frozen-trunk" else None
    dtype = torch.bfloat16 if case.endswith("bf16") else torch.float32
    roles = make_roles(folder, load_tokenizer(folder), tuning, value, layers, dtype)
    recompute = changes.get("gradient_checkpointing", False)
    roles.share_out(own if sharding is None else sharding, "ppo.sharding", recompute)
    return roles


class Stop(Exception):
    """An interruption."""


def train(
    case: str, folder: Path, state: Path, roles: Roles, stop: int | None = None, **changes: Any
) -> tuple[Result, Figures]:
    """PPO by `case`, from the state on that there is; interrupted after `stop` iterations, which leaves a state."""

    def progress(done: int) -> None:
        if done == stop:
            raise Stop

    try:
        return run(
            roles, load_tokenizer(folder), section(case, **changes), state, held_out=HELD_OUT,
            demonstrations=DEMONSTRATIONS, accelerator=Accelerator(cpu=True), progress=progress,
        )  # fmt: skip
    except Stop:
        return Result(), []


def main(folder: Path, out: Path, cases: Sequence[str]) -> None:
    accelerator = Accelerator(cpu=True)
    told: dict[str, Any] = {}
    for case in cases:
        # from the start; from the state of one process; leaving one for it; and halted by a limit
        for name, stop, changes in (
            ("", None, {}),
            (".alone", None, {}),
            (".left", STOPPED, {}),
            (".halted", None, HALTS),
        ):
            roles = roles_of(case, folder)
            result, logged = train(case, folder, out / f"{case}{name}", roles, stop, **changes)
            kept = gathered(roles.trainable(), accelerator.is_main_process)
            if accelerator.is_main_process:
                save_file(kept, out / f"{case}{name}.safetensors")
            told[case + name] = {
                "logged": logged,
                "evals": result.evals,
                "bytes": bytes_here(roles),
                "halted": result.halted,
            }
    if accelerator.is_main_process:
        (out / "told.json").write_text(json.dumps(told))
    accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
