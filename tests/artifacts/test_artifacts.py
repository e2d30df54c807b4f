"""Is a parent that is not what it claims refused with a remedy?"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_stage import BAD, make, refused

from pipeline.artifacts.freshness import finished
from pipeline.artifacts.gate import Check, Gate, below, check, check_gain
from pipeline.artifacts.manifest import CONTRACT
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config


def test_what_is_published_can_be_required(run: Run) -> None:
    made = make(run)
    found = run.require("data", tokenizer="f" * 64)
    assert found == made
    folder = Path("runs/demo/data")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "inner/weights.bin", "manifest.json", "rows.jsonl",
    ]  # fmt: skip
    assert os.listdir("runs/demo") == ["data"]  # neither partial nor old
    # printf 'rows\n' | sha256sum; printf '\\0\\1\\2\\3\\4\\5\\6\\7\\10' | sha256sum
    by_path = {item["path"]: (item["size"], item["sha256"][:16]) for item in found.files}
    assert by_path["rows.jsonl"] == (5, "9b71c268cf258d56")
    assert by_path["inner/weights.bin"] == (9, "f8348e0b1df00833")


def test_a_manifest_says_what_the_design_lists(run: Run) -> None:
    make(run)
    config = Config(seed=7, force=True)
    make(run, "sft", config, data={"counts": {"read": 9, "rejected": 1}}, dtype="torch.float32")
    raw = json.loads(Path("runs/demo/sft/manifest.json").read_text())
    assert raw["contract"] == CONTRACT and raw["stage"] == "sft" and raw["run"] == "demo"
    (parent,) = raw["parents"]
    assert parent == {"role": "data", "path": "../data", "sha256": run.identity("data")}
    assert all(set(item) == {"path", "size", "sha256"} for item in raw["files"])
    assert raw["config"]["settings"]["sft"] == config.sft.model_dump(mode="json")
    assert raw["config"]["settings"]["model"] == config.model and len(raw["config"]["sha256"]) == 64
    assert raw["model"]["revision"] is None and raw["tokenizer"] == "f" * 64
    assert (raw["seed"], raw["dtype"], raw["world_size"], raw["forced"]) == (7, "torch.float32", 1, True)
    assert {"torch", "transformers", "trl", "peft", "accelerate", "python"} <= set(raw["libraries"])
    assert raw["git_commit"] is None or raw["git_commit"].split("-")[0].isalnum()
    assert raw["data"]["counts"] == {"read": 9, "rejected": 1} and raw["metrics"] == {"loss": 0.5}
    assert raw["gate"]["result"] == "pass" and raw["gate"]["checks"][0]["threshold"] == "at least 1"
    assert raw["started"] <= raw["finished"] and raw["finished"].endswith("+00:00")


def test_a_gate_is_as_good_as_the_worst_of_its_checks() -> None:
    ok, warn, fail = (Check("a", result, 1, "x") for result in ("pass", "warn", "fail"))
    assert [Gate(c).result for c in ([], [ok], [ok, warn], [warn, fail, ok])] == ["pass", "pass", "warn", "fail"]


def test_an_absent_stage_names_the_command_that_makes_it(run: Run) -> None:
    for call in (lambda: run.require("sft"), lambda: run.identity("sft")):
        assert refused(call) == "no finished sft in runs/demo; make its stage sft"


@pytest.mark.parametrize(("low", "high", "says"), [(0.1, 0.3, "pass"), (-0.1, 0.3, "warn"), (-0.3, -0.1, "fail")])
def test_a_gain_fails_only_where_it_is_surely_a_loss(low: float, high: float, says: str) -> None:
    assert check_gain("gain", 0.0, low, high).result == says


def test_a_changed_byte_is_refused(run: Run) -> None:
    make(run)
    path = Path("runs/demo/data/inner/weights.bin")
    path.write_bytes(b"\x01" + path.read_bytes()[1:])  # the same size
    refused(lambda: run.require("data"), str(path), "changed", "; remove runs/demo/data and make its stage data")
    refused(lambda: run.require("data", force=True), "changed")  # force is for gates


def test_a_missing_file_is_refused(run: Run) -> None:
    make(run)
    Path("runs/demo/data/rows.jsonl").unlink()
    refused(lambda: run.require("data"), "runs/demo/data/rows.jsonl", "missing", "make its stage data")
    assert finished(run, "data", Config()) is None


def test_another_tokenizer_is_refused(run: Run) -> None:
    make(run)
    refused(
        lambda: run.require("data", tokenizer="e" * 64),
        "runs/demo/data", "ffffffffffff", "eeeeeeeeeeee", "; remove runs/demo/data and make its stage data",
    )  # fmt: skip
    assert run.require("data").tokenizer == "f" * 64  # who renders no text need not ask


def test_a_failed_gate_is_refused_unless_forced(run: Run) -> None:
    make(run, gate=BAD)
    message = refused(lambda: run.require("data"), "runs/demo/data", "loss 2.5 (below 2)", "mend data", "force=true")
    assert "rows" not in message.partition("gate:")[2]  # only what failed
    assert run.require("data", force=True).gate["result"] == "fail"
    make(run, gate=Gate([check("loss", 2.5, should=below(2))]))
    assert run.require("data").gate["result"] == "warn"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda raw: json.dumps(raw | {"surprise": 1}), ["surprise"]),
        (lambda raw: json.dumps({k: v for k, v in raw.items() if k != "files"}), ["files"]),
        (lambda raw: json.dumps(raw | {"files": None}), ["files"]),
        (lambda raw: json.dumps(raw | {"gate": {}}), ["gate"]),
        (lambda raw: json.dumps([raw]), ["not a manifest"]),
        (lambda raw: json.dumps(raw)[:100], ["not a manifest"]),
        (lambda raw: json.dumps(raw | {"seed": 4}), ["changed since it was published"]),
        (lambda raw: "", ["not a manifest"]),
        (lambda raw: b"\xff\xfe\x00", ["not a manifest"]),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused_and_its_remedy_works(run: Run, damage: Any, parts: list[str]) -> None:
    """Nothing that asks for the stage may go on, and what the message says to do must mend it."""
    make(run)
    path = Path("runs/demo/data/manifest.json")
    text = damage(json.loads(path.read_text()))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for call in (lambda: run.require("data"), lambda: finished(run, "data", Config()), lambda: run.identity("data")):
        refused(call, str(path), *parts, "; remove runs/demo/data and make its stage data")
    for inside in sorted(path.parent.rglob("*"), reverse=True):
        inside.rmdir() if inside.is_dir() else inside.unlink()
    path.parent.rmdir()
    assert finished(run, "data", Config()) is None
    make(run)
    run.require("data")
