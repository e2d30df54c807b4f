"""How much memory does each process need, phase by phase, however the weights are shared and held? Counted as the preflight counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from pipeline.plan.machines import Machine
from pipeline.plan.work import Job
from pipeline.settings.config import Config
from pipeline.training.preflight import beside_vllm, phases
from pipeline.training.sizes import MICRO, ROLLOUT, USABLE, ppo_on_gpu
from policies.loop_settings import MICRO_BATCH_TOKENS, ROLLOUT_BATCH


def shardings(job: Job, processes: int, quantization: str | None) -> Sequence[str]:
    """How weights may be shared by so many processes, the recipe's way first: values of ppo.sharding. What is quantised, and what another
    engine samples from, stays whole; an adapter does too."""
    section = job.config.ppo
    if processes == 1 or quantization is not None or section.engine != "transformers":
        return ["none"]
    ways = ["none", "frozen", "full"] if section.tuning == "full" else ["none", "frozen"]
    return sorted(ways, key=lambda way: way != section.sharding)


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
    # a process decodes no more rows than it has, and learns from no more at once than those of a minibatch
    held = min(tokens, max(1, ceil(rows / job.config.ppo.num_mini_batches)) * job.row)
    config = _with(job.config, micro_batch_tokens=held, batch_size=max(1, ceil(rows)), sharding=sharding)
    section, dtype = config.ppo, _frozen_in(job, machine)
    model = job.footprints(dtype, quantization)
    found = phases(config, model, job.scored(dtype), job.prompt, machine.resident_gb * 1e9, processes)
    if section.engine == "vllm":
        found = beside_vllm(found, config, machine.memory_gb, machine.gpu)
    limit = section.per_device_rollout_batch_size or ROLLOUT_BATCH if section.engine == "transformers" else rows
    if section.engine.startswith("vllm"):
        limit = engine_rows(job, machine, quantization)
    return Need(sharding, quantization, tokens, found, min(max(1.0, rows), limit))


def _with(config: Config, **settings: object) -> Config:
    """The recipe with other settings of ppo."""
    return config.model_copy(update={"ppo": config.ppo.model_copy(update=settings)})


def _frozen_in(job: Job, machine: Machine) -> str:
    """The dtype that frozen weights are held in."""
    return machine.dtype if job.config.dtype == "auto" else job.config.dtype


def engine_rows(job: Job, machine: Machine, quantization: str | None) -> float:
    """Rows that vLLM decodes together: those whose keys and values its share of the memory holds beside the weights."""
    model, section = job.footprints(_frozen_in(job, machine), quantization), job.config.ppo
    share = section.vllm_gpu_memory_utilization if section.engine == "vllm" else USABLE
    return (share * machine.memory_gb * 1e9 - model.numbers * model.size) / model.cached(job.row)


def chosen(
    job: Job, machine: Machine, processes: int, sharding: str, quantization: str | None, episodes: float | None = None
) -> Need:
    """The need with as much at once as stage ppo computes: what the recipe says, or what the stage chooses on such a machine. `episodes`: of an
    iteration of all processes; default: the recipe's."""
    section = job.config.ppo
    rows = (section.batch_size if episodes is None else episodes) / processes
    sizes = {
        MICRO: section.micro_batch_tokens or MICRO_BATCH_TOKENS,
        ROLLOUT: section.per_device_rollout_batch_size or ROLLOUT_BATCH,
    }
    if machine.gpu:
        dtype = _frozen_in(job, machine)
        config = _with(job.config, sharding=sharding, batch_size=ceil(rows * processes))
        free = machine.memory_gb - machine.resident_gb / USABLE
        model, beside = job.footprints(dtype, quantization), job.scored(dtype)
        sizes = ppo_on_gpu(config, model, beside, job.prompt, processes, free)
    sized = replace(job, config=_with(job.config, **sizes))
    return need(sized, machine, processes, sharding, quantization, sizes[MICRO], rows)
