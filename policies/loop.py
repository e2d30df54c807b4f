"""Who takes part in an iteration, and who watches? The parts that stay the same from one iteration to the next, and what is left."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import nn

from policies.drawing import Completion
from policies.engines import Engine
from policies.episodes import Asked, Episode, Score
from policies.loop_settings import LoopSettings
from policies.roles import Roles
from policies.untyped import Optimizer, Scheduler, Tokenizer


class Watch(Protocol):
    """What is told while training goes on; `Silent` is the default."""

    def begin(self, step: int) -> None:
        """From which iteration on: 0, or the one after the state that it is resumed from."""

    def scored(self) -> None:
        """The completions of an iteration have their scores."""

    def log(self, figures: dict[str, float]) -> None:
        """The figures of one iteration."""

    def show(self, step: int, episodes: list[Episode]) -> None:
        """The episodes of an evaluation after `step` iterations."""

    def stopping(self) -> bool:
        """Whether training is to end after this iteration, which is saved for that; asked of every process, which all say the same."""

    def keep(self, folder: Path) -> None:
        """A state is written to `folder`: what is told goes on from there, should training be resumed from it."""

    def progress(self, done: int) -> None:
        """So many iterations are done, and saved where that was due."""


class Silent:
    """Watches and says nothing."""

    def begin(self, step: int) -> None: ...

    def scored(self) -> None: ...

    def log(self, figures: dict[str, float]) -> None: ...

    def show(self, step: int, episodes: list[Episode]) -> None: ...

    def stopping(self) -> bool:
        return False

    def keep(self, folder: Path) -> None: ...

    def progress(self, done: int) -> None: ...


@dataclass
class Result:
    """What a run of PPO leaves behind besides the weights."""

    first: dict[str, float] = field(default_factory=dict)  # figures of the first iteration, before any update
    last: dict[str, float] = field(default_factory=dict)
    evals: list[dict[str, float]] = field(default_factory=list)
    halted: str | None = None


@dataclass
class Ahead:
    """The rollout of the next iteration (ahead.py)."""

    said: list[Completion] = field(default_factory=list)  # by this process's prompts, once it is there
    thread: threading.Thread | None = None  # where it is being sampled
    failed: Exception | None = None  # what the engine raised


@dataclass
class Loop:
    """What stays the same from one iteration to the next, but for the rollout that goes ahead."""

    accelerator: Accelerator
    roles: Roles
    wrapped: nn.Module  # the roles as accelerate wrapped them: with several processes, what gradients are averaged in
    optimizer: Optimizer
    scheduler: Scheduler
    engine: Engine
    tokenizer: Tokenizer
    score: Score
    settings: LoopSettings
    seed: int
    prompts: Sequence[Asked]  # to train on
    held_out: Sequence[Asked]  # to evaluate on
    demonstrations: Sequence[tuple[list[int], list[int]]]  # (prompt ids, completion ids) for ptx_coef
    state: Path
    of: str  # to what a state belongs
    watch: Watch
    ahead: Ahead | None = None  # where it has been begun

    @property
    def device(self) -> torch.device:
        found: torch.device = self.accelerator.device
        return found

    @property
    def mini_size(self) -> int:
        """Episodes of one minibatch, over all processes."""
        return self.settings.batch_size // self.settings.num_mini_batches

    @property
    def separate_critic(self) -> bool:
        """Whether policy and critic can be differentiated one after the other: nothing shared is trained, and no DDP, which wants
        all in one."""
        return self.roles.value == "adapter" and (self.accelerator.num_processes == 1 or self.roles.sharded)
