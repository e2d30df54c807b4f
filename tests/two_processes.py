"""Runs PPO on the tiny model in every process of a launcher, and writes what process 0 ends with; for test_trainer.py.

torchrun --standalone --nproc_per_node 2 tests/two_processes.py FOLDER OUT
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny import PROMPTS, Figures, make_roles, run, settings, vowels, weights
from torch import Tensor

from policies.episodes import PromptRow
from policies.loop import Result
from policies.roles import Roles
from policies.tokenizers import load_tokenizer

HELD_OUT: list[PromptRow] = [
    {"id": f"h{i}", "prompt": text} for i, text in enumerate(["so", "The end", "7", "why not", "m"])
]
DEMONSTRATIONS = [([10, 11], [12, 13, 1]), ([20], [21, 1]), ([30, 31, 32], [33, 34, 35, 36, 1])]


def train_tiny(folder: Path, state: Path, world: int, **changes: Any) -> tuple[Result, Figures, Roles]:
    """Three iterations in two minibatches of two micro-batches in all, with everything that is summed over processes switched on."""
    tokenizer = load_tokenizer(folder)
    section = settings(
        total_episodes=48,
        batch_size=16,
        num_mini_batches=2,
        micro_batch_tokens=60 // world,
        whiten_rewards=True,
        ptx_coef=0.3,
        kl_target=0.1,
        eval_steps=2,
        eval_prompts=5,
        **changes,
    )
    roles = make_roles(folder, tokenizer)
    result, logged = run(
        roles,
        tokenizer,
        section,
        state,
        held_out=HELD_OUT,
        demonstrations=DEMONSTRATIONS,
        accelerator=Accelerator(cpu=True),
    )
    return result, logged, roles


def broken(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
    """Not a number for one prompt alone, so that one process meets it and the other does not."""
    out = vowels(prompts, completions)
    out[[p == PROMPTS[5]["prompt"] for p in prompts]] = torch.nan
    return out


def main(folder: Path, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    result, logged, roles = train_tiny(folder, out / "state", accelerator.num_processes)
    *_, ahead = train_tiny(folder, out / "ahead", accelerator.num_processes, async_steps=1)
    tokenizer = load_tokenizer(folder)
    section = settings(micro_batch_tokens=60)
    halted, _ = run(
        make_roles(folder, tokenizer), tokenizer, section, out / "halted", score=broken, accelerator=accelerator
    )
    (out / f"halted.{accelerator.process_index}").write_text(str(halted.halted))
    if accelerator.is_main_process:
        save_file(weights(roles), out / "weights.safetensors")
        save_file(weights(ahead), out / "ahead.safetensors")
        (out / "logged.json").write_text(
            json.dumps({"world": accelerator.num_processes, "logged": logged, "evals": result.evals})
        )
    accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
