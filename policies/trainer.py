"""How does the policy learn? The PPO loop on accelerate.Accelerator, step by step.

    result = train(accelerator, roles, tokenizer, train_prompts, eval_prompts, score, settings, state=folder, seed=0)

The loop is handed nouns: the roles, prompts, and a `score(prompts, completions) -> (B,) float32` of which it knows nothing more.
`settings` is the `ppo` section of a recipe. Each iteration: 1 rollout, 2 score, 3 log-probabilities, 4 rewards, values
and advantages, 5 update. Every figure is over all processes; the order of episodes depends on the seed alone, so more processes give
the same result within float tolerance, and a resumed run on CPU the same bits. Figures named time/… are seconds of one process.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor
from transformers import get_scheduler

from policies import ppo
from policies.advantages import apart, critic_loss, estimate, shape_rewards, token_count
from policies.engines import Engine, make_engine
from policies.episodes import Episode, Score, prompt_order, rollout
from policies.figures import Halt, Sums, check_limits, rollout_figures, update_figures
from policies.logprobs import Batch, pack
from policies.measure import NAMES, Activations, measure, policy_forward
from policies.quick.batching import together
from policies.roles import Roles
from policies.state import load_good, load_state, save_good, save_state
from policies.template import encode_prompt

EVAL_STEP = 2**31  # the noise of evaluations, apart from that of any iteration


@dataclass
class Result:
    """What a run of PPO leaves behind besides the weights."""

    first: dict[str, float] = field(default_factory=dict)  # figures of the first iteration, before any update
    last: dict[str, float] = field(default_factory=dict)
    evals: list[dict[str, float]] = field(default_factory=list)
    halted: str | None = None


def train(
    accelerator: Accelerator,
    roles: Roles,
    tokenizer: Any,
    train_prompts: Sequence[dict[str, Any]],
    eval_prompts: Sequence[dict[str, Any]],
    score: Score,
    settings: Any,
    *,
    state: Path,
    seed: int,
    log: Callable[[dict[str, float]], None],
    begin: Callable[[int], None] = lambda step: None,
    show: Callable[[int, list[Episode]], None] = lambda step, episodes: None,
    progress: Callable[[int], None] = lambda step: None,
    demonstrations: Sequence[tuple[list[int], list[int]]] = (),
    engine: Engine | None = None,
) -> Result:
    """Run PPO to the end, or from the state in `state` on, and leave the trained weights in `roles`. Beside the folder `state` lies a
    file with the weights to go back to.

    Prompts are {"id", "prompt"}; `begin` is told from which step it goes on, `log` gets one dict of figures an iteration, `show` the
    evaluation's episodes. `demonstrations` (prompt ids, completion ids) feed ptx_coef; `engine` samples, by default transformers.
    When a limit of the settings is passed or a value is not finite, training ends before the update, `halted` in the result says why,
    and `roles` have the weights of the last rollout that kept within the limits.
    """
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    mini_size = settings.batch_size // settings.num_mini_batches
    share = settings.share(world)
    encoded = [{**p, "ids": encode_prompt(tokenizer, p["prompt"])} for p in train_prompts]
    held_out = [
        {**p, "ids": encode_prompt(tokenizer, p["prompt"]), "sample": 0} for p in eval_prompts[: settings.eval_prompts]
    ]
    parameters = roles.trainable()
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    _allocate(parameters, optimizer)
    roles.checkpointing = settings.gradient_checkpointing
    steps_total = settings.iterations() * settings.num_ppo_epochs * settings.num_mini_batches
    scheduler = get_scheduler(settings.lr_scheduler_type, optimizer, num_warmup_steps=0, num_training_steps=steps_total)
    result, kl_coef, first_step = Result(), settings.kl_coef, 0
    if (saved := load_state(state, parameters, optimizer)) is not None:
        first_step, kl_coef = saved["step"], saved["kl_coef"]
        result.first, result.last, result.evals = saved["first"], saved["last"], saved["evals"]
        scheduler.load_state_dict(saved["scheduler"])
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate  # the scheduler sets it only at its next step
    begin(first_step)
    # Buffers are constants here; broadcast at every forward, they would hang processes with different numbers of micro-batches.
    accelerator.ddp_handler = accelerator.ddp_handler or DistributedDataParallelKwargs(broadcast_buffers=False)
    wrapped, optimizer = accelerator.prepare(roles, optimizer)
    bare: Roles = accelerator.unwrap_model(wrapped)
    bare.eval()  # no dropout: it would part the new log-probabilities from the old
    engine = engine or make_engine("transformers", bare, "", settings)

    def evaluate(step: int) -> dict[str, float]:
        mine, times = held_out[rank::world], dict[str, float]()
        episodes = gather_object(
            rollout(bare, engine, tokenizer, score, mine, EVAL_STEP, settings, seed, times) if mine else []
        )
        _check_scores(episodes, step)
        show(step, episodes)
        return {
            "eval/scores": float(np.mean([e.raw_score for e in episodes])),
            "eval/mean_length": float(np.mean([len(e.completion.tokens) for e in episodes])),
            "eval/eos_rate": float(np.mean([e.completion.finished for e in episodes])),
        }

    for step in range(first_step, settings.iterations()):
        times: dict[str, float] = {}
        try:
            if held_out and step == 0:
                result.evals.append({"step": 0, **evaluate(0)})

            # 1 rollout, 2 score: this process's share of the iteration's prompts, the same share of every minibatch.
            numbers = range(step * settings.batch_size, (step + 1) * settings.batch_size)
            chosen = prompt_order(len(encoded), numbers, seed)
            mine = [i for i in range(settings.batch_size) if (i % mini_size) % world == rank]
            prompts = [{**encoded[chosen[i]], "sample": chosen[:i].count(chosen[i])} for i in mine]
            episodes = rollout(bare, engine, tokenizer, score, prompts, step, settings, seed, times)

            # 3 log-probabilities under the policy as it was and the reference, for every minibatch.
            sums, kept = Sums(), Activations(bare, settings, world)
            minis = [episodes[start : start + share] for start in range(0, len(episodes), share)]
            batches = [
                measure(bare, mini, settings, step, tokenizer.pad_token_id, device, sums, kept, times) for mini in minis
            ]

            # 4 rewards, values and advantages, whitened over all episodes of all processes.
            shape_rewards(accelerator, batches, settings, kl_coef)
            problems = [p for mini in batches for entry in mini for p in entry.pop("problems")]
            _check_finite(problems + estimate(accelerator, bare, batches, settings, step, times))
            figures = rollout_figures(sums.reduced(accelerator), kl_coef, step, settings)
            check_limits(figures, settings, step)
            if accelerator.is_main_process:
                save_good(state, parameters)

            # 5 update: epochs over the minibatches, each one optimizer step over its micro-batches on all processes.
            updates, started = Sums(), time.perf_counter()
            for epoch in range(settings.num_ppo_epochs):
                for number, mini_batches in enumerate(batches):
                    if demonstrations and settings.ptx_coef:
                        at = (step * settings.num_ppo_epochs + epoch) * len(batches) + number
                        _ptx(
                            accelerator, wrapped, bare, demonstrations, at, mini_size, settings, tokenizer.pad_token_id
                        )
                    first = epoch == 0 and number == 0
                    _step(accelerator, wrapped, bare, mini_batches, settings, updates, step, first)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad(set_to_none=False)
            times["time/update"] = times.get("time/update", 0.0) + time.perf_counter() - started
            figures |= update_figures(updates.reduced(accelerator)) | {"lr": scheduler.get_last_lr()[0]} | times
            if settings.kl_target is not None:
                kl_coef = ppo.adaptive_kl_coef(
                    kl_coef, figures["objective/kl"], settings.kl_target, settings.kl_horizon, settings.batch_size
                )
            done = step + 1
            if held_out and (done % settings.eval_steps == 0 or done == settings.iterations()):
                result.evals.append({"step": done, **evaluate(done)})
                figures |= {k: v for k, v in result.evals[-1].items() if k != "step"}
            result.first = result.first or figures
            result.last = figures
            log(figures)
            if done % settings.save_steps == 0 or done == settings.iterations():
                if accelerator.is_main_process:
                    extra = {
                        "first": result.first,
                        "last": result.last,
                        "evals": result.evals,
                        "scheduler": scheduler.state_dict(),
                    }
                    save_state(state, parameters, optimizer, {"step": done, "kl_coef": kl_coef, **extra})
                accelerator.wait_for_everyone()
            progress(done)
        except Halt as halt:
            optimizer.zero_grad(set_to_none=False)
            if halt.spoiled:
                load_good(state, parameters)
                accelerator.wait_for_everyone()  # the file goes when the first process publishes
            result.halted = str(halt)
            break
    optimizer.zero_grad()  # and their memory
    return result


def _allocate(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Gradients and Adam's moments, before there are activations: made among these, as torch makes them, they would lie between the holes
    that activations leave and keep them from joining (on a CPU 0.2 GB of 2.4 with LoRA, and more from one iteration to the next)."""
    for p in parameters.values():
        p.grad, step = torch.zeros_like(p), torch.zeros((), device=p.device)
        optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def _check_finite(problems: list[str]) -> None:
    """Halt when any process has a problem."""
    if found := gather_object(problems):
        raise Halt("; ".join(found[:5]), spoiled=any(": score not finite" not in p for p in found))


def _check_scores(episodes: Sequence[Episode], step: int) -> None:
    """Halt when a score of an evaluation is not finite. `episodes` are those of all processes."""
    if bad := [e.prompt_id for e in episodes if not math.isfinite(e.raw_score)]:
        raise Halt(f"step {step}: score not finite for prompt {bad[0]}; mend the reward function", spoiled=False)


def _step(
    accelerator: Accelerator,
    wrapped: Any,
    roles: Roles,
    mini: list[dict[str, Any]],
    settings: Any,
    updates: Sums,
    step: int,
    unchanged: bool,
) -> None:
    """Gradients of one minibatch, clipped and checked, ready for the optimizer. The loss is per token of the whole minibatch."""
    tokens = token_count(accelerator, mini)
    ratio_sum = torch.zeros((), device=accelerator.device)
    for number, entry in enumerate(mini):
        batch: Batch = entry["batch"]
        last = number == len(mini) - 1
        with torch.enable_grad() if last else accelerator.no_sync(wrapped):
            forward = entry.pop("live", {})  # the measuring pass's, still good: nothing was updated since
            value, values = entry.pop("value_loss", None), entry["values"]
            rest: Tensor | float = 0.0
            if apart(accelerator, roles):
                if value is None:  # its gradient is not there yet; its activations are gone when the policy's come
                    values = roles.values(batch, None)
                    value = critic_loss(values, entry, settings)
                    accelerator.backward(settings.vf_coef * value / tokens)
                forward = forward or policy_forward(roles, settings.temperature, batch)
            else:
                forward = forward or dict(zip(NAMES, wrapped(batch, settings.temperature), strict=True))
                values = forward["values"]
                value = critic_loss(values, entry, settings)
                rest = settings.vf_coef * value
            logprobs, entropy = forward["logprobs"], forward["entropy"]
            policy = ppo.policy_loss(
                logprobs, entry["logprobs"], entry["advantages"], batch.mask, settings.cliprange, settings.dual_clip
            )
            policy = (policy if entry["importance"] is None else policy * entry["importance"]).sum()
            # DDP averages gradients over processes; the sum over all tokens is wanted.
            accelerator.backward((policy + rest) / tokens * accelerator.num_processes)
        with torch.no_grad():
            log_ratio = (logprobs - entry["logprobs"]).masked_fill(~batch.mask, 0.0)
            ratio = torch.exp(log_ratio)
            if unchanged and (worst := log_ratio.abs().max().item()) > 1e-3:
                raise RuntimeError(
                    f"the ratio is {math.exp(worst):.4f} before any update; old and new log-probabilities must come from the same forward"
                )
            ratio_sum += ratio[batch.mask].sum()
            updates.add("tokens", batch.mask.sum())
            updates.add("policy", policy)
            updates.add("value", value)
            updates.add("entropy", entropy.sum())
            updates.add("approxkl", 0.5 * log_ratio.square().sum())
            updates.add("ratio", ratio[batch.mask].sum())
            updates.add("ratio_square", ratio[batch.mask].square().sum())
            updates.add("clipped", (((ratio - 1.0).abs() > settings.cliprange) & batch.mask).sum())
            updates.add(
                "value_clipped", (((values - entry["values"]).abs() > settings.cliprange_value) & batch.mask).sum()
            )
    mean_ratio = (accelerator.reduce(ratio_sum, "sum") / tokens).item()
    if not mean_ratio <= settings.max_ratio:
        raise Halt(
            f"step {step}: mean ratio {mean_ratio:.3g} above max_ratio {settings.max_ratio}; lower learning_rate or num_ppo_epochs"
        )
    norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), settings.max_grad_norm))
    if not math.isfinite(norm):
        raise Halt(f"step {step}: gradient norm {norm}; lower learning_rate, or use dtype: float32")
    updates.add("grad_norm", norm / accelerator.num_processes)
    updates.add("steps", 1.0 / accelerator.num_processes)


def _ptx(
    accelerator: Accelerator,
    wrapped: Any,
    roles: Roles,
    rows: Sequence[tuple[list[int], list[int]]],
    at: int,
    count: int,
    settings: Any,
    pad_id: int,
) -> None:
    """Add the gradient of ptx_coef · sft loss (InstructGPT eq. 2) on as many demonstrations as the step has episodes, `count`.

    In backwards of its own and before the step's, so that what is clipped and checked is the sum. `at` numbers the optimizer steps.
    """
    world = accelerator.num_processes
    numbers = range(at * count + accelerator.process_index, (at + 1) * count, world)
    picked = [rows[i % len(rows)] for i in numbers]
    local = torch.tensor(float(sum(len(completion) for _, completion in picked)), device=accelerator.device)
    tokens = accelerator.reduce(local, "sum")
    lengths = [len(p) + len(c) - 1 for p, c in picked]
    groups = together(lengths, settings.micro_batch_tokens, padding=not roles.packed)
    for number, group in enumerate(groups):
        part = [picked[i] for i in group]
        batch = pack([p for p, _ in part], [c for _, c in part], pad_id, accelerator.device)
        with torch.enable_grad() if number == len(groups) - 1 else accelerator.no_sync(wrapped):
            if apart(accelerator, roles):
                logprobs, rest = roles.policy_logprobs(batch, 1.0)[0], 0.0
            else:  # the critic takes part, for DDP, without being moved
                logprobs, _, values = wrapped(batch, 1.0)
                rest = 0.0 * values.sum()
            accelerator.backward(settings.ptx_coef * -(logprobs.sum() / tokens) * world + rest)
