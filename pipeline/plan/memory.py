"""How much memory does each process need, phase by phase, however the weights are shared and held? Counted as the preflight counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, get_args

from pipeline.plan.machines import Machine
from pipeline.plan.work import Job
from pipeline.training.preflight import phases
from policies.loop_settings import ROLLOUT_BATCH

GATHERED = 2  # layers of a shared model that are whole on a process at a time: the one that computes, and the next
USABLE = 0.9  # of a GPU's memory: what the allocator cannot hand out is left over
STEPS = tuple(2**n for n in range(7, 16))
"""Values of ppo.micro_batch_tokens that are tried."""


def shardings(job: Job, processes: int, quantization: str | None) -> Sequence[str]:
    """How weights may be shared by so many processes: the values of the setting ppo.sharding, as far as there is one. What is quantised, and
    what another engine samples from, stays whole; an adapter does too."""
    section = job.config.ppo
    field = type(section).model_fields.get("sharding")
    if field is None or processes == 1 or quantization is not None or section.engine != "transformers":
        return ("none",)
    return [way for way in get_args(field.annotation) if way != "full" or section.tuning == "full"]


@dataclass(frozen=True)
class Need:
    """GB of one process by phase and part."""

    sharding: str
    quantization: str | None
    tokens: int  # ppo.micro_batch_tokens
    phases: dict[str, dict[str, float]]
    sampled: float = 1.0  # rows that are decoded together

    def total(self, phase: str) -> float:
        return sum(self.phases[phase].values())

    @property
    def most(self) -> float:
        return max(map(self.total, self.phases))

    def fits(self, machine: Machine) -> bool:
        return self.sampled >= 1 and self.most <= machine.memory_gb * (USABLE if machine.gpu else 1.0)


def need(
    job: Job, machine: Machine, processes: int, sharding: str, quantization: str | None, tokens: int, rows: float
) -> Need:
    """That of one of so many processes, which has `rows` episodes and micro-batches of `tokens`."""
    dtype = machine.dtype if job.config.dtype == "auto" else job.config.dtype
    model = job.footprints(dtype, quantization)
    # a process decodes no more rows than it has, and learns from no more at once than those of a minibatch
    held = min(tokens, max(1, ceil(rows / job.config.ppo.num_mini_batches)) * job.row)
    section = job.config.ppo.model_copy(update={"micro_batch_tokens": held, "batch_size": max(1, ceil(rows))})
    config = job.config.model_copy(update={"ppo": section})
    found = phases(config, model, job.scored(dtype), job.prompt, machine.resident_gb * 1e9, processes)
    if section.engine.startswith("vllm"):  # it holds weights and keys and values in a memory of its own
        own = section.vllm_gpu_memory_utilization * machine.memory_gb if section.engine == "vllm" else 0.0
        found = {phase: {name: size for name, size in parts.items() if name not in ("cache", "merged copy")} | {"engine": own} for phase, parts in found.items()}  # fmt: skip
    if sharding != "none" and processes > 1:
        found = {phase: _shared(parts, phase, model, processes, sharding, section) for phase, parts in found.items()}
    limit = section.per_device_rollout_batch_size or ROLLOUT_BATCH if section.engine == "transformers" else rows
    if section.engine.startswith("vllm"):
        limit = engine_rows(job, machine, quantization)
    return Need(sharding, quantization, tokens, found, min(max(1.0, rows), limit))


def engine_rows(job: Job, machine: Machine, quantization: str | None) -> float:
    """Rows that vLLM decodes together: those whose keys and values its share of the memory holds beside the weights."""
    dtype = machine.dtype if job.config.dtype == "auto" else job.config.dtype
    model, section = job.footprints(dtype, quantization), job.config.ppo
    share = section.vllm_gpu_memory_utilization if section.engine == "vllm" else USABLE
    return (share * machine.memory_gb * 1e9 - model.numbers * model.size) / model.cached(job.row)


def _shared(
    parts: dict[str, float], phase: str, model: Any, processes: int, sharding: str, section: Any
) -> dict[str, float]:
    """The same where decoder layers are cut among the processes: embeddings, heads and adapters are whole on each. While sampling, the model
    that samples is gathered whole; while learning, a few of its layers."""
    embedded = (model.numbers - model.body + model.vocabulary * model.hidden) * model.size
    embedded = min(embedded, model.vocabulary * model.hidden * model.size * 2)
    layers = max(0.0, model.weights - embedded) / 1e9  # of one model
    kept = 1 - 1 / processes  # what of it lies elsewhere
    out = dict(parts)
    out["weights"] = parts["weights"] - kept * layers  # of the base or the reference; models that only score stay whole
    if section.tuning == "full" and sharding == "full":
        learned = model.numbers + (model.body if section.value == "adapter" else 0)
        in_layers = 1 - model.vocabulary * model.hidden / model.numbers
        out["training"] = parts["training"] * (1 - kept * in_layers * min(1.0, learned / model.numbers))
    out["gathered"] = layers if phase == "sampling" else layers * min(1.0, GATHERED / max(1, model.depth))
    return out


def chosen(
    job: Job, machine: Machine, processes: int, sharding: str, quantization: str | None, episodes: float | None = None
) -> Need:
    """The need with the largest micro-batch that fits, and that a process fills; the smallest one where none does. `episodes`: of an
    iteration of all processes; default: the recipe's."""
    rows = (job.config.ppo.batch_size if episodes is None else episodes) / processes
    tried = [tokens for tokens in STEPS if tokens == STEPS[0] or tokens < 2 * max(1.0, rows) * job.row]
    found = [need(job, machine, processes, sharding, quantization, tokens, rows) for tokens in tried]
    fitting = [one for one in found if one.fits(machine)]
    return fitting[-1] if fitting else found[0]
