"""Does the estimate of memory count what there is, and is a run that cannot fit refused with the remedy?"""

from typing import Any

import pytest
from transformers import LlamaConfig

from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.settings.sections import Lora
from pipeline.training.preflight import check, needs

SHAPE = LlamaConfig(
    vocab_size=1000,
    hidden_size=100,
    intermediate_size=300,
    num_hidden_layers=4,
    num_attention_heads=10,
    num_key_value_heads=5,
    tie_word_embeddings=True,
)
# By hand: q and o 100·100 each, k and v 100·50 each, gate, up, down 100·300 each: 120,000 a layer; 4 layers and 1000·100 embeddings.
LAYER, MODEL = 120_000, 580_000


def parts(**ppo: object) -> dict[str, float]:
    return needs(Config(ppo=PPO(**ppo)), SHAPE, True, 20, 5e8, 4)  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    """LoRA: the base. Full: reference and reward model beside what is trained."""
    assert parts()["process"] == pytest.approx(0.5)
    assert parts()["weights"] * 1e9 == pytest.approx(MODEL * 4)
    assert parts(tuning="full")["weights"] * 1e9 == pytest.approx(2 * MODEL * 4)


def test_sampling_or_learning_whichever_is_more() -> None:
    """A merged copy of the adapted matrices, and keys and values of 64 rows of 20 + 32 tokens: 2·4 layers·50 numbers a token.
    One micro-batch of 52 tokens needs less than those, one of 4,000 more."""
    few: Any = {"micro_batch_tokens": 1, "keep_activations": 0.0}
    cache = 2 * 4 * 50 * 64 * 52 * 4
    assert parts(**few)["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 4)
    assert parts(**few)["cache"] * 1e9 == pytest.approx(cache)
    assert parts(**few, batch_size=128) == parts(**few)  # 64 rows at a time
    assert parts(**few, lora=Lora(layers="last 1"))["merged copy"] * 1e9 == pytest.approx(LAYER * 4)
    kept: Any = {"micro_batch_tokens": 4000, "keep_activations": 0.25}
    for engine, size, room in (("transformers", 4, 0.0), ("transformers", 2, 0.25e9), ("continuous", 4, 0.25e9)):
        learning = needs(Config(ppo=PPO(**kept, engine=engine)), SHAPE, True, 20, 5e8, size)
        assert not {"merged copy", "cache"} & learning.keys() and {"activations", "logits"} <= learning.keys()
        assert learning["activations"] * 1e9 == pytest.approx(4 * (9 * 100 + 4 * 300) * size * 4000 + room)
    assert parts(**kept, tuning="full")["activations"] == parts(**kept)["activations"]  # float32 as well
    together = needs(
        Config(ppo=PPO(micro_batch_tokens=4000, keep_activations=0.0)), SHAPE, True, 20, 5e8, 4, processes=2
    )
    assert together["activations"] * 1e9 == pytest.approx(2 * 4 * (9 * 100 + 4 * 300) * 4 * 4000)  # critic and policy
    long: Any = few | {"response_length": 200}
    attached, vllm = (
        needs(Config(ppo=PPO(**long, engine=engine)), SHAPE, True, 20, 5e8, 2) for engine in ("transformers", "vllm")
    )
    assert attached["merged copy"] == 0  # in bfloat16
    assert vllm["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 2)
    assert sum(parts(tuning="full", micro_batch_tokens=4000).values()) > sum(parts(tuning="full").values())


def test_training_by_hand() -> None:
    """r 16 in seven matrices of a layer: 16·(2·(100+100) + 2·(100+50) + 3·(100+300)); four float32 numbers each; critic the same again."""
    lora = 16 * (400 + 300 + 1200) * 4
    assert parts(value="shared")["training"] * 1e9 == pytest.approx(lora * 16)
    assert parts(value="adapter")["training"] * 1e9 == pytest.approx(2 * lora * 16)
    assert parts(tuning="full", value="shared")["training"] * 1e9 == pytest.approx(MODEL * 16)
    assert parts(tuning="full", value="adapter")["training"] * 1e9 == pytest.approx(2 * MODEL * 16)


def test_what_costs_less_is_less() -> None:
    assert parts(micro_batch_tokens=256)["activations"] < parts(micro_batch_tokens=1024)["activations"]
    assert parts(gradient_checkpointing=True)["activations"] < parts()["activations"]
    assert parts(lora=Lora(layers="last 1"))["activations"] < parts()["activations"]
    assert parts(num_ppo_epochs=1) == parts(num_ppo_epochs=8)


def test_refused_with_the_remedy() -> None:
    found = parts()
    need = sum(found.values()) - found["process"]
    assert check(found, need + 0.01, "here").startswith("ppo: needs about ")
    with pytest.raises(ConfigError, match=r"0\.001 GB are free here, most of it for .*; lower ppo\.micro_batch_tokens"):
        check(found, 0.001, "here")


def test_sizes_are_plain_numbers() -> None:
    """No exponents, whatever the size."""
    with pytest.raises(ConfigError, match=r"needs about 594 GB \(weights 53, activations 541\) and 24 GB are free"):
        check({"process": 0.0, "weights": 53.1, "activations": 540.9}, 24.2, "here")
    assert "needs about 0.052 GB" in check({"process": 0.052}, 593.2, "here")
