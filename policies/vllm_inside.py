"""How does vLLM sample in the trainer's own process? On this process's GPU or on a CPU, with the policy's merged weights handed to it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from policies.drawing import Completion, completed, seed_of
from policies.errors import BackboneError
from policies.roles import Roles
from policies.untyped import Arguments, Foreign, Noise


class VLLMSettings(Protocol):
    """What vLLM reads of a recipe."""

    @property
    def temperature(self) -> float: ...
    @property
    def vllm_gpu_memory_utilization(self) -> float: ...
    @property
    def vllm_server(self) -> str: ...


def check_temperature(temperature: float) -> None:
    """Raise BackboneError where vLLM would sample at another temperature than asked."""
    if not 0.01 <= temperature <= 2:
        raise BackboneError(
            f"ppo.temperature: {temperature} is outside vLLM's 0.01 to 2; choose one within, or set "
            "ppo.engine: transformers"
        )


def how_to_sample(noise: Noise, eos_ids: Sequence[int], temperature: float) -> Arguments:
    """vLLM's SamplingParams of one episode: from the whole vocabulary, seeded by its noise, ended by our ends alone."""
    return {
        "temperature": temperature,
        "top_k": -1,
        "top_p": 1.0,
        "max_tokens": len(noise),
        "seed": seed_of(noise),
        "stop_token_ids": list(eos_ids),
        "ignore_eos": True,  # it would add the tokenizer's and the generation config's; ours name them all
        "logprobs": 0,  # of the sampled token alone
    }


@dataclass(frozen=True)
class Inside:
    """vLLM in this process; what an Engine runs and follows the policy with."""

    roles: Roles
    llm: Foreign
    sampling_params: Foreign
    sleeps: bool

    def follow(self) -> None:
        """Hand vLLM the policy's weights as they are now."""
        if self.sleeps:
            self.llm.wake_up(tags=["weights"])
        weights = [(name, p.detach()) for name, p in self.roles.sampler().named_parameters()]
        self.llm.apply_model(lambda model: model.load_weights(weights))
        weights.clear()
        self.roles.forget_sampler()  # vLLM has its own copy
        if self.sleeps:
            self.llm.wake_up(tags=["kv_cache"])
        self.llm.reset_prefix_cache()  # it holds keys and values of the weights before

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        noises: Sequence[Noise],
        *,
        eos_ids: Sequence[int],
        temperature: float,
        progress: Callable[[int], object] | None = None,
        **_: Arguments,
    ) -> list[Completion]:
        """Sample with the weights of the last `follow`."""
        asked = [
            self.sampling_params(**how_to_sample(noise, eos_ids, temperature), detokenize=False) for noise in noises
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self.llm.generate(given, asked, use_tqdm=False) if prompts else []
        completions = []
        for output, noise in zip(outputs, noises, strict=True):
            said = output.outputs[0]
            logprobs = [at[token].logprob for token, at in zip(said.token_ids, said.logprobs, strict=True)]
            completions.append(completed("vllm", list(said.token_ids), logprobs, len(noise), eos_ids))
        if self.sleeps:
            self.llm.sleep(level=2)  # the trainer needs the memory; weights come anew before the next rollout
        if progress is not None and prompts:
            progress(len(completions))
        return completions


def start_inside(roles: Roles, folder: str | Path, settings: VLLMSettings) -> Inside:
    """vLLM in this process, started from the merged model in `folder`. Raises BackboneError where it is not installed, cannot run
    here, or would change the temperature."""
    check_temperature(settings.temperature)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its model must be in this process, where our weights are
    try:
        from vllm import LLM, SamplingParams
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise BackboneError(
            "ppo.engine: vllm needs the package vllm, which is not installed here; set ppo.engine=vllm_server and start one (the target "
            "vllm-server does), or set ppo.engine=transformers"
        ) from None
    on_cuda = torch.cuda.is_available()
    if not on_cuda and not _built_for_cpu():
        raise BackboneError(
            "ppo.engine: vllm needs a CUDA GPU, or vLLM's CPU build, and there is neither here; set ppo.engine=transformers"
        )
    llm = LLM(
        model=str(folder),
        dtype=str(roles.causal.dtype).removeprefix("torch."),
        gpu_memory_utilization=settings.vllm_gpu_memory_utilization,
        max_model_len=-1,  # the longest that fits in its share of the memory
        generation_config="vllm",  # none of the model's own defaults for sampling
        logprobs_mode="processed_logprobs",  # at the temperature, as the loss sees them
        enable_sleep_mode=on_cuda,
        enforce_eager=not on_cuda,  # compiling for a CPU takes longer than it saves
        # torchrun's processes are there already, one GPU each; alone it needs no group
        distributed_executor_backend="external_launcher" if torch.distributed.is_initialized() else None,
    )
    return Inside(roles, llm, SamplingParams, sleeps=on_cuda)


def _built_for_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
