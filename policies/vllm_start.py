"""How is vLLM started in this environment, and how is it asked? What the ways of using it have in common.

`asker` is the setting that chose vLLM, such as ppo.engine: messages name it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from policies.drawing import Completion, completed, seed_of
from policies.errors import BackboneError
from policies.strangers import said
from policies.untyped import Arguments, Foreign, Noise

Generate = Callable[[Sequence[Sequence[int]], Sequence[Arguments]], list[Completion]]
"""What vLLM says to prompts, each asked by SamplingParams of its own; the log-probabilities are of what it drew from."""


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


def start(
    asker: str, folder: str | Path, dtype: torch.dtype, memory: float, longest: int, **more: Arguments
) -> tuple[Foreign, Foreign]:
    """(vLLM's LLM of the model in `folder`, its SamplingParams). It takes the share `memory` of a GPU, and has to read `longest` tokens,
    prompt and completion.

    Raises BackboneError where vLLM is not installed, cannot run here, or cannot serve this model.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when it is imported
    try:
        from vllm import LLM, SamplingParams
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise BackboneError(
            f"{asker}: vllm needs the package vllm, which is not installed here; set {asker}=vllm_server and start one (the target "
            f"vllm-server does), or set {asker}=transformers"
        ) from None
    on_cuda = torch.cuda.is_available()
    if not on_cuda and not _built_for_cpu():
        raise BackboneError(
            f"{asker}: vllm needs a CUDA GPU, or vLLM's CPU build, and there is neither here; set {asker}=transformers"
        )
    try:
        llm: Foreign = LLM(
            model=str(folder),
            dtype=str(dtype).removeprefix("torch."),
            gpu_memory_utilization=memory,
            max_model_len=-1,  # the longest that fits in its share of the memory
            generation_config="vllm",  # none of the model's own defaults for sampling
            logprobs_mode="processed_logprobs",  # at the temperature, as the loss sees them
            enforce_eager=not on_cuda,  # compiling for a CPU takes longer than it saves
            **more,
        )
    except Exception as error:  # what it raises of a model or a machine that it cannot serve cannot be foreseen
        raise BackboneError(
            f"{asker}: vllm cannot serve {folder} here ({said(error)}); set {asker}=transformers"
        ) from error
    reads = int(llm.model_config.max_model_len)
    if reads < longest:
        llm.llm_engine.engine_core.shutdown()
        raise BackboneError(
            f"{asker}: vllm has memory for {reads} tokens of a prompt and its completion, and they take up to {longest}; "
            f"raise ppo.vllm_gpu_memory_utilization, on a CPU VLLM_CPU_KVCACHE_SPACE in the environment, or set {asker}=transformers"
        )
    return llm, SamplingParams


def _built_for_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def generate(
    asker: str,
    llm: Foreign,
    sampling_params: Foreign,
    prompts: Sequence[Sequence[int]],
    how: Sequence[Arguments],
) -> list[Completion]:
    """What `llm` says to each of `prompts`, asked `how`."""
    if not prompts:
        return []
    given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = llm.generate(given, [sampling_params(**one, detokenize=False) for one in how], use_tqdm=False)
    completions = []
    for output, one in zip(outputs, how, strict=True):
        told = output.outputs[0]
        logprobs = [at[token].logprob for token, at in zip(told.token_ids, told.logprobs, strict=True)]
        ends = one["stop_token_ids"]
        completions.append(completed(f"{asker}: vllm", list(told.token_ids), logprobs, one["max_tokens"], ends))
    return completions
