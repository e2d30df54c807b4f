"""Is every published byte that is not what it was found, wherever it lies, and every file that was not published?

A stage that reads another must refuse it, and a stage must not count as up to date.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plain_stages import ORDER, Plain, command, looked_at, make, plain_stages, settings, two_runs
from resealed import changed

from pipeline.artifacts import hashes
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed

A = Path("runs/a")
STAGES = (*ORDER, "compare", "ppo_seed_1")
STRAYS = (
    *("adapter_config.json", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json", "generation_config.json"),
    *("chat_template.jinja", "modeling_mine.py", "adapter_model.bin", "inner/notes.txt", "adapter/more.bin", ".hidden", "manifest.json.tmp"),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = two_runs(tmp_path_factory.mktemp("tampering"))
    with plain_stages(folder):
        yield folder


def made_of(place: str) -> tuple[str, Any, Run]:
    """A folder's stage, with the config and the run that it is made with."""
    stage, _, seed = place.partition("_seed_")
    return stage, *with_seed(stage, settings(), Run("a"), int(seed or 0))


def refused(place: str) -> None:
    """Neither is the folder opened, nor is its stage up to date."""
    stage, config, run = made_of(place)
    with pytest.raises(ArtifactError) as told:
        run.require(stage, force=True, lineage=False)
    message = str(told.value)
    assert str(A / place) in message and "\n" not in message
    try:
        assert finished(run, stage, config) is None
    except ArtifactError:
        pass  # what is told to be mended is not up to date either


def sound(place: str) -> None:
    stage, config, run = made_of(place)
    run.require(stage, force=True)
    assert finished(run, stage, config) is not None


@contextmanager
def altered(path: Path, raw: bytes | None) -> Iterator[None]:
    """Within the block a file has other bytes, or is not there, with its times as they were."""
    before, times = path.read_bytes(), path.stat()
    path.unlink() if raw is None else path.write_bytes(raw)
    if raw is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ (1 << place % 8)]) + raw[place + 1 :]


def files(place: str) -> list[Path]:
    return sorted(path for path in (A / place).rglob("*") if path.is_file())


def damages(raw: bytes, places: int) -> Iterator[tuple[str, bytes | None]]:
    """What can happen to a file's bytes: one bit at so many places, an end cut off, more behind it, all gone."""
    for place in sorted({round(n * (len(raw) - 1) / max(places - 1, 1)) for n in range(places)}):
        yield f"bit {place}", flipped(raw, place)
    yield from ((f"cut to {n}", raw[:n]) for n in (0, len(raw) // 2, len(raw) - 1))
    yield from (("longer by a line", raw + b"\n"), ("twice", raw + raw), ("missing", None))


def test_every_file_of_every_stage(whole: Path, tally: Any) -> None:
    with tally("bytes") as cases:
        for place in STAGES:
            for path in files(place):
                places = 40 if path.name == "manifest.json" else 4
                for what, raw in damages(path.read_bytes(), places):
                    with cases(f"{path}: {what}"), altered(path, raw):
                        if path.name == "manifest.json" and raw is None:
                            assert Run("a").manifest(place) is None
                        else:
                            refused(place)
            sound(place)


def test_a_file_that_nobody_published(whole: Path, tally: Any) -> None:
    """Told by its name, with what moves it away; nothing is made again for it, and nothing is removed."""
    with tally("bytes") as cases:
        for place in STAGES:
            for name in STRAYS:
                path = A / place / name
                with cases(f"{path} is there"):
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("{}")
                    stage, config, run = made_of(place)
                    for ask in (partial(run.require, stage, force=True), partial(finished, run, stage, config)):
                        with pytest.raises(
                            ArtifactError, match=rf"{path}: not among the files .*; run: mv -n {path} \.$"
                        ):
                            ask()
                    assert path.read_text() == "{}"
                path.unlink(missing_ok=True)
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
            sound(place)


@pytest.mark.slow
def test_files_that_changed_places(whole: Path, tally: Any) -> None:
    """Each file with its neighbour in the folder, and with that of its name in the other stages and in the other run."""
    with tally("bytes") as cases:
        for place in STAGES:
            own = files(place)
            others = [path for path in own if path.name != "manifest.json"]
            for one, other in zip(others, others[1:], strict=False):
                with cases(f"{one} and {other.name} swapped"):
                    first, second = one.read_bytes(), other.read_bytes()
                    with altered(one, second), altered(other, first):
                        refused(place)
            for path in own:
                relative = path.relative_to(A / place)
                for source in (*(A / stage for stage in STAGES if stage != place), Path("runs/b") / place):
                    if (source / relative).is_file():
                        with cases(f"{path} of {source}"), altered(path, (source / relative).read_bytes()):
                            refused(place)
            sound(place)


def test_links_and_folders_in_the_place_of_files(whole: Path, tally: Any) -> None:
    """Though what a link leads to has the very bytes."""
    with tally("bytes") as cases:
        for place in STAGES:
            for path in files(place):
                with cases(f"{path}: a link"):
                    kept = path.rename(Path("kept"))
                    path.symlink_to(kept.resolve())
                    try:
                        refused(place)
                    finally:
                        path.unlink()
                        kept.rename(path)
                with cases(f"{path}: a folder"):
                    kept = path.rename(Path("kept"))
                    path.mkdir()
                    try:
                        refused(place)
                    finally:
                        path.rmdir()
                        kept.rename(path)


def test_what_is_remembered_hides_no_change(whole: Path, tally: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are remembered here as soon as a tick of the file system's clock has passed; every time that a user can set is put back."""
    monkeypatch.setattr(hashes, "SETTLED", 0)
    time.sleep(0.03)
    with tally("bytes") as cases:
        for place in STAGES:
            sound(place)
            sound(place)
            for path in files(place):
                raw = path.read_bytes()
                with cases(f"{path}: remembered"), altered(path, flipped(raw, len(raw) // 2)):
                    refused(place)
                time.sleep(0.005)
        with cases("the memory itself is damaged"):
            memory = hashes.memory(Path("runs"))
            memory.write_text(memory.read_text().replace("a", "b"))
            sound("sft")
            memory.write_text("{")
            sound("sft")


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "empty": (lambda raw: "", "not a manifest of ours"),
    "no object": (lambda raw: "[]", "no JSON object"),
    "half": (lambda raw: json.dumps(raw)[:300], "not a manifest of ours"),
    "large": (lambda raw: json.dumps(raw) + " " * 2**24, "more than 16 MB"),
    "deep": (lambda raw: json.dumps(raw | {"notes": {"x": "DEEP"}}).replace('"DEEP"', "[" * 9000 + "]" * 9000), "more than 40 deep"),
    "NaN": (lambda raw: json.dumps(raw | {"metrics": {"x": float("nan")}}), "NaN is no number"),
    "infinite": (lambda raw: json.dumps(raw | {"metrics": {"x": 7}}).replace('"x": 7', '"x": 1e999'), "1e999 is too large"),
    "a key twice": (lambda raw: json.dumps(raw)[:-1] + ', "seed": 1}', "'seed' stands there twice"),
    "a field more": (lambda raw: json.dumps(raw | {"more": 1}), "more is no field of it"),
    "a newer contract": (lambda raw: json.dumps(raw | {"contract": 2, "more": 1}), "made by a newer version"),
    "no version": (lambda raw: json.dumps(raw | {"contract": "1"}), "contract: "),
    "true as version": (lambda raw: json.dumps(raw | {"contract": True}), "contract: "),
    "an old version": (lambda raw: json.dumps(raw | {"contract": 0}), "contract: "),
    **{f"without {name}": (lambda raw, name=name: json.dumps({k: v for k, v in raw.items() if k != name}), f"{name} is missing" if name != "contract" else "contract")
       for name in ("contract", "stage", "run", "inputs", "parents", "files", "config", "tokenizer", "model", "seed", "metrics", "gate", "started")},
    **{f"{name} of another kind": (lambda raw, name=name: json.dumps(raw | {name: 3.5}), f"{name}: ")
       for name in ("stage", "run", "inputs", "parents", "files", "config", "tokenizer", "seed", "world_size", "metrics", "gate", "finished", "forced", "notes", "command", "outside")},
    **{f"a path {path!r}": (lambda raw, path=path: json.dumps(raw | {"files": [raw["files"][0] | {"path": path}]}), "files[0].path: ")
       for path in ("../data/metrics.jsonl", "/etc/passwd", "a/../b", "a//b", "./a", "a\\b", "", "manifest.json", "a\nb", "a/", "\0", "x" * 300)},
    **{f"a hash {sha!r}": (lambda raw, sha=sha: json.dumps(raw | {"files": [raw["files"][0] | {"sha256": sha}]}), "files[0].sha256: ")
       for sha in ("", "0" * 63, "g" * 64, "A" * 64, "0" * 64 + "\n", None, 3)},
    **{f"a role {role!r}": (lambda raw, role=role: json.dumps(raw | {"parents": [{"role": role, "path": "", "sha256": "0" * 64}]}), "parents[0].role: ")
       for role in ("../b/sft", "/etc", "a/b/c", ".kept", "", "-x", "a\tb")},
    "a size below 0": (lambda raw: json.dumps(raw | {"files": [raw["files"][0] | {"size": -1}]}), "files[0].size: "),
    "a file twice": (lambda raw: json.dumps(raw | {"files": raw["files"] * 2}), "twice"),
    "a stage that is none": (lambda raw: json.dumps(raw | {"stage": "polish"}), "stage: 'polish' is no stage of this version"),
    "a gate that is none": (lambda raw: json.dumps(raw | {"gate": {"result": "fine", "checks": []}}), "gate.result: "),
    "a gate without checks": (lambda raw: json.dumps(raw | {"gate": {"result": "pass"}}), "gate.checks is missing"),
    "a check that is none": (lambda raw: json.dumps(raw | {"gate": {"result": "pass", "checks": [{"name": "x"}]}}), "gate.checks[0].result is missing"),
    "half a surrogate pair": (lambda raw: json.dumps(raw | {"run": "\ud800"}), "not a manifest of ours"),
}  # fmt: skip


def test_a_manifest_comes_from_outside(whole: Path, tally: Any) -> None:
    """Whatever it holds, one sentence names the field; and a newer one is not told to be removed."""
    path = A / "sft" / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["seal"]  # as a former version wrote it
    with tally("bytes") as cases:
        for name, (damage, says) in MANIFESTS.items():
            with cases(name), altered(path, damage(raw).encode("utf-8", "surrogatepass")):
                with pytest.raises(ArtifactError) as told:
                    Run("a").manifest("sft")
                message = str(told.value)
                assert message.startswith(f"{path}: ") and says in message and "\n" not in message, message
                assert ("remove" in message) is (name != "a newer contract")
        with cases("a former version's, without a seal"), altered(path, json.dumps(raw).encode()):
            sound("sft")


def test_what_is_damaged_is_made_again_by_all(whole: Path, tmp_path: Path, tally: Any) -> None:
    """A byte that changed makes its stage again, and what was made of it; nothing else."""
    with tally("bytes") as cases:
        for place in ("data", "reward", "rft"):
            with cases(f"a byte of {place}"):
                shutil.rmtree(tmp_path / "x", ignore_errors=True)
                shutil.copytree(whole, tmp_path / "x")
                with plain_stages(tmp_path / "x"):
                    Plain.salt = "a"
                    path = A / place / "metrics.jsonl"
                    path.write_bytes(flipped(path.read_bytes(), 5))
                    before = {stage: (A / stage / "manifest.json").stat().st_ino for stage in (*ORDER, "compare")}
                    for stage in (*ORDER, "compare"):
                        make(stage)
                    again = {stage for stage in before if (A / stage / "manifest.json").stat().st_ino != before[stage]}
                    assert again == {place}  # with the same bytes again, its children are what they were
                    assert not looked_at("compare")


@pytest.mark.slow
def test_verify_reads_again_what_is_remembered(
    whole: Path, tmp_path: Path, tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no time tells, as a disk that forgets; --verify finds it."""
    with tally("bytes") as cases, cases("--verify"):
        shutil.copytree(whole, tmp_path / "x")
        with plain_stages(tmp_path / "x"):
            path = A / "sft" / "model.safetensors"
            raw = path.read_bytes()
            assert command("sft") == 0
            time.sleep(2.1)
            assert command("sft") == 0
            path.write_bytes(flipped(raw, 9))
            state = path.stat()
            memory = hashes.memory(Path("runs"))
            known = json.loads(memory.read_text().partition("\n")[2])
            place = f"{state.st_dev}:{state.st_ino}"
            known[place] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, known[place][3]]
            text = json.dumps(known)
            memory.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
            assert command("sft") == 0 and "up to date" in capsys.readouterr().out
            assert command("sft", "--verify") == 0 and "sft made" in capsys.readouterr().out


def test_a_manifest_that_was_changed_on_purpose_is_no_fault_that_is_found(whole: Path) -> None:
    """docs/promises.md: hashes are no signature. Here so that the helper of these tests is known to work."""
    raw = (A / "sft" / "manifest.json").read_bytes()
    changed(A / "sft", machine="another")
    sound("sft")
    (A / "sft" / "manifest.json").write_bytes(raw)
