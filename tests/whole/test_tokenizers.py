"""Does the walk hold with tokenizers that have no pad, several ends, or a space before every word?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from zoo.tokenizers import save

from pipeline.running import run_stage
from pipeline.settings.recipe import load
from reward.model import load_scorer

ROOT = Path(__file__).resolve().parents[2]
SHRUNK = [
    "sft.max_steps=3",
    "reward.max_steps=3",
    "ppo.total_episodes=32",
    "ppo.num_ppo_epochs=1",
    "data.max_length=128",
]
SHRUNK += ["ppo.eval_prompts=4", "compare.prompts=4", "compare.models=[base, sft, ppo]", "compare.judges=[]"]


@pytest.mark.parametrize("name", ["gpt2", "llama2", "llama3"])
def test_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Policies have the rows of their base and no more; the reward model has one for its pad, and scores alike in plain transformers, on
    the policy's base and loaded by itself."""
    monkeypatch.chdir(tmp_path)
    base = save(name, tmp_path / "base")
    config = load(ROOT / "recipes" / "smoke.yaml", [f"model={base}", f"data.source={ROOT}/data/smoke.jsonl", *SHRUNK])
    for stage in ("data", "sft", "reward", "ppo", "compare"):
        run_stage(stage, config, "walk")
    run = tmp_path / "runs" / "walk"
    rows = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight.shape[0]
    for stage in ("sft", "ppo"):
        tokenizer, model = (kind.from_pretrained(run / stage) for kind in (AutoTokenizer, AutoModelForCausalLM))
        assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == rows
    manifest = json.loads((run / "ppo" / "manifest.json").read_text())
    assert abs(manifest["metrics"]["first/objective/kl"]) < 1e-3
    assert manifest["metrics"]["scored/texts"] > 0
    prompt, said = "The film was", " great."
    tokenizer, model = (
        kind.from_pretrained(run / "reward") for kind in (AutoTokenizer, AutoModelForSequenceClassification)
    )
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    ids: Any = [*tokenizer(prompt + said)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        plain = model(torch.tensor([ids])).logits.item()
    scorer = load_scorer(run / "reward", torch.float32, torch.device("cpu"), 4)
    assert scorer.raw([prompt, "A"], [said, " no"])[0].item() == pytest.approx(plain, abs=1e-4)
