"""How does the policy learn? The PPO loop on accelerate.Accelerator, step by step.

    result = train(accelerator, roles, tokenizer, train_prompts, eval_prompts, score, settings, state=folder, seed=0)

The loop is handed nouns: the roles, prompts, and a `score(prompts, completions) -> (B,) float32` of which it knows nothing more.
Each iteration: 1 rollout, 2 score, 3 log-probabilities, 4 rewards, values and advantages, 5 update. Every figure is over all
processes; the order of episodes depends on the seed alone, so more processes give the same result within float tolerance, and a
resumed run on CPU the same bits. Figures named time/… are seconds of one process.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import get_scheduler

from policies import ppo
from policies.advantages import with_advantages
from policies.ahead import await_ahead, kept, restore, rollout_of
from policies.drawing import Completion
from policies.engines import Engine, transformers_engine
from policies.episodes import Episode, PromptRow, Score, as_asked, roll_out, scored
from policies.figures import Halt, Sums, check_finite, check_limits, rollout_figures
from policies.loop import Loop, Result, Silent, Watch
from policies.loop_settings import LoopSettings
from policies.measure import measured
from policies.roles import Roles
from policies.state import load_good, load_state, save_good, save_state, settle
from policies.untyped import Json, Optimizer, Scheduler, Tokenizer
from policies.update import update

EVAL_STEP = 2**31  # the noise of evaluations, apart from that of any iteration


def train(
    accelerator: Accelerator,
    roles: Roles,
    tokenizer: Tokenizer,
    train_prompts: Sequence[PromptRow],
    eval_prompts: Sequence[PromptRow],
    score: Score,
    settings: LoopSettings,
    *,
    state: Path,
    seed: int,
    of: str = "",
    watch: Watch | None = None,
    demonstrations: Sequence[tuple[list[int], list[int]]] = (),
    engine: Engine | None = None,
) -> Result:
    """Run PPO to the end, or from the state in `state` on, and leave the trained weights in `roles`. Beside the folder `state` lies a
    file with the weights to go back to. `of` says to what a state belongs, and a state of something else is not gone on from.

    `watch` is told what happens. `demonstrations` (prompt ids, completion ids) feed ptx_coef; `engine` samples, by default
    transformers. When a limit of the settings is passed or a value is not finite, training ends before the update, `halted` in the
    result says why, and `roles` have the weights of the last rollout that kept within the limits.
    """
    watch = watch or Silent()
    optimizer, scheduler = _optimizer(accelerator, roles, settings)
    roles.checkpointing = settings.gradient_checkpointing
    if accelerator.is_main_process:
        settle(state, of)
    accelerator.wait_for_everyone()
    result, kl_coef, first, ahead = _resumed(state, roles, optimizer, scheduler, settings)
    watch.begin(first)
    # Buffers are constants here; broadcast at every forward, they would hang processes with different numbers of micro-batches.
    accelerator.ddp_handler = accelerator.ddp_handler or DistributedDataParallelKwargs(broadcast_buffers=False)
    wrapped: nn.Module = roles
    if not roles.sharded:
        wrapped, optimizer = accelerator.prepare(roles, optimizer)
    bare: Roles = accelerator.unwrap_model(wrapped)
    bare.eval()  # no dropout: it would part the new log-probabilities from the old
    engine = engine or transformers_engine(bare)
    prompts, held_out = (as_asked(tokenizer, rows) for rows in (train_prompts, eval_prompts[: settings.eval_prompts]))
    loop = Loop(
        *(accelerator, bare, wrapped, optimizer, scheduler, engine, tokenizer, score, settings, seed),
        *(prompts, held_out, demonstrations, state, of, watch),
    )
    restore(loop, ahead)
    for step in range(first, settings.iterations()):
        try:
            if held_out and step == 0:
                result.evals.append({"step": 0, **evaluate(loop, 0)})
            figures = iteration(loop, step, kl_coef)
            kl_coef = _next_kl_coef(settings, kl_coef, figures)
            _close(loop, result, step + 1, kl_coef, figures)
        except Halt as halt:
            optimizer.zero_grad(set_to_none=roles.sharded)
            if halt.spoiled:
                load_good(state, roles.trainable())
                accelerator.wait_for_everyone()  # the file goes when the first process publishes
            result.halted = str(halt)
            break
    optimizer.zero_grad()  # and their memory
    return result


def iteration(loop: Loop, step: int, kl_coef: float) -> dict[str, float]:
    """One iteration, its five steps; the figures of it. Raises Halt before an update from what lies outside the limits."""
    times, sums = dict[str, float](), Sums()
    episodes = rollout_of(loop, step, times)
    episodes = scored(loop.roles, loop.tokenizer, episodes, loop.score, loop.settings, times)
    loop.watch.scored()
    batches = measured(loop, episodes, step, sums, times)
    batches = with_advantages(loop, batches, kl_coef, times)
    check_finite(batches, step)
    figures = rollout_figures(sums.reduced(loop.accelerator), kl_coef, step, loop.settings)
    check_limits(figures, loop.settings, step)
    save_good(loop.state, loop.roles.trainable(), loop.accelerator.is_main_process)
    figures |= update(loop, batches, step, times)
    await_ahead(loop, times)
    return figures | times


def evaluate(loop: Loop, step: int) -> dict[str, float]:
    """What the policy says to the held-out prompts after `step` iterations, with the same noise every time."""
    mine = loop.held_out[loop.accelerator.process_index :: loop.accelerator.num_processes]
    own: list[Episode] = []
    loop.engine.follow()
    if mine or loop.roles.sharded:  # where weights are shared out, every process takes part in gathering them
        times = dict[str, float]()
        own = roll_out(loop.roles, loop.engine, loop.tokenizer, mine, EVAL_STEP, loop.settings, loop.seed, times)
        own = scored(loop.roles, loop.tokenizer, own, loop.score, loop.settings, times)
    # what lies on the device stays there: the sentences, ends and scores are all that is asked for
    bare = [replace(e, completion=Completion(e.completion.tokens, torch.empty(0), e.completion.finished)) for e in own]
    episodes: list[Episode] = gather_object(bare)
    if bad := [e.prompt_id for e in episodes if not math.isfinite(e.raw_score)]:
        raise Halt(f"step {step}: score not finite for prompt {bad[0]}; mend the reward function", spoiled=False)
    loop.watch.show(step, episodes)
    return {
        "eval/scores": float(np.mean([e.raw_score for e in episodes])),
        "eval/mean_length": float(np.mean([len(e.completion.tokens) for e in episodes])),
        "eval/eos_rate": float(np.mean([e.completion.finished for e in episodes])),
    }


def _optimizer(accelerator: Accelerator, roles: Roles, settings: LoopSettings) -> tuple[Optimizer, Scheduler]:
    parameters = roles.trainable()
    shared = [p for p in parameters.values() if isinstance(p, DTensor)]  # torch computes them apart from the others
    others = [p for p in parameters.values() if not isinstance(p, DTensor)]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in (others, shared) if group],
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    allocate(parameters, optimizer)
    steps = settings.iterations() * settings.num_ppo_epochs * settings.num_mini_batches
    return optimizer, get_scheduler(settings.lr_scheduler_type, optimizer, num_warmup_steps=0, num_training_steps=steps)


def allocate(parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Gradients and Adam's moments, allocated now so that they do not fragment the heap between activations (on a CPU 0.2 GB of 2.4
    with LoRA, and more from one iteration to the next)."""
    for p in parameters.values():
        p.grad, step = torch.zeros_like(p), torch.zeros((), device=p.device)
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def _resumed(
    state: Path, roles: Roles, optimizer: Optimizer, scheduler: Scheduler, settings: LoopSettings
) -> tuple[Result, float, int, list[Json]]:
    """The result so far, the KL coefficient, the next iteration and its rollout (`ahead.kept`): from the saved state, or from the start."""
    if (saved := load_state(state, roles.trainable(), optimizer)) is None:
        return Result(), settings.kl_coef, 0, []
    for each in ("base_lrs", "_last_lr", "lr_lambdas"):  # one a group of parameters, and all the same
        saved["scheduler"][each] = saved["scheduler"][each][:1] * len(optimizer.param_groups)
    scheduler.load_state_dict(saved["scheduler"])
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate  # the scheduler sets it only at its next step
    result = Result(saved["first"], saved["last"], saved["evals"])
    return result, saved["kl_coef"], saved["step"], saved["ahead"]


def _next_kl_coef(settings: LoopSettings, kl_coef: float, figures: dict[str, float]) -> float:
    if settings.kl_target is None:
        return kl_coef
    kl = figures["objective/kl"]
    return ppo.adaptive_kl_coef(kl_coef, kl, settings.kl_target, settings.kl_horizon, settings.batch_size)


def _close(loop: Loop, result: Result, done: int, kl_coef: float, figures: dict[str, float]) -> None:
    """After an iteration: evaluate, log and save where that is due."""
    settings, last = loop.settings, done == loop.settings.iterations()
    if loop.held_out and (done % settings.eval_steps == 0 or last):
        result.evals.append({"step": done, **evaluate(loop, done)})
        figures = figures | {name: value for name, value in result.evals[-1].items() if name != "step"}
    result.first = result.first or figures
    result.last = figures
    loop.watch.log(figures)
    if loop.watch.stopping() or done % settings.save_steps == 0 or last:
        told = {"first": result.first, "last": result.last, "evals": result.evals}
        extra = {
            "step": done,
            "kl_coef": kl_coef,
            **told,
            "scheduler": loop.scheduler.state_dict(),
            "ahead": kept(loop),
        }
        writes = loop.accelerator.is_main_process
        save_state(loop.state, loop.roles.trainable(), loop.optimizer, extra, loop.of, loop.watch.keep, writes)
        loop.accelerator.wait_for_everyone()
    loop.watch.progress(done)
