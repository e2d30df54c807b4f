"""Is nothing that is finished thrown away, and does it come back when its settings and parents do? Whatever breaks on the way."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from small_stage import make, prepare, published, refused

from pipeline.artifacts import kept
from pipeline.artifacts import publish as publishing
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256
from pipeline.artifacts.freshness import finished
from pipeline.artifacts.ownership import held
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.refusals import Refused
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.running import due
from pipeline.settings.config import PPO, Config, Data

ROOT = Path(__file__).resolve().parents[2]


def coefficient(value: float) -> Config:
    return Config(ppo=PPO(kl_coef=value))


def walk(run: Run, config: Config | None = None, text: str = "rows\n") -> None:
    """data, sft, reward, ppo and compare, each as its command leaves it: made where it is due."""
    config = config or Config()
    for stage in ("data", "sft", "reward", "ppo", "compare"):
        if due(stage, config, run):
            make(run, stage, config, f"{text}{stage} {config.ppo.kl_coef} {config.seed}")


def text(path: str) -> str:
    return Path("runs/demo", path, "rows.jsonl").read_text()


def names() -> list[str]:
    """The folders of the run, and what is kept there by its folder."""
    return sorted(os.listdir("runs/demo")) + sorted(
        path.name.rpartition("-")[0] for path in Path("runs/demo/.kept").glob("*")
    )


def test_a_former_result_is_kept_and_comes_back_with_its_children(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made twice: the folder that comes back is the one that went, to the bit, and its comparison with it."""
    walk(run, coefficient(0.1))
    before = {stage: Path(f"runs/demo/{stage}/manifest.json").read_bytes() for stage in ("ppo", "compare")}
    walk(run, coefficient(0.05))
    assert "ppo 0.05" in text("ppo") and names()[-2:] == ["compare", "ppo"]
    capsys.readouterr()
    assert not any(due(stage, coefficient(0.1), run) for stage in ("data", "sft", "reward", "ppo", "compare"))
    assert {stage: Path(f"runs/demo/{stage}/manifest.json").read_bytes() for stage in before} == before
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in told] == ["data", "sft", "reward", "ppo", "ppo", "compare", "compare"]
    assert "runs/demo/ppo is taken back from runs/demo/.kept/ppo-" in told[3] and "is up to date" in told[4]
    assert names()[-2:] == ["compare", "ppo"]  # those of 0.05 now
    run.require("compare")


def test_a_whole_recipe_comes_back(run: Run) -> None:
    """Another recipe on a finished run changes data, and with it all that follows."""
    first, second = Config(seed=1), Config(seed=2, data=Data(max_length=99))
    walk(run, first)
    identities = [run.identity(stage) for stage in ("data", "sft", "reward", "ppo", "compare")]
    walk(run, second)
    assert run.identity("ppo") != identities[3] and len(names()) == 5 + 1 + 5
    assert not any([due(stage, first, run) for stage in ("data", "sft", "reward", "ppo", "compare")])
    assert [run.identity(stage) for stage in ("data", "sft", "reward", "ppo", "compare")] == identities


def test_it_comes_back_only_to_its_own_parents(run: Run) -> None:
    """The same settings of ppo on another sft model are another ppo."""
    walk(run, coefficient(0.1))
    make(run, "sft", text="another sft\n")
    make(run, "reward", text="another reward\n")
    assert due("ppo", coefficient(0.1), run)
    walk(run, coefficient(0.05))  # ppo of the first sft is kept
    assert due("ppo", coefficient(0.1), run) and "ppo 0.05" in text("ppo")


def test_models_of_further_seeds_are_kept_too(run: Run) -> None:
    for value in (0.1, 0.05):
        walk(run, coefficient(value))
        config, seeded = with_seed("ppo", coefficient(value), run, 1)
        make(seeded, "ppo", config, f"seed 1 {value}")
    assert "ppo_seed_1" in names()[-2:]
    config, seeded = with_seed("ppo", coefficient(0.1), run, 1)
    assert not any(due(stage, coefficient(0.1), run) for stage in ("data", "sft", "reward", "ppo"))
    assert not due("ppo", config, seeded) and text("ppo_seed_1") == "seed 1 0.1"
    assert not due("ppo", coefficient(0.1), run) and "ppo 0.1" in text("ppo")  # the two are not taken for each other


def test_the_last_three_of_a_stage_are_kept(run: Run) -> None:
    for seed in range(6):
        make(run, config=Config(seed=seed), text=f"{seed}")
    lying = kept.contents(run).kept
    assert [(path / "rows.jsonl").read_text() for path in lying["data"]] == ["4", "3", "2"]
    assert not due("data", Config(seed=2), run)  # coming back it makes room for what it replaces
    assert [(path / "rows.jsonl").read_text() for path in kept.contents(run).kept["data"]] == ["5", "4", "3"]
    assert due("data", Config(seed=1), run)
    assert not Path("runs/demo/data.partial").exists()


@pytest.mark.parametrize("damage", ["byte", "missing", "manifest", "fields"])
def test_what_is_damaged_is_not_taken_back_but_told(run: Run, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    make(run, config=Config(seed=1), text="first\n")
    make(run, config=Config(seed=2), text="second\n")
    (folder,) = kept.contents(run).kept["data"]
    file = folder / ("manifest.json" if damage in ("manifest", "fields") else "rows.jsonl")
    if damage == "missing":
        file.unlink()
    elif damage == "fields":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"files": None}))
    else:
        file.write_text("First\n")
    assert due("data", Config(seed=1), run)
    told = capsys.readouterr().err
    assert str(folder) in told and told.endswith("so it is not taken back\n") and told.count("\n") == 1
    assert text("data") == "second\n" and folder.is_dir()
    make(run, config=Config(seed=1), text="first\n")  # it is made again, and what was damaged is left for its owner
    assert folder.is_dir() and text("data") == "first\n"


class Killed(BaseException):
    """The process ends here: nothing after it is run."""


def killed_at(move: int, patch: pytest.MonkeyPatch, at_once: bool) -> None:
    """End before the move number `move` of what follows; two folders change places in one, or only by renames."""
    rename, exchange, count = Path.rename, kept.exchange, iter(range(100))

    def until(self: Path, to: Any) -> Path:
        if next(count) == move:
            raise Killed
        return rename(self, to)

    def changed(one: Path, other: Path) -> bool:
        if at_once and next(count) == move:
            raise Killed
        return at_once and exchange(one, other)

    patch.setattr(Path, "rename", until)
    patch.setattr(kept, "exchange", changed)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("move", [0, 1])
@pytest.mark.parametrize("back", ["new", "old"])
def test_a_kill_between_the_moves_of_a_publication_loses_neither(run: Run, move: int, back: str, at_once: bool) -> None:
    """Both results were finished; the next command of either settings finds it, and nothing is computed again."""
    old, new = Config(seed=1), Config(seed=2)
    make(run, config=old, text="old\n")
    made = prepare(run, config=new, text="new\n")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(move, patch, at_once)
        with pytest.raises(Killed):
            published(run, made, config=new)
    assert not at_once or Path("runs/demo/data").exists()
    wanted, other = (new, old) if back == "new" else (old, new)
    assert not due("data", wanted, run)
    run.require("data")
    assert text("data") == f"{back}\n"
    working_folder(run, "data", Config(seed=3))  # an attempt of other settings does not remove what was put together
    assert not due("data", other, run) and text("data") != f"{back}\n"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("move", [0, 1])
def test_a_kill_between_the_moves_of_taking_back_loses_neither(run: Run, move: int, at_once: bool) -> None:
    for seed in (1, 2):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(move, patch, at_once)
        with pytest.raises(Killed):
            due("data", Config(seed=1), run)
    assert Path("runs/demo/data").exists() == (at_once or move == 0)
    for seed in (2, 1):
        assert not due("data", Config(seed=seed), run) and text("data") == f"{seed}\n"
        (left,) = kept.contents(run).kept["data"]
        assert left.name == f"data-{sha256(left / 'manifest.json')[:12]}"
    assert sorted(os.listdir("runs/demo")) == [".kept", "data", "index.html"]


def test_what_is_left_of_a_publication_goes_with_the_next_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the new folder stood in its place: it is up to date, and nothing of the attempt stays."""
    made = prepare(run)

    def end(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "clear", end)
        with pytest.raises(Killed):
            published(run, made)
    (run.partial("data") / "state").mkdir()
    assert not due("data", Config(), run) and sorted(os.listdir("runs/demo")) == ["data", "index.html"]
    (run.partial("data") / "state").mkdir(parents=True)  # of an attempt of other settings: that is gone on from
    Path("runs/demo/data.partial/inputs.json").write_text('{"inputs": "others", "started": "now"}')
    assert not due("data", Config(), run) and run.partial("data").is_dir()


def test_a_second_move_that_fails_undoes_the_first(run: Run) -> None:
    for seed in (1, 2):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    rename = Path.rename

    def full(self: Path, to: Path) -> Path:
        if Path(to).name == "data" and ".kept" in self.parts and (self / "rows.jsonl").read_text() == "1\n":
            raise OSError(28, "No space left on device")
        return rename(self, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "exchange", lambda one, other: False)
        patch.setattr(Path, "rename", full)
        with pytest.raises(Refused, match="no space is left"):
            due("data", Config(seed=1), run)
    assert finished(run, "data", Config(seed=2)) is not None and text("data") == "2\n"
    assert sorted(os.listdir("runs/demo")) == [".kept", "data"]
    assert not due("data", Config(seed=1), run)


def test_a_kill_while_one_is_removed_leaves_nothing_that_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        make(run, config=Config(seed=seed), text=f"{seed}\n")

    def end(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kept.shutil, "rmtree", end)
        with pytest.raises(Killed):
            make(run, config=Config(seed=4), text="4\n")
    lying = kept.contents(run)
    assert len(lying.kept["data"]) == 3 and len(lying.going) == 1 and not lying.unreadable and text("data") == "4\n"
    assert due("data", Config(seed=0), run)
    make(run, config=Config(seed=5), text="5\n")
    assert kept.contents(run).going == [] and len(os.listdir("runs/demo/.kept")) == 3


def test_a_stage_that_another_process_makes_is_not_moved(run: Run) -> None:
    for seed in (1, 2):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    with held(run.partial("data"), "runs/demo/data"):
        refused(lambda: due("data", Config(seed=1), run), f"runs/demo/data is being made by process {os.getpid()}")
    assert text("data") == "2\n" and not due("data", Config(seed=1), run)


TAKING = """
import sys, time
from pathlib import Path
from pipeline.artifacts.run import Run
from pipeline.ending import Ending
from pipeline.running import due, guarded
from pipeline.settings.config import Config
def work():
    raise Ending(3 if due("data", Config(seed=int(sys.argv[1])), Run("demo")) else 0)
while not Path("go").exists(): time.sleep(0.001)
guarded(work)
"""


def test_two_processes_that_take_back_at_once_leave_one_whole_result(run: Run) -> None:
    """Each is done, or is told that the other works there: none makes the stage again, none is lost."""
    for seed in (1, 2, 3):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    wanted = [1, 2, 1, 2]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TAKING, str(seed)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in wanted
    ]  # fmt: skip
    Path("go").touch()
    for process in started:
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 0 or (process.returncode == 2 and "is being made by" in told), told
    assert text("data") in ("1\n", "2\n")
    lying = kept.contents(run).kept["data"]
    assert sorted([text("data"), *((path / "rows.jsonl").read_text() for path in lying)]) == ["1\n", "2\n", "3\n"]
    run.require("data")


def test_one_that_is_removed_while_it_is_taken_back_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    (folder,) = kept.contents(run).kept["data"]
    place = kept.put_in_place

    def later(*arguments: Any) -> Any:
        worker = threading.Thread(target=kept.remove, args=(folder,))
        worker.start()
        worker.join()
        return place(*arguments)

    monkeypatch.setattr(kept, "put_in_place", later)
    refused(lambda: due("data", Config(seed=1), run), str(folder), "removed meanwhile", "make its stage data")
    assert text("data") == "2\n"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_place_for_kept_results_that_is_not_ours_is_told_before_the_work(run: Run, tmp_path: Path, kind: str) -> None:
    make(run)
    (tmp_path / "elsewhere").mkdir()
    Path("runs/demo/.kept").symlink_to(tmp_path / "elsewhere") if kind == "link" else Path("runs/demo/.kept").touch()
    refused(lambda: working_folder(run, "data", Config(seed=1)), "runs/demo/.kept: ", "former results go there")
    assert os.listdir(tmp_path / "elsewhere") == [] and text("data") == "rows\n"


def test_what_is_not_ours_among_the_kept_is_neither_taken_nor_removed(run: Run) -> None:
    for path in ("data-thesis", "data-0123456789ab", "notes.txt.gone", "data-0123456789cd.gone.bak"):
        Path("runs/demo/.kept", path).mkdir(parents=True)
        Path("runs/demo/.kept", path, "mine").write_text("mine")
    for seed in range(5):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    lying = kept.contents(run)
    assert sorted(path.name for path in lying.strangers) == [
        "data-0123456789cd.gone.bak",
        "data-thesis",
        "notes.txt.gone",
    ]
    assert [path.name for path in lying.unreadable] == ["data-0123456789ab"] and len(lying.kept["data"]) == 3
    assert all((path / "mine").exists() for path in [*lying.strangers, *lying.unreadable])


def test_what_other_processes_of_a_launch_see_is_what_the_main_one_does(run: Run) -> None:
    """They say that nothing is due where it will be taken back, and move nothing."""
    import dataclasses

    for seed in (1, 2):
        make(run, config=Config(seed=seed), text=f"{seed}\n")
    other = dataclasses.replace(run, main_process=False, world_size=2)
    assert not due("data", Config(seed=1), other) and text("data") == "2\n"
    assert due("data", Config(seed=3), other)
    with pytest.raises(ArtifactError, match="no finished data"):
        due("sft", Config(), dataclasses.replace(other, name="empty"))


def test_the_last_three_are_those_that_were_replaced_last_not_made_last(run: Run) -> None:
    for seed in range(3):
        make(run, config=Config(seed=seed), text=f"{seed}")
    assert not due("data", Config(seed=0), run)
    for seed in (3, 4):
        make(run, config=Config(seed=seed), text=f"{seed}")
    assert [(path / "rows.jsonl").read_text() for path in kept.contents(run).kept["data"]] == ["3", "0", "2"]
