"""How does vLLM sample in the trainer's own process? On this process's GPU or on a CPU, with the policy's merged weights handed to it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from policies.drawing import Completion
from policies.roles import Roles
from policies.untyped import Arguments, Foreign, Noise
from policies.vllm_start import VLLMSettings, check_temperature, generate, how_to_sample, start

ASKER = "ppo.engine"


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
        how = [how_to_sample(noise, eos_ids, temperature) for noise in noises]
        completions = generate(ASKER, self.llm, self.sampling_params, prompts, how)
        if self.sleeps:
            self.llm.sleep(level=2)  # the trainer needs the memory; weights come anew before the next rollout
        if progress is not None and prompts:
            progress(len(completions))
        return completions


def start_inside(roles: Roles, folder: str | Path, settings: VLLMSettings, longest: int) -> Inside:
    """vLLM in this process, started from the merged model in `folder`; `longest` are the tokens that it has to read. Raises BackboneError as
    `start` does, and where it would change the temperature."""
    check_temperature(settings.temperature)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its model must be in this process, where our weights are
    on_cuda = torch.cuda.is_available()
    llm, sampling_params = start(
        *(ASKER, folder, roles.causal.dtype, settings.vllm_gpu_memory_utilization, longest),
        enable_sleep_mode=on_cuda,
        # torchrun's processes are there already, one GPU each; alone it needs no group
        distributed_executor_backend="external_launcher" if torch.distributed.is_initialized() else None,
    )
    return Inside(roles, llm, sampling_params, sleeps=on_cuda)
