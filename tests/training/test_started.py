"""Is a launcher followed in what it was asked for, or refused in one sentence? Never silently one process, nor a model that is not split."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import Call
from pipeline.running import make, make_all
from pipeline.settings.config import ConfigError
from pipeline.training.launcher import asked_by, check_started, launched_with

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
HEAD = "compute_environment: LOCAL_MACHINE\nmixed_precision: 'no'\nnum_machines: 1\nmachine_rank: 0\nmain_training_function: main\nrdzv_backend: static\nsame_network: true\n"
CONFIGS = {
    "cpu": "distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n",
    "no": "distributed_type: 'NO'\nnum_processes: 2\nuse_cpu: true\n",
    "one": "distributed_type: 'NO'\nnum_processes: 1\nuse_cpu: true\n",
    "gpu": "distributed_type: MULTI_GPU\nnum_processes: 2\nuse_cpu: false\n",
    "fsdp": "distributed_type: FSDP\nnum_processes: 2\nuse_cpu: false\nfsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: true}\n",
    "deepspeed": "distributed_type: DEEPSPEED\nnum_processes: 2\nuse_cpu: false\ndeepspeed_config: {zero_stage: 2, gradient_accumulation_steps: 1}\n",
    "megatron": "distributed_type: MEGATRON_LM\nnum_processes: 2\nuse_cpu: false\nmegatron_lm_config: {megatron_lm_tp_degree: 2}\n",
}  # fmt: skip
REST = ["-m", "pipeline", "sft", str(SMOKE)]


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configs of accelerate, where no user has one of their own."""
    for name, text in CONFIGS.items():
        (tmp_path / f"{name}.yaml").write_text(HEAD + text)
    import accelerate.commands.config.config_args as found

    monkeypatch.setattr(found, "default_config_file", str(tmp_path / "default_config.yaml"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "processes", "split"),
    [
        ("--config_file cpu.yaml", 2, ""),
        ("--config_file no.yaml", 2, ""),
        ("--config_file one.yaml", 1, ""),
        ("--config_file one.yaml --num_processes 2", 2, ""),
        ("--config_file cpu.yaml --num_processes 1", 1, ""),
        ("--config_file=fsdp.yaml", 2, "FSDP"),
        ("--config_file fsdp.yaml --cpu", 2, "FSDP"),
        ("--config_file fsdp.yaml --multi_gpu", 2, ""),  # as accelerate does, which heeds the option
        ("--config_file deepspeed.yaml", 2, "DeepSpeed"),
        ("--config_file megatron.yaml", 2, "Megatron-LM"),
        ("--use_deepspeed --zero_stage 2 --num_processes 2", 2, "DeepSpeed"),
        ("--use_fsdp --num_processes 2", 2, "FSDP"),
        ("--cpu --num_processes 2", 2, ""),
        ("--num_processes 4 --num_machines 2 --machine_rank 1", 4, ""),
        ("", 1, ""),
    ],
)
def test_what_accelerate_launch_is_asked_for(configs: Path, options: str, processes: int, split: str) -> None:
    found = asked_by([*options.split(), *REST], str(configs))
    assert (found.processes, found.split) == (processes, split)


def test_a_users_own_config_counts_as_accelerate_lets_it(configs: Path) -> None:
    (configs / "cpu.yaml").rename(configs / "default_config.yaml")
    assert asked_by(REST, str(configs)).processes == 2
    assert asked_by(["--cpu", *REST], str(configs)).processes == 1  # beside which it is not read
    assert asked_by(["--num_processes", "1", *REST], str(configs)).processes == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/v/bin/python /v/bin/accelerate launch --cpu x.py", "--cpu x.py"),
        ("/v/bin/python /v/bin/accelerate-launch x.py", "x.py"),
        ("python -m accelerate.commands.launch --cpu x.py", "--cpu x.py"),
        ("python /v/site-packages/accelerate/commands/launch.py x.py", "x.py"),
        ("python -m accelerate.commands.accelerate_cli launch x.py", "x.py"),
        ("python /v/bin/accelerate config", None),
        ("python -m pipeline sft recipes/smoke.yaml", None),
        ("bash", None),
    ],
)
def test_a_command_line_of_accelerate_launch_is_known(line: str, found: str | None) -> None:
    assert launched_with(line.split()) == (None if found is None else found.split())


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("WORLD_SIZE=2", "WORLD_SIZE=2 says .*RANK, MASTER_ADDR, MASTER_PORT is not set.*--nproc 2.*unset WORLD_SIZE"),
        ("WORLD_SIZE=2 RANK=0 MASTER_ADDR=a", "MASTER_PORT is not set"),
        ("OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_SIZE=4: mpirun started 4 processes.*--nproc 4.*unset OMPI_COMM_WORLD_SIZE"),
        ("PMI_SIZE=2", "PMI_SIZE=2: mpirun"),
        ("MV2_COMM_WORLD_SIZE=2", "MV2_COMM_WORLD_SIZE=2: mpirun"),
        ("SLURM_STEP_NUM_TASKS=8", "SLURM_STEP_NUM_TASKS=8: srun started 8 processes"),
        ("SLURM_STEP_NUM_TASKS=1 WORLD_SIZE=1", None),
        ("SLURM_STEP_NUM_TASKS=2 WORLD_SIZE=16 RANK=0 MASTER_ADDR=a MASTER_PORT=1", None),  # srun starts torchrun
        ("WORLD_SIZE=", None),
        ("", None),
    ],
)  # fmt: skip
def test_who_else_starts_several_processes_is_named(environment: str, message: str | None) -> None:
    given = dict(word.split("=", 1) for word in environment.split())
    for one_process in (True, False):
        if message is None:
            check_started(one_process, given)
        else:
            with pytest.raises(ConfigError, match=message):
                check_started(one_process, given)


def test_processes_that_would_each_start_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--nproc 2 starts processes itself, and a launcher started 2"):
        make("sft", Call.of(SMOKE, "r", [], asked="sft", nproc=2))
    with pytest.raises(ConfigError, match="all starts the processes of each stage itself, and a launcher started 2"):
        make_all(Call.of(SMOKE, "r", [], asked="all"))
    with pytest.raises(ConfigError, match="sft starts the processes of each stage itself"):
        make("sft", Call.of(SMOKE, "r", [], asked="sft", seeds=2))
    with pytest.raises(
        ConfigError, match="^data is the work of one process, and a launcher started 2; without it, run: "
    ):
        make("data", Call.of(SMOKE, "r", [], asked="data"))


REFUSED = {
    "cpu": r"error: \S*cpu.yaml asks for 2 processes, and accelerate launch started 1, .* --nproc 2, .*",
    "no": r"error: \S*no.yaml asks for 2 processes, and accelerate launch started 1, .*",
    "fsdp": r"error: \S*fsdp.yaml asks for FSDP, which would split the model .* set the stage's sharding",
    "megatron": r"error: \S*megatron.yaml asks for Megatron-LM, which would split .*",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REFUSED, "one"])
def test_accelerate_launch_for_real(configs: Path, name: str) -> None:
    """Each process says it, and accelerate adds its own report. What is honoured gets further: to the data that is missing."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{name}.yaml", *REST]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=200)
    told = REFUSED.get(name, r"error: no finished data in runs/smoke; .*")
    assert done.returncode and re.search(f"^{told}$", done.stderr, re.MULTILINE), done.stderr
    assert not list(configs.glob("runs/*/sft*"))
