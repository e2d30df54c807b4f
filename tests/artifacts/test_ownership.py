"""Does a stage touch only what is its own: its run's folder, folders of ours, and those while nobody else works there?"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import app
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.ownership import check_run_name, clear, held
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
ROWS = f"data.source={ROOT / 'data' / 'smoke.jsonl'}"
NO_LAUNCHER = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN")}  # fmt: skip
BAD_NAMES = [
    "", ".", "..", "../x", "/abs", "a/b", "a\\b", ".cache", "-x", "a\nb", "a\tb", "a\0b", " a", "a ", "a  b", "x" * 201, "é" * 101,
    "a:b", "a*", "$HOME", "a\u202eb", "a\u2028b", "a\ud800",
]  # fmt: skip


def tree(folder: Path) -> dict[str, str | None]:
    """All there is below a folder, links not followed."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes().hex() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if "__pycache__" not in p.parts
    }


def start(*call: str, folder: Path, **more: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *call],
        cwd=folder,
        env=NO_LAUNCHER | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.mark.parametrize("name", ["demo", "two words", "v1.2_b-3", "опыт", "रन", "実験 1", "x" * 200, "1"])
def test_a_run_is_called_by_letters_of_any_script(name: str) -> None:
    assert check_run_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="run name .*; write for instance RUN=demo") as caught:
        Run(name)
    assert str(caught.value).isascii() and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["..", "../other", "/{here}/other", "a/b", ".cache", "-x", "a\nb"])
@pytest.mark.parametrize("command", ["data", "all", "compare", "inspect"])
def test_no_command_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    """As it was seen: a project whose folder data/ is called as a stage is."""
    monkeypatch.chdir(tmp_path)
    for project in (tmp_path, tmp_path / "other"):
        (project / "data").mkdir(parents=True)
        (project / "data" / "__init__.py").write_text("'''Mine.'''")
    before = tree(tmp_path)
    more = ["--prompt", "a"] if command == "inspect" else []
    with pytest.raises(SystemExit) as ended:
        app([command, str(SMOKE), ROWS, *more, "--run", name.format(here=tmp_path)])
    out, told = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert told.startswith("error: run name ") and told.count("\n") == 1
    assert tree(tmp_path) == before


def foreign(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder


@pytest.mark.parametrize("taken", ["data", "data.partial"])
def test_a_folder_that_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = foreign(Path("runs/demo") / taken)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=f"{folder}: .*neither replaced nor removed; .*another RUN"):
        run_stage("data", load(SMOKE, [ROWS]), "demo")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "mine"}', '{"name": "webapp", "inputs_": 1}'])
def test_a_manifest_that_is_not_ours_does_not_make_a_folder_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Web pages have a manifest.json too."""
    monkeypatch.chdir(tmp_path)
    (foreign(Path("runs/demo/data")) / "manifest.json").write_text(text)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match="runs/demo/data"):
        run_stage("data", load(SMOKE, [ROWS]), "demo")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("taken", ["data", "data.partial"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "file"])
def test_a_link_or_a_file_in_place_of_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/demo") / taken
    folder.parent.mkdir(parents=True)
    if kind == "file":
        folder.write_text("mine")
    else:
        folder.symlink_to(foreign(tmp_path / "elsewhere") if kind == "link" else tmp_path / "gone")
    before = tree(tmp_path)
    with pytest.raises((ArtifactError, FileExistsError, NotADirectoryError)) as caught:
        working_folder(Run("demo"), "data", Config())
    assert isinstance(caught.value, ArtifactError) and str(folder) in str(caught.value)
    assert tree(tmp_path) == before and folder.is_symlink() == (kind != "file")


@pytest.mark.parametrize(
    ("taken", "kind"),
    [
        *(("r", kind) for kind in ("file", "link")),  # a folder of the run's name may be the run's
        *(("r/sft.partial", kind) for kind in ("file", "folder", "link")),
        *(("r/sft.partial/lock", kind) for kind in ("file", "folder", "link")),
    ],
)
def test_whatever_stands_where_a_stage_is_to_work_is_told_in_a_sentence(tmp_path: Path, taken: str, kind: str) -> None:
    """Before anything is locked, and so before anything is written there."""
    run = Run("r", root=tmp_path / "runs")
    place = tmp_path / "runs" / taken
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        foreign(place)
    else:
        place.symlink_to(tmp_path / "gone")
    before = tree(tmp_path)
    with pytest.raises(ArtifactError):
        with run.held("sft"):
            (run.partial("sft") / "state").write_text("ours")
            raise ArtifactError("nothing was in the way")
    assert tree(tmp_path) == before


def test_a_partial_folder_that_is_cleared_stays_known_as_ours_to_the_last(tmp_path: Path) -> None:
    """Killed in the middle of clearing, the next attempt must find a folder that it may clear."""
    for name in ("a", "inputs.json", "z"):
        (tmp_path / name).write_text("{}")
    gone: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, **more: Any) -> None:
        gone.append(path.name)
        unlink(path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", noted)
        clear(tmp_path)
    assert gone[-1] == "inputs.json" and not list(tmp_path.iterdir())


# One at a time


def test_a_second_maker_is_told_who_the_first_is(tmp_path: Path) -> None:
    with held(tmp_path / "p", "runs/demo/ppo"):
        with pytest.raises(
            ArtifactError, match=rf"runs/demo/ppo is being made by process {os.getpid()} on .* since 20"
        ):
            with held(tmp_path / "p", "runs/demo/ppo"):
                raise AssertionError("both work")
    with held(tmp_path / "p", "runs/demo/ppo"):
        pass
    assert not (tmp_path / "p").exists()  # nothing was begun, so nothing is left


def test_what_was_begun_stays_when_its_maker_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        with held(tmp_path / "p", "sft"):
            (tmp_path / "p" / "state").write_text("1")
            raise KeyError
    assert os.listdir(tmp_path / "p") == ["state"]


def test_a_lock_file_of_a_holder_that_died_holds_nobody_up(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; from pipeline.artifacts.ownership import held\nwith held(pathlib.Path(sys.argv[1]), 'sft'): os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], cwd=ROOT)
    assert done.returncode == 9 and (tmp_path / "p" / "lock").is_file()
    with held(tmp_path / "p", "sft"):
        assert json.loads((tmp_path / "p" / "lock").read_text())["pid"] == os.getpid()


WAITING = "import time\n\ndef score(prompts, completions):\n    open('begun', 'a').write('x')\n    time.sleep(120)\n"
QUICK = [
    ROWS, "sft.max_steps=1", "ppo.reward_funcs=[waiting:score]", "ppo.total_episodes=32", "ppo.batch_size=32", "ppo.response_length=4",
]  # fmt: skip


def wait_for(path: Path, process: "subprocess.Popen[str]", seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of data and sft, and a reward function that takes its time."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "waiting.py").write_text(WAITING)
        for stage in ("data", "sft"):
            run_stage(stage, load(SMOKE, QUICK), "r")
    return folder


def test_two_ppo_at_once_and_a_killed_one_started_again(tmp_path: Path, prepared: Path) -> None:
    """The second of two is told who works; the first, ended by SIGTERM in the process that `all` and --nproc started it from,
    leaves nothing at work, and the stage can be made at once."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "r"
    call = ["all", str(SMOKE), *QUICK, "--run", "r"]
    first = start(*call, folder=tmp_path)
    wait_for(tmp_path / "begun", first)
    holder = json.loads((run / "ppo.partial" / "lock").read_text())["pid"]
    assert holder != first.pid
    second = start("ppo", str(SMOKE), *QUICK, "--run", "r", folder=tmp_path)
    told = second.communicate(timeout=100)[1]
    assert (
        second.returncode == 2 and f"runs/r/ppo is being made by process {holder} on " in told and told.count("\n") == 1
    )
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{holder}").exists()
    (tmp_path / "waiting.py").write_text(WAITING.replace("time.sleep(120)", "return [0.0] * len(prompts)"))
    again = start("ppo", str(SMOKE), *QUICK, "force=true", "--run", "r", folder=tmp_path)
    assert again.wait(timeout=200) == 0, again.communicate()
    assert not (run / "ppo.partial").exists()


@pytest.mark.parametrize(("end", "command"), [(signal.SIGTERM, "two"), (signal.SIGINT, "two"), (signal.SIGKILL, "all")])
def test_the_stage_ends_with_the_command_that_started_it(
    tmp_path: Path, prepared: Path, end: signal.Signals, command: str
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    how = ["all", str(SMOKE), *QUICK] if command == "all" else ["ppo", str(SMOKE), *QUICK, "--nproc", "2"]
    first = start(*how, "--run", "r", folder=tmp_path, start_new_session=True)
    wait_for(tmp_path / "begun", first)
    first.send_signal(end)
    first.wait(timeout=60)
    deadline = time.monotonic() + 30
    while left := at_work(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def at_work(folder: Path) -> list[int]:
    """Processes whose working directory is `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found += [int(process.name)] if (process / "cwd").resolve() == folder.resolve() else []
            except OSError:  # it has ended, or is not ours
                continue
    return found
