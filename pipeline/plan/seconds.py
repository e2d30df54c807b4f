"""How long does an iteration take? Operations and bytes, counted as the bench counts them, over rates; and what processes send each other.

Sampling is bound by bytes or by operations, whichever takes longer, learning by operations; each call costs its time besides.
"""

import math
from dataclasses import dataclass

from pipeline.bench.machine import SIZES, decode_bytes, iteration_flops
from pipeline.plan.machines import Machine
from pipeline.plan.memory import Need
from pipeline.plan.work import Job
from pipeline.training.roles import SCORE_BATCH

ADAM_BYTES = 28  # of an optimizer step for each trained weight: four numbers read, three written


@dataclass(frozen=True)
class Phase:
    """One phase of an iteration on one process."""

    operations: float
    read: float  # bytes
    computing: float  # seconds
    calling: float  # seconds that calls cost by themselves

    @property
    def seconds(self) -> float:
        return self.computing + self.calling


@dataclass(frozen=True)
class Iteration:
    """One iteration of all processes."""

    processes: int
    episodes: float
    phases: dict[str, Phase]
    sent: float  # bytes of one process
    sending: float  # seconds

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases.values()) + self.sending

    @property
    def rate(self) -> float:
        """Episodes a second."""
        return self.episodes / self.seconds


def iteration(job: Job, machine: Machine, processes: int, need: Need, episodes: float | None = None) -> Iteration:
    """That of so many `episodes`, of all processes; default: the recipe's batch."""
    episodes = float(job.config.ppo.batch_size) if episodes is None else episodes
    phases = _phases(job, machine, need, episodes / processes, processes)
    sent, times = _sent(job, machine, processes, need, episodes / processes)
    latency = times * machine.latency_s * max(0, processes - 1).bit_length()
    return Iteration(processes, episodes, phases, sent, sent / machine.rate(processes) + latency)


def held_in(job: Job, machine: Machine) -> str:
    """The dtype that is computed in."""
    if job.config.ppo.tuning == "full":
        return "float32"
    return machine.dtype if job.config.dtype == "auto" else job.config.dtype


def micro_batches(job: Job, need: Need, episodes: float) -> int:
    """Of one process in one pass."""
    return max(1, math.ceil(episodes / max(1, need.tokens // job.row)))


def _phases(job: Job, machine: Machine, need: Need, episodes: float, processes: int) -> dict[str, Phase]:
    """Of one of so many processes, which has so many episodes."""
    shape, section, dtype = job.shape, job.config.ppo, held_in(job, machine)
    assert shape is not None
    work = job.work(episodes)
    operations = iteration_flops(shape, work)
    if not job.models:
        operations["score"] = 0.0
    # one process learns from the forward that gives the critic's values of the first minibatch; several run it again, as DDP wants
    forwards = 1 / section.num_mini_batches if processes == 1 else 0.0
    operations["update"] += operations["values"] * (1 - forwards)
    again = dtype != "float32" or section.engine != "transformers"
    if again:
        operations["values"] += operations["reference"]  # the sampler's log-probabilities are not the trainer's
    forward = operations["reference"] * (1 if section.value == "shared" else 2)
    if section.gradient_checkpointing:
        operations["update"] += section.num_ppo_epochs * forward
    peak = machine.tflops[dtype] * 1e12
    together = min(episodes, need.sampled)
    once = decode_bytes(shape, job.work(together), job.completion, SIZES[dtype])
    rounds = episodes / together
    reading = once * rounds / (machine.read_gb_per_s * 1e9 * machine.decoding)
    multiplying = operations["rollout"] / (peak * machine.decoding)
    # an engine of its own decodes all rows together, and starts kernels as graphs
    steps = math.ceil(rounds) * job.completion if section.engine == "transformers" else 0.0
    cost, layers, batches = machine.calls, work.adapted, micro_batches(job, need, episodes)
    decoding = cost.sampling(shape.layers, steps)
    out = {"rollout": Phase(operations["rollout"], once * rounds, max(reading, multiplying), decoding)}
    passes = {  # forwards with their backwards; a forward alone is a third of one
        "score": math.ceil(episodes / SCORE_BATCH) / 3 if job.models else 0.0,
        "reference": batches / 3,
        "values": batches / 3 * ((section.value != "shared") + again),
        "update": float(batches * section.num_ppo_epochs * (1 if section.value == "shared" else 2)),
    }
    for name, count in passes.items():
        seconds = operations[name] / (peak * machine.products)
        out[name] = Phase(operations[name], 0.0, seconds, cost.learning(layers, count))
    model = job.footprints(dtype, need.quantization)
    trained = _trained(job, model) * section.num_ppo_epochs * section.num_mini_batches * ADAM_BYTES
    other = cost.iteration + episodes * cost.episode
    out["other"] = Phase(0.0, trained, trained / (machine.read_gb_per_s * 1e9), other)
    return out


def _trained(job: Job, model: object) -> float:
    """Numbers that are trained, critic included."""
    section, trained = job.config.ppo, float(getattr(model, "trained", 0))
    if section.tuning == "lora":
        return trained * (2 if section.value == "adapter" else 1)
    return float(getattr(model, "numbers", 0)) + (getattr(model, "body", 0) if section.value == "adapter" else 0)


def _sent(job: Job, machine: Machine, processes: int, need: Need, episodes: float) -> tuple[float, float]:
    """Bytes that each process sends in an iteration, and in how many rounds of all: gradients are summed in every optimizer step; of shared
    weights, the experience gathers each model once and each micro-batch of an update its layers twice."""
    if processes == 1:
        return 0.0, 0.0
    section = job.config.ppo
    model = job.footprints(held_in(job, machine), need.quantization)
    part, steps = 1 - 1 / processes, section.num_ppo_epochs * section.num_mini_batches
    gradients = 4 * _trained(job, model)
    sent, times = 2 * part * gradients * steps, float(steps)
    if need.sharding != "none":
        passes = micro_batches(job, need, episodes) * section.num_ppo_epochs
        models = 2 if section.tuning == "full" and section.value == "adapter" else 1
        cut = model.weights * (models + (section.tuning == "full"))
        learned = model.weights * models if section.tuning == "lora" or need.sharding == "full" else 0.0
        sent += part * (cut + 2 * learned * passes)
        times += model.depth * (1 + 2 * passes)
    return sent, times
