"""Does the walk hold on a base of 4 or 8 bit: one base for all roles, and merged weights that are not quantised?"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.training import roles as building
from policies.backbone import load_causal
from policies.engines import transformers_engine
from policies.precision import Held
from policies.quick.linear import LoraLinear
from policies.roles import POLICY, REWARD, VALUE
from policies.tokenizers import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ("sft", "reward", "gold", "ppo", "dpo", "kto", "rloo", "rft")
STAGES = ("data", *TRAINED, "best_of_n", "compare")
LAYERS = {"nf4": bnb.nn.Linear4bit, "int8": bnb.nn.Linear8bitLt}
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *("data.eval_fraction=0.3333", "data.gold_fraction=0.3"),
    *("sft.tuning=lora", "sft.max_steps=4", "sft.learning_rate=1e-2"),
    *("reward.max_steps=4", "reward.normalise_samples=16", "reward.lora.layers=last 1"),
    *("ppo.total_episodes=48", "ppo.batch_size=16", "ppo.response_length=12", "ppo.eval_prompts=6"),
    "ppo.missing_eos_score=null",  # few of these completions end, and with one score for all others rloo learns nothing
    *("rloo.batch_size=8", "rloo.per_device_train_batch_size=4", "dpo.max_steps=3", "kto.max_steps=3"),
    *("rft.tuning=lora", "rft.max_steps=3", "best_of_n.n=4", "best_of_n.prompts=6"),
    *("compare.prompts=6", "compare.perplexity_rows=4", "compare.models=[base,sft,ppo,dpo,kto,rloo,rft,best_of_4]"),
]


def settings(kind: str, *more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, f"quantization={kind}", *more])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/ with run nf4, every stage, and run int8, reward and ppo after the same sft."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("quantised"))
        for stage in STAGES:
            run_stage(stage, settings("nf4"), "nf4")
        Path("runs/int8").mkdir()
        for stage in ("data", "sft"):
            shutil.copytree(Path("runs/nf4", stage), Path("runs/int8", stage))
        for stage in ("reward", "ppo"):
            run_stage(stage, settings("int8"), "int8")
        yield Path("runs")


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


MADE = [*(("nf4", stage) for stage in TRAINED), ("int8", "reward"), ("int8", "ppo")]


@pytest.mark.parametrize(("kind", "stage"), MADE)
def test_what_is_published_is_merged_and_not_quantised(walk: Path, kind: str, stage: str) -> None:
    """In the files: the weights that the stage started from, in float32, plus s·B·A."""
    folder = walk / kind / stage
    made = manifest(folder)
    assert all(math.isfinite(value) for value in made["metrics"].values())
    assert made["metrics"]["merged/kept"] >= 0.98 and made["model"]["stored"] == "torch.float32"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    whole = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in whole.values()} == {torch.float32}
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    name = next(n for n in adapter if "lora_A" in n and adapter[n.replace("lora_A", "lora_B")].any())
    weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
    update = config["lora_alpha"] / config["r"] * (adapter[name.replace("lora_A", "lora_B")] @ adapter[name])
    if stage != "sft":
        before = load_file(walk / kind / "sft" / "model.safetensors")[weight]
        torch.testing.assert_close(whole[weight], before + update)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_ppo_starts_from_a_ratio_of_one_and_no_kl(walk: Path, kind: str) -> None:
    first = json.loads((walk / kind / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert abs(first["objective/kl"]) < 1e-3 and first["val/ratio"] == pytest.approx(1.0, abs=1e-2)
    assert first["grad_norm"] > 0 and manifest(walk / kind / "ppo")["notes"]["halted"] is None


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_all_roles_are_on_one_quantised_base(walk: Path, kind: str) -> None:
    """Reward too, its score that of the adapter on that base; the score head is neither quantised nor rounded."""
    config, run = settings(kind), Run(kind)
    tokenizer = load_tokenizer(run.folder("sft"))
    roles, score = building.build(config, run, tokenizer, torch.device("cpu"))
    assert roles.quantised and roles.reference is None and roles.critic is None
    layers = [m for m in roles.causal.modules() if isinstance(m, LAYERS[kind])]
    assert len(layers) == 2 * 7  # every linear layer of both decoder layers, none twice
    assert not any(isinstance(m, LoraLinear) for m in roles.modules())
    assert set(roles.policy.peft_config) == {POLICY, REWARD, VALUE}
    assert type(roles.causal.get_output_embeddings().weight) is torch.nn.Parameter
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        run.folder("sft"), num_labels=1, quantization_config=load_quantised(kind, run)
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    adapted: Any = PeftModel.from_pretrained(base, str(run.folder("reward") / "adapter")).eval()
    ids = tokenizer("When the new neighbour knocked, I opened the door.")["input_ids"] + [tokenizer.eos_token_id]
    contract = json.loads((run.folder("reward") / "scoring.json").read_text())
    with torch.no_grad():
        plain = (adapted(torch.tensor([ids])).logits.item() - contract["mean"]) / contract["std"]
    found = score(["When the new neighbour knocked, I"], [" opened the door."]).item()
    assert found == pytest.approx(plain, abs=0.02)
    assert transformers_engine(roles).exact == (kind == "nf4")


def load_quantised(kind: str, run: Run) -> Any:
    """transformers' own settings of such a base, taken from one that was loaded by our code."""
    tokenizer = load_tokenizer(run.folder("sft"))
    model: Any = load_causal(run.folder("sft"), tokenizer, Held(torch.float32, quantization=kind))
    config = model.config.quantization_config
    config.llm_int8_skip_modules = ["score"]
    return config


def test_the_published_policy_speaks_as_the_adapter_on_the_unquantised_base(walk: Path) -> None:
    folder = walk / "nf4" / "ppo"
    merged: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    base = AutoModelForCausalLM.from_pretrained(walk / "nf4" / "sft")
    attached: Any = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("When the new neighbour knocked, I")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, attached(ids).logits, atol=1e-4, rtol=0)
    figures = manifest(folder)["metrics"]
    assert abs(figures["merged/kl"]) < 1e-6 < figures["quantised/kl"]  # few bits are another base


def test_the_report_is_made(walk: Path) -> None:
    report = json.loads((walk / "nf4" / "compare" / "report.json").read_text())
    assert set(report["models"]) == {"base", "sft", "ppo", "dpo", "kto", "rloo", "rft", "best_of_4"}
