"""Is what a stage goes on from, changed in any way, told or made again, and never the beginning of other weights?"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from killing import RUN, Uninterrupted, killed, made, outcome, sound

from policies.sealed import SEAL, flaw, newest_whole, seal

Tally = Callable[[str], AbstractContextManager[Callable[[str], AbstractContextManager[None]]]]
OF = "a" * 64


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Something that was saved: two files, one below another folder."""
    (tmp_path / "state" / "inner").mkdir(parents=True)
    (tmp_path / "state" / "state.json").write_text('{"step": 4, "kl_coef": 0.05}\n')
    (tmp_path / "state" / "inner" / "weights.bin").write_bytes(bytes(range(200)))
    seal(tmp_path / "state", OF)
    return tmp_path / "state"


def test_every_byte_of_a_state_counts(tally: Tally, state: Path) -> None:
    """Flipped and cut anywhere, in the seal too. In the seal's own layout a change may mean nothing, and then all is as it was."""
    assert flaw(state, OF) is None and flaw(state, "b" * 64) is not None
    with tally("bytes") as cases:
        for path in sorted(path for path in state.rglob("*") if path.is_file()):
            raw = path.read_bytes()
            for place in range(len(raw)):
                for changed in (raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :], raw[:place]):
                    with cases(f"{path.name}, byte {place}"):
                        path.write_bytes(changed)
                        layout = path.name == SEAL and (raw[place : place + 1].isspace() or place == len(raw) - 1)
                        assert flaw(state, OF) is not None or layout
            path.write_bytes(raw)
    assert flaw(state, OF) is None


def test_files_that_are_missing_added_swapped_or_linked(tally: Tally, state: Path, tmp_path: Path) -> None:
    def swap(folder: Path) -> None:
        one, other = folder / "state.json", folder / "inner" / "weights.bin"
        (a, b) = one.read_bytes(), other.read_bytes()
        one.write_bytes(b)
        other.write_bytes(a)

    def link(folder: Path) -> None:
        (folder / "state.json").rename(tmp_path / "elsewhere")
        (folder / "state.json").symlink_to(tmp_path / "elsewhere")

    changes: dict[str, Callable[[Path], Any]] = {
        "a file is missing": lambda folder: (folder / "inner" / "weights.bin").unlink(),
        "a folder is missing": lambda folder: shutil.rmtree(folder / "inner"),
        "the seal is missing": lambda folder: (folder / SEAL).unlink(),
        "the seal is a folder": lambda folder: [(folder / SEAL).unlink(), (folder / SEAL).mkdir()],
        "the seal is empty": lambda folder: (folder / SEAL).write_bytes(b""),
        "the seal is deep": lambda folder: (folder / SEAL).write_text("[" * 100_000),
        "the seal is a list": lambda folder: (folder / SEAL).write_text("[]"),
        "a file is more": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"),
        "a link is more": lambda folder: (folder / "optimizer.pt").symlink_to(folder / "state.json"),
        "two are swapped": swap,
        "one is a link": link,
        "one is a folder": lambda folder: [(folder / "state.json").unlink(), (folder / "state.json").mkdir()],
    }
    with tally("bytes") as cases:
        for name, change in changes.items():
            with cases(name):
                folder = tmp_path / "newer"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(state, folder)
                change(folder)
                assert newest_whole([folder, state], OF) == state and not folder.exists()


def begun(folder: Path, uninterrupted: Uninterrupted, stage: str) -> Path:
    """A run whose `stage` was killed when its newest state was whole, and another one, or what it logged, lies beside it."""
    calls, (text, number) = uninterrupted.of(stage)[1], KILLED[stage]
    place = [i for i, call in enumerate(calls) if text in call][number] + 1
    assert killed(uninterrupted.case(folder / "base", stage), place, lambda: made(stage)).code == -9
    return folder / "base"


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flipped,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "full of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
KILLED = {
    "sft": ("replace runs/demo/sft.partial/state/checkpoint-4/seal.json.tmp", 0),
    "ppo": ("replace runs/demo/ppo.partial/state.new/seal.json.tmp", 1),
    "best_of_n": ("open runs/demo/best_of_n.partial/made/samples.jsonl", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "ppo", "best_of_n"])
def test_a_stage_goes_on_from_nothing_that_was_changed(
    tally: Tally, uninterrupted: Uninterrupted, tmp_path: Path, stage: str
) -> None:
    """Every file of the attempt, in one way or another, or all: the same bits in the end, and no traceback."""
    wanted, base = uninterrupted.of(stage)[0], begun(tmp_path, uninterrupted, stage)
    partial = Path("runs") / RUN / f"{stage}.partial"
    files = [path.relative_to(base) for path in (base / partial).rglob("*") if path.is_file() and path.name != "lock"]
    assert len(files) > 1
    with tally("bytes") as cases:
        for number, path in enumerate(sorted(files)):
            for name in list(CHANGES) if len(files) < 5 else [list(CHANGES)[number % len(CHANGES)]]:
                if path.name == "inputs.json" and name == "missing":
                    continue  # a folder without it is nobody's, and is refused: tests/artifacts/test_ownership.py
                with cases(f"{stage}: {path}, {name}"):
                    shutil.rmtree(tmp_path / "case", ignore_errors=True)
                    shutil.copytree(base, tmp_path / "case")
                    CHANGES[name](tmp_path / "case" / path)
                    sound(killed(tmp_path / "case", -1, lambda: made(stage)))
                    found = outcome(tmp_path / "case", stage)
                    assert found == wanted, sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
