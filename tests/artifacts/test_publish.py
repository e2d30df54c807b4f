"""Is what a stage published complete or absent, whatever breaks on the way?"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_stage import make, prepare, published, refused

from pipeline.artifacts import kept
from pipeline.artifacts import publish as publishing
from pipeline.artifacts.files import sha256, write_json
from pipeline.artifacts.freshness import finished
from pipeline.artifacts.gate import Check, Gate
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config, Data


class Fault(OSError):
    """The disk fails here."""


def fail(*_: Any, **__: Any) -> Any:
    raise Fault()


def break_at(where: str, patch: pytest.MonkeyPatch) -> None:
    """Let publish() fail at one of its steps."""
    rename, replace = Path.rename, Path.replace
    if where == "hash":
        patch.setattr(publishing, "sha256", fail)
    elif where == "flush":
        patch.setattr(os, "fsync", fail)
    elif where == "manifest":
        patch.setattr(publishing, "write_json", fail)
    elif where == "manifest's rename":
        patch.setattr(Path, "replace", lambda self, to: fail() if to.name == "manifest.json" else replace(self, to))
    else:
        moved = {"old one moved away": "data", "new one moved in": "made"}[where]
        patch.setattr(Path, "rename", lambda self, to: fail() if self.name == moved else rename(self, to))


STEPS = ["hash", "flush", "manifest", "manifest's rename", "new one moved in"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("where", "older"), [(s, o) for s in STEPS for o in (False, True)] + [("old one moved away", True)]
)
def test_publishing_is_all_or_nothing(
    run: Run, where: str, older: bool, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, the stage is what it was before; the same publication afterwards succeeds and can be required. Also where the
    system cannot let folders change places."""
    if older:
        make(run, text="old\n")
    if not at_once or where == "old one moved away":
        monkeypatch.setattr(kept, "exchange", lambda one, other: False)
    made = prepare(run, text="new\n")
    with pytest.MonkeyPatch.context() as patch:
        break_at(where, patch)
        with pytest.raises(Fault):
            published(run, made)
    if older:
        run.require("data")
        assert Path("runs/demo/data/rows.jsonl").read_text() == "old\n"
    else:
        assert not Path("runs/demo/data").exists()
    make(run, text="new\n")
    run.require("data")
    assert Path("runs/demo/data/rows.jsonl").read_text() == "new\n"
    assert sorted(os.listdir("runs/demo")) == ([".kept", "data"] if older else ["data"])
    assert [path.read_text() for path in Path("runs/demo/.kept").glob("*/rows.jsonl")] == ["old\n"] * older


def test_leftovers_of_a_killed_publication_are_no_files_of_the_next(run: Run) -> None:
    """A kill while the manifest is written leaves manifest.json.tmp; listed, it would be missing from what is published."""
    made = working_folder(run, "data", Config()) / "made"
    made.mkdir()
    for name in ("manifest.json.tmp", "model-00002-of-00002.safetensors"):
        (made / name).write_text("{")
    (prepare(run) / "inner" / "manifest.json").write_text("{}")  # not ours: a file like any other
    made = run.partial("data") / "made"
    (made / "manifest.json.tmp").write_text("{")
    published(run, made)
    found = run.require("data")
    assert [item["path"] for item in found.files] == ["inner/manifest.json", "inner/weights.bin", "rows.jsonl"]
    assert not Path("runs/demo/data/manifest.json.tmp").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_figures_that_are_not_finite_are_refused(run: Run, value: float) -> None:
    make(run, text="old\n")
    refused(
        lambda: make(run, metrics={"fine": 1.0, "loss": value}), "data: not finite: loss;", "runs/demo/data.partial"
    )
    # an infinite figure may pass its check, so a gate's own figures are looked at too
    refused(lambda: make(run, gate=Gate([Check("held-out loss", "pass", value, "x")])), "not finite: held-out loss;")
    assert Path("runs/demo/data/rows.jsonl").read_text() == "old\n" and run.partial("data").is_dir()


def test_write_json_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"x": float("nan")})
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Fault):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"ä": 1} and os.listdir(tmp_path) == ["a.json"]


def test_start_keeps_the_state_of_the_same_inputs_and_wipes_another(run: Run) -> None:
    partial = working_folder(run, "data", Config())
    assert partial == Path("runs/demo/data.partial")
    (partial / "state").write_text("step 5")
    started = json.loads((partial / "inputs.json").read_text())["started"]
    assert (working_folder(run, "data", Config()) / "state").read_text() == "step 5"
    assert json.loads((partial / "inputs.json").read_text())["started"] == started
    working_folder(run, "data", Config(seed=1))
    assert os.listdir(partial) == ["inputs.json"]
    (partial / "state").write_text("step 6")
    (partial / "inputs.json").unlink()  # of unknown origin
    refused(lambda: working_folder(run, "data", Config(seed=1)), str(partial), "neither replaced nor removed", "RUN")
    assert os.listdir(partial) == ["state"]


def test_only_the_main_process_touches_the_partial_folder(run: Run) -> None:
    other = dataclasses.replace(run, main_process=False)
    assert not working_folder(other, "data", Config()).exists()


def test_hashes_are_sha256(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("what", ["parent", "file"])
def test_what_changed_while_a_stage_was_made_is_not_taken_for_what_it_was_made_from(run: Run, what: str) -> None:
    """Its manifest would name a parent, or a file, that it never saw, and it would count as up to date."""
    Path("mine.jsonl").write_text('{"prompt": "a"}\n')
    config, stage = Config(data=Data(source="mine.jsonl")), "sft" if what == "parent" else "data"
    make(run, config=config)
    made = prepare(run, stage, config)
    if what == "parent":
        make(run, config=config, text="other rows\n")
    else:
        Path("mine.jsonl").write_text('{"prompt": "b"}\n')
    refused(
        lambda: published(run, made, stage, config),
        f"{stage}: ", "changed since it began", "nothing was published", f"make its stage {stage}",
    )  # fmt: skip
    assert run.manifest("sft") is None
    again = prepare(run, stage, config)  # the same command begins anew, from what is there now
    published(run, again, stage, config)
    assert finished(run, stage, config) is not None
