"""Does the estimate of memory count what there is, and is a run that cannot fit refused with the remedy before anything is loaded?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.running import run_stage
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.settings.sections import Lora
from pipeline.training import preflight
from pipeline.training.preflight import Rows, check, needs, trainer_needs
from policies.footprint import Footprint, footprint
from policies.precision import Held

ROOT = Path(__file__).resolve().parents[2]
SHAPE = LlamaConfig(
    vocab_size=1000,
    hidden_size=100,
    intermediate_size=300,
    num_hidden_layers=4,
    num_attention_heads=10,
    num_key_value_heads=5,
    tie_word_embeddings=True,
)
# By hand: q and o 100·100 each, k and v 100·50 each, gate, up, down 100·300 each, two norms of 100: 120,200 a layer; 4 layers, a norm,
# and 1000·100 embeddings.
LAYER, MODEL = 120_000, 4 * 120_200 + 100 + 100_000
WHOLE: Footprint = footprint(SHAPE, Held(torch.float32), None)
ADAPTED: Footprint = footprint(SHAPE, Held(torch.float32), Lora())
NARROW: Footprint = footprint(SHAPE, Held(torch.bfloat16), Lora())


def parts(model: Footprint = ADAPTED, beside: float = 0.0, processes: int = 1, **ppo: object) -> dict[str, float]:
    return needs(Config(ppo=PPO(**ppo)), model, beside, 20, 5e8, processes)  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    """LoRA: the base. Full: the reference; what is trained counts as training. Reward models of their own stand beside."""
    assert parts()["process"] == pytest.approx(0.5)
    assert parts()["weights"] * 1e9 == pytest.approx(MODEL * 4)
    assert parts(NARROW)["weights"] * 1e9 == pytest.approx(MODEL * 2)
    assert parts(WHOLE, beside=7e6, tuning="full")["weights"] * 1e9 == pytest.approx(MODEL * 4 + 7e6)


def test_sampling_or_learning_whichever_is_more() -> None:
    """A merged copy of the adapted matrices, and keys and values of 64 rows of 20 + 32 tokens: 2·4 layers·50 numbers a token.
    One micro-batch of 52 tokens needs less than those, one of 4,000 more."""
    few: Any = {"micro_batch_tokens": 1, "keep_activations": 0.0}
    assert parts(**few)["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 4)
    assert parts(**few)["cache"] * 1e9 == pytest.approx(2 * 4 * 50 * 64 * 52 * 4)
    assert parts(**few, batch_size=128) == parts(**few)  # 64 rows at a time
    last = footprint(SHAPE, Held(torch.float32), Lora(layers="last 1"))
    assert parts(last, **few)["merged copy"] * 1e9 == pytest.approx(LAYER * 4)
    kept: Any = {"micro_batch_tokens": 4000, "keep_activations": 0.25}
    for engine, model, room in (("transformers", ADAPTED, 0.0), ("transformers", NARROW, 0.25e9), ("continuous", ADAPTED, 0.25e9)):  # fmt: skip
        learning = parts(model, **kept, engine=engine)
        assert not {"merged copy", "cache"} & learning.keys() and {"activations", "logits"} <= learning.keys()
        assert learning["activations"] * 1e9 == pytest.approx(model.activations(4000, 52) + room)
    together = parts(processes=2, micro_batch_tokens=4000, keep_activations=0.0)
    assert together["activations"] * 1e9 == pytest.approx(2 * ADAPTED.activations(4000, 52))  # critic and policy
    long: Any = few | {"response_length": 200}
    attached, vllm = (parts(NARROW, **long, engine=engine) for engine in ("transformers", "vllm"))
    assert attached["merged copy"] == 0  # in bfloat16
    assert vllm["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 2)


def test_training_by_hand() -> None:
    """r 16 in seven matrices of a layer: 16·(2·(100+100) + 2·(100+50) + 3·(100+300)); four float32 numbers each; critic the same again."""
    lora = 16 * (400 + 300 + 1200) * 4
    assert parts(value="shared")["training"] * 1e9 == pytest.approx(lora * 16)
    assert parts(value="adapter")["training"] * 1e9 == pytest.approx(2 * lora * 16)
    assert parts(WHOLE, tuning="full", value="shared")["training"] * 1e9 == pytest.approx(MODEL * 16)
    assert parts(WHOLE, tuning="full", value="adapter")["training"] * 1e9 == pytest.approx(2 * MODEL * 16)


def test_what_costs_less_is_less() -> None:
    assert parts(micro_batch_tokens=256)["activations"] < parts(micro_batch_tokens=1024)["activations"]
    assert parts(gradient_checkpointing=True)["activations"] < parts()["activations"]
    assert footprint(SHAPE, Held(torch.float32), Lora(layers="last 1")).kept < ADAPTED.kept / 3
    assert parts(num_ppo_epochs=1) == parts(num_ppo_epochs=8)


def test_a_stage_of_the_trainer_by_hand() -> None:
    """The heaviest micro-batch: 4 rows of like length, 40 + 30 + 30 + 20 tokens; logits in float32, so many times."""
    section = Config().sft.model_copy(update={"per_device_train_batch_size": 4})
    rows = Rows.of([5, 40, 30, 20, 30, 7], section)
    assert (rows.tokens, rows.longest) == (120, 40)
    found = trainer_needs(section, ADAPTED, 3e6, rows, 5e8)
    assert found["weights"] * 1e9 == pytest.approx(MODEL * 4 + 3e6)
    assert found["training"] * 1e9 == pytest.approx(16 * 1900 * 4 * 16)
    assert found["activations"] * 1e9 == pytest.approx(ADAPTED.activations(120, 40))
    assert found["logits"] * 1e9 == pytest.approx(120 * 1000 * preflight.LOGITS * 4)
    whole = trainer_needs(section.model_copy(update={"tuning": "full"}), WHOLE, 0.0, rows, 5e8)
    assert whole["weights"] == 0 and whole["training"] * 1e9 == pytest.approx(MODEL * 16)
    sampling = trainer_needs(section, ADAPTED, 0.0, replace(rows, sampled=1000, length=50), 5e8)
    assert sampling["cache"] * 1e9 == pytest.approx(1000 * 50 * 2 * 4 * 50 * 4) and "logits" not in sampling


def test_refused_with_the_remedy() -> None:
    found = parts()
    need = sum(found.values()) - found["process"]
    assert check("ppo", found, need + 0.01, "here").startswith("ppo: needs about ")
    with pytest.raises(ConfigError, match=r"0\.001 GB are free here, most of it for .*; (lower|adapt|set) "):
        check("ppo", found, 0.001, "here")
    stage = {"process": 0.1, "weights": 1.0, "activations": 9.0}
    with pytest.raises(ConfigError, match="dpo: .*; lower dpo.per_device_train_batch_size, or set dpo.gradient_check"):
        check("dpo", stage, 1.0, "here")
    with pytest.raises(ConfigError, match="gold: .*; lower reward.per_device_train_batch_size, or set reward"):
        check("gold", stage, 1.0, "here")


def test_sizes_are_plain_numbers() -> None:
    """No exponents, whatever the size."""
    with pytest.raises(ConfigError, match=r"needs about 594 GB \(weights 53, activations 541\) and 24 GB are free"):
        check("ppo", {"process": 0.0, "weights": 53.1, "activations": 540.9}, 24.2, "here")
    assert "needs about 0.052 GB" in check("ppo", {"process": 0.052}, 593.2, "here")


SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *(f"{stage}.max_steps=1" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    *("reward.normalise_samples=4", "ppo.total_episodes=32", "ppo.response_length=4", "rft.n=2"),
]


def test_every_stage_that_trains_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And tells what it needs where it fits; or that nothing was counted, where the model cannot be built without weights."""
    monkeypatch.chdir(tmp_path)
    config = load(ROOT / "recipes" / "smoke.yaml", SHRUNK)
    run_stage("data", config, "r")
    stages = ("sft", "reward", "ppo", "dpo", "kto", "rloo", "rft")
    for stage in stages:
        with monkeypatch.context() as patch:
            patch.setattr(preflight, "available", lambda: (1e-6, "here"))
            patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
            with pytest.raises(ConfigError, match=f"^{stage}: needs about .* GB .* are free here, most of it for "):
                run_stage(stage, config, "r")
        if stage in ("sft", "reward"):  # parents of the others
            capfd.readouterr()
            run_stage(stage, config, "r")
            assert f"{stage}: needs about " in capfd.readouterr().out

    def broken(*_: object) -> Footprint:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(preflight, "footprint", broken)
    run_stage("dpo", config, "r")
    assert "dpo: what it needs in memory was not counted, as its model" in capfd.readouterr().out


def test_files_that_were_read_take_no_memory_from_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control group counts the weights that were just read as used, and gives them back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(preflight, "CGROUP", tmp_path)
    for name, told in (
        ("max", "500000000"),
        ("current", "450000000"),
        ("stat", "anon 50000000\ninactive_file 400000000"),
    ):
        (tmp_path / f"memory.{name}").write_text(f"{told}\n")
    assert preflight.available() == (pytest.approx(0.45), "here")
    (tmp_path / "memory.stat").unlink()
    assert preflight.available() == (pytest.approx(0.05), "here")
