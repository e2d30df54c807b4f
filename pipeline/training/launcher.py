"""What may a user's accelerate decide? In which processes a stage runs, and none of its numbers: those are the recipe's."""

import os
from collections.abc import Mapping, MutableMapping

from pipeline.settings.config import ConfigError

PREFIX = "ACCELERATE_"
SPLITS = {
    "USE_DEEPSPEED": "DeepSpeed",
    "USE_FSDP": "FSDP",
    "USE_MEGATRON_LM": "Megatron-LM",
    "USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What would split a model among processes, whose weights and states the stages read and write whole."""

DECIDED = {
    "MIXED_PRECISION": ("no", "set dtype"),
    "GRADIENT_ACCUMULATION_STEPS": ("1", "set batch_size and per_device_train_batch_size"),
    "DYNAMO_BACKEND": ("no", "nothing is compiled here"),
    "USE_CPU": ("false", "set CUDA_VISIBLE_DEVICES"),
    "TORCH_DEVICE": ("", "set CUDA_VISIBLE_DEVICES"),
}
"""What accelerate or transformers.TrainingArguments reads and a stage would compute otherwise by: (what changes nothing, what
decides instead). Every other variable acts only through one of these, or splits a model."""

KEPT = ("DEBUG_MODE", "LOG_LEVEL", "CPU_AFFINITY")  # change no number


def own_settings(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Take accelerate's variables out of the environment, so that neither an Accelerator nor a Trainer reads them; the line to
    print where one of them would have changed what is computed. `accelerate launch` sets them from the user's default config.

    Raises ConfigError where a model was to be split among processes.
    """
    _check_whole(environment)
    found = {
        name.removeprefix(PREFIX): environment.pop(name)
        for name in sorted(environment)
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in KEPT
    }
    told = [
        f"{PREFIX}{name}={found[name]} ({instead})"
        for name, (neutral, instead) in DECIDED.items()
        if found.get(name, neutral).lower() not in ("", neutral)
    ]
    return f"accelerate: not followed, as the recipe decides: {', '.join(told)}" if told else None


def _check_whole(environment: Mapping[str, str]) -> None:
    for name, what in SPLITS.items():
        value = environment.get(PREFIX + name, "")
        if value.strip().lower() in ("1", "true", "t", "yes", "y", "on"):
            raise ConfigError(
                f"{PREFIX}{name}={value}: {what} would split the model among processes, and no stage follows that; "
                "unset it, start the stage with --nproc, and set the stage's sharding"
            )
