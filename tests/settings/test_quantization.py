"""Is what few bits or an attention cannot do told in one sentence, before anything is loaded?"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pipeline.settings import config as settings_of
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.training.holding import as_published, to_train
from policies.precision import Held

SMOKE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


def recipe(*overrides: str) -> Config:
    return load(SMOKE, overrides)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if `package` were not installed, and any other were."""
    monkeypatch.setattr(settings_of, "find_spec", lambda name: None if name == package else find_spec("json"))


@pytest.mark.parametrize("stage", ["reward", "gold", "ppo", "dpo", "kto", "rloo", "rft"])
def test_all_weights_cannot_be_trained_in_few_bits(stage: str) -> None:
    section = "reward" if stage == "gold" else stage
    given = [f"{section}.tuning=full", "quantization=nf4", "data.gold_fraction=0.5"]
    with pytest.raises(ConfigError) as caught:
        recipe(*given).check_stage(stage, 1)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{section}.tuning: full ") and f"set {section}.tuning=lora" in str(
        caught.value
    )
    recipe(*given[:-2], *given[2:]).check_stage(stage, 1)
    recipe(f"{section}.tuning=lora", *given[1:]).check_stage(stage, 1)


def test_sft_may_train_all_weights_and_then_quantises_nothing() -> None:
    config = recipe("quantization=int8")
    config.check_stage("sft", 1)
    cpu = torch.device("cpu")
    assert to_train(config, cpu, "full") == Held(torch.float32)
    assert to_train(config, cpu, "lora") == Held(torch.float32, quantization="int8")
    assert as_published(config, cpu) == Held(torch.float32, unrounded=True)


@pytest.mark.parametrize("engine", ["continuous", "vllm"])
def test_engines_that_take_merged_weights_are_refused(engine: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^ppo.engine: {engine} .*set ppo.engine=transformers or quantization=null$"
    ):
        recipe("quantization=fp4", f"ppo.engine={engine}").check_stage("ppo", 1)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_package_that_is_missing_is_named_with_its_command(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(f"quantization={kind}")
    without(monkeypatch, "bitsandbytes")
    with pytest.raises(ConfigError) as caught:
        recipe(f"quantization={kind}")
    assert str(caught.value) == (
        f"quantization={kind}: quantization: {kind} needs the package bitsandbytes, which is not installed; "
        "set quantization=null, or run: python -m pip install -e '.[quantized]'"
    )
    recipe("quantization=null")


def test_flash_attention_needs_its_package_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "flash_attn")
    with pytest.raises(
        ConfigError,
        match="flash_attention_2 needs the package flash_attn.*set attn_implementation=sdpa, or run: python -m pip install flash-attn$",
    ):
        recipe("attn_implementation=flash_attention_2")
    without(monkeypatch, "nothing")
    config = recipe("attn_implementation=flash_attention_2")
    for held in (lambda device: to_train(config, device, "lora"), lambda device: as_published(config, device)):
        with pytest.raises(ConfigError, match="needs a CUDA GPU and there is none here; set attn_implementation=sdpa"):
            held(torch.device("cpu"))
        assert held(torch.device("cuda")).attention == "flash_attention_2"


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="quantization: takes 'nf4', 'fp4' or 'int8'"):
        recipe("quantization=int4")
