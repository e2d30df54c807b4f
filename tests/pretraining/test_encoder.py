"""Does a corpus become an encoder that a reward model starts from: published, gated, gone on with, and a user's mistakes told?"""

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_of_pairs import topics
from interruption import stopped_and_started
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import parents, read_now
from pipeline.artifacts.run import Run
from pipeline.pretraining.mlm_nsp import checks
from pipeline.settings.config import Config, ConfigError, Encoder, Pretrain, Reward
from pipeline.stages import encoder

SIZES: dict[str, Any] = {
    "sample_by": "line",
    "vocab_size": 290,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_length": 24,
    "batch_size": 16,
    "per_device_train_batch_size": 8,
    "max_steps": 6,
    "eval_fraction": 0.2,
    "sample_steps": 3,
    "samples": 2,
    "logging_steps": 1,
}


def settings(**more: Any) -> Config:
    return Config(encoder=Encoder(source="corpus.txt", **{**SIZES, **more}))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(dict.fromkeys(topics(200, 0))) + "\n只有一句\n", encoding="utf-8")
    return path


def test_an_encoder_is_published_with_its_figures(corpus: Path) -> None:
    made = encoder.run(settings(), Run("whole"))
    assert made is not None
    figures, folder = made.metrics, Path("runs/whole/encoder")
    assert {"masked_accuracy_before", "masked_accuracy_after", "next_sentence_low_after"} <= set(figures)
    assert figures["next_sentence_true"] == 0.5 and 0 < figures["masked_accuracy_unigram"] < 1
    assert [line["name"][:30] for line in made.gate["checks"]] == [
        "held-out masked loss",
        "held-out masked-word accuracy ",
        "held-out next-sentence accurac",
    ]
    told = encoder.summary(made, Run("whole"))
    assert "masked accuracy unigram" in told and "next sentence accuracy after" in told
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= row["masked_accuracy"] <= 1 and row["next_sentence_loss"] > 0 for row in log)
    assert "eval/masked_accuracy" in log[2] and "eval/next_sentence_accuracy" in log[5]
    assert log[5]["num_tokens"] > log[0]["num_tokens"] > 16
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert "[MASK]" in samples[0]["prompt"] and "[MASK]" not in samples[0]["completion"]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = tokenizer("一", "二", return_tensors="pt")
    assert read["token_type_ids"][0, -1] == 1 and read["input_ids"][0, 0] == tokenizer.cls_token_id
    assert AutoModelForMaskedLM.from_pretrained(folder)(**read).logits.shape[-1] == 290
    assert AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)(**read).logits.shape == (1, 1)


def test_it_goes_on_where_it_stopped(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, log and samples, bit for bit."""
    config = settings(save_steps=2, logging_steps=4)
    encoder.run(config, Run("whole"))
    stopped_and_started("encoder", config, Path("runs/again"), monkeypatch)
    for name in ("model.safetensors", "metrics.jsonl", "samples.jsonl", "tokenizer.json"):
        whole, again = (Path("runs") / run / "encoder" / name for run in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes(), name


def test_documents_stand_on_one_side(corpus: Path) -> None:
    made = encoder.run(settings(max_steps=1), Run("r"))
    assert made is not None
    counts = made.metrics
    assert counts["documents_train"] + counts["documents_eval"] == len(corpus.read_text().splitlines())
    assert counts["train_rows"] == counts["documents_train"]  # one of them a single sentence, which is read alone
    assert counts["next_sentence_pairs"] in (counts["documents_eval"], counts["documents_eval"] - 1)


def test_the_corpus_is_that_of_stage_pretrain_unless_told_otherwise() -> None:
    base = Pretrain(source="a.txt", sample_by="line", eval_fraction=0.3)
    assert Config(pretrain=base).encoder.source == "a.txt" and Config(pretrain=base).encoder.sample_by == "line"
    own = Config(pretrain=base, encoder=Encoder(eval_fraction=0.1)).encoder
    assert (own.source, own.sample_by, own.eval_fraction) == ("a.txt", "line", 0.1)
    assert Config(pretrain=base, encoder=Encoder(source="b.txt")).encoder.sample_by == "paragraph"
    assert not Config(pretrain=base).encoder_wanted() and Config(pretrain=base, encoder=Encoder()).encoder_wanted()
    assert not Config(encoder=Encoder()).encoder_wanted()


def test_what_starts_from_the_encoder_is_made_of_it(corpus: Path) -> None:
    plain, from_it = settings(), settings().model_copy(update={"reward": Reward(model="encoder")})
    assert parents("reward", plain) == ("data", "sft") and parents("reward", from_it) == ("encoder", "data", "sft")
    assert parents("reward_encoder", plain) == ("encoder", "data", "sft", "reward")
    assert "encoder" not in parents("ppo", from_it)
    corpus_now = read_now(Run("r"), "encoder", plain).sha256
    corpus.write_text(corpus.read_text() + "又一句。再一句。\n", encoding="utf-8")
    assert read_now(Run("r"), "encoder", plain).sha256 != corpus_now


def test_a_corpus_of_single_sentences_is_refused_with_what_helps(corpus: Path) -> None:
    corpus.write_text("\n".join(f"sentence number {i}" for i in range(200)), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"encoder.source: of the .* fewer than two have two sentences"):
        encoder.run(settings(vocab_size=270), Run("r"))


def test_too_few_held_out_pairs_are_told(corpus: Path) -> None:
    with pytest.raises(ArtifactError, match=r"encoder.eval_fraction: of the 1 held-out documents"):
        encoder.run(settings(eval_rows=1), Run("r"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model": "encoder", "encoder": Encoder(source="a")}, "model: encoder is for reward models"),
        (
            {"model": "pretrain", "pretrain": Pretrain(source="a", objective="mlm_nsp")},
            "model: pretrain makes an encoder",
        ),
    ],
)
def test_an_encoder_is_no_policy(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**config)


@pytest.mark.parametrize("stage", ["encoder", "reward_encoder"])
def test_no_corpus_is_told(stage: str) -> None:
    with pytest.raises(ConfigError, match="encoder.source"):
        Config().check_stage(stage, 1)
    with pytest.raises(ConfigError, match=r"reward.model: encoder is what that stage makes.*set encoder.source"):
        Config(reward=Reward(model="encoder")).check_stage("reward", 1)


def test_an_architecture_of_another_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="gpt2 does not learn by objective mlm_nsp; set it to bert"):
        Encoder(architecture="gpt2")


def test_the_gate_holds_figures_against_their_baselines() -> None:
    good = {"masked_loss_before": 7.0, "masked_loss_after": 5.0, "masked_accuracy_unigram": 0.1}
    good |= {f"masked_{name}_after": value for name, value in (("accuracy", 0.2), ("low", 0.15), ("high", 0.25))}
    good |= {f"next_sentence_{name}_after": value for name, value in (("accuracy", 0.6), ("low", 0.55), ("high", 0.7))}

    def results(**changes: float) -> list[str]:
        return [line.result for line in checks(good | changes)]

    assert results() == ["pass", "pass", "pass"]
    assert results(masked_loss_after=7.1)[0] == "fail"
    assert results(masked_low_after=0.09)[1] == "warn" and results(masked_high_after=0.09)[1] == "fail"
    assert results(next_sentence_low_after=0.49)[2] == "warn" and results(next_sentence_high_after=0.49)[2] == "fail"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "encoder"}, "model: encoder is for reward models"),
        ({"model": "encoder", "encoder": {"objective": "causal"}}, "model: encoder is for reward models"),
        (
            {"pretrain": {"source": "film_reviews", "eval_fraction": 0.3}},
            "eval_fraction: film_reviews has no use for it",
        ),
        ({"pretrain": {"source": "film_reviews", "clean": {"duplicates": False}}}, "clean.duplicates: film_reviews"),
        ({"pretrain": {"source": "film_reviews"}, "encoder": {"column": "x"}}, "encoder.column: film_reviews"),
        (
            {"pretrain": {"source": "chinese_reviews"}, "data": {"eval_fraction": 0.85}},
            "data.chinese_reviews.judge_fraction: with data.eval_fraction it leaves no review",
        ),
    ],
)
def test_what_has_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**changes)


def test_the_same_corpus_is_cleaned_alike() -> None:
    made = Config(
        pretrain={"source": "c.txt", "clean": {"near_duplicates": 0.8}},  # type: ignore[arg-type]
        encoder={"clean": {"nfc": False}},  # type: ignore[arg-type]
    )
    assert made.encoder.clean.near_duplicates == 0.8 and made.encoder.clean.nfc is False


def test_a_reward_model_beside_another_is_made_again_with_it() -> None:
    config = Config(ppo={"reward_funcs": ["reward.verifiers:exact"]}, encoder={"source": "c.txt"})  # type: ignore[arg-type]
    assert "reward" in parents("reward_encoder", config) and "reward" not in parents("ppo", config)
