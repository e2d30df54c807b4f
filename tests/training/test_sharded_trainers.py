"""Does a Trainer whose model's layers are all shared out learn and keep what one process does?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sharded_trainers import trained
from tiny import furthest

CLOSE = 1e-6  # weights and figures
LAYERS = 74_240  # bytes of the decoder layers of the tiny model


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_all_layers_shared_out_equal_one_process(tiny_folder: Path, tmp_path: Path) -> None:
    """Weights and figures, in micro-batches that are accumulated and with gradients that are cut; gone on with from the state of one
    process; and one process from theirs. Embeddings and head lie whole, decoder layers in halves."""
    expected, _ = trained(tiny_folder, tmp_path / "one", "none")
    trained(tiny_folder, tmp_path / "alone", "none", stop=True)
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root.parent), str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*call, str(root / "sharded_trainers.py"), str(tiny_folder), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("full", "alone"):
        assert furthest(expected, load_file(tmp_path / f"{name}.safetensors")) < CLOSE, name
        for one, several in zip(logged(tmp_path / "one"), logged(tmp_path / name), strict=True):
            shown = {"loss", "grad_norm", "learning_rate", "mean_token_accuracy"}
            assert all(abs(one[key] - several[key]) < CLOSE for key in shown), (one, several)
            assert one["grad_norm"] > 0.05  # and so was cut
    saved = torch.load(tmp_path / "left" / "state" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert [len(group["params"]) for group in saved["param_groups"]] == [16, 5]
    found, report = trained(tiny_folder, tmp_path / "left", "none")
    assert report.resumed_at == 2 and furthest(expected, found) < CLOSE
    whole = sum(p.numel() * 4 for p in expected.values())
    told = json.loads(
        (tmp_path / "loaded.json").read_text()
    )  # each process read its share alone, and gathered a layer at a time
    assert told["read"] == [whole - LAYERS // 2] * 2 and told["whole"] == [whole] * 2
    assert told["most"] == [1, 1] and told["same"] == told["adapters"] == [True, True]
    assert (tmp_path / "full.bytes").read_text() == f"{whole - LAYERS // 2} {whole - LAYERS // 2}"
