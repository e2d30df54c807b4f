"""Do all processes say so where a machine has a folder runs/ of its own?"""

import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import CLEAN, ROOT, SMOKE
from torch.distributed import HashStore

from pipeline import nodes
from pipeline.running import run_stage
from pipeline.settings.recipe import load

SHRUNK = [f"data.source={ROOT / 'data' / 'smoke.jsonl'}", "sft.max_steps=2", "sft.eval_rows=2", "sft.max_new_tokens=4", "force=true"]  # fmt: skip


def asked(*roots: Path) -> list[str | None]:
    """What each of several processes, which see these folders, is told."""
    store = HashStore()
    with ThreadPoolExecutor(len(roots)) as pool:
        return list(pool.map(lambda one: nodes.agreed(store, one[0], len(roots), one[1]), enumerate(roots)))


def test_one_folder_is_seen_by_all(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)  # another name of it is no other folder
    assert asked(tmp_path / "runs", tmp_path / "runs", tmp_path / "link" / "runs") == [None] * 3
    assert list((tmp_path / "runs").iterdir()) == []


def test_all_are_told_who_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "APPEARS", 0.3)
    one, other = tmp_path / "one" / "runs", tmp_path / "other" / "runs"
    found = asked(one, one, other)
    assert found[0] is not None and found == [found[0]] * 3
    host = socket.gethostname()
    assert f"what process 0 on {host} writes into {one} does not appear in {other} of process 2 on {host}; " in found[0]
    assert list(one.iterdir()) == [] and not other.exists()


def test_they_are_asked_only_where_there_may_be_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for world, local, several in (
        ("2", "1", True),
        ("4", "2", True),
        ("2", None, True),
        ("2", "2", False),
        ("", None, False),
    ):
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if local is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert nodes.several() == several


def two_nodes(*folders: Path) -> list[tuple[int, str]]:
    """Stage sft on two nodes, which start in these folders: the exit code of torchrun on each, and what it wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = CLEAN | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PIPELINE_RUN": "r"}
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc_per_node",
        "1",
        "--master_addr",
        "127.0.0.1",
    ]
    started = [
        subprocess.Popen(
            [*line, "--master_port", port, "--node_rank", str(rank), "-m", "pipeline", "sft", str(SMOKE), *SHRUNK],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, folder in enumerate(folders)
    ]  # fmt: skip
    try:
        said = [one.communicate(timeout=300)[0] for one in started]
        return [(one.returncode, told) for one, told in zip(started, said, strict=True)]
    finally:
        for one in started:
            one.kill()


@pytest.mark.slow
def test_two_nodes_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With copies of runs/ both nodes tell it, where one would wait for the other; in one folder the stage is made."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    monkeypatch.chdir(one)
    run_stage("data", load(SMOKE, SHRUNK), "r")
    shutil.copytree(one, other)
    for code, told in two_nodes(one, other):
        assert code and told.count("error: runs/ is not shared: ") == 1, told
        assert f"does not appear in {os.path.realpath(other)}/runs of process 1 on {socket.gethostname()}; " in told
    assert not list(tmp_path.glob("*/runs/r/sft*"))
    found = two_nodes(one, one)
    assert [code for code, _ in found] == [0, 0], found
    assert (one / "runs" / "r" / "sft" / "manifest.json").is_file()
