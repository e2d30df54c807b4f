"""Is what a model takes counted as the model itself has it: experts, wide heads, tied heads, towers, windows, states, quantised layers?"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    FalconH1Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from pipeline.settings.sections import Lora
from policies import footprint as measured
from policies.adapters import lora_config
from policies.footprint import footprint, weights_of
from policies.precision import Held
from policies.trials import decoder

SIZES: dict[str, Any] = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
INNER: dict[str, Any] = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
MOE: dict[str, Any] = {**INNER, "num_experts_per_tok": 2}
MODELS: dict[str, Any] = {
    "llama": LlamaConfig(**INNER),
    "tied": LlamaConfig(**INNER, tie_word_embeddings=True),
    "qwen3, wide heads": Qwen3Config(**INNER, head_dim=16),
    "gemma3, windows": Gemma3TextConfig(
        **INNER, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),  # fmt: skip
    "mixtral": MixtralConfig(**MOE, num_local_experts=4),
    "qwen3 moe": Qwen3MoeConfig(**MOE, num_experts=4, moe_intermediate_size=16),
    "gpt2": GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4),
    "gpt2, few positions": GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "mamba": MambaConfig(vocab_size=90, hidden_size=32, num_hidden_layers=1, state_size=4),
    "falcon h1": FalconH1Config(**INNER, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4),
}
LENGTH = 24
EXPERTS = ("mixtral", "qwen3 moe")  # counted in bfloat16, whose norms are float32 already, and doubled
OF_CHUNKS = ("falcon h1",)  # which fills each row up to 256 tokens


def real(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name], dtype=torch.float32).eval()


def stored(model: Any, rows: int) -> int:
    """Bytes that autograd keeps in a real forward, without the weights, each storage once."""
    mine, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, dict[int, Any]()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in mine:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = decoder(model)(input_ids=torch.randint(90, (rows, LENGTH)), use_cache=False)
    del out
    return sum(one.nbytes() for one in kept.values())


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_model(name: str) -> None:
    found, model = footprint(MODELS[name], Held(torch.float32), None), real(name)
    assert found.numbers == sum(p.numel() for p in model.parameters()) == found.weights / 4
    assert found.body == sum(p.numel() for p in decoder(model).parameters())
    assert found.vocabulary == 90 and found.trained == found.numbers


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OF_CHUNKS])
def test_activations_are_those_that_autograd_keeps(name: str) -> None:
    """In a real forward of 3 rows, trained whole; masks, and what is kept once, weigh more in models as small as these."""
    found = footprint(MODELS[name], Held(torch.float32), None).activations(3 * LENGTH, LENGTH)
    assert stored(real(name), 3) * 0.9 < found < stored(real(name), 3) * (2.2 if name in EXPERTS else 1.25)


@pytest.mark.parametrize("name", ["llama", "qwen3, wide heads", "mixtral", "gpt2"])
@pytest.mark.parametrize("layers", [None, "last 1"])
def test_an_adapter_is_counted_as_it_will_be(name: str, layers: str | None) -> None:
    lora = Lora(r=4, layers=layers)
    found, model = footprint(MODELS[name], Held(torch.float32), lora), real(name)
    adapted: Any = get_peft_model(model, lora_config(model, lora, "CAUSAL_LM"))
    assert found.trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    own = stored(adapted, 3)
    assert own * 0.9 < found.activations(3 * LENGTH, LENGTH) < own * (2.2 if name in EXPERTS else 1.25)
    assert found.depth == (1 if layers else 2)


@pytest.mark.parametrize("name", ["llama", "qwen3, wide heads", "mixtral", "gpt2", "gpt2, few positions"])
def test_the_cache_is_that_of_a_row(name: str) -> None:
    cache = DynamicCache()
    real(name)(input_ids=torch.zeros(1, LENGTH, dtype=torch.long), past_key_values=cache)
    held = sum(one.nbytes for layer in cache.layers for one in (layer.keys, layer.values))  # type: ignore[union-attr]
    assert footprint(MODELS[name], Held(torch.float32), None).cached(LENGTH) == held


@pytest.mark.parametrize("lora", [None, Lora(r=4), Lora(r=4, layers="last 2")])
@pytest.mark.parametrize("shape", [LlamaConfig, Qwen3MoeConfig])
def test_layers_that_are_the_same_are_not_run_each(
    shape: Any, lora: Lora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of them count as they would if all were run; where one is another, all are."""
    own = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16} if shape is Qwen3MoeConfig else {}
    config = shape(**INNER | own | {"num_hidden_layers": 5})
    found = footprint(config, Held(torch.bfloat16), lora)
    ran = list[int]()
    whole = measured._run
    monkeypatch.setattr(measured, "_run", lambda model, *more: ran.append(model.config.num_hidden_layers) or whole(model, *more))  # fmt: skip
    footprint(config, Held(torch.bfloat16), lora)
    monkeypatch.setattr(measured, "_alike", lambda *_: False)
    wanted = footprint(config, Held(torch.bfloat16), lora)
    assert ran == [1, 2, 5]
    assert found.cache == wanted.cache
    for name, value in vars(replace(wanted, cache=())).items():
        assert getattr(replace(found, cache=()), name) == pytest.approx(value, rel=0.02), name


def test_layers_of_two_kinds_are_run_each() -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    config = Gemma3TextConfig(**INNER | {"num_hidden_layers": 6}, head_dim=16, sliding_window=8, layer_types=kinds)
    found = footprint(config, Held(torch.float32), None)
    assert found.cached(100) == pytest.approx(3 * 2 * 16 * 2 * (7 + 100) * 4, rel=0.001)


def test_windows_bound_the_cache_and_states_do_not_grow() -> None:
    """A layer of 2·16·2 numbers a token for 8 tokens, the other for all; a state-space model holds the same of any row."""
    windows = footprint(MODELS["gemma3, windows"], Held(torch.float32), None)
    assert windows.cached(100) == pytest.approx(2 * 16 * 2 * (7 + 100) * 4, rel=0.001)  # and the new token
    mamba = footprint(MODELS["mamba"], Held(torch.float32), None)
    assert 0 < mamba.cached(10) == mamba.cached(1000)


def test_quantised_linear_layers_take_half_a_byte_and_their_scales() -> None:
    """Not the embeddings, the norms and the head."""
    model = real("llama")
    linear = sum(m.weight.numel() for m in decoder(model).modules() if isinstance(m, nn.Linear))
    rest = sum(p.numel() for p in model.parameters()) - linear
    for kind, each in (("nf4", 0.5625), ("fp4", 0.5625), ("int8", 1.0)):
        found = weights_of(MODELS["llama"], Held(torch.bfloat16, quantization=kind), AutoModelForCausalLM)
        assert found == pytest.approx(linear * each + rest * 2)


def test_mixture_of_experts_in_full_size() -> None:
    """Mixtral 8x7B has 46.7 billion weights, by its paper (2401.04088); one expert alone would be 7.2."""
    assert weights_of(MixtralConfig(), Held(torch.bfloat16), AutoModelForCausalLM) == pytest.approx(93.4e9, rel=0.001)
