"""Do the files that start a stage on many GPUs start it? Up to the device's door: on CPUs of this machine, which play the nodes.

What a GPU would do behind that door was not tried, and no image was built: the Dockerfile is read here, no more.
"""

import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pasting
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from promises import code

from pipeline.training.launcher import PREFIX, SPLITS

ROOT = Path(__file__).resolve().parents[2]
ACCELERATE = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))
SLURM, SKY = ROOT / "recipes/cluster/slurm.sh", ROOT / "recipes/cluster/sky.yaml"
RECIPE = f"""
model: tiny-random
force: true
data: {{source: {ROOT}/data/smoke.jsonl, eval_fraction: 0.25, max_length: 64}}
sft: {{tuning: full, batch_size: 8, per_device_train_batch_size: 4, max_steps: 2, max_new_tokens: 4, eval_rows: 4}}
"""


def sky() -> dict[str, Any]:
    return yaml.safe_load(SKY.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configs(path: Path) -> None:
    """As accelerate itself reads them, which refuses a key that it does not know; and nothing in them asks for what a stage refuses."""
    config: Any = load_config_from_file(str(path))
    assert config.distributed_type == "MULTI_GPU" and config.mixed_precision == "no" and not config.use_cpu
    assert config.num_processes == 8 * config.num_machines
    split = (config.deepspeed_config, config.fsdp_config, config.megatron_lm_config, config.parallelism_config)
    assert not any(split) and len(SPLITS) == len(split) and PREFIX


def test_what_a_shell_runs_is_well_formed() -> None:
    for script in (SLURM.read_text(encoding="utf-8"), sky()["run"], sky()["setup"]):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0 and done.stderr == ""
    assert os.access(SLURM, os.X_OK)


def test_sky_asks_for_what_its_command_reads() -> None:
    """Every variable of `run` is one of SkyPilot's or of the file's own; results outlive the machines."""
    task = sky()
    read = set(re.findall(r"\$\{?([A-Z_]+)", task["run"]))
    given = {"SKYPILOT_NODE_IPS", "SKYPILOT_NUM_NODES", "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_NODE_RANK"}
    assert read - given - {"PYTHON", "PORT"} == set(task["envs"]) - {
        "PIPELINE_RUN"
    }  # which the command line reads itself
    assert task["num_nodes"] == 2 and any(path.endswith("/runs") for path in task["file_mounts"])


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_dockerfile_copies_what_is_there() -> None:
    """Linted by reading: every instruction is one of Docker's, every variable is declared before it is read, every file exists, and what
    is copied holds all packages that pyproject.toml installs."""
    found = instructions()
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known and [name for name, _ in found][:2] == ["ARG", "FROM"]
    declared = set[str]()
    for name, rest in found:
        read = set(re.findall(r"\$\{?([A-Z_]+)", rest)) - {"PATH"}
        assert read <= declared, (name, rest)
        declared |= {rest.partition("=")[0]} if name == "ARG" else set()
    copied = [source for name, rest in found if name == "COPY" for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"data", "policies", "reward", "pipeline", "pyproject.toml", "constraints.txt"} <= set(copied)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==", pinned, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", "runs", ".git"} <= set(ignored) and not set(copied) & set(ignored)


def lines() -> list[str]:
    """Every command of docs/scale.md."""
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    found = [line for line in code(text) if re.match(r"(make|python|accelerate|sbatch|sky|docker|torchrun) \S", line)]
    return [line for line in found if "…" not in line]


@pytest.mark.parametrize("line", lines())
def test_a_command_of_the_page_would_be_taken(line: str) -> None:
    """By the program that it starts, as far as that is here, and by our command line."""
    program, *words = shlex.split(line)
    stage: list[str] = []
    if program == "make":
        given = {word.partition("=")[0] for word in words} - {"plan"}
        assert words[0] in pasting.known()[0] and given <= {*pasting.known()[1], "GPUS", "GPU", "PRICE", "TOKENS", *words}  # fmt: skip
        pasting.check(shlex.join(word for word in [program, *words] if "=" not in word or word.startswith("RECIPE")))
    elif program == "python":
        assert words[0] == "-m" and importlib.util.find_spec(words[1]) is not None
    elif program == "accelerate":
        assert words[0] == "launch"
        parsed = launch_command_parser().parse_args(words[1:])
        assert parsed.module and parsed.training_script == "pipeline" and Path(ROOT, parsed.config_file) in ACCELERATE
        stage = parsed.training_script_args
    elif program == "sbatch":
        at = words.index(str(SLURM.relative_to(ROOT)))
        assert all(option in ("--nodes", "--gpus-per-node") for option in words[:at:2])
        stage = words[at + 1 :]
    elif program == "sky":
        assert words[0] == "launch" and str(SKY.relative_to(ROOT)) in words
        given = dict(word.split("=", 1) for word in words if "=" in word)
        assert given.keys() <= sky()["envs"].keys()
        stage = [given["STAGE"], given["RECIPE"]]
    else:
        assert line == "docker manifest inspect ubuntu:24.04"
    if stage:
        pasting.check(shlex.join(["python", "-m", "pipeline", *stage]))
    recipes = [word.partition("=")[2] or word for word in words if "recipes/" in word]
    assert all((ROOT / path).exists() for path in recipes), line


def test_the_page_has_commands() -> None:
    assert {line.split()[0] for line in lines()} >= {"make", "python", "accelerate", "sbatch", "sky"}


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder, with stage data of a run."""
    made = tmp_path_factory.mktemp("cluster")
    (made / "small.yaml").write_text(RECIPE, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pipeline", "data", "small.yaml"], cwd=made, env=clean(), check=True)
    return made


def clean(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SKYPILOT", PREFIX))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | more


def nodes(folder: Path, commands: list[tuple[list[str], dict[str, str]]]) -> str:
    """Start a command on each node, and read what the first says at its end; all of them have to end well."""
    started = [
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command, environment in commands
    ]  # fmt: skip
    told = [one.communicate(timeout=540)[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(started), "\n---\n".join(told)
    return "\n".join(told)


def made_by_two(folder: Path, said: str) -> None:
    """The stage is there, and two processes made it; it is put aside for the next."""
    assert "sft: runs/small/sft: " in said
    manifest = (folder / "runs/small/sft/manifest.json").read_text(encoding="utf-8")
    assert re.search(r'"world_size": 2', manifest), manifest[:3000]


@pytest.mark.slow
def test_slurm_starts_a_stage_on_two_nodes(folder: Path, tmp_path: Path) -> None:
    """srun and scontrol are stand-ins: the one starts the command of each node, the other says what the first is called."""
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\necho 127.0.0.1\n", encoding="utf-8")
    srun = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"$@" & one=$!\n"$@" & two=$!\nwait $one && wait $two\n'
    (tmp_path / "srun").write_text(srun, encoding="utf-8")
    for name in ("scontrol", "srun"):
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1"}
    environment = clean(PATH=f"{tmp_path}:{os.environ['PATH']}", PORT=free_port(), **given)
    made_by_two(folder, nodes(folder, [([str(SLURM), "sft", "small.yaml", "seed=1"], environment)]))


@pytest.mark.slow
def test_sky_starts_a_stage_on_two_nodes(folder: Path) -> None:
    port = free_port()
    both = []
    for rank in "01":
        given = {"SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": rank}
        given |= {
            "SKYPILOT_NUM_GPUS_PER_NODE": "1",
            "PORT": port,
            "STAGE": "sft",
            "RECIPE": "small.yaml",
            "RUN": "small",
        }
        both.append((["bash", "-c", sky()["run"]], clean(**given)))
    made_by_two(folder, nodes(folder, both))


@pytest.mark.slow
@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_starts_a_stage(folder: Path, path: Path) -> None:
    """As the file says but for the number of processes, two in all, and the port."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), "--num_processes", "2"]
    launch += ["--main_process_port", free_port()]
    count = load_config_from_file(str(path)).num_machines  # type: ignore[union-attr]
    stage = ["-m", "pipeline", "sft", "small.yaml", f"seed={10 + count}"]
    ranks = [["--machine_rank", str(rank)] if count > 1 else [] for rank in range(count)]
    made_by_two(folder, nodes(folder, [([*launch, *rank, *stage], clean()) for rank in ranks]))
