"""Does a stage make the same in several processes as in one: weights, logs and samples, however it is shared out and wherever it goes on?

Of two processes here by default; the whole matrix, of four and of two nodes, is slow.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from alike import RECIPE, ROOT, equal, made
from interruption import Stop
from safetensors.torch import load_file
from several import several
from small_walk import manifest

import pipeline.stages.ppo
import pipeline.stages.rft
import pipeline.stages.rloo
import pipeline.training.baselines
import pipeline.training.trainers
import pipeline.training.trl_trainers
from pipeline.artifacts.run import Run
from pipeline.rows.published import prompts
from pipeline.settings.recipe import load
from pipeline.stages import reward
from pipeline.training import fine_tuning
from policies.backbone import load_causal
from policies.template import encode_prompt
from policies.tokenizers import load_tokenizer

BASE = ("data", "sft", "reward")
TRAINERS = ("sft", "reward", "dpo", "kto", "rft")
OURS = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",
    *("sft.tuning=lora", "rft.tuning=lora", "rft.n=4", "reward.normalise_samples=8"),
    *(f"{stage}.learning_rate=1e-3" for stage in TRAINERS),
    *(f"{stage}.batch_size=8" for stage in TRAINERS),
    *(f"{stage}.per_device_train_batch_size=2" for stage in TRAINERS),
    *(f"{stage}.{name}" for stage in TRAINERS for name in ("max_steps=4", "save_steps=1", "logging_steps=1")),
    *("ppo.total_episodes=64", "ppo.batch_size=16", "ppo.num_mini_batches=2", "ppo.micro_batch_tokens=60"),
    *("ppo.response_length=8", "ppo.whiten_rewards=true", "ppo.kl_target=0.1", "ppo.ptx_coef=0.1", "ppo.save_steps=1"),
    *("best_of_n.n=4", "best_of_n.prompts=5", "rloo.batch_size=16", "rloo.per_device_train_batch_size=4"),
    *(f"rloo.{name}" for name in ("learning_rate=3e-4", "save_steps=1", "logging_steps=1")),
    "ppo.eval_prompts=3",  # of which the last of four processes has none
]
WAYS: dict[str, tuple[str, ...]] = {
    "critic": (),
    "shared": ("ppo.value=shared",),
    "trunk": ("ppo.lora.layers=last 1",),
    "recomputed": ("ppo.gradient_checkpointing=true",),
    "whole": ("ppo.tuning=full",),
    "whole-shared": ("ppo.tuning=full", "ppo.value=shared"),
}
"""Ways of stage ppo to learn: name, settings."""


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/whole with what the others are made from, by one process. A third of all tokens ends what rloo and rft sample: else
    nothing would end within eight tokens, and for rloo all would score alike."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (
            pipeline.stages.rft,
            pipeline.stages.rloo,
            pipeline.training.baselines,
            pipeline.training.trl_trainers,
        ):
            patch.setattr(module, "eos_ids", lambda model, tokenizer: list(range(0, len(tokenizer), 3)))
        patch.chdir(tmp_path_factory.mktemp("equal"))
        for stage in BASE:
            made(Path("runs/whole"), stage, OURS)
        yield Path("runs/whole")


def again(name: str, stage: str) -> Path:
    """A run that has what `stage` is made from."""
    for one in BASE[: BASE.index(stage)] if stage in BASE else BASE:
        shutil.copytree(Path("runs/whole") / one, Path("runs") / name / one)
    return Path("runs") / name


def by_one(stage: str, *more: str) -> Path:
    """The run in which one process made `stage`, once for all tests."""
    if stage in BASE and not more:
        return Path("runs/whole")
    name = "-".join(["one", stage, *more]).replace("=", "").replace(" ", "")
    if not (Path("runs") / name / stage).is_dir():
        made(again(name, stage), stage, [*OURS, *more])
    return Path("runs") / name


def shared_out(world: int, sharding: str, stages: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Hold what `world` processes make of each (stage, settings), one after another in one group, against what one makes of it."""
    runs = [(again(f"{world}-{sharding}-{stage}-{n}", stage), stage, more) for n, (stage, more) in enumerate(stages)]

    def work() -> None:
        for run, stage, more in runs:
            made(run, stage, [*OURS, *more, f"{stage}.sharding={sharding}"])

    several(world, work)
    for run, stage, more in runs:
        equal(by_one(stage, *more) / stage, run / stage)
        assert manifest(run / stage)["world_size"] == world


def test_two_processes_make_what_one_makes(walk: Path) -> None:
    """kto, whose loss takes a mean over completions of all processes; dpo and sft, whose figures are means over tokens of all of them."""
    shared_out(2, "none", [("sft", ()), ("kto", ())])


def test_two_that_share_weights_make_what_one_makes(walk: Path) -> None:
    shared_out(2, "frozen", [("ppo", ()), ("rloo", ())])


def test_each_of_two_measures_its_share(walk: Path) -> None:
    """What stage reward normalises on, and the loss before stage sft learns: the half of the rows each, and what one makes of all."""
    tokenizer, config = load_tokenizer(walk / "sft"), load(RECIPE, OURS)
    model = load_causal(walk / "sft", tokenizer, torch.float32)
    turns = [
        (encode_prompt(tokenizer, row.prompt), [5] * (i + 1))
        for i, row in enumerate(prompts(Run("whole"), "train")[:6])
    ]

    def measured() -> tuple[list[Any], float]:
        said = reward._sft_samples(tokenizer, config, Run("whole"), torch.device("cpu"))
        return said, fine_tuning.shared_loss(model, turns, tokenizer, 4)

    said, loss = measured()

    def work() -> None:
        done: list[int] = []
        for module, name in ((reward, "sample"), (fine_tuning, "row_losses")):
            right = getattr(module, name)

            def counting(model: Any, rows: Any, *given: Any, right: Any = right, **more: Any) -> Any:
                done.append(len(rows))
                return right(model, rows, *given, **more)

            setattr(module, name, counting)
        assert measured() == (said, pytest.approx(loss, rel=1e-6))
        assert done == [4, 3]

    several(2, work)


def test_two_processes_sample_many_answers_and_learn_from_groups(walk: Path) -> None:
    """best_of_n, of five prompts; rloo, whose rewards and noise are of all processes."""
    runs = [(again(f"2-{stage}", stage), stage) for stage in ("best_of_n", "rloo")]

    def work() -> None:
        for run, stage in runs:
            made(run, stage, OURS)

    several(2, work)
    for run, stage in runs:
        equal(by_one(stage) / stage, run / stage)
    ours, before = (load_file(at / "model.safetensors") for at in (runs[1][0] / "rloo", walk / "sft"))
    assert max((ours[name] - before[name]).abs().max().item() for name in ours) > 1e-5, "it has learned"


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", ["none", "frozen", "full"])
def test_every_stage(walk: Path, world: int, sharding: str) -> None:
    stages = (*TRAINERS, "rloo")
    shared_out(world, sharding, [(stage, [f"{stage}.tuning=full"] if sharding == "full" else []) for stage in stages])


@pytest.mark.slow
def test_four_sample_many_answers(walk: Path) -> None:
    """Five prompts, of which they have no equal shares."""
    run = again("4-best", "best_of_n")
    several(4, lambda: made(run, "best_of_n", OURS))
    equal(by_one("best_of_n") / "best_of_n", run / "best_of_n")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("sharding", ["none", "frozen", "full"])
def test_every_way_of_ppo(walk: Path, world: int, sharding: str) -> None:
    ways = [more for more in WAYS.values() if sharding != "full" or "ppo.tuning=full" in more]
    shared_out(world, sharding, [("ppo", more) for more in ways])


# Going on


def stopped(after: int, run: Path, stage: str, settings: Sequence[str]) -> None:
    """Make a stage up to an exception in each process once `after` steps are saved."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        report, watching = pipeline.training.trainers.Report, pipeline.stages.ppo.Watching
        saved, progress = report.on_save, watching.progress

        def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
            saved(self, args, state, control, **more)
            if state.global_step == after:
                raise Stop

        def after_iteration(self: Any, done: int) -> None:
            progress(self, done)
            if done == after:
                raise Stop

        patch.setattr(report, "on_save", on_save)
        patch.setattr(watching, "progress", after_iteration)
        made(run, stage, settings)


def goes_on(stage: str, ways: Sequence[tuple[int, str]], more: Sequence[str] = ()) -> None:
    """Make `stage` a step in each of (processes, sharding), the last to the end; hold it against what one process makes of it."""
    run = again("-".join(["on", stage, *(f"{world}{sharding}" for world, sharding in ways)]), stage)
    for step, (world, sharding) in enumerate(ways, start=1):
        settings = [*OURS, *more, f"{stage}.sharding={sharding}"]

        def work(step: int = step, settings: Sequence[str] = settings) -> None:
            if step < len(ways):
                stopped(step, run, stage, settings)
            else:
                made(run, stage, settings)

        if world == 1:
            work()
        else:
            several(world, work)
        assert (run / stage).is_dir() == (step == len(ways))
    equal(by_one(stage, *more) / stage, run / stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*TRAINERS, "ppo", "rloo"])
def test_more_processes_go_on_and_fewer_do(walk: Path, stage: str) -> None:
    goes_on(stage, [(1, "none"), (2, "none"), (4, "frozen"), (1, "none")])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_shares_of_all_weights_go_on_and_are_gone_on_from(walk: Path, stage: str) -> None:
    goes_on(stage, [(1, "none"), (2, "full"), (4, "full"), (2, "none")], [f"{stage}.tuning=full"])


@pytest.mark.slow
def test_another_sharding_goes_on(walk: Path) -> None:
    goes_on("ppo", [(2, "none"), (4, "frozen"), (2, "full"), (2, "none")], ["ppo.tuning=full"])


# Nodes


@pytest.mark.slow
def test_two_nodes_make_what_one_process_makes(walk: Path) -> None:
    """torchrun on each, which meet on the loopback and share runs/; two processes each."""
    run = again("nodes", "ppo")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC"}
    environment = {k: v for k, v in os.environ.items() if k not in single}
    environment |= {"PYTHONPATH": str(ROOT), "PIPELINE_RUN": run.name, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "2"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    stage = ["-m", "pipeline", "ppo", RECIPE, *OURS]
    nodes = [
        subprocess.Popen([*launch, "--node_rank", rank, *stage], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    told = [node.communicate(timeout=500)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(told)[-4000:]
    equal(by_one("ppo") / "ppo", run / "ppo")
    assert manifest(run / "ppo")["world_size"] == 4
