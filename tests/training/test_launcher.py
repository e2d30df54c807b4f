"""Are the numbers of every stage the recipe's, whatever a user's accelerate says and however many GPUs a process sees?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from pipeline.artifacts.files import read_rows
from pipeline.running import run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.training.launcher import own_settings

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "sft", "reward", "ppo", "dpo", "kto", "rloo", "rft", "compare")
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *(f"{stage}.max_steps=2" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    *(f"{stage}.logging_steps=1" for stage in ("sft", "reward", "dpo", "kto", "rft", "rloo")),
    *("reward.normalise_samples=8", "reward.eval_rows=4", "ppo.total_episodes=8", "ppo.batch_size=8"),
    *("ppo.response_length=8", "ppo.eval_prompts=4", "rloo.batch_size=8", "rloo.per_device_train_batch_size=4"),
    *("dpo.eval_rows=4", "kto.eval_rows=4", "rft.prompts=8", "rft.n=2"),
    *("compare.models=[sft,ppo]", "compare.prompts=4", "compare.perplexity_rows=2"),
]
LAUNCHED = {  # as `accelerate launch` sets them from a config with mixed precision, a compiler and accumulation
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_CPU": "False",
}


def config() -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", SHRUNK)


def made(name: str) -> dict[str, dict[str, Any]]:
    """Stage -> its weights by file and name, and its figures of every step but the seconds."""
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES[1:]:
        folder = Path("runs") / name / stage
        weights = {f"{p.name} {k}": v for p in sorted(folder.rglob("*.safetensors")) for k, v in load_file(p).items()}
        timed = ("time/", "seconds", "runtime", "per_second", "step_time")
        figures = {
            (number, key): value
            for number, row in enumerate(read_rows(folder / "metrics.jsonl"))
            for key, value in row.items()
            if not any(word in key for word in timed)
        }
        found[stage] = weights | figures
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What the stages make where nobody else has a say; tests work in the same folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LAUNCHED:
            patch.delenv(name, raising=False)
        patch.chdir(tmp_path_factory.mktemp("launcher"))
        for stage in STAGES:
            run_stage(stage, config(), "plain")
        yield made("plain")


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys() and one
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, key


def test_no_stage_follows_a_users_accelerate(
    plain: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit. The variables are set again before each stage, which takes them out."""
    for stage in STAGES:
        for name, value in LAUNCHED.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        run_stage(stage, config(), "launched")
        told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("accelerate: ")]
        assert len(told) == (stage != "data"), stage
        assert all("ACCELERATE_MIXED_PRECISION=bf16 (set dtype)" in line for line in told)
    found = made("launched")
    for stage in STAGES[1:]:
        check_same(plain[stage], found[stage])


def test_a_process_that_sees_two_gpus_makes_the_same(
    plain: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would wrap the model in DataParallel, whose copies need devices that are not there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    for stage in STAGES:
        run_stage(stage, config(), "gpus")
    found = made("gpus")
    for stage in STAGES[1:]:
        check_same(plain[stage], found[stage])


def test_what_changes_nothing_is_not_told() -> None:
    """accelerate launch sets these for everyone; what is no business of numbers stays."""
    environment = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "False"}
    environment |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_USE_FSDP": "false", "HOME": "/"}
    environment |= {"ACCELERATE_DEBUG_MODE": "true"}
    assert own_settings(environment) is None
    assert environment == {"HOME": "/", "ACCELERATE_DEBUG_MODE": "true"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MIXED_PRECISION", "fp16", "set dtype"),
        ("MIXED_PRECISION", "fp8", "set dtype"),
        ("GRADIENT_ACCUMULATION_STEPS", "8", "set batch_size"),
        ("DYNAMO_BACKEND", "INDUCTOR", "nothing is compiled"),
        ("USE_CPU", "true", "set CUDA_VISIBLE_DEVICES"),
        ("TORCH_DEVICE", "cuda:1", "set CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_is_not_followed_is_told_with_the_setting_that_decides(name: str, value: str, said: str) -> None:
    environment = {f"ACCELERATE_{name}": value}
    told = own_settings(environment)
    assert told is not None and f"ACCELERATE_{name}={value} ({said}" in told and not environment


@pytest.mark.parametrize("name", ["USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG"])
def test_a_split_model_is_refused_in_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run_stage("data", config(), "r")
    monkeypatch.setenv(f"ACCELERATE_{name}", "true")
    with pytest.raises(ConfigError, match=f"^ACCELERATE_{name}=true: .* would split the model .*; unset it"):
        run_stage("sft", config(), "r")
