"""Does the whole walk hold with an encoder–decoder: data to report with a tiny T5, artifacts that load without our code, what cannot be told?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import EOS, save_pair
from peft import AutoPeftModelForSeq2SeqLM
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.inspect import look
from pipeline.rows.published import demonstrations
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.sharing import serving
from pipeline.training.card import usage
from reward.model import load_scorer

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "sft", "reward", "ppo", "compare")
SHRUNK = [
    *(f"data.source={ROOT / 'data' / 'smoke.jsonl'}", "data.eval_fraction=0.3333", "data.max_length=200"),
    *("sft.tuning=lora", "sft.max_steps=6", "sft.learning_rate=1e-2", "sft.max_new_tokens=16"),
    *("reward.max_steps=4", "reward.normalise_samples=16", "reward.max_new_tokens=12"),
    *("ppo.total_episodes=32", "ppo.batch_size=16", "ppo.micro_batch_tokens=400", "ppo.response_length=12"),
    *("compare.prompts=6", "compare.perplexity_rows=6", "compare.models=[base,sft,few_shot,ppo]"),
]


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("pair")
        patch.chdir(folder)
        save_pair("t5", folder / "base")
        for stage in STAGES:
            run_stage(stage, settings(), "pair")
        yield Path("runs/pair")


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, "model=base", *more])


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "manifest.json").read_text())["metrics"]
    return found


def plain(folder: Path | str, loader: Any = AutoModelForSeq2SeqLM) -> Any:
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@torch.no_grad()
def held_out_loss(folder: Path | str) -> float:
    """Nats a token of held-out demonstrations, with nothing but transformers: prompts to the encoder, labels from `text_target`."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), plain(folder)
    total = tokens = 0.0
    for row in demonstrations(Run("pair"), "eval"):
        read = tokenizer(row.prompt, return_tensors="pt")["input_ids"]
        room = settings().data.max_length - read.shape[1] - 1
        labels = tokenizer(text_target=row.completion, return_tensors="pt")["input_ids"][:, :room]
        total += model(input_ids=read, labels=labels).loss.item() * labels.shape[1]
        tokens += labels.shape[1]
    return total / tokens


def test_the_held_out_loss_is_transformers_own_and_falls(walk: Path) -> None:
    figures = metrics(walk / "sft")
    assert figures["loss_before"] == pytest.approx(held_out_loss("base"), rel=1e-4)
    assert figures["loss_after"] == pytest.approx(held_out_loss(walk / "sft"), rel=1e-4)
    assert figures["loss_after"] < figures["loss_before"] and figures["merged/kl"] < 1e-4


def test_policies_load_without_our_code_and_the_adapter_is_the_same_change(walk: Path) -> None:
    sft, ppo = plain(walk / "sft"), plain(walk / "ppo")
    adapted: Any = AutoPeftModelForSeq2SeqLM.from_pretrained(walk / "ppo" / "adapter").eval()
    ask = {"input_ids": torch.tensor([[50, 60, 70, EOS]]), "decoder_input_ids": torch.tensor([[0, 40, 41, 42]])}
    with torch.no_grad():
        logits = ppo(**ask).logits
        assert torch.allclose(adapted(**ask).logits, logits, atol=1e-4)
        assert not torch.allclose(sft(**ask).logits, logits, atol=1e-3)
    assert "AutoModelForSeq2SeqLM" in (walk / "ppo" / "README.md").read_text() and "AutoModelForSeq2SeqLM" in usage(
        "text2text-generation", "x"
    )


def test_the_reward_model_reads_prompt_and_completion_as_one_text(walk: Path) -> None:
    model, tokenizer = (
        plain(walk / "reward", AutoModelForSequenceClassification),
        AutoTokenizer.from_pretrained(walk / "reward"),
    )
    contract = json.loads((walk / "reward" / "scoring.json").read_text())
    with torch.no_grad():
        raw = model(**tokenizer("The film was great.", return_tensors="pt")).logits.item()
    score = load_scorer(walk / "reward", torch.float32, torch.device("cpu"), 4)
    found = score(["The film was", "A"], [" great.", " plot that ends"])
    assert found[0].item() == pytest.approx((raw - contract["mean"]) / contract["std"], abs=1e-4)
    head = {n for n, _ in model.named_parameters() if "classification_head" in n}
    adapter = json.loads((walk / "reward" / "adapter" / "adapter_config.json").read_text())
    assert head and "classification_head" in adapter["modules_to_save"]


def test_ppo_began_at_the_reference_and_the_report_compares_all(walk: Path) -> None:
    rows = [json.loads(line) for line in (walk / "ppo" / "metrics.jsonl").read_text().splitlines()]
    assert abs(rows[0]["objective/kl"]) < 1e-4
    report = json.loads((walk / "compare" / "report.json").read_text())
    told = json.dumps(report)
    assert all(name in told for name in ("base", "sft", "few_shot", "ppo")) and "perplexity" in told


def test_what_an_encoder_decoder_cannot_is_told_in_a_sentence(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("pair")
    monkeypatch.setattr(serving, "find_spec", lambda name: True)  # whatever is installed
    with pytest.raises(ArtifactError, match="inspect: the models of run pair are encoder–decoders"):
        look.run(settings(), run, "A funny")
    with pytest.raises(ArtifactError, match=r"MODEL=ppo: .* is an encoder–decoder, and transformers' server"):
        serving.serve(run, "ppo", 0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "kto", "rloo", "rft", "best_of_n"])
def test_the_baselines_take_it_too(stage: str, walk: Path) -> None:
    few = ("dpo.max_steps=2", "kto.max_steps=2", "rft.max_steps=2", "rft.n=2", "best_of_n.n=2")
    run_stage(stage, settings(*few), "pair")
    if stage == "best_of_n":
        return
    ask = {"input_ids": torch.tensor([[50, 60, EOS]]), "decoder_input_ids": torch.tensor([[0, 40]])}
    with torch.no_grad():
        assert not torch.equal(plain(walk / stage)(**ask).logits, plain(walk / "sft")(**ask).logits)
