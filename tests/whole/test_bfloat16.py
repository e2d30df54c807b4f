"""Does the whole walk hold in bfloat16, the dtype of `auto` on every GPU: each stage, each baseline, and what is published?"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import PAD
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from policies.backbone import load_causal, load_classifier, new_classifier, output_head
from policies.tokenizers import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "sft", "reward", "gold", "ppo", "dpo", "kto", "rloo", "rft", "best_of_n", "compare")
SHRUNK = [
    "dtype=bfloat16",
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",
    "data.gold_fraction=0.3",
    *("sft.tuning=lora", "sft.max_steps=4", "sft.learning_rate=1e-2"),
    *("reward.max_steps=4", "reward.normalise_samples=16", "reward.lora.layers=last 1"),
    *(
        "ppo.missing_eos_score=null",
        "ppo.missing_eos_penalty=1",
    ),  # few completions end, and scores that are all one teach nothing
    *("ppo.total_episodes=48", "ppo.batch_size=16", "ppo.response_length=12", "ppo.eval_prompts=6"),
    *(
        "rloo.batch_size=8",
        "rloo.learning_rate=1e-5",  # so small that bfloat16 would lose it
        "rloo.per_device_train_batch_size=4",
        "dpo.max_steps=4",
        "kto.max_steps=4",
        "rft.tuning=lora",
        "rft.max_steps=4",
    ),
    *("best_of_n.n=4", "best_of_n.prompts=6"),
    *(
        "compare.prompts=6",
        "compare.perplexity_rows=4",
        "compare.models=[base,few_shot,sft,ppo,dpo,kto,rloo,rft,best_of_4]",
    ),
]


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/whole with every stage and baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bfloat16"))
        for stage in STAGES:
            run_stage(stage, settings(), "whole")
        yield Path("runs/whole")


def test_every_stage_is_made_in_bfloat16(walk: Path) -> None:
    for stage in STAGES[1:]:
        manifest = json.loads((walk / stage / "manifest.json").read_text())
        assert manifest["dtype"] == "torch.bfloat16", stage
        assert all(math.isfinite(value) for value in manifest["metrics"].values()), stage


def test_ppo_starts_from_a_ratio_of_one_and_no_kl(walk: Path) -> None:
    first = json.loads((walk / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert abs(first["objective/kl"]) < 1e-3 and first["val/ratio"] == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo", "kto", "rloo", "rft"])
def test_what_is_published_loads_and_is_not_what_it_began_as(walk: Path, stage: str) -> None:
    """In the dtype that keeps what was learned. Adapters stay in float32, so that small updates are not lost in them."""
    model = AutoModelForCausalLM.from_pretrained(walk / stage)
    made = json.loads((walk / stage / "manifest.json").read_text())
    assert str(model.dtype) == made["model"]["stored"] and made["metrics"]["merged/kept"] >= 0.98
    assert abs(made["metrics"]["merged/kl"]) < 0.01
    adapter = load_file(walk / stage / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    assert any(weight.any() for name, weight in adapter.items() if "lora_B" in name)


def test_updates_below_half_a_step_of_bfloat16_are_published(walk: Path) -> None:
    """A learning rate of 1e-5: in bfloat16 most weights of the published policy would be those of the sft model."""
    (walk.parent / "slow").mkdir()
    for stage in ("data", "sft", "reward"):
        shutil.copytree(walk / stage, walk.parent / "slow" / stage)
    run_stage("ppo", settings("ppo.learning_rate=1e-5"), "slow")
    folder = walk.parent / "slow" / "ppo"
    made = json.loads((folder / "manifest.json").read_text())
    assert made["metrics"]["merged/kept"] >= 0.98 and made["model"]["stored"] == "torch.float32"
    merged: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    base: Any = AutoModelForCausalLM.from_pretrained(walk / "sft", dtype=torch.bfloat16).eval()
    before = {name: weight.float() for name, weight in base.named_parameters()}
    changed = {n: (w, before[n]) for n, w in merged.named_parameters() if not torch.equal(w, before[n])}
    assert len(changed) == 2 * 7
    lost = [(w.bfloat16() == b.bfloat16()).float().mean().item() for w, b in changed.values()]
    assert min(lost) > 0.8
    attached: Any = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("When the new neighbour knocked, I")["input_ids"]])
    with torch.no_grad():
        p, q = (torch.log_softmax(model(ids).logits.float(), -1) for model in (attached, merged))
    assert (p.exp() * (p - q)).sum(-1).mean() < 0.01


def test_the_comparison_reads_what_a_user_loads(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (walk.parent / "own").mkdir()
    for stage in ("data", "sft", "reward", "rloo"):
        shutil.copytree(walk / stage, walk.parent / "own" / stage)
    loaded = {}

    def spy(path: str, *more: Any) -> Any:
        model = load_causal(path, *more)
        loaded[Path(path).name] = model.dtype
        return model

    monkeypatch.setattr("pipeline.comparison.answers.load_causal", spy)
    run_stage("compare", settings("compare.models=[base,sft,rloo]"), "own")
    stored = {s: json.loads((walk / s / "manifest.json").read_text())["model"]["stored"] for s in ("sft", "rloo")}
    assert {name: str(loaded[name]) for name in stored} == stored
    assert set(stored.values()) == {"torch.float32", "torch.bfloat16"}  # the walk has both
    assert torch.float32 in loaded.values() and len(loaded) == 3


@pytest.mark.parametrize("stage", ["reward", "gold"])
def test_a_reward_model_scores_alike_here_and_with_plain_transformers(walk: Path, stage: str) -> None:
    """Plain transformers runs the head in bfloat16 too: within its grid."""
    tokenizer = load_tokenizer(walk / stage)
    ours = load_classifier(walk / stage, tokenizer, torch.bfloat16)
    plain = AutoModelForSequenceClassification.from_pretrained(walk / stage, dtype=torch.bfloat16).eval()
    ids = torch.tensor([tokenizer("The film was great." + tokenizer.eos_token)["input_ids"]])
    with torch.no_grad():
        score = ours(ids).logits
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, plain(ids).logits.float(), atol=0.03, rtol=0.02)
    weights = load_file(walk / stage / "model.safetensors")
    assert weights["score.weight"].dtype == torch.float32


@pytest.mark.parametrize("body", ["llama", "roberta"])
def test_a_head_is_read_as_it_was_written(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, body: str) -> None:
    """Its scores were normalised with these weights, not with those of the nearest bfloat16."""
    torch.manual_seed(0)
    BODIES[body](len(tiny_tokenizer)).save_pretrained(tmp_path / "body")
    tiny_tokenizer.save_pretrained(tmp_path / "body")
    model: Any = new_classifier(tmp_path / "body", tiny_tokenizer, torch.bfloat16, seed=0)
    model.save_pretrained(tmp_path / "whole")
    again = load_classifier(tmp_path / "whole", tiny_tokenizer, torch.bfloat16)
    ids = torch.tensor([tiny_tokenizer("a river")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    written = output_head(model).weight
    assert torch.equal(output_head(again).weight, written) and not torch.equal(written, written.bfloat16().float())


@pytest.mark.parametrize(("tuning", "value"), [("full", "adapter"), ("lora", "shared")])
def test_the_other_ways_to_hold_the_roles(walk: Path, tuning: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pretraining mix, layers below the adapter run once, and activations recomputed."""
    name = f"{tuning}-{value}"
    for stage in ("data", "sft", "reward"):
        (walk.parent / name).mkdir(exist_ok=True)
        shutil.copytree(walk / stage, walk.parent / name / stage)
    more = ["ppo.ptx_coef=0.1", "ppo.gradient_checkpointing=true", "ppo.total_episodes=32"]
    more += ["ppo.lora.layers=last 1"] if tuning == "lora" else []
    run_stage("ppo", settings(f"ppo.tuning={tuning}", f"ppo.value={value}", *more), name)
    made = json.loads((walk.parent / name / "ppo" / "manifest.json").read_text())
    assert made["notes"]["halted"] is None and all(math.isfinite(figure) for figure in made["metrics"].values())
    assert made["metrics"]["grad_norm"] > 0 and abs(made["metrics"]["first/objective/kl"]) < 1e-3


SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BODIES = {
    "llama": lambda n: LlamaModel(LlamaConfig(vocab_size=n, num_key_value_heads=2, **SMALL)),
    "gpt2": lambda n: GPT2LMHeadModel(GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=4)),
    "bert": lambda n: BertModel(BertConfig(vocab_size=n, **SMALL)),
    "roberta": lambda n: RobertaModel(RobertaConfig(vocab_size=n, pad_token_id=PAD, **SMALL)),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_every_kind_learn_in_float32(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, body: str, dtype: torch.dtype
) -> None:
    """A bare linear layer, and one behind a layer of its own as RoBERTa has it: both take an update of 1e-5."""
    torch.manual_seed(0)
    BODIES[body](len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model: Any = new_classifier(tmp_path, tiny_tokenizer, dtype, seed=0)
    ids = torch.tensor([tiny_tokenizer("a river")["input_ids"]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.dtype == torch.float32 and logits.shape == (1, 1)
    head = [p for name, p in model.named_parameters() if name.startswith(("score", "classifier"))]
    assert head and {p.dtype for p in head} == {torch.float32}
    assert next(model.base_model.parameters()).dtype == dtype
    logits.sum().backward()
    with torch.no_grad():
        for parameter in head:
            before = parameter.clone()
            parameter -= 1e-5 * parameter.grad.sign()
            assert ((parameter != before) | (parameter.grad == 0)).all()
