"""Are memory and seconds of a plan those that a hand counts, do they fall as they must with more GPUs, and is a mistake one sentence?"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, MixtralConfig

from pipeline.bench.machine import Shape, iteration_flops
from pipeline.plan.calls import Calls
from pipeline.plan.machines import KNOWN, MEASURED, Machine
from pipeline.plan.memory import chosen, need, shardings
from pipeline.plan.plan import growth, plan, planned
from pipeline.plan.published import REPORTS, compared
from pipeline.plan.seconds import iteration
from pipeline.plan.work import Job, job_of, matrices
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.training.sizes import TOKENS

ROOT = Path(__file__).resolve().parents[2]
SMALL = LlamaConfig(
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)
LAYER, LORA = (
    120,
    58,
)  # numbers of a layer's seven matrices, and of their adapters of rank 1: counted in tests/bench/test_bench.py
FREE = Calls(0, 0, 0, 0)
# one operation and one byte a second, nothing assumed
SLOW = Machine("slow", {"float32": 1e-12}, 1.0, 1e-9, 1e-9, 0.5e-9, "none", 2, 0.0, FREE, 0.0, 1.0, 1.0, "float32", False)  # fmt: skip


def small(config: Any = SMALL, prompt: int = 2, **ppo: Any) -> Job:
    section = {"batch_size": 3, "total_episodes": 3, "response_length": 3, "num_ppo_epochs": 2, "value": "adapter"}
    section |= {"lora": {"r": 1, "layers": "last 1"}, **ppo}
    return job_of(Config.model_validate({"ppo": section, "reward": {"lora": {"r": 1}}}), "small", config, prompt)


def large(batch: int = 64, response: int = 256, **ppo: Any) -> Job:
    shape = LlamaConfig(vocab_size=49152, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)  # fmt: skip
    return small(shape, 256, batch_size=batch, total_episodes=batch, response_length=response, lora={"r": 16}, **ppo)


def test_matrices_are_found_whatever_a_layer_is_made_of() -> None:
    """Two matrices of a GPT-2 layer are of attention (query, key and value in one), two of its perceptron. Experts are not all run."""
    found = matrices(SMALL)
    assert found is not None and (found.layer_weights(), found.lora_weights(1)) == (LAYER, LORA)
    assert sorted(found.matrices()) == sorted(Shape.of(SMALL.to_dict()).matrices())
    gpt2 = matrices(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10))
    assert gpt2 is not None
    assert gpt2.layer_weights() == 8 * 8 + 8 * 24 + 2 * 8 * 32
    experts = MixtralConfig(vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    assert matrices(experts) is None


def test_seconds_by_hand() -> None:
    """At one operation a second and bytes for nothing: the operations that the bench's own test counts, for three episodes."""
    work, fast = small(), replace(SLOW, read_gb_per_s=1.0)
    found = iteration(work, fast, 1, need(work, fast, 1, "none", None, 384, 3))
    seconds = {name: round(phase.seconds) for name, phase in found.phases.items()}
    expected = {"rollout": 2480, "score": 2020, "reference": 1360, "values": 1584, "update": 14544}
    assert seconds == {name: 3 * count for name, count in expected.items()} | {"other": 0}
    assert found.sending == 0 and found.rate == pytest.approx(3 / found.seconds, rel=1e-6)
    assert iteration_flops(Shape.of(SMALL.to_dict()), work.work(3))["update"] == 3 * 14544


def test_sampling_is_bound_by_bytes_or_by_operations() -> None:
    """Bytes: 3 steps of 280 weights, and keys and values of 3 rows at 3 and 4 tokens, 2·2 numbers a token, in 2 layers: 4 bytes each."""
    work, quick = small(), replace(SLOW, tflops={"float32": 1.0})
    found = iteration(work, quick, 1, need(work, quick, 1, "none", None, 384, 3))
    assert found.phases["rollout"].seconds == pytest.approx(4 * (840 + 3 * 7 * 4 * 2), rel=1e-6)
    two = replace(SLOW, tflops={"float32": 1.0}, decoding=0.5)
    assert iteration(work, two, 1, need(work, two, 1, "none", None, 384, 3)).phases["rollout"].seconds == pytest.approx(8 * (840 + 168), rel=1e-6)  # fmt: skip


def test_calls_cost_by_themselves() -> None:
    """3 tokens through 2 layers, 3 rows of 5 tokens in micro-batches of 10: 2 of them. Forwards: score, reference, values; two epochs of
    two adapters with backwards; one adapted layer."""
    calls = Calls(1.0, 10.0, 100.0, 1000.0, 1e4, 1e5)
    free = replace(SLOW, tflops={"float32": 1e12}, read_gb_per_s=1e12, calls=calls)
    work = small()
    found = iteration(work, free, 1, need(work, free, 1, "none", None, 10, 3)).phases
    assert found["rollout"].calling == 3 * (1 + 2 * 10)
    assert found["score"].calling == pytest.approx(1100 / 3)
    assert found["reference"].calling == found["values"].calling == pytest.approx(2 * 1100 / 3)
    assert found["update"].calling == 2 * 2 * 2 * 1100
    assert found["other"].calling == 1e5 + 3e4


def test_gradients_are_summed_over_the_slowest_link() -> None:
    """Two adapters of 58 numbers and 4 bytes; a ring of n sends 2·(n - 1)/n of them in each of two steps; two are on a node."""
    work = small(batch_size=4, total_episodes=4)
    for count, link in ((2, 1.0), (4, 0.5)):
        found = iteration(work, SLOW, count, need(work, SLOW, count, "none", None, 384, 4 / count))
        assert found.sent == pytest.approx(2 * (1 - 1 / count) * 2 * LORA * 4 * 2)
        assert found.sending == pytest.approx(found.sent / link)


def test_memory_is_what_the_preflight_counts() -> None:
    """Weights: 2 layers of 120 and two norms, a norm, 10 embeddings of 4, in float32. Training: two adapters, four numbers each."""
    work = small()
    found = need(work, SLOW, 1, "none", None, 384, 3).phases
    weights = 2 * (LAYER + 8) + 4 + 40
    for parts in found.values():
        assert parts["weights"] * 1e9 == pytest.approx(weights * 4)
        assert parts["training"] * 1e9 == pytest.approx(2 * LORA * 16)
    assert found["sampling"]["cache"] * 1e9 == pytest.approx(
        3 * 5 * 2 * 2 * 2 * 4
    )  # rows, tokens, k and v, width, layers, bytes


def test_layers_are_shared_where_the_setting_is_there() -> None:
    """Embeddings stay whole; while sampling all layers are gathered, while learning two of them."""
    work, machine = large(), KNOWN["a100-80"]
    model: Any = work.footprints("bfloat16", None)
    layers = (model.weights - 49152 * 4096 * 2 * 2) / 1e9
    none, frozen = (need(work, machine, 8, way, None, 1024, 8) for way in ("none", "frozen"))
    for phase, gathered in (("sampling", 1.0), ("learning", 2 / 32)):
        more = frozen.phases[phase]
        assert none.phases[phase]["weights"] - more["weights"] == pytest.approx(layers * 7 / 8, rel=1e-3)
        assert more["gathered layers"] == pytest.approx(layers * gathered, rel=1e-3)
    full = large(tuning="full")
    kept, cut = (need(full, machine, 8, way, None, 1024, 8).phases["learning"] for way in ("frozen", "full"))
    assert cut["training"] < kept["training"] / 4 and cut["weights"] == kept["weights"]
    sent = [iteration(work, machine, 8, one).sent for one in (none, frozen)]
    assert sent[1] > sent[0]


def test_only_ways_that_a_run_takes_are_shown_the_recipes_first() -> None:
    for quantization, processes in (("nf4", 8), (None, 1)):
        assert list(shardings(large(), processes, quantization)) == ["none"]
    assert list(shardings(large(engine="vllm"), 8, None)) == ["none"]
    for ppo, ways in (
        ({}, ["none", "frozen"]),
        ({"sharding": "frozen"}, ["frozen", "none"]),
        ({"tuning": "full"}, ["none", "frozen", "full"]),
        ({"tuning": "full", "sharding": "full"}, ["full", "none", "frozen"]),
    ):
        work = large(**ppo)
        assert list(shardings(work, 8, None)) == ways
        shown = planned(work, KNOWN["h200"], 8, None)
        rows = [match[1] for line in shown if (match := re.match(r"^  (\w+) +its dtype", line))]
        assert rows == ways
        if work.config.ppo.tuning == "lora":  # both fit
            assert any(f"(sharding {ways[0]}, " in line for line in shown)


def test_every_way_is_counted_alike_whatever_the_recipes_own_is() -> None:
    """A recipe's own sharding was counted beneath each way: weights of -10 GB."""
    machine, plain = KNOWN["h200"], large()
    for own in ("none", "frozen"):
        for way in ("none", "frozen"):
            assert chosen(large(sharding=own), machine, 8, way, None) == chosen(plain, machine, 8, way, None)


def test_what_the_recipe_says_is_planned() -> None:
    """Tokens of a micro-batch and rows that are sampled together; where it leaves them open, what stage ppo would choose there."""
    said = {"micro_batch_tokens": 777, "per_device_rollout_batch_size": 3}
    for machine, usual in ((KNOWN["h200"], (16384, 64)), (KNOWN["cpu"], (384, 64))):
        found = [chosen(small(SMALL, 2, batch_size=12_000, total_episodes=12_000, **one), machine, 1, "none", None) for one in ({}, said)]  # fmt: skip
        assert [(one.tokens, one.sampled) for one in found[1:]] == [(777, 3)]
        assert found[0].tokens == usual[0] and found[0].sampled == (1024 if machine.gpu else usual[1])


def test_vllm_sleeps_while_a_gpu_learns_and_samples_without_our_cache() -> None:
    for machine, phases in ((KNOWN["h200"], {"sampling"}), (KNOWN["cpu"], {"sampling", "learning"})):
        found = chosen(large(engine="vllm"), machine, 1, "none", None)
        assert {phase for phase, parts in found.phases.items() if "engine" in parts} == phases
        assert found.phases["sampling"]["engine"] == pytest.approx(0.3 * machine.memory_gb)
        assert found.phases["sampling"]["cache"] == 0 < chosen(large(), machine, 1, "none", None).phases["sampling"]["cache"]  # fmt: skip


def test_more_gpus_are_never_slower_and_never_hold_more() -> None:
    """With the recipe's batch; with one that grows with them, no episode is dearer than it must be."""
    work, machine = large(256), KNOWN["h200"]
    found = growth(work, machine, (1, 2, 4, 8, 16, 64, 256, 512))
    rates = [fixed.rate for _, _, fixed, _ in found if fixed is not None]
    assert len(rates) == 7 and rates == sorted(rates) and found[-1][2] is None  # 256 episodes, 512 GPUs
    each = [one.rate / count for count, _, one, _ in found if one is not None]
    assert each == sorted(each, reverse=True)
    grown = [one.rate for _, _, _, one in found]
    assert grown == sorted(grown)
    needs = [need(work, machine, count, "none", None, 1024, 256 / count) for count in (1, 8, 64)]
    sampling = [one.total("sampling") for one in needs]
    assert sampling == sorted(sampling, reverse=True) and sampling[0] > sampling[-1]


def test_the_largest_micro_batch_that_fits_is_taken() -> None:
    work = large(64, 1024)
    tokens = {name: chosen(work, KNOWN[name], 1, "none", None) for name in ("h200", "a100-80", "4090")}
    assert tokens["h200"].tokens > tokens["a100-80"].tokens and not tokens["4090"].fits(KNOWN["4090"])
    assert tokens["4090"].tokens == TOKENS[0]
    assert tokens["a100-80"].fits(KNOWN["a100-80"])
    larger = need(work, KNOWN["a100-80"], 1, "none", None, 2 * tokens["a100-80"].tokens, 64)
    assert not larger.fits(KNOWN["a100-80"])


def test_what_fits_is_said_with_the_remedy() -> None:
    text = "\n".join(planned(large(64, 1024), KNOWN["4090"], 1, None))
    assert "It does not fit on 1 x RTX 4090 as the recipe has it: set quantization=nf4." in text
    whole = "\n".join(planned(large(64, tuning="full"), KNOWN["4090"], 1, None))
    assert "GB at least are needed and 24 GB there; set ppo.gradient_checkpointing=true" in whole and "nf4" not in whole
    fits = "\n".join(planned(large(64), KNOWN["h200"], 8, 2.5))
    assert "episodes/$" in fits and "does not fit" not in fits and re.search(r"up to \d+ of them", fits)
    assert "episodes/$" not in "\n".join(planned(large(64), KNOWN["h200"], 8, None))
    assert all(line in fits for line in KNOWN["h200"].assumed())
    one = "\n".join(planned(small(), replace(SLOW, source=MEASURED), 2, None))
    assert re.findall(r"^  (\d+) +none", one, re.MULTILINE) == ["1", "2"] and re.search(r"^  1000 ", fits, re.MULTILINE)


def test_a_model_of_experts_is_planned_without_seconds() -> None:
    experts = MixtralConfig(vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    text = "\n".join(planned(small(experts), KNOWN["h200"], 1, None))
    assert "memory of each process" in text and "Seconds are not counted" in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gpu": "h300"}, "GPU=h300: no GPU of that name is known; write one of h200, a100-80, 4090, cpu, or here"),
        ({"gpus": 0}, "GPUS=0: from 1 to 100,000"),
        ({"price": -1.0}, "PRICE=-1.0: dollars an hour"),
        ({"model": "./nowhere"}, "model: ./nowhere: no config.json to be had there"),
    ],
)
def test_a_mistake_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"model": "3M", "gpus": 1, "gpu": "h200", "price": None}
    with pytest.raises(ConfigError) as told:
        plan(load(ROOT / "recipes/smoke.yaml", []), **{**given, **changed})
    assert said in str(told.value) and len(str(told.value).splitlines()) == 1


def test_the_page_shows_what_a_plan_says() -> None:
    """docs/scale.md: the example of `make plan`, and the plan beside published figures. Where this fails, the page is to be written anew."""
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    asked = 'make plan MODEL=7B GPUS=8 GPU=h200 PRICE=2.5 RECIPE=recipes/tldr.yaml SET="ppo.engine=vllm"'
    told = plan(load(ROOT / "recipes/tldr.yaml", ["ppo.engine=vllm"]), "7B", 8, "h200", 2.5)
    assert asked in page and "\n".join(told) in page
    assert "\n".join(compared()) in page
    reported = {one.name: round(one.rate, 3) for one in REPORTS}
    assert reported == {"DeepSpeed-Chat, OPT-6.7B": 1.117, "OpenRLHF, Llama 2 7B": 0.136}


def test_every_figure_of_a_gpu_has_its_source() -> None:
    for name, machine in KNOWN.items():
        assert machine.source.startswith("https://") or (name == "cpu" and (ROOT / machine.source).is_file())
        assert machine.assumed()
