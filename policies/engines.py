"""Which machine does the sampling? Transformers, its continuous batching, or vLLM, behind one call.

An `Engine` samples from the policy's present weights, over the whole vocabulary, at the temperature asked. The three
differ in speed, in where they run and in what they promise:

- `transformers` (CPU or CUDA): in float32, log-probabilities as the trainer computes them; a draw hangs on its own
  noise alone, that is on seed, step and prompt.
- `continuous` (CUDA): another attention, so other log-probabilities; a draw hangs on the noise of all episodes that are
  sampled with it.
- `vllm` (CUDA): other kernels throughout, so other log-probabilities; a draw hangs on its own noise, and on rounding,
  which the other episodes sway.

Where log-probabilities are not the trainer's (`Engine.exact` is false) the data are off-policy by the difference of two
programs, and `truncated_importance_weights` corrects for it. Not run on a GPU yet: `continuous` was run on a CPU, where
transformers allows it; `vllm` was tested up to its door, against a stand-in with the interface of vLLM 0.22 to 0.31.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from policies.backbone import BackboneError
from policies.drawing import Completion, seed_of
from policies.roles import Roles
from policies.rollout import sample
from policies.untyped import Arguments, Foreign, Model, Noise

PAGE = 256  # tokens of a page of the continuous engine's cache, transformers' own default
PREFILL = 8192  # tokens that it passes through the model at once, at most; transformers' own default


class EngineSettings(Protocol):
    """What an engine reads of a recipe."""

    @property
    def temperature(self) -> float: ...
    @property
    def vllm_gpu_memory_utilization(self) -> float: ...


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

    def __call__(self, prompts: Sequence[Sequence[int]], noises: Sequence[Noise], **how: Arguments) -> list[Completion]:
        """One completion for each prompt, in the order given, ended by any of `eos_ids` or at its limit.

        `prompts`, `noises` and `how` are the arguments of `policies.rollout.sample` after the model; the numbers of a noise decide
        the draw. `record` asks for states beside the tokens, which transformers alone can give; elsewhere those fields of a
        Completion stay empty. Raises BackboneError when an engine does not finish what it was asked.
        """
        return self.run(prompts, noises, **how)


def make_engine(name: str, roles: Roles, folder: str | Path, settings: EngineSettings) -> Engine:
    """The engine called `name`: transformers, continuous or vllm. Call it when the roles are on their device.

    vLLM alone reads `folder`, the merged model that the policy starts from, and `settings`: `temperature`, and
    `vllm_gpu_memory_utilization`, the share of the GPU's memory that it takes at once and keeps, for weights of its own
    and its cache. Raises BackboneError where the engine cannot run: no CUDA, no package vllm, a temperature that vLLM
    would change.
    """
    if name == "transformers":
        return transformers_engine(roles)
    if not torch.cuda.is_available():
        raise BackboneError(f"ppo.engine: {name} needs a CUDA GPU and there is none here; set ppo.engine: transformers")
    if name == "continuous":
        return Engine(partial(_continuous, roles), exact=False)
    return Engine(partial(_vllm, roles, *_start_vllm(roles, folder, settings)), exact=False)


def transformers_engine(roles: Roles) -> Engine:
    """The engine that runs everywhere: the trainer's own forward, and in float32 its log-probabilities."""
    return Engine(partial(_transformers, roles), roles.exact)


def truncated_importance_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(π_old / μ, cap) per token, (B, T), detached, zero where masked: what a token's policy loss is multiplied by.

    `old_logprobs` (B, T) are the trainer's for the weights that sampled, `rollout_logprobs` (B, T) the engine's (μ), in
    nats. The weights turn a mean over the engine's draws into one over the policy's; the cap bounds their variance at
    the price of a bias. Truncation as ρ̄ in IMPALA (Espeholt et al. 2018, 1802.01561, section 4.1); for the gap
    between trainer and sampler, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training".
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
    return [_completion("continuous", a.generated_tokens, a.logprobs, limit, eos_ids) for a in found]


def _start_vllm(roles: Roles, folder: str | Path, settings: EngineSettings) -> tuple[Foreign, Foreign]:
    """vLLM in this process, on this process's GPU, and its SamplingParams."""
    if not 0.01 <= settings.temperature <= 2:
        raise BackboneError(
            f"ppo.temperature: {settings.temperature} is outside vLLM's 0.01 to 2; choose one within, or set "
            "ppo.engine: transformers"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its model must be in this process, where our weights are
    try:
        from vllm import LLM, SamplingParams
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise BackboneError(
            "ppo.engine: vllm needs the package vllm, which is not installed; install this project's extra vllm, or set ppo.engine=transformers"
        ) from None
    llm = LLM(
        model=str(folder),
        dtype=str(roles.causal.dtype).removeprefix("torch."),
        gpu_memory_utilization=settings.vllm_gpu_memory_utilization,
        max_model_len=-1,  # the longest that fits in its share of the memory
        generation_config="vllm",  # none of the model's own defaults for sampling
        logprobs_mode="processed_logprobs",  # at the temperature, as the loss sees them
        # torchrun's processes are there already, one GPU each; alone it needs no group
        distributed_executor_backend="external_launcher" if torch.distributed.is_initialized() else None,
    )
    return llm, SamplingParams


def _vllm(
    roles: Roles,
    llm: Foreign,
    sampling_params: Foreign,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    *,
    eos_ids: Sequence[int],
    temperature: float,
    progress: Callable[[int], object] | None = None,
    **_: Arguments,
) -> list[Completion]:
    """vLLM on the policy's merged weights, handed to it before every rollout, as TRL does in one process."""
    if not prompts:
        return []
    weights = [(name, p.detach()) for name, p in roles.sampler().named_parameters()]
    llm.apply_model(lambda model: model.load_weights(weights))
    weights.clear()
    roles.forget_sampler()  # vLLM has its own copy
    llm.reset_prefix_cache()  # it holds keys and values of the weights before
    outputs = llm.generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts],
        [
            sampling_params(
                temperature=temperature,
                top_k=-1,
                top_p=1.0,
                max_tokens=len(noise),
                seed=seed_of(noise),
                stop_token_ids=list(eos_ids),
                ignore_eos=True,  # it would add the tokenizer's and the generation config's; ours name them all
                logprobs=0,  # of the sampled token alone
                detokenize=False,
            )
            for noise in noises
        ],
        use_tqdm=False,
    )
    completions = []
    for output, noise in zip(outputs, noises, strict=True):
        said = output.outputs[0]
        logprobs = [at[token].logprob for token, at in zip(said.token_ids, said.logprobs, strict=True)]
        completions.append(_completion("vllm", list(said.token_ids), logprobs, len(noise), eos_ids))
    if progress is not None:
        progress(len(completions))
    return completions


def _completion(
    engine: str, tokens: list[int], logprobs: list[float], limit: int, eos_ids: Sequence[int]
) -> Completion:
    """What an engine said. Raises BackboneError where it stopped for another reason than EOS or the limit."""
    finished = bool(tokens) and tokens[-1] in eos_ids
    if len(tokens) != len(logprobs) or not (finished or len(tokens) == limit):
        raise BackboneError(
            f"ppo.engine: {engine} stopped after {len(tokens)} of {limit} tokens without EOS ({len(logprobs)} "
            "log-probabilities), as where the model's context is full; use shorter prompts, or ppo.engine: transformers"
        )
    return Completion(tokens, torch.tensor(logprobs), finished)
