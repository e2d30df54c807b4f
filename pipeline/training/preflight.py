"""Will it fit? What a stage that trains needs in memory, counted on its models before anything is loaded, and what there is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.refusals import lower, sentence
from pipeline.artifacts.run import Run
from pipeline.graph import PRETRAINED
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.sections import Stepwise, Supervised, Training
from pipeline.training import room
from pipeline.training.limits import GB, available, whole
from policies.blueprint import config_at
from policies.footprint import Footprint, footprint, weights_of
from policies.loop_settings import MICRO_BATCH_TOKENS, ROLLOUT_BATCH
from policies.precision import Held, pick_dtype

ADAM = 4  # float32 numbers for each trained weight: itself, its gradient, two moments
ROWS = 15  # bytes of memory for each byte of rows that stage data reads: measured, docs/measured.md
BROADCAST = 250 * 2**20  # bytes of a copy in which DDP sends what is trained to the others; a CPU's heap keeps it
GATHERED = (
    2  # layers of a shared model that are whole on a process while it learns: the one that computes, and the next
)
LOGITS = 10  # float32 copies of a micro-batch's logits in a step of trl's SFTTrainer: measured, docs/measured.md


@dataclass(frozen=True)
class Rows:
    """What one micro-batch of a Trainer holds, and what is sampled beside training."""

    tokens: float  # of the heaviest micro-batch
    longest: int  # tokens of the longest row
    sampled: int  # rows that are decoded together
    length: int  # their tokens, prompt and completion
    count: int = 0  # rows in all

    @classmethod
    def of(
        cls, lengths: Sequence[int], section: Stepwise, longest: int | None = None, sampled: int = 0, length: int = 0
    ) -> "Rows":
        """Those of `lengths`, tokens of all that belong to one row; rows of like length stand together. `longest`: of one text, where a row is
        several."""
        heavy = float(sum(sorted(lengths)[-section.per_device_train_batch_size :]))
        return cls(heavy, longest or max(lengths, default=0), sampled, length, len(lengths))


def needs(
    config: Config, model: Footprint, beside: float, widest: int, resident: float, processes: int = 1
) -> dict[str, float]:
    """GB by part of a PPO run, about: those of sampling or of learning, whichever are more, as the other finds its memory free."""
    import torch

    found = phases(config, model, beside, widest, resident, processes)
    if config.ppo.engine == "vllm":
        found = beside_vllm(found, config, whole(), torch.cuda.is_available())
    return max(found.values(), key=lambda parts: sum(parts.values()))


def beside_vllm(
    found: dict[str, dict[str, float]], config: Config, memory: float, gpu: bool
) -> dict[str, dict[str, float]]:
    """The `phases` of a process beside which vLLM takes its share of `memory` GB for weights, keys and values; while the process learns it
    sleeps and gives them back, on a GPU."""
    own = {"engine": memory * config.ppo.vllm_gpu_memory_utilization}
    return {phase: parts | (own if phase == "sampling" or not gpu else {}) for phase, parts in found.items()}


def phases(
    config: Config, model: Footprint, beside: float, widest: int, resident: float, processes: int = 1
) -> dict[str, dict[str, float]]:
    """GB by part while a PPO run is sampling and while it is learning, about: what is resident now, weights of all roles, what training
    adds, and what the phase takes beside them.

    `model` is the policy; `beside` the bytes of reward models that are no adapter on it; `widest` the longest prompt in tokens, `resident` the
    process's bytes now. With several `processes` policy and critic are differentiated together.
    """
    section = config.ppo
    parts = {"process": resident / GB}
    layers, gathered = _shared(model, section.sharding, processes)
    if section.tuning == "lora":
        parts["weights"] = (model.weights * (1 - layers) + beside) / GB
        trained = model.trained * (2 if section.value == "adapter" else 1)
        merged = model.adapted if model.size == 4 or section.engine != "transformers" else 0.0
        merged = 0.0 if layers else merged  # into what was gathered
    else:
        parts["weights"] = (model.weights * (1 - layers) + beside) / GB  # the reference, and the reward models
        trained, merged = model.numbers + (model.body if section.value == "adapter" else 0), 0.0
        if section.sharding == "full":
            trained -= int(layers * model.numbers) * (2 if section.value == "adapter" else 1)
    parts["training"] = trained * ADAM * 4 / GB
    if processes > 1:
        parts["broadcast"] = min(trained * 4, BROADCAST) / GB
    longest = widest + section.response_length
    tokens = max(section.micro_batch_tokens or MICRO_BATCH_TOKENS, longest)
    kept = section.keep_activations if section.num_mini_batches == 1 and processes == 1 else 0.0
    if model.size == 4 and section.engine == "transformers":
        kept = 0.0  # the rollout's log-probabilities serve: nothing is run twice, so nothing is kept
    activations = _activations(model, section, tokens, longest)
    share = section.response_length / max(longest, 1)
    rows = section.per_device_rollout_batch_size or ROLLOUT_BATCH
    sampling = {
        "merged copy": merged / GB,
        "gathered layers": gathered / GB,
        "cache": 0.0
        if section.engine.startswith("vllm")
        else model.cached(longest) * min(section.batch_size, rows) / GB,
    }
    ddp = processes > 1 and section.sharding == "none"  # which wants policy and critic in one
    learning = {
        "activations": activations * (2 if ddp and section.value == "adapter" else 1) / GB + kept,
        "logits": model.vocabulary * (tokens * share * model.size + 3 * 256 * 4) / GB,
        "gathered layers": gathered * min(1.0, GATHERED / max(1, model.depth)) / GB,
    }
    return {"sampling": parts | sampling, "learning": parts | learning}


def _shared(model: Footprint, sharding: str, processes: int) -> tuple[float, float]:
    """Which share of a model's weights a process has less where its decoder layers are shared out among `processes`, and the bytes of them all,
    which it holds while it samples."""
    if sharding == "none":
        return 0.0, 0.0
    layers = max(model.body - model.vocabulary * model.hidden, 0) / model.numbers
    return layers * (1 - 1 / processes), layers * model.weights


def trainer_needs(
    section: Stepwise, model: Footprint, beside: float, rows: Rows, resident: float, processes: int = 1
) -> dict[str, float]:
    """GB by part of a stage that transformers' Trainer runs, about, as `needs` counts them. `beside`: bytes of the models that are not
    trained, a reference or a reward model."""
    layers, whole = _shared(model, section.sharding, processes)
    here = 1 - layers
    frozen, trained = (model.weights * here, 1.0) if section.tuning == "lora" else (0.0, here)
    parts = {
        "process": resident / GB,
        "weights": (frozen + beside) / GB,
        "training": model.trained * trained * ADAM * 4 / GB,
    }
    sampling = {"cache": model.cached(rows.length) * rows.sampled / GB}
    if rows.sampled:  # with the model's layers gathered
        sampling["gathered layers"] = whole / GB
    learning = {
        "activations": _activations(model, section, rows.tokens, rows.longest) / GB,
        "logits": rows.tokens * model.vocabulary * LOGITS * 4 / GB,
    }
    return parts | max(sampling, learning, key=lambda one: sum(one.values()))


def _activations(model: Footprint, section: Training, tokens: float, longest: int) -> float:
    """Bytes kept between forward and backward; with checkpointing one layer's, and what enters each."""
    if not section.gradient_checkpointing:
        return model.activations(tokens, longest)
    return tokens * model.depth * model.hidden * model.size + model.activations(tokens, longest) / max(model.depth, 1)


def line(config: Config, run: Run, widest: int) -> str:
    """The line to print before PPO starts. Raises ConfigError, before anything is loaded, where it does not fit."""
    section = config.ppo
    try:
        model = policy(config, run.folder("sft"), section)
        beside = scorers(config, run)
    except Exception as error:
        return _not_counted("ppo", error)
    told = check("ppo", needs(config, model, beside, widest, _resident(), run.world_size), *available(run.world_size))
    return f"{told}; {room.check('ppo', config, run, room.of_ppo(config, model))}"


def of_trainer(
    stage: str,
    config: Config,
    run: Run,
    source: str | Path,
    rows: Rows,
    *,
    revision: str | None = None,
    scored: bool = False,
    reference: bool = False,
    kind: Any = None,
) -> None:
    """Print the line before the Trainer of `stage` starts on the model at `source`, on the first process. Raises ConfigError as `line` does.

    `scored`: the score that ppo maximises stands beside the model; `reference`: so does a copy of it where all of it is trained.
    """
    section: Stepwise = config.reward if stage == "gold" else getattr(config, stage)

    def counted() -> str:
        model = policy(config, source, section, revision, kind)
        beside = scorers(config, run, alone=True) if scored else 0.0
        if reference and section.tuning == "full":
            beside += model.weights * (1 - _shared(model, section.sharding, run.world_size)[0])
        parts = trainer_needs(section, model, beside, rows, _resident(), run.world_size)
        told = check(stage, parts, *available(run.world_size))
        return (
            f"{told}; {room.check(stage, config, run, room.of_trainer(section, model, _steps(config, section, rows)))}"
        )

    _tell(stage, run, counted)


def _tell(stage: str, run: Run, counted: Callable[[], str]) -> None:
    """Print the line that `counted` makes, or that it cannot be made, on the first process. Raises ConfigError where the stage does not fit,
    and what the machine refuses: the stage would meet it again."""
    try:
        told = counted()
    except ConfigError:
        raise
    except Exception as error:
        told = _not_counted(stage, error)
    if run.main_process:
        print(told, flush=True)


def _steps(config: Config, section: Stepwise, rows: Rows) -> int:
    """Optimizer steps, about."""
    if not isinstance(section, Supervised):
        return config.ppo.total_episodes // section.batch_size
    epochs = section.num_train_epochs * rows.count / section.batch_size
    return section.max_steps if section.max_steps > 0 else max(1, int(epochs))


def of_asking(
    stage: str,
    config: Config,
    run: Run,
    sources: Sequence[str | Path],
    rows: int,
    length: int,
    count: float,
    engine: str = "transformers",
) -> None:
    """Print the line before a stage that trains nothing asks the models at `sources`, of which two are held at once, for `count` completions
    in all, `rows` at a time and of `length` tokens with their prompts, by `engine`. Raises ConfigError as `line` does."""

    def counted() -> str:
        parts = asking_needs(config, run, sources, rows, length)
        if engine == "vllm":
            parts["engine"] = whole() * config.ppo.vllm_gpu_memory_utilization
        told = check(stage, parts, *available())
        if stage in ("inspect", "rank"):
            return told
        return f"{told}; {room.check(stage, config, run, room.of_samples(count, length), sure=False)}"

    _tell(stage, run, counted)


def asking_needs(config: Config, run: Run, sources: Sequence[str | Path], rows: int, length: int) -> dict[str, float]:
    """GB by part of a stage that asks, as `of_asking` has it."""
    how = _frozen(config)
    model = footprint(config_at(run.folder("sft")), how, None)
    held = sorted(_bytes(one, how) for one in dict.fromkeys(map(str, sources)))[-2:]
    return {
        "process": _resident() / GB,
        "weights": max(sum(held), scorers(config, run, alone=True)) / GB,
        "cache": (model.cached(length) + model.vocabulary * 3 * 4) * rows / GB,
    }


def of_rows(config: Config, run: Run, read: float) -> None:
    """The same before stage data holds the rows of files of `read` bytes."""
    parts = {"process": _resident() / GB, "rows": read * ROWS / GB}
    told = check("data", parts, *available())
    print(f"{told}; {room.check('data', config, run, room.of_rows(read), sure=False)}", flush=True)


def _bytes(source: str, how: Held) -> float:
    """Of the weights at `source` as they are published: their files', where they lie here."""
    files = [*Path(source).glob("model*.safetensors"), *Path(source).glob("pytorch_model*.bin")]
    size = float(sum(path.stat().st_size for path in files))
    return size or weights_of(config_at(source), how)


def policy(
    config: Config, source: str | Path, section: Training, revision: str | None = None, kind: Any = None
) -> Footprint:
    """The model at `source` as `section` trains it: with an adapter on what the recipe's dtype holds, or whole in float32."""
    import torch

    how = _frozen(config) if section.tuning == "lora" else Held(torch.float32)
    lora = section.lora if section.tuning == "lora" else None
    return footprint(config_at(source, revision), how, lora, kind)


def scorers(config: Config, run: Run, alone: bool = False) -> float:
    """Bytes of the reward models of the score that are models of their own; `alone`: even one that could be an adapter on the policy."""
    from transformers import AutoModelForSequenceClassification

    from pipeline.training.roles import reward_on_base

    total = 0.0
    for name in config.ppo.reward_funcs:
        if name == "reward" and config.ppo.tuning == "lora" and not alone and reward_on_base(config, run):
            continue
        if name != "reward" and ":" in name and not Path(name).exists():
            continue  # a function
        folder = run.folder("reward") if name == "reward" else name
        total += weights_of(config_at(folder), _frozen(config), AutoModelForSequenceClassification)
    return total


def _frozen(config: Config) -> Held:
    """How weights that are not trained are held."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Held(pick_dtype(config.dtype, device), quantization=getattr(config, "quantization", None))


def _resident() -> float:
    """Bytes of this process now, where they are of the memory that is counted."""
    import psutil
    import torch

    return 0.0 if torch.cuda.is_available() else float(psutil.Process().memory_info().rss)


def _not_counted(stage: str, error: Exception) -> str:
    """That memory was not counted, and why. Raises what the machine refuses."""
    if sentence(error) is not None:
        raise error
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{stage}: what it needs in memory was not counted, as its model cannot be built without weights ({type(error).__name__}: {reason})"


def check(stage: str, parts: dict[str, float], free: float, where: str) -> str:
    """The line to print, or ConfigError where the stage does not fit. What is resident already is not needed again."""
    total = sum(parts.values())
    shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size >= 0.01)
    if total - parts["process"] > free:
        largest = max((name for name in parts if name != "process"), key=lambda name: parts[name])
        raise ConfigError(
            f"{stage}: needs about {_gb(total)} GB ({shown}) and {_gb(free)} GB are free {where}, most of it for {largest}; "
            f"{_remedy(stage, largest)}"
        )
    return f"{stage}: needs about {_gb(total)} GB ({shown}); {_gb(free)} GB are free {where}"


def _remedy(stage: str, largest: str) -> str:
    """What makes the largest part of a stage's need smaller."""
    ppo, section = stage == "ppo", "reward" if stage == "gold" else stage
    asks = stage in ("compare", "best_of_n", "inspect", "rank")
    rows = "ppo.micro_batch_tokens" if ppo else f"{section}.per_device_train_batch_size"
    further = " or ppo.keep_activations" if ppo else ""
    cache = f"lower {'ppo.per_device_rollout_batch_size' if ppo else f'{section}.batch_size'} or ppo.response_length"
    if asks:
        cache = lower(stage).partition(", compare")[0] + " or ppo.response_length"
    if section in PRETRAINED and largest in ("training", "weights"):
        return f"lower {section}.hidden_size, {section}.num_hidden_layers or {section}.vocab_size"
    return {
        "activations": f"lower {rows}{further}, or set {section}.gradient_checkpointing=true",
        "logits": f"lower {rows}",
        "gathered layers": "set dtype=bfloat16, or take a smaller model",
        "merged copy": "adapt fewer layers (ppo.lora.layers), or set dtype=bfloat16",
        "cache": cache,
        "training": f"set {section}.tuning=lora" + (", or ppo.value=shared" if ppo else " or fewer lora.layers"),
        "weights": "take a smaller model" if asks else "set dtype=bfloat16, or take a smaller model",
        "engine": "lower ppo.vllm_gpu_memory_utilization",
        "broadcast": "start fewer processes (--nproc)",
        "rows": "give data.source fewer rows",
    }[largest]


def _gb(size: float) -> str:
    """Two digits, or all before the point: 0.052, 1.7, 593."""
    return f"{size:.2g}" if size < 100 else f"{size:.0f}"
