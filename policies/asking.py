"""Which machine answers when a model that does not learn is asked? Transformers, vLLM in processes of its own, or a vLLM server.

Whichever it is, the figures beside the tokens are ours: vLLM's log-probabilities are of what it drew from, and it gives no entropies. So
its completions are run through the model once more, and on a few tokens the two programs are held against each other before it is believed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from policies.decoding import Resolved, decode, figures
from policies.drawing import Completion, noise
from policies.errors import BackboneError
from policies.seq2seq import check_engine
from policies.untyped import Arguments, Model, Noise
from policies.vllm_apart import started_apart
from policies.vllm_server import Processes, connect
from policies.vllm_start import Generate, how_to_sample

TRIED, LIMIT = 8, 16  # prompts and tokens by which the two programs are held against each other


class EngineSettings(Protocol):
    """What of stage ppo's settings says where vLLM is, and how far it may be from the model."""

    @property
    def vllm_gpu_memory_utilization(self) -> float: ...
    @property
    def vllm_server(self) -> str: ...
    @property
    def max_sampler_kl(self) -> float: ...


@dataclass(frozen=True)
class Machine:
    """What a stage asks its models by. `setting` is the recipe's, such as compare.engine; `longest` are the most tokens of a prompt
    with its completion."""

    engine: str  # transformers, vllm or vllm_server
    setting: str
    settings: EngineSettings
    processes: Processes
    longest: int


class Answers(Protocol):
    """`policies.decoding.decode`, without its model."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        noises: Sequence[Noise],
        how: Resolved,
        *,
        eos_ids: Sequence[int],
        pad_id: int,
        batch_size: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[Completion]: ...


@contextmanager
def answering(machine: Machine, model: Model, source: str | Path, revision: str | None = None) -> Iterator[Answers]:
    """Within the block what is given answers for `model`, which is the one at `source`. All processes are to ask at once.

    Raises BackboneError where vLLM cannot serve the model, or says of a few tokens something else than transformers.
    """
    if machine.engine == "transformers":
        yield partial(decode, model)
        return
    check_engine(machine.setting, machine.engine, model)
    with _serving(machine, model, source, revision) as generate:
        gap = _gap(model, generate)
        if gap > machine.settings.max_sampler_kl:
            raise BackboneError(
                f"{machine.setting}: {machine.engine} is {gap:.2g} nats a token from transformers in {source}, above "
                f"ppo.max_sampler_kl {machine.settings.max_sampler_kl}: its weights or numbers are others; set {machine.setting}=transformers"
            )
        yield partial(_answers, model, generate)


@contextmanager
def _serving(machine: Machine, model: Model, source: str | Path, revision: str | None) -> Iterator[Generate]:
    settings = machine.settings
    if machine.engine == "vllm":
        memory = settings.vllm_gpu_memory_utilization
        with started_apart(machine.setting, source, revision, model.dtype, memory, machine.longest) as generate:
            yield generate
        return
    if not Path(source).is_dir():
        raise BackboneError(
            f"{machine.setting}: vllm_server takes weights from a folder, and {source} is a model on the Hub; download it, or set "
            f"{machine.setting}=vllm"
        )
    server = connect(machine.setting, settings.vllm_server, model, machine.longest)
    machine.processes.wait_for_everyone()  # nobody asks for the model before any more
    if machine.processes.is_main_process:
        server.load(Path(source))
    machine.processes.wait_for_everyone()
    yield server.generate


def _answers(
    model: Model,
    generate: Generate,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    how: Resolved,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """`decode`, by vLLM."""
    said = generate(prompts, [how_to_decode(one, eos_ids, how) for one in noises])
    if progress is not None:
        progress(len(said))
    return figures(model, prompts, [one.tokens for one in said], how.temperature, eos_ids, pad_id, batch_size)


def how_to_decode(noise: Noise, eos_ids: Sequence[int], how: Resolved) -> Arguments:
    """vLLM's SamplingParams of one completion, of what pipeline.settings lets through: it has no beams, and cuts by min_p before top_p."""
    cuts = {"top_k": how.top_k or -1, "top_p": how.top_p, "min_p": how.min_p} if how.do_sample else {}
    return how_to_sample(noise, eos_ids, how.temperature if how.do_sample else 0.0) | cuts


@torch.no_grad()
def _gap(model: Model, generate: Generate) -> float:
    """KL of what vLLM draws to the model, nats a token, on completions of random tokens (k3, as policies.measure has it)."""
    words = model.get_input_embeddings().weight.shape[0]
    prompts = torch.randint(words, (TRIED, LIMIT), generator=torch.Generator().manual_seed(0)).tolist()
    asked = [how_to_sample(noise(0, 0, str(i), 0, LIMIT), [], 1.0) for i in range(TRIED)]
    theirs = generate(prompts, asked)
    ours = figures(model, prompts, [one.tokens for one in theirs], 1.0, [], 0, TRIED)
    log_ratio = torch.cat([a.logprobs - b.logprobs for a, b in zip(ours, theirs, strict=True)])
    return float((torch.expm1(log_ratio) - log_ratio).mean())
