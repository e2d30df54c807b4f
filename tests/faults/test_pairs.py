"""Do two that work in one run at once know of each other? Two makers, a maker and who removes, a maker and a reader: told, never mixed.

The stages here are of a few lines, and wait where they are told to, so that each pair meets at the moment that is meant.
"""

import importlib
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import REWARDS, Forked, copied, forked, resumed, start

from pipeline.artifacts import cleaning, overview
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Gate, at_least, check
from pipeline.artifacts.ownership import held
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.artifacts.unchanged import unchanged
from pipeline.commands import Call
from pipeline.running import make_one

TOLD = r"error: runs/r/{0} is being made by process \d+ on {1} since 20\S+; wait until it is done, or stop that process first\n"
HOST = re.escape(socket.gethostname())


def stage_of(name: str) -> Any:
    """A stage that reads its parents, says that it has begun, and publishes once the file `go` is there, or that of its name."""

    def run(config: Any, run: Run) -> Any:
        begun = [run.require(parent, force=True) for parent in PARENTS[name]]
        made = working_folder(run, name, config) / "made"
        made.mkdir(exist_ok=True)
        Path(f"begun-{run.folder(name).name}").touch()
        deadline = time.monotonic() + 30
        while not Path("go").exists() and not Path(f"go-{name}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        read = [(run.folder(parent) / "rows").read_text() for parent in PARENTS[name]]
        (made / "rows").write_text(f"{name} of seed {config.seed} from {read} {len(begun)}\n")
        gate = Gate([check("rows", 1.0, must=at_least(1))])
        return publish(run, name, config, made, tokenizer="f" * 64, model={}, dtype="float32", metrics={}, gate=gate)

    return SimpleNamespace(run=run, summary=lambda manifest, run: f"{name}: made")


PARENTS: dict[str, tuple[str, ...]] = {
    "data": (), "sft": ("data",), "reward": ("data", "sft"), "ppo": ("data", "sft", "reward"), "dpo": ("data", "sft"),
    "compare": ("data", "sft", "reward", "ppo"),
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["World"]:
    right = importlib.import_module
    fake = {f"pipeline.stages.{name}": stage_of(name) for name in PARENTS}
    quiet = SimpleNamespace(quiet=lambda: None, base_model=lambda config: None)
    fake |= {"pipeline.training.context": quiet, "pipeline.pages.index": SimpleNamespace(write=lambda run: None)}
    monkeypatch.setattr("pipeline.running.importlib.import_module", lambda name: fake.get(name) or right(name))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    found = World(tmp_path)
    yield found
    for one in found.started:
        if one.code is None:
            os.kill(one.pid, signal.SIGKILL)
            one.wait()


class World:
    """Folders of their own, a pair each, and what was started in them."""

    def __init__(self, root: Path):
        self.root, self.folder, self.started = root, root, list[Forked]()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """A folder for one pair."""
        self.folder = self.root / re.sub(r"\W+", "-", name)
        self.folder.mkdir()
        shutil.copy(self.root / "rows.jsonl", self.folder)
        (self.folder / "recipe.yaml").write_text("model: tiny-random\ndata:\n  source: rows.jsonl\n")
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)

    def make(self, stage: str, *settings: str, run: str = "r", further: int = 0) -> Forked:
        call = Call.of("recipe.yaml", run, settings, asked=stage)
        one = forked(self.folder, lambda: make_one(stage, call, further))
        self.started.append(one)
        return one

    def begun(self, stage: str, folder: str = "") -> Forked:
        """A stage that has begun, and waits."""
        one = self.make(stage, further=int(folder.rpartition("_")[2] or 0))
        self.until(f"begun-{folder or stage}")
        return one

    def until(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} never came: {[one.told for one in self.started]}"
            time.sleep(0.01)

    def prepared(self, *stages: str, run: str = "r") -> None:
        (self.folder / "go").touch()
        for stage in stages:
            one = self.make(stage, run=run)
            assert one.wait() == 0, one.told
        for path in [self.folder / "go", *self.folder.glob("begun-*")]:
            path.unlink()

    def go(self, *makers: Forked) -> None:
        (self.folder / "go").touch()
        for maker in makers:
            assert maker.wait() == 0, maker.told

    def whole(self, *stages: str) -> None:
        run = Run("r")
        for stage in stages:
            run.require(stage, force=True)
        assert not list(Path("runs/r").glob("*.partial"))


def refused(one: Forked, pattern: str) -> None:
    assert one.wait() == 2 and re.fullmatch(pattern, one.told), (one.code, one.told)


@pytest.mark.slow
def test_two_makers_of_one_run(world: World, tally: Callable) -> None:  # type: ignore[type-arg]
    with tally("pairs") as cases:
        for stage, before in (("data", ()), ("sft", ("data",)), ("ppo", ("data", "sft", "reward"))):
            with cases(f"{stage} beside {stage}"), world.alone(f"two {stage}"):
                world.prepared(*before)
                first = world.begun(stage)
                refused(world.make(stage), TOLD.format(stage, HOST))
                refused(world.make(stage, "seed=7"), TOLD.format(stage, HOST))  # of other settings
                world.go(first)
                world.whole(stage, *before)
                assert "seed 0" in Path(f"runs/r/{stage}/rows").read_text()
        with cases("six at the same moment"), world.alone("six"):
            world.prepared("data")
            six = [world.make("sft", f"seed={number}") for number in range(6)]
            world.until("begun-sft")
            time.sleep(0.3)
            (world.folder / "go").touch()
            codes = [one.wait() for one in six]
            assert codes.count(0) >= 1 and {0, 2} >= set(codes), codes
            assert all(re.fullmatch(TOLD.format("sft", HOST), one.told) for one in six if one.code), [
                o.told for o in six
            ]
            world.whole("data", "sft")
        with cases("seeds beside each other"), world.alone("seeds"):
            world.prepared("data", "sft", "reward")
            world.go(world.begun("ppo"), world.begun("ppo", "ppo_seed_1"))
            world.whole("ppo", "ppo_seed_1")
        with cases("a seed beside the same seed"), world.alone("seed"):
            world.prepared("data", "sft", "reward")
            first = world.begun("ppo", "ppo_seed_1")
            refused(world.make("ppo", further=1), TOLD.format("ppo_seed_1", HOST))
            world.go(first)
        with cases("a baseline beside ppo"), world.alone("baseline"):
            world.prepared("data", "sft", "reward")
            world.go(world.begun("ppo"), world.begun("dpo"))
            world.whole("ppo", "dpo")
        with cases("two runs"), world.alone("runs"):
            first, second = world.begun("data"), world.make("data", run="other")
            world.go(first, second)
            world.whole("data")
        with cases("after one that was killed"), world.alone("killed"):
            world.prepared("data")
            first = world.begun("sft")
            os.kill(int(json.loads(Path("runs/r/sft.partial/lock").read_text())["pid"]), signal.SIGKILL)
            assert first.wait() == 137
            world.go(world.make("sft"))
            world.whole("data", "sft")
        with cases("beside one on another machine"), world.alone("machine"):
            with held(Run("r").partial("data"), "runs/r/data"):
                (Run("r").partial("data") / "lock").write_text(
                    '{"pid": 7, "host": "far", "since": "2026-01-01T00:00:00"}'
                )
                refused(world.make("data"), TOLD.format("data", "far"))
        with cases("a process that a function forked outlives the stage"), world.alone("forked"):
            with held(Run("r").partial("data"), "runs/r/data"):
                if (child := os.fork()) == 0:
                    time.sleep(20)
                    os._exit(0)
            world.go(world.make("data"))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def clean(work: Callable[[], Any], pattern: str) -> None:
    """Removing is refused, and nothing is gone."""
    before = sorted(Path("runs").rglob("*"))
    with pytest.raises(ArtifactError, match=pattern):
        work()
    assert sorted(Path("runs").rglob("*")) == before


def test_who_removes_while_somebody_works(world: World, tally: Callable) -> None:  # type: ignore[type-arg]
    everything = lambda: cleaning.clean(cleaning.everything(), "again", True)  # noqa: E731
    one = lambda: cleaning.clean(cleaning.one("r"), "again", True)  # noqa: E731
    prune = lambda: overview.prune_asked(None, True)  # noqa: E731
    with tally("pairs") as cases:
        for name, work in (("clean", everything), ("clean-runs", one), ("prune", prune)):
            with cases(f"{name} while a stage runs"), world.alone(name):
                world.prepared("data")
                (world.folder / "go").touch()
                assert world.make("data", "seed=1").wait() == 0  # one is kept
                world.prepared()
                first = world.begun("sft")
                clean(work, r"runs/r/sft.partial: process \d+ on .* makes a stage here; wait until it is done")
                world.go(first)
                work()
                assert not list(Path("runs").glob("r/.kept/*"))
            with cases(f"{name} while somebody reads"), world.alone(f"{name} read"):
                world.prepared("data")
                (world.folder / "go").touch()
                assert world.make("data", "seed=1").wait() == 0
                with unchanged(Run("r"), "inspect", ["data"]):
                    clean(work, "runs/r: another process reads it or makes a stage here; wait")
        with cases("a stage that begins while clean asks"), world.alone("asks"):
            world.prepared("data")
            patch = pytest.MonkeyPatch()
            patch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
            patch.setattr(
                "builtins.input",
                lambda _: refused(world.make("sft"), "error: runs/r: another process is removing .*\n") or "y",
            )
            assert cleaning.clean(cleaning.one("r"), "again", False) and not Path("runs/r").exists()
            patch.undo()


AGAIN = r"error: .*(runs/r/{0}: made again or removed while {1} read it|{1}: .* changed since it began|{0} .*).*\n"


@pytest.mark.slow
def test_a_reader_while_what_it_reads_is_made_again(world: World, tally: Callable) -> None:  # type: ignore[type-arg]
    with tally("pairs") as cases:
        for stage, parent, before in (
            ("sft", "data", ("data",)),
            ("ppo", "sft", ("data", "sft", "reward")),
            ("compare", "ppo", ("data", "sft", "reward", "ppo")),
        ):
            with cases(f"{parent} made again while {stage} reads it"), world.alone(f"{parent} {stage}"):
                world.prepared(*before)
                first = world.begun(stage)
                (world.folder / f"go-{parent}").touch()
                assert world.make(parent, "seed=1").wait() == 0
                (world.folder / "go").touch()
                refused(first, AGAIN.format(parent, stage))
                assert not Path(f"runs/r/{stage}").exists()
            with cases(f"{parent} removed while {stage} reads it"), world.alone(f"{parent} {stage} removed"):
                world.prepared(*before)
                first = world.begun(stage)
                shutil.rmtree(f"runs/r/{parent}")
                (world.folder / "go").touch()
                refused(first, AGAIN.format(parent, stage))
                assert not Path(f"runs/r/{stage}").exists()
        for name, after in (("inspect", True), ("push", True), ("stage", False)):
            with cases(f"{name} fails as what it reads was made again"), world.alone(f"{name} fails"):
                world.prepared("data")
                with pytest.raises(ArtifactError, match="runs/r/data: made again or removed while"):
                    with unchanged(Run("r"), name, ["data"], after=after):
                        (world.folder / "go").touch()
                        assert world.make("data", "seed=1").wait() == 0
                        raise FileNotFoundError
        with cases("runs while stages are published"), world.alone("listing"):
            world.prepared("data")
            (world.folder / "go").touch()
            makers = [world.make("data", f"seed={number}") for number in range(1, 4)]
            while any(one.poll() is None for one in makers):
                list(overview.listing())
            assert 0 in [one.code for one in makers]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real data and sft."""
    folder = tmp_path_factory.mktemp("walked")
    (folder / "rewards.py").write_text(REWARDS)
    resumed(folder, "data", "sft")
    return folder


@pytest.mark.slow
def test_real_commands_beside_each_other(tmp_path: Path, walked: Path, tally: Callable) -> None:  # type: ignore[type-arg]
    """`all` beside `all` and beside a stage, and a baseline that compare began beside the same one."""
    dpo = ("compare", "compare.models=[sft,ppo,dpo]", "dpo.max_steps=300", "dpo.logging_steps=1", "force=true")
    pairs = {
        "all beside all": (("all",), ("all",), "ppo"),
        "all beside ppo": (("all",), ("ppo", "seed=3"), "ppo"),
        "ppo beside all": (("ppo",), ("all",), "ppo"),
        "--nproc 2 beside ppo": (("ppo", "--nproc", "2"), ("ppo",), "ppo"),
        "ppo beside --nproc 2": (("ppo",), ("ppo", "--nproc", "2"), "ppo"),
        "compare that makes dpo beside dpo": (dpo, ("dpo", *dpo[2:]), "dpo"),
    }  # fmt: skip

    def pair(number: int, one: tuple[str, ...], other: tuple[str, ...], stage: str) -> None:
        folder = copied(walked, tmp_path / str(number))
        if stage == "dpo":
            resumed(folder, "ppo")
        first = start(folder, *one, PACE="60")
        second = None
        try:
            first.until((folder / "runs" / "r" / f"{stage}.partial" / "lock").exists)
            second = start(folder, *other)
            assert second.wait() == 2, second.told
            assert re.fullmatch(TOLD.format(stage, HOST), second.told), second.told
            second.gone()
            assert first.process.poll() is None and not (folder / "runs/r" / stage).exists()
        finally:
            first.end()
            if second is not None:
                second.end()

    with ThreadPoolExecutor(3) as pool, tally("pairs") as cases:
        done = {name: pool.submit(pair, number, *what) for number, (name, what) in enumerate(pairs.items())}
        for name, end in done.items():
            with cases(name):
                end.result()
