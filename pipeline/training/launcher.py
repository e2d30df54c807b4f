"""What may a user's launcher decide? In which processes a stage runs, and none of its numbers: those are the recipe's.

torchrun, and accelerate launch where it starts several processes by it, are followed. What else asks for several processes, or for a model that is
split among them, is refused: a stage would be made by one process, or unsplit, and say nothing.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

OTHERS = {
    "PMI_SIZE": "mpirun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
"""Who else starts several processes, by the variable that says how many."""

REFUSED = "would split the model among processes, and no stage follows that; unset it, start the stage with --nproc, and set the stage's sharding"
INSTEAD = "start the stage with --nproc {0}, or torchrun --nproc_per_node {0}"
FLAGS = ("multi_gpu", "tpu", "tpu_use_cluster", "use_deepspeed", "use_fsdp", "use_megatron_lm")
"""Options of accelerate launch beside which it does not heed the distributed_type of a config."""

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


def check_started(one_process: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError where a launcher was asked for several processes, or for a model split among them, and this process is not what
    it was asked for. To be called before anything is made. `one_process`: more do not take part in the stage, so it is enough that there
    are no more."""
    world, said = (
        int(environment.get("WORLD_SIZE") or 1),
        [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)],
    )
    if world > 1 and said:
        raise ConfigError(
            f"WORLD_SIZE={world} says that there are several processes, and {', '.join(said)} is not set, so they do not find each other; "
            f"{INSTEAD.format(world)}, or unset WORLD_SIZE"
        )
    for name, who in OTHERS.items() if world == 1 else ():
        if (asked := environment.get(name, "")).isdigit() and int(asked) > 1:
            raise ConfigError(
                f"{name}={asked}: {who} started {asked} processes, of which each would make the stage alone; {INSTEAD.format(asked)}, or unset "
                f"{name} where each is to make a run of its own"
            )
    for asked_for in () if one_process else _asked_of_accelerate():
        if asked_for.split:
            raise ConfigError(f"{asked_for.where} asks for {asked_for.split}, which {REFUSED}")
        if asked_for.processes > world:
            raise ConfigError(
                f"{asked_for.where} asks for {asked_for.processes} processes, and accelerate launch started {world}, as it does on CPUs where "
                f"MPI does not start them; {INSTEAD.format(asked_for.processes)}"
            )


@dataclass(frozen=True)
class Asked:
    """What accelerate launch was asked for."""

    where: str  # its command line or its config
    processes: int
    split: str  # what would split a model; empty: nothing


def _asked_of_accelerate() -> Iterator[Asked]:
    """What accelerate launch was asked for, if this process, or one above it, was started by it."""
    import psutil

    for parent in psutil.Process().parents():
        try:
            line, folder = parent.cmdline(), parent.cwd()
        except psutil.Error:  # another user's, or gone
            continue
        if (options := launched_with(line)) is not None:
            yield asked_by(options, folder)
            return


def launched_with(line: Sequence[str]) -> list[str] | None:
    """The options of accelerate launch in a command line that is its own; None in another."""
    for at, word in enumerate(line):
        path = Path(word)
        if (
            word == "accelerate.commands.launch"
            or path.name == "accelerate-launch"
            or path.parts[-2:] == ("commands", "launch.py")
        ):
            return list(line[at + 1 :])
        if (path.name == "accelerate" or word.startswith("accelerate.commands.accelerate")) and line[
            at + 1 : at + 2
        ] == ["launch"]:
            return list(line[at + 2 :])
    return None


def asked_by(options: Sequence[str], folder: str) -> Asked:
    """What `options` of accelerate launch, given in `folder`, ask for, with the config that they name or the user's own."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given: Any = launch_command_parser().parse_args(list(options))
    path = Path(folder, given.config_file) if given.config_file else Path(default_config_file)
    config: Any = load_config_from_file(str(path)) if path.is_file() and (given.config_file or not given.cpu) else None
    split = [what for name, what in SPLITS.items() if getattr(given, name.lower(), False)]
    if config is not None and not any(getattr(given, name, False) for name in FLAGS):
        kind = str(getattr(config.distributed_type, "value", config.distributed_type))
        split += [what for name, what in SPLITS.items() if name == f"USE_{kind}"]
        split += [SPLITS["USE_PARALLELISM_CONFIG"]] if getattr(config, "parallelism_config", None) else []
    processes = given.num_processes or getattr(config, "num_processes", None) or 1
    by_option = config is None or given.num_processes or any(getattr(given, name.lower(), False) for name in SPLITS)
    return Asked("accelerate launch" if by_option else str(path), int(processes), " and ".join(split))


def _check_whole(environment: Mapping[str, str]) -> None:
    for name, what in SPLITS.items():
        value = environment.get(PREFIX + name, "")
        if value.strip().lower() in ("1", "true", "t", "yes", "y", "on"):
            raise ConfigError(f"{PREFIX}{name}={value}: {what} {REFUSED}")
