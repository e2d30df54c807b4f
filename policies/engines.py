"""Which machine does the sampling? Transformers, its continuous batching, or vLLM, behind one call.

An `Engine` samples from the policy's present weights, over the whole vocabulary, at the temperature asked. They
differ in speed, in where they run and in what they promise:

- `transformers` (CPU or CUDA): in float32, log-probabilities as the trainer computes them; a draw hangs on its own
  noise alone, that is on seed, step and prompt.
- `continuous` (CUDA): another attention, so other log-probabilities; a draw hangs on the noise of all episodes that are
  sampled with it.
- `vllm` (CUDA, or a CPU build of vLLM): other kernels throughout, so other log-probabilities; a draw hangs on its own
  noise, and on rounding, which the other episodes sway. It lives in the trainer's process (vllm_inside.py).
- `vllm_server`: the same in a process of its own, on this machine or another that sees the run's folder (vllm_server.py).

Where log-probabilities are not the trainer's (`Engine.exact` is false) the data are off-policy by the difference of two
programs, and `truncated_importance_weights` corrects for it. Not run on a GPU yet: all of them were run on a CPU
(`make test-engines`: vLLM's CPU build).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from policies.backbone import BackboneError
from policies.drawing import Completion, completed, seed_of
from policies.roles import Roles
from policies.rollout import sample
from policies.seq2seq import check_engine
from policies.untyped import Arguments, Model, Noise
from policies.vllm_inside import Inside, start_inside
from policies.vllm_server import Following, Processes, following
from policies.vllm_start import VLLMSettings

PAGE = 256  # tokens of a page of the continuous engine's cache, transformers' own default
PREFILL = 8192  # tokens that it passes through the model at once, at most; transformers' own default


def _nothing() -> None:
    """What an engine that runs the trainer's own weights has to do to follow them."""


class Sampler(Protocol):
    """What an engine does: the arguments of `policies.rollout.sample` after the model."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], noises: Sequence[Noise], **how: Arguments
    ) -> list[Completion]: ...


@dataclass(frozen=True)
class Engine:
    """What samples completions from the policy as it is now."""

    run: Sampler  # called as the engine is, with all arguments
    exact: bool  # its log-probabilities are the trainer's own, up to float32 rounding
    follow: Callable[[], None] = _nothing  # called by all processes after an update and before they sample
    apart: bool = False  # it samples in a process of its own, while the trainer may do something else

    def __call__(self, prompts: Sequence[Sequence[int]], noises: Sequence[Noise], **how: Arguments) -> list[Completion]:
        """One completion for each prompt, in the order given, ended by any of `eos_ids` or at its limit.

        `prompts`, `noises` and `how` are the arguments of `policies.rollout.sample` after the model; the numbers of a noise decide
        the draw. `record` asks for states beside the tokens, which transformers alone can give; elsewhere those fields of a
        Completion stay empty. Raises BackboneError when an engine does not finish what it was asked.
        """
        return self.run(prompts, noises, **how)


def make_engine(
    name: str,
    roles: Roles,
    folder: str | Path,
    settings: VLLMSettings,
    accelerator: Processes,
    exchange: Path,
    longest: int = 0,
) -> Engine:
    """The engine called `name`: transformers, continuous, vllm or vllm_server. Call it when the roles are on their device.

    vLLM alone reads `folder`, the merged model that the policy starts from, `settings`, and `longest`, the most tokens of a prompt
    with its completion. Its server reads weights from the folder `exchange`, which the main process of `accelerator` writes. Raises
    BackboneError where the engine cannot run: no CUDA, no package vllm, no server or an unfit one, a temperature that vLLM would change.
    """
    if name == "transformers":
        return transformers_engine(roles)
    check_engine("ppo.engine", name, roles.causal)
    if name == "vllm":
        return _following(start_inside(roles, folder, settings, longest))
    if name == "vllm_server":
        return replace(_following(following(roles, settings, accelerator, exchange, longest)), apart=True)
    if not torch.cuda.is_available():
        raise BackboneError(f"ppo.engine: {name} needs a CUDA GPU and there is none here; set ppo.engine: transformers")
    return Engine(partial(_continuous, roles), exact=False)


def _following(vllm: Inside | Following) -> Engine:
    return Engine(partial(vllm.run), exact=False, follow=vllm.follow)


def transformers_engine(roles: Roles) -> Engine:
    """The engine that runs everywhere: the trainer's own forward, and in float32 its log-probabilities."""
    return Engine(partial(_transformers, roles), roles.exact)


def truncated_importance_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(π_old / μ, cap) per token, (B, T), detached, zero where masked: what a token's policy loss is multiplied by.

    `old_logprobs` (B, T) are the trainer's for the weights before the update, `rollout_logprobs` (B, T) the engine's (μ),
    in nats: of the same weights, or with `async_steps` of those one update older. The weights turn a mean over the
    engine's draws into one over the policy's; the cap bounds their variance at the price of a bias. Truncation as ρ̄ in
    IMPALA (Espeholt et al. 2018, 1802.01561, section 4.1); for the gap between trainer and sampler, Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training"; that the clipped ratio is to the newer
    weights and the correction a factor beside it, Hilton et al. 2021 (2110.00641).
    """
    ratio = torch.exp((old_logprobs - rollout_logprobs).detach())
    return ratio.clamp(max=cap).masked_fill(~mask, 0.0)  # where exp overflows to infinity, the cap stands


def _transformers(
    roles: Roles, prompts: Sequence[Sequence[int]], noises: Sequence[Noise], **more: Arguments
) -> list[Completion]:
    with roles.sampling() as model:
        return sample(model, prompts, noises, **more)


def _continuous(
    roles: Roles,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    **_: Arguments,
) -> list[Completion]:
    """Transformers' continuous batching: a waiting prompt takes the place of an ended row at once, in a paged cache.

    It has one seed a call, not one an episode, so that seed is made of all the noises.
    """
    from transformers.generation import ContinuousBatchingConfig  # younger than the oldest transformers we run on

    if not prompts:
        return []
    model: Model = roles.sampler()
    asked = [list(prompt) for prompt in prompts]
    (limit,) = {len(noise) for noise in noises}
    longest = max(map(len, asked))
    rows = min(batch_size, len(asked))
    generation = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=limit,
        eos_token_id=list(eos_ids),
        pad_token_id=pad_id,
    )
    batching = ContinuousBatchingConfig(
        return_logprobs=True,
        seed=int(np.random.SeedSequence([seed_of(n) for n in noises]).generate_state(1)[0]),
        # left to itself it would take nine tenths of the memory that is free, and clear all of it
        page_size=PAGE,
        num_blocks=rows * -(-(longest + limit) // PAGE),
        max_requests_per_batch=rows,
        max_batch_tokens=min(PREFILL, rows * longest),
        auto_switch_to_flash=model.dtype != torch.float32,  # flash attention has no float32
    )
    device, training = model.device, model.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # its seed goes to the global generator
        answers = model.generate_batch(
            asked, generation_config=generation, continuous_batching_config=batching, warmup=False
        )
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # it computes on a stream of its own
    model.train(training)
    roles.forget_sampler()
    found = list(answers.values())
    failed = next((a.error for a in found if a.error is not None), "see its log above")
    if [a.prompt_ids for a in found] != asked or any(a.error is not None for a in found):
        done = sum(a.error is None for a in found)
        raise BackboneError(
            f"ppo.engine: continuous finished {done} of {len(asked)} prompts ({failed}); set ppo.engine: transformers"
        )
    if progress is not None:
        progress(len(found))
    return [completed("ppo.engine: continuous", a.generated_tokens, a.logprobs, limit, eos_ids) for a in found]
