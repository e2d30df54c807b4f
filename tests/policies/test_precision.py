"""Is a model held as it is asked: few bits in its body alone, the attention that is named, and any of it on any size?"""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from policies.backbone import load_causal, new_classifier, output_head
from policies.errors import BackboneError
from policies.precision import Held
from policies.quick.linear import Linear, LoraLinear, in_one_step
from policies.quick.packing import packs

SIZES = [(64, 128), (40, 24)]  # rows that fill no block of 64 weights too


def saved(tokenizer: Any, folder: Path, hidden: int, inner: int) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize(("hidden", "inner"), SIZES)
def test_the_body_is_quantised_and_the_heads_are_not(
    tiny_tokenizer: Any, tmp_path: Path, hidden: int, inner: int, kind: str, dtype: torch.dtype
) -> None:
    """Logits are those of a plain model whose weights are the quantised ones, dequantised by bitsandbytes."""
    folder = saved(tiny_tokenizer, tmp_path, hidden, inner)
    model: Any = load_causal(folder, tiny_tokenizer, Held(dtype, quantization=kind))
    plain: Any = load_causal(folder, tiny_tokenizer, torch.float32)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)}
    assert len(layers) == 2 * 7 and type(model.get_output_embeddings()) is Linear
    assert model.dtype == dtype and (packs(model) or kind == "int8")  # in 8 bit rows are not kept apart to the bit
    for name, layer in layers.items():
        if kind == "int8":
            weight = layer.state.CB.float() * layer.state.SCB[:, None] / 127
        else:
            weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        off = (weight - plain.get_submodule(name).weight).norm() / weight.norm()
        assert 0 < off < (0.02 if kind == "int8" else 0.15)
        plain.get_submodule(name).weight.data = weight
    ids = torch.randint(3, 98, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = model(ids).logits.float(), plain(ids).logits
    close = 1e-4 if dtype == torch.float32 and kind != "int8" else 0.1  # int8 rounds what comes in as well
    torch.testing.assert_close(found, wanted, atol=close * wanted.abs().max().item(), rtol=0)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_of_4_bit_stay_as_they_are_through_an_evaluation(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A CPU with avx512_bf16, where bitsandbytes would pack them anew."""
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    model: Any = load_causal(
        saved(tiny_tokenizer, tmp_path, 64, 128), tiny_tokenizer, Held(torch.float32, quantization=kind)
    )
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        training, evaluating = model.train()(ids).logits, model.eval()(ids).logits
    assert torch.equal(training, evaluating)


def test_weights_of_4_bit_that_are_read_wrongly_are_refused(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one shape, as with AVX-512 where 64 does not divide the inputs."""
    right = bnb.functional.dequantize_4bit

    def wrong(weight: Any, state: Any) -> Any:
        return right(weight, state).roll(1, 1) if tuple(state.shape) == (64, 128) else right(weight, state)

    monkeypatch.setattr(bnb.functional, "dequantize_4bit", wrong)
    with pytest.raises(BackboneError, match=r"reads its 4-bit weights of 64x128 wrongly .* set quantization=int8 or"):
        load_causal(saved(tiny_tokenizer, tmp_path, 64, 128), tiny_tokenizer, Held(torch.float32, quantization="nf4"))


@pytest.mark.parametrize("asked", ["nf4", None])
def test_a_checkpoint_that_was_quantised_before_is_read(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    """As many on the Hub are, in 4 bit with scales that are quantised too."""
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = saved(tiny_tokenizer, tmp_path / "base", 64, 128)
    before: Any = LlamaForCausalLM.from_pretrained(base, quantization_config=how, dtype=torch.float32)
    before.save_pretrained(tmp_path / "few")
    tiny_tokenizer.save_pretrained(tmp_path / "few")
    model: Any = load_causal(tmp_path / "few", tiny_tokenizer, Held(torch.float32, quantization=asked))
    assert isinstance(model.model.layers[0].mlp.up_proj, bnb.nn.Linear4bit)
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_score_head_is_float32_and_whole(tiny_tokenizer: Any, tmp_path: Path, kind: str) -> None:
    folder = saved(tiny_tokenizer, tmp_path, 64, 128)
    model = new_classifier(folder, tiny_tokenizer, Held(torch.bfloat16, quantization=kind), seed=0)
    head = output_head(model)
    assert type(head) is Linear and head.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_our_lora_layer_is_not_put_on_quantised_layers(tiny_tokenizer: Any, tmp_path: Path, kind: str) -> None:
    """They are subclasses of nn.Linear, and their weights are no matrices that ours could multiply with."""
    from peft import LoraConfig, get_peft_model

    folder = saved(tiny_tokenizer, tmp_path, 64, 128)
    for held, ours in ((Held(torch.float32, quantization=kind), 0), (Held(torch.float32), 14)):
        base: Any = load_causal(folder, tiny_tokenizer, held)
        config = in_one_step(LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
        model = get_peft_model(base, config)
        assert sum(isinstance(m, LoraLinear) for m in model.modules()) == ours


@pytest.mark.parametrize("attention", ["sdpa", "eager", None])
def test_attention_is_what_is_asked(tiny_folder: Path, tiny_tokenizer: Any, attention: str | None) -> None:
    for load in (load_causal, lambda *given: new_classifier(*given, seed=0)):
        model: Any = load(tiny_folder, tiny_tokenizer, Held(torch.float32, attention=attention))
        assert model.config._attn_implementation == (attention or "sdpa")
