"""Does KTO learn from what was liked and disliked: the same tokens, the paper's loss, both sources, resumed exactly?"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from alike import equal
from datasets import Dataset
from interruption import stopped_and_started
from resealed import refilled
from small_walk import ROOT, manifest
from tiny import EOS, lora
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig

from data.schema import Judgement
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows, sha256
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.stages import kto as stage_kto
from pipeline.stages.kto import Example, of_judgement, rows_of
from pipeline.training.context import make_accelerator
from pipeline.training.trl_trainers import JudgementTrainer
from policies.backbone import load_causal
from policies.template import encode_completion, encode_prompt

SHRUNK = [
    *("data.eval_fraction=0.3333", "sft.max_steps=6"),
    *("kto.max_steps=6", "kto.save_steps=2", "kto.logging_steps=1", "kto.learning_rate=1e-2"),
    *("kto.batch_size=8", "kto.per_device_train_batch_size=4"),
]
RANKED = f"data.source={ROOT / 'data' / 'smoke.jsonl'}"
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def settings(source: str, *more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [source, *SHRUNK, *more])


def again(name: str, whole: str = "ranked") -> Path:
    for stage in ("data", "sft"):
        shutil.copytree(Path("runs") / whole / stage, Path("runs") / name / stage)
    return Path("runs") / name


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """runs/ranked from the rankings of the smoke recipe; runs/judged from judgements: of each ranking its best, and two others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("kto"))
        judged = []
        for line in (ROOT / "data" / "smoke.jsonl").read_text().splitlines():
            row = json.loads(line)
            best, *others = [place for tier in row["ranking"] for place in tier]
            for place in (best, *others[-2:]):
                said = row["completions"][place]
                text = said if isinstance(said, str) else said["text"]
                judged.append({"prompt": row["prompt"], "completion": text, "label": place == best})
        Path("thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
        for name, source in (("ranked", RANKED), ("judged", "data.source=thumbs.jsonl")):
            for stage in ("data", "sft", "kto"):
                run_stage(stage, settings(source), name)
        yield Path("runs")


# trl's trainer


def trainer_of(tiny_folder: Path, tiny_tokenizer: Any, folder: Path, **more: Any) -> JudgementTrainer:
    texts = [("What?", " yes", True), ("To be", " or not", False), ("x y z", " 1", True), ("12", " so", False)]
    examples = [of_judgement(tiny_tokenizer, Judgement("j", p, c, liked, "f:1"), 64) for p, c, liked in texts]
    arguments = {"output_dir": str(folder), "report_to": [], "bf16": False, "use_cpu": True, "max_length": None}
    return JudgementTrainer(
        model=load_causal(tiny_folder, tiny_tokenizer, torch.float32),
        args=KTOConfig(**arguments, remove_unused_columns=False, per_device_train_batch_size=4, beta=0.5, **more),
        train_dataset=Dataset.from_list(rows_of(examples, range(4), 4, seed=0)),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )


def test_it_trains_on_our_tokens(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Prompt + completion + EOS, the mask on the completion; before any step each loss is its weight times 1 - σ(0)."""
    trainer = trainer_of(tiny_folder, tiny_tokenizer, tmp_path, desirable_weight=3.0, undesirable_weight=0.5)
    batch = next(iter(trainer.get_train_dataloader()))
    for row, mask, (p, c) in zip(
        batch["input_ids"].tolist(),
        batch["completion_mask"].tolist(),
        [("What?", " yes"), ("To be", " or not"), ("x y z", " 1"), ("12", " so")],
        strict=True,
    ):
        prompt, completion = encode_prompt(tiny_tokenizer, p), encode_completion(tiny_tokenizer, p, c)
        pad = len(row) - len(prompt) - len(completion)
        assert row == [*prompt, *completion, *[tiny_tokenizer.pad_token_id] * pad]
        assert mask == [0] * len(prompt) + [1] * len(completion) + [0] * pad
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx((3 + 0.5) / 4, abs=1e-6)


def test_the_loss_is_the_papers(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """λ_D·(1 - σ(β(r - z))) of the liked, λ_U·(1 - σ(β(z - r))) of the disliked, r = log π/π_ref of the completion, z the mean r of
    completions under the prompt of another row, not below 0 (Ethayarajh et al. 2024); token by token, without padding."""
    trainer = trainer_of(tiny_folder, tiny_tokenizer, tmp_path, desirable_weight=3.0, undesirable_weight=0.5)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch).item()
    merged = trainer.model.merge_and_unload().eval()
    before = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()

    def ratio(prompt: list[int], completion: list[int]) -> float:
        ids, sums = prompt + completion, []
        for model in (merged, before):
            with torch.no_grad():
                logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
            sums.append(sum(logprobs[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))))
        return sums[0] - sums[1]

    rows = list(trainer.train_dataset)
    z = max(0.0, sum(ratio(row["prompt_ids"], row["KL_completion_ids"]) for row in rows) / 4)
    losses = []
    for row in rows:
        r = ratio(row["prompt_ids"], row["completion_ids"])
        sign, weight = (1, 3.0) if row["label"] else (-1, 0.5)
        losses.append(weight * (1 - 1 / (1 + math.exp(-0.5 * sign * (r - z)))))
    assert abs(loss - (3 + 0.5) / 4) > 0.01 and loss == pytest.approx(sum(losses) / 4, abs=1e-5)


# The stage


def test_no_row_is_longer_than_max_length(walk: Path) -> None:
    """Own rows fit as they are; a long completion under another's long prompt, which estimates the KL, is cut."""
    examples = [Example("a", [5] * 12, [[6, 6, EOS]], True), Example("b", [7, 7], [[8] * 13 + [EOS]], False)]
    rows = rows_of(examples, [0, 1], 2, seed=0)
    config, run = settings(RANKED, "data.max_length=16"), Run("ranked")
    tokenizer = AutoTokenizer.from_pretrained(walk / "ranked" / "sft")
    folder = Path("long")
    trainer = stage_kto._trainer(rows, (1.0, 1.0), tokenizer, config, run, folder, make_accelerator())
    batch = trainer.data_collator(rows)
    for row, other, prefix in ((rows[0], rows[1], ""), (rows[1], rows[0], ""), (rows[0], rows[1], "KL_")):
        own = row["prompt_ids"] + (other if prefix else row)["completion_ids"]
        at = rows.index(row)
        seen = batch[f"{prefix}attention_mask"][at].bool()
        assert batch[f"{prefix}input_ids"][at][seen].tolist() == own[:16]
        mask = [0] * len(row["prompt_ids"]) + [1] * (len(own[:16]) - len(row["prompt_ids"]))
        assert batch[f"{prefix}completion_mask"][at][seen].tolist() == mask
    assert batch["KL_input_ids"].shape == (2, 16)


def test_it_learns_from_what_the_data_has(walk: Path) -> None:
    for name, source in (("ranked", "rankings"), ("judged", "judgements")):
        made = manifest(walk / name / "kto")
        assert made["model"]["learned from"] == source and made["model"]["beta"] == 0.05
        figures = made["metrics"]
        assert figures["train_liked"] + figures["train_disliked"] == 6 * 8
        assert (walk / name / "data" / "judgements.train.jsonl").is_file() == (source == "judgements")
        assert {p.name for p in (walk / name / "kto").iterdir()} >= MODEL | {"adapter", "metrics.jsonl", "README.md"}
        assert [parent["role"] for parent in made["parents"]] == ["data", "sft"]
    rare = manifest(walk / "judged" / "kto")["metrics"]  # one in three is liked
    assert rare["desirable_weight"] == pytest.approx(rare["train_disliked"] / rare["train_liked"]) != 1
    assert rare["undesirable_weight"] == 1


def test_what_was_liked_gains_on_what_was_disliked(walk: Path) -> None:
    """Many steps on few rows: the trainer's margin grows and its loss falls, below the 0.5 of a model that did not move."""
    run = again("longer")
    run_stage(
        "kto",
        settings(RANKED, "kto.max_steps=40", "kto.batch_size=16", "kto.learning_rate=3e-3", "ppo.kl_coef=0.5"),
        run.name,
    )
    logged = read_rows(run / "kto" / "metrics.jsonl")
    margins = [row["rewards/margins"] for row in logged if "rewards/margins" in row]
    losses = [row["loss"] for row in logged if "loss" in row]
    assert sum(margins[-5:]) / 5 > sum(margins[:5]) / 5 + 0.5
    assert losses[0] == pytest.approx(0.5, abs=0.02) and sum(losses[-5:]) / 5 < 0.45


@pytest.mark.parametrize("name", ["ranked", "judged"])
def test_the_gate_is_the_gap_of_implicit_rewards(walk: Path, name: str) -> None:
    """Once more from the published weights with nothing but transformers, token by token."""
    run = walk / name
    tokenizer = AutoTokenizer.from_pretrained(run / "kto")
    models = [AutoModelForCausalLM.from_pretrained(run / stage).eval() for stage in ("kto", "sft")]

    def reward(prompt: str, completion: str) -> float:
        begin = tokenizer(prompt)["input_ids"]
        ids, sums = begin + tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id], []
        for model in models:
            with torch.no_grad():
                logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
            sums.append(sum(logprobs[place - 1, ids[place]].item() for place in range(len(begin), len(ids))))
        return 0.05 * (sums[0] - sums[1])

    gaps, sides = [], {True: [], False: []}
    if name == "judged":
        for row in read_rows(run / "data" / "judgements.eval.jsonl"):
            sides[row["liked"]].append(reward(row["prompt"], row["completion"]))
        expected = sum(sides[True]) / len(sides[True]) - sum(sides[False]) / len(sides[False])
    else:
        for row in read_rows(run / "data" / "rankings.eval.jsonl"):
            said = {one["id"]: reward(row["prompt"], one["text"]) for one in row["completions"]}
            tiers = row["ranking"]
            pairs = [said[a] - said[b] for i, tier in enumerate(tiers) for a in tier for w in tiers[i + 1 :] for b in w]
            gaps.append(sum(pairs) / len(pairs))
        expected = sum(gaps) / len(gaps)
    made = manifest(run / "kto")
    assert made["metrics"]["gap"] == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-4
    assert made["metrics"]["gap_low"] < made["metrics"]["gap"] < made["metrics"]["gap_high"]
    line = made["gate"]["checks"][0]
    assert (line["result"] == "fail") == (line["figure"] <= 0) and line["figure"] == made["metrics"]["gap"]


@pytest.mark.parametrize(("name", "source"), [("ranked", RANKED), ("judged", "data.source=thumbs.jsonl")])
def test_held_out_rows_may_be_sorted(walk: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Liked ones first, or ties first: the first two rows would have one kind, or no pair."""
    run = again(f"sorted_{name}", name)
    monkeypatch.setattr("pipeline.artifacts.run.Run.require", lambda *args, **more: None)
    monkeypatch.setattr("pipeline.stages.kto.train", lambda *args: (0.0, 0))
    monkeypatch.setattr("pipeline.stages.kto.publish_policy", lambda *args, metrics, **more: metrics)
    path = run / "data" / f"{'judgements' if name == 'judged' else 'rankings'}.eval.jsonl"
    rows = read_rows(path)
    if name == "judged":
        rows = sorted(rows, key=lambda row: not row["liked"])
    else:
        rows = [row | {"ranking": [[c["id"] for c in row["completions"]]]} for row in rows[:2]] + rows[2:]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = stage_kto.run(settings(source, "kto.eval_rows=2"), Run(run.name))
    assert min(figures["eval_liked"], figures["eval_disliked"]) >= 1


def test_a_second_time_it_is_up_to_date(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage("kto", settings(RANKED), "ranked")
    assert "kto: runs/ranked/kto is up to date" in capsys.readouterr().out


def test_interrupted_it_ends_with_the_same_bits(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = again("cut")
    stopped_and_started("kto", settings(RANKED), run, monkeypatch)
    assert sha256(run / "kto" / "model.safetensors") == sha256(walk / "ranked" / "kto" / "model.safetensors")


def test_all_weights_can_be_trained(walk: Path) -> None:
    run = again("full")
    run_stage("kto", settings(RANKED, "kto.tuning=full", "kto.max_steps=2"), run.name)
    assert not (run / "kto" / "adapter").exists()
    assert sha256(run / "kto" / "model.safetensors") != sha256(run / "sft" / "model.safetensors")


def test_in_bfloat16_it_is_as_in_float32_but_for_rounding(walk: Path) -> None:
    run = again("half", "judged")
    run_stage("sft", settings("data.source=thumbs.jsonl", "dtype=bfloat16"), run.name)
    run_stage("kto", settings("data.source=thumbs.jsonl", "dtype=bfloat16"), run.name)
    made, exact = (manifest(folder / "kto") for folder in (run, walk / "judged"))
    assert made["dtype"] == "torch.bfloat16" and exact["dtype"] == "torch.float32"
    assert made["metrics"]["gap"] == pytest.approx(exact["metrics"]["gap"], abs=0.02)


def test_however_its_rows_are_dealt_to_micro_batches_it_learns_the_same(walk: Path) -> None:
    """The KL is estimated from all completions of a step, and a log's figures are means over its tokens and completions."""
    run = again("small")
    run_stage("kto", settings(RANKED, "kto.per_device_train_batch_size=2", "kto.learning_rate=1e-3"), run.name)
    whole = again("large")
    run_stage("kto", settings(RANKED, "kto.per_device_train_batch_size=8", "kto.learning_rate=1e-3"), whole.name)
    equal(whole / "kto", run / "kto")


# What cannot be


def of_one_kind(run: Path, side: str, liked: bool) -> None:
    path = run / "data" / f"judgements.{side}.jsonl"
    path.write_text("".join(json.dumps(row | {"liked": liked}) + "\n" for row in read_rows(path)))
    refilled(path.parent)


def test_one_kind_alone_teaches_nothing(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what the judgements lack and what the rankings lack."""
    monkeypatch.setattr("pipeline.artifacts.run.Run.require", lambda *args, **more: None)
    monkeypatch.setattr("pipeline.artifacts.lineage.check", lambda *args, **more: None)
    for liked, kind in ((True, "disliked"), (False, "liked")):
        run = again(f"only_{liked}", "judged")
        of_one_kind(run, "eval", liked)
        no_pair = r"rankings\.train has no pair of which one is better"
        told = rf"^runs/{run.name}/data: judgements\.eval has no {kind} completion and {no_pair}, and kto needs [^\n]*or leave out kto$"
        with pytest.raises(ArtifactError, match=told):
            run_stage("kto", settings("data.source=thumbs.jsonl"), run.name)
    run = again("ties")
    path = run / "data" / "rankings.eval.jsonl"
    rows = [row | {"ranking": [[c["id"] for c in row["completions"]]]} for row in read_rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refilled(path.parent)
    told = r"ties/data: judgements\.train has no liked or disliked completion and rankings\.eval has no pair of which"
    with pytest.raises(ArtifactError, match=told):
        run_stage("kto", settings(RANKED), run.name)


@pytest.mark.parametrize("side", ["train", "eval"])
def test_judgements_of_one_kind_leave_it_to_the_rankings(
    walk: Path, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside rankings, judgements of which one side is all liked; the same weights as from the rankings alone."""
    run = again(f"both_{side}")
    monkeypatch.setattr("pipeline.artifacts.run.Run.require", lambda *args, **more: None)
    for one in ("train", "eval"):
        shutil.copy(Path("runs/judged/data") / f"judgements.{one}.jsonl", run / "data")
    of_one_kind(run, side, liked=True)
    made = stage_kto.run(settings(RANKED), Run(run.name))
    assert made.model["learned from"] == "rankings"
    assert sha256(run / "kto" / "model.safetensors") == sha256(walk / "ranked" / "kto" / "model.safetensors")


def test_settings_that_do_not_go_together_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"kto\.beta: ppo\.kl_coef is 0, and KTO has no meaning without a KL"):
        settings(RANKED, "ppo.kl_coef=0").check_stage("kto", 1)
    settings(RANKED, "ppo.kl_coef=0", "kto.beta=0.1").check_stage("kto", 1)
    assert (settings(RANKED).beta("kto"), settings(RANKED, "kto.beta=0.3").beta("kto")) == (0.05, 0.3)
    with pytest.raises(ConfigError, match=r"per_device_train_batch_size"):  # no other prompt to estimate the KL under
        settings(RANKED, "kto.per_device_train_batch_size=1")
    with pytest.raises(ConfigError, match=r"kto\.batch_size: 8 rows cannot be shared by 3 process"):
        settings(RANKED).check_stage("kto", 3)
