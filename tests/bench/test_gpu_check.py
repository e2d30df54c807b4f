"""Does `make gpu-check` hold up to the device's door: a row that fails or takes too long is a row, and each row's work runs, here on a CPU?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.bench import gpu_check, gpu_rows
from pipeline.bench.gpu_check import Row, check, installed, rows, table

ROOT = Path(__file__).resolve().parents[2]


def said(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline.bench.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "gpu-check: it needs a CUDA GPU, and torch sees none here; nothing was run\n"


def test_a_failure_is_a_row_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    every = [
        Row("good", said("print('noise'); print('{\"tokens a second\": 12.5}')"), 20),
        Row("breaks", said("print('before'); raise SystemExit('CUDA error: out of memory')"), 20),
        Row("cannot", said("import sys; print('error: trl==1.12.0 could not be installed'); sys.exit(2)"), 20),
        Row("hangs", said("import time; time.sleep(60)"), 1.5),
        Row("silent", said("pass"), 20),
        Row("last", said("print('{}')"), 20),
    ]
    found = check(every)
    assert [one.result for one in found] == [
        "held",
        "failed: CUDA error: out of memory",
        "not run: trl==1.12.0 could not be installed",
        "stopped: 2 seconds were over",
        "failed: it ended well and left no figures (list index out of range)",
        "held",
    ]
    assert 1.5 <= found[3].seconds < 10
    written = json.loads(Path("runs/gpu-check.json").read_text())
    assert [row["name"] for row in written["rows"]] == [row.name for row in every]
    assert "tokens a second: 12.5" in table(found) and "stopped: " in table(found)


def test_no_row_begins_when_the_time_of_all_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    slow = Row("slow", said("import time; time.sleep(60)"), 50)
    found = check([slow, Row("next", said("print('{}')"), 20)], whole=2.0)
    assert found[0].result.startswith("stopped: ") and found[1].result.startswith("not run: ")
    assert sum(one.seconds for one in found) < 15


def test_the_rows_are_those_that_were_asked_for() -> None:
    names = [row.name for row in rows(installed())]
    assert names[:2] == ["machine", "walk in bfloat16"] and {"architectures", "beside TRL 1.12.0"} <= set(names)
    assert {"ppo, engine transformers", "ppo, engine continuous"} <= set(names)
    assert gpu_check.WHOLE <= 8 * 60 and all(row.limit <= gpu_check.WHOLE for row in rows(["transformers"]))


def test_ppo_of_a_row(tiny_folder: Path) -> None:
    """On a CPU nothing waits for a device. The preflight knows what there is."""
    found = gpu_rows.ppo(tiny_folder, "transformers", "float32", batch=4, response=6)
    assert found["ratio"] == pytest.approx(1.0, abs=0.01) and abs(found["kl at first"]) < 1e-4
    assert found["waits a decoded step"] == 0 and found["tokens a second, rollout"] > 0
    assert 0.6 < found["GB by the preflight"] < 0.7 and found["peak GB"] > 0.2


def test_an_engine_that_cannot_run_ends_its_row(tiny_folder: Path) -> None:
    with pytest.raises(Exception, match="continuous needs a CUDA GPU"):
        gpu_rows.ppo(tiny_folder, "continuous", "float32", batch=2, response=3)


def test_architectures_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that differ are named by how much; one that breaks by its error."""
    cpu = torch.device("cpu")
    assert gpu_rows.architectures(["llama", "gpt2"], cpu, [torch.float32, torch.bfloat16]) == {"work": "4 of 4"}
    found = gpu_rows.architectures(["llama", "no_such"], cpu, [torch.float32])
    assert found["work"] == "1 of 2" and found["no_such, float32"].startswith("KeyError")
    monkeypatch.setattr(gpu_rows, "logits", lambda model, states: model.lm_head(states) + 0.5)
    assert gpu_rows.architectures(["llama"], cpu, [torch.float32])["llama, float32"] == "0.5 apart"


def test_the_walk_and_the_bench_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in gpu_check.STAGES:
        folder = Path("runs/gpu-check") / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"gate": {"result": "pass"}}))
    (folder.parent / "ppo" / "metrics.jsonl").write_text(json.dumps({"val/ratio": 1.0, "objective/kl": 0.0}) + "\n")
    found = gpu_check.figures_of(Row("walk", [], 1, "walk"), [])
    assert found["gates"]["ppo"] == "pass" and found["ratio"] == 1.0
    side = {"ours": {"s_per_iteration": 1.0, "peak_gb": 2.0}, "trl": {"s_per_iteration": 3.0, "peak_gb": 5.0}}
    Path("report.json").write_text(json.dumps({"rows": [{"lora_layers": 10, "speedup": 3.0, **side}]}))
    told = gpu_check.figures_of(Row("bench", [], 1, "report.json"), [])
    assert told == {"adapters in 10 layers": "1 s, TRL 3 (3.00x); 2 GB, TRL 5"}
