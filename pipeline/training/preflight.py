"""Will it fit? What a PPO run needs in memory, counted from shapes before anything is loaded, and what there is."""

from pathlib import Path
from typing import Any

from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, ConfigError
from policies.episodes import ROLLOUT_BATCH
from policies.precision import pick_dtype
from policies.quick.activations import kept_numbers

GB = 1e9
ADAM = 4  # float32 numbers for each trained weight: itself, its gradient, two moments


def needs(
    config: Config,
    shape: Any,
    rides_on_base: bool,
    widest: int,
    resident: float,
    frozen_bytes: int,
    processes: int = 1,
) -> dict[str, float]:
    """GB by part, about: what is resident now, weights of all roles, what training adds, and what either sampling or learning takes
    beside them, whichever is more: the other finds its memory free.

    `shape` is the transformers config of the policy; `rides_on_base` says that the reward model is an adapter on it; `widest` is the
    longest prompt in tokens, `resident` the process's bytes now, `frozen_bytes` those of one frozen number. With several `processes` policy
    and critic are differentiated together.
    """
    section, text = config.ppo, shape.get_text_config()
    hidden, inner, layers, vocabulary = (
        text.hidden_size,
        getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        text.num_hidden_layers,
        text.vocab_size,
    )
    heads = text.num_attention_heads
    kv = hidden * (getattr(text, "num_key_value_heads", None) or heads) // heads
    matrices = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner
    outside = vocabulary * hidden * (1 if getattr(text, "tie_word_embeddings", False) else 2)
    adapted = layers
    if section.tuning == "lora" and section.lora.layers is not None:
        adapted = min(layers, int(section.lora.layers.split()[1]))
    model = matrices * layers + outside
    learned_reward = "reward" in section.reward_funcs
    parts = {"process": resident / GB}
    if section.tuning == "lora":
        lora = section.lora.r * adapted * (4 * hidden + 2 * (hidden + kv) + 3 * (hidden + inner))
        merged = matrices * adapted if frozen_bytes == 4 or section.engine != "transformers" else 0
        parts["weights"] = (model + (model if learned_reward and not rides_on_base else 0)) * frozen_bytes / GB
        trained = lora * (2 if section.value == "adapter" else 1)
    else:
        critic = matrices * layers + vocabulary * hidden if section.value == "adapter" else 0
        parts["weights"] = (model + (model if learned_reward else 0)) * 4 / GB  # the reference, and the reward model
        trained, merged = model + critic, 0
    parts["training"] = trained * ADAM * 4 / GB
    number = 4 if section.tuning == "full" else frozen_bytes
    a_token = kept_numbers(text, adapted) * number
    tokens = max(section.micro_batch_tokens, widest + section.response_length)
    kept = section.keep_activations if section.num_mini_batches == 1 and processes == 1 else 0.0
    if number == 4 and section.engine == "transformers":
        kept = 0.0  # the rollout's log-probabilities serve: nothing is run twice, so nothing is kept
    if section.gradient_checkpointing:
        a_token = adapted * hidden * number + kept_numbers(text, 1) * number
    completion_share = section.response_length / max(section.response_length + widest, 1)
    cached = 2 * layers * kv * min(section.batch_size, ROLLOUT_BATCH) * (widest + section.response_length)
    sampling = {"merged copy": merged * frozen_bytes / GB, "cache": cached * frozen_bytes / GB}
    learning = {
        "activations": a_token * tokens * (2 if processes > 1 and section.value == "adapter" else 1) / GB + kept,
        "logits": vocabulary * (tokens * completion_share * number + 3 * 256 * 4) / GB,
    }
    return parts | max(sampling, learning, key=lambda one: sum(one.values()))


def line(config: Config, run: Run, widest: int) -> str:
    """The line to print before PPO starts. Raises ConfigError, before anything is loaded, where it does not fit."""
    import psutil
    import torch
    from transformers import AutoConfig

    from pipeline.training.roles import reward_on_base

    on_base = reward_on_base(config, run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resident = float(psutil.Process().memory_info().rss) if device.type == "cpu" else 0.0
    shape = AutoConfig.from_pretrained(str(run.folder("sft")))
    return check(
        needs(config, shape, on_base, widest, resident, pick_dtype(config.dtype, device).itemsize, run.world_size),
        *available(),
    )


def available() -> tuple[float, str]:
    """GB that this process may still take, and where: of the first GPU, else of the machine or its control group."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / GB, "on the GPU"
    free = float(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (ceiling := limit.read_text().strip()) != "max":
        free = min(free, float(ceiling) - float(used.read_text()))
    return free / GB, "here"


def check(parts: dict[str, float], free: float, where: str) -> str:
    """The line to print, or ConfigError where the run does not fit. What is resident already is not needed again."""
    total = sum(parts.values())
    shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size >= 0.01)
    if total - parts["process"] > free:
        largest = max((name for name in parts if name != "process"), key=lambda name: parts[name])
        remedy = {
            "activations": "lower ppo.micro_batch_tokens or ppo.keep_activations, or set ppo.gradient_checkpointing=true",
            "logits": "lower ppo.micro_batch_tokens",
            "merged copy": "adapt fewer layers (ppo.lora.layers), or set dtype=bfloat16",
            "cache": "lower ppo.batch_size or ppo.response_length",
            "training": "set ppo.tuning=lora, or ppo.value=shared",
            "weights": "set dtype=bfloat16, or take a smaller model",
        }[largest]
        raise ConfigError(
            f"ppo: needs about {_gb(total)} GB ({shown}) and {_gb(free)} GB are free {where}, most of it for {largest}; {remedy}"
        )
    return f"ppo: needs about {_gb(total)} GB ({shown}); {_gb(free)} GB are free {where}"


def _gb(size: float) -> str:
    """Two digits, or all before the point: 0.052, 1.7, 593."""
    return f"{size:.2g}" if size < 100 else f"{size:.0f}"
