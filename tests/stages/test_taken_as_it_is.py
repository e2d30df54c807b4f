"""Can a model that was fine-tuned elsewhere go into reward and ppo? With sft.max_steps=0 it is published bit for bit."""

from pathlib import Path

import pytest
from small_walk import ROOT, manifest, settings
from tiny import save_tiny

from pipeline.artifacts.files import sha256
from pipeline.running import run_stage
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sft_without_steps_publishes_the_model_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """float32 weights stay float32, whatever the recipe's dtype: nothing was trained that rounding could be for."""
    monkeypatch.chdir(tmp_path)
    given = save_tiny(tmp_path / "given")
    config = settings(f"model={given}", f"dtype={dtype}", "sft.max_steps=0")
    for stage in ("data", "sft"):
        run_stage(stage, config, "own")
    made = tmp_path / "runs/own/sft"
    assert sha256(made / "model.safetensors") == sha256(given / "model.safetensors")
    found = manifest(made)
    assert found["metrics"]["train_rows"] == found["metrics"]["tokens_per_second"] == 0
    assert found["metrics"]["loss_before"] == found["metrics"]["loss_after"]
    assert "held-out loss" not in [check["name"] for check in found["gate"]["checks"]]
    assert not (made / "adapter").exists() and (made / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("stage", ["reward", "dpo", "kto", "rft"])
def test_no_other_stage_can_be_passed_over(stage: str) -> None:
    with pytest.raises(ConfigError, match=f"{stage}.max_steps: 0 steps train nothing"):
        load(ROOT / "recipes" / "smoke.yaml", [f"{stage}.max_steps=0"])
