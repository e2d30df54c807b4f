"""Do rows in lanes give what padded rows give, and only where a decoder keeps the rows of a lane apart?"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import EOS, PAD, furthest, make_roles, randomise, rows, run, settings, unpacked, weights
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama import modeling_llama

from pipeline.settings.sections import Lora
from policies.adapters import lora_config
from policies.backbone import decoder, load_causal, load_classifier, new_classifier
from policies.quick import packing
from policies.quick.packing import Packed, enable_packing, packs
from policies.quick.trunk import find_trunk
from policies.roles import VALUE
from reward.trainer import encode_rows

LENGTHS = [30, 4, 17, 9, 1, 22, 12]
SHAPE: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": PAD,
    "eos_token_id": EOS, "bos_token_id": None,
}  # fmt: skip


FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "gemma": GemmaConfig(**SHAPE, head_dim=8),
    "gemma2, window of 8": Gemma2Config(**SHAPE, head_dim=8, sliding_window=8),
    "gemma3, window of 8": Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "mistral, window of 8": MistralConfig(**SHAPE, sliding_window=8),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "cohere2, window of 8": Cohere2Config(**SHAPE, sliding_window=8),
    "granite, scaled embeddings": GraniteConfig(**SHAPE, embedding_multiplier=12.0),
    "gpt2, positions learned": GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


def in_lanes(model: Any, reach: float = 87.0) -> Any:
    """The decoder of `model`; the rows above make three lanes in it, unevenly filled, whatever its layers' size."""
    body: Any = decoder(model)
    body.reach = reach
    return body


def made_lanes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What gets filled: number and places of all lanes that are made."""
    made: list[tuple[int, int]] = []
    right = packing.lanes

    def spy(*given: Any) -> Any:
        found = right(*given)
        if found is not None:
            made.append(tuple(found.source.shape))
        return found

    monkeypatch.setattr(packing, "lanes", spy)
    return made


# --- decoders


@pytest.mark.parametrize("name", FAMILIES)
def test_lanes_are_padded_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Final states and the gradient of every weight, for rows longer than an attention window too; and the tokens really were few."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name]).eval()
    ids, mask = rows(LENGTHS)
    weight = torch.randn(len(LENGTHS), max(LENGTHS), 32) * mask[:, :, None]
    results = []
    made = made_lanes(monkeypatch)
    for _ in range(2):
        out = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        model.zero_grad()
        (out * weight).sum().backward()
        grads = {n: p.grad.clone() for n, p in decoder(model).named_parameters() if p.grad is not None}
        results.append((out.detach(), grads))
        enable_packing(model)
        assert packs(model)
        in_lanes(model)
        made.clear()
    assert not made
    decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    assert made[0][0] == 3 and sum(LENGTHS) < made[0][0] * made[0][1] < 1.1 * sum(LENGTHS) < 0.6 * ids.numel()
    (padded, gradients), (packed, others) = results
    valid = mask.bool()
    torch.testing.assert_close(packed[valid], padded[valid], atol=1e-5, rtol=1e-5)
    assert not packed[~valid].any()
    assert gradients.keys() == others.keys() and len(gradients) > 10
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, atol=1e-4, rtol=1e-4, msg=key)


def test_a_loaded_model_packs_and_keeps_its_name(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Loaded as it ever was, too."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    assert packs(model) and isinstance(decoder(model), modeling_llama.LlamaModel)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert again.config.architectures == ["LlamaForCausalLM"]
    scorer = load_classifier(_scorer(tiny_folder, tiny_tokenizer, tmp_path / "reward"), tiny_tokenizer, torch.float32)
    assert packs(scorer)


def _scorer(folder: Path, tokenizer: Any, to: Path) -> Path:
    """A classifier as the Hub has them, its config with a cache."""
    model = new_classifier(folder, tokenizer, torch.float32, seed=0)
    model.config.use_cache = True
    model.save_pretrained(to)
    return to


def test_bfloat16(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    model = load_causal(tiny_folder, tiny_tokenizer, torch.bfloat16)
    ids, mask = rows(LENGTHS)
    assert packs(model)
    found = []
    for choose in (in_lanes, unpacked):
        body = choose(model)
        with torch.no_grad():
            found.append(body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()])
    torch.testing.assert_close(found[1], found[0], atol=0.1, rtol=0.05)


def test_other_calls_are_as_they_were(tiny_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache, padding on the left, positions of the caller's, all hidden states, or no padding."""
    body = in_lanes(load_causal(tiny_folder, tiny_tokenizer, torch.float32), math.inf)
    made = made_lanes(monkeypatch)
    ids, mask = rows([9, 4, 6])
    left = mask.flip(1)
    with torch.no_grad():
        assert body(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values.get_seq_length() == 9
        assert body(input_ids=ids, attention_mask=mask).past_key_values is not None
        body(input_ids=ids.flip(1), attention_mask=left, use_cache=False)
        positions = (left.cumsum(1) - 1).clamp(min=0)
        body(input_ids=ids.flip(1), attention_mask=left, position_ids=positions, use_cache=False)
        everything = body(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        assert everything.hidden_states[0].shape == (3, 9, 32)
        body(input_ids=ids, use_cache=False)
        body(input_ids=ids, attention_mask=torch.zeros_like(ids), use_cache=False)
        body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(body.config, "output_hidden_states", True, raising=False)
            body(input_ids=ids, attention_mask=mask, use_cache=False)
        assert not made
        body(input_ids=ids, attention_mask=mask, use_cache=False, num_items_in_batch=torch.tensor(3))
        assert made == [(1, 19)]


# --- decoders that cannot


def test_an_encoder_is_left_alone() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=99, **shape)).eval()
    before = type(decoder(model))
    enable_packing(model)
    assert not packs(model) and type(decoder(model)) is before


@pytest.mark.parametrize("shown", [1.0, 1e-6])
def test_rows_that_see_each_other_are_found_out(shown: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder without transformers' masks for packing, also one whose attention hardly shows yet."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(shown)
    right = modeling_llama.create_causal_mask
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **given: right(**{**given, "position_ids": None}))
    enable_packing(model)
    assert not packs(model)
    monkeypatch.undo()
    enable_packing(model)
    assert packs(model)


def test_a_decoder_that_wants_tokens_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises when given embeddings alone must not keep it from being loaded."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    right = modeling_llama.LlamaModel.forward

    def strict(self: Any, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None,
               inputs_embeds: Any = None, use_cache: Any = None, **others: Any) -> Any:  # fmt: skip
        if input_ids is None:
            raise ValueError("input_ids are required")
        return right(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, **others)

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", strict)
    enable_packing(model)
    assert not packs(model) and type(model.model) is modeling_llama.LlamaModel
    ids, mask = rows(LENGTHS)
    with torch.no_grad():
        assert model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.any()


def test_a_decoder_with_a_second_embedding_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes per_layer_inputs would look tokens up from the embeddings that it is given, at a cost in memory that only shows later."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    right = modeling_llama.LlamaModel.forward

    def more(self: Any, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, inputs_embeds: Any = None,
             use_cache: Any = None, per_layer_inputs: Any = None) -> Any:  # fmt: skip
        return right(self, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                     inputs_embeds=inputs_embeds, use_cache=use_cache)  # fmt: skip

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", more)
    enable_packing(model)
    assert not packs(model)


def test_masks_by_kind_of_attention_pass_through() -> None:
    """transformers gives them to decoders with windows, in its continuous batching for one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["gemma3, window of 8"]).eval()
    enable_packing(model)
    ids, _ = rows([6, 6])
    causal = torch.zeros(2, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -1e9)
    kinds = {"full_attention": causal, "sliding_attention": causal}
    with torch.no_grad():
        found = decoder(model)(input_ids=ids, attention_mask=kinds, use_cache=False).last_hidden_state
        expected = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_positions_that_do_not_begin_again_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions are relative; learned ones are not, and a decoder that counts through a lane would see others."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["gpt2, positions learned"]).eval()
    wpe: Any = decoder(model).wpe
    right = type(wpe).forward

    def through(self: nn.Module, positions: Tensor) -> Tensor:
        return right(self, torch.arange(positions.shape[1])[None]) if self is wpe else right(self, positions)

    monkeypatch.setattr(type(wpe), "forward", through)
    enable_packing(model)
    assert not packs(model)


# --- what runs on decoders


@pytest.mark.parametrize("kind", ["new", "with an adapter", "loaded"])
def test_a_classifier_and_its_gradients(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Scores at the last token of each row, in one pass of the ranking trainer, against rows one by one."""
    if kind == "loaded":
        model: Any = load_classifier(_scorer(tiny_folder, tiny_tokenizer, tmp_path), tiny_tokenizer, torch.float32)
    else:
        model = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
    if kind == "with an adapter":
        torch.manual_seed(0)
        model = get_peft_model(model, lora_config(model, Lora(r=4, lora_alpha=8), "SEQ_CLS"))
    in_lanes(model)
    made = made_lanes(monkeypatch)
    ids, mask = rows(LENGTHS)
    together = encode_rows(model, ids, mask)
    assert len(made) == 1 and made[0][0] == 3
    one_by_one = torch.cat([model(input_ids=ids[i : i + 1, :n]).logits[:, 0] for i, n in enumerate(LENGTHS)])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)
    weight = torch.linspace(-1, 1, len(LENGTHS))
    expected, found = (
        torch.autograd.grad((scores * weight).sum(), [p for p in model.parameters() if p.requires_grad])
        for scores in (one_by_one, together)
    )
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)


def test_a_trunk_in_place_of_the_embedding(
    tiny_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both parts of a decoder run in lanes, and states are found by the padded rows' tokens."""
    model: Any = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
    ids, mask = rows(LENGTHS)
    with torch.no_grad():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "lanes", lambda *_: None)
            expected = model(input_ids=ids, attention_mask=mask).logits
        trunk = find_trunk(in_lanes(model), 1)
        assert trunk is not None and isinstance(trunk.lower, Packed) and isinstance(trunk.upper, Packed)
        trunk.room = 1e6
        made = made_lanes(monkeypatch)
        for _ in range(2):
            with trunk.in_place_of(model):
                torch.testing.assert_close(
                    model(input_ids=ids, attention_mask=mask).logits, expected, atol=1e-5, rtol=1e-5
                )
            assert len(trunk.known) == len(LENGTHS)
        assert [number for number, _ in made] == [3, 3, 3]  # both parts, then the upper alone


@pytest.mark.parametrize("value", ["adapter", "shared"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_ppo_learns_the_same(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str) -> None:
    """Every figure of two iterations and every weight, rows in lanes against rows padded."""
    ends = []
    for mode in ("padded", "lanes"):
        roles = make_roles(tiny_folder, tiny_tokenizer, tuning, value)
        assert roles.packed
        if tuning == "lora" and value == "adapter":
            randomise(roles, VALUE, std=0.02)
        for module in roles.modules():
            if isinstance(module, Packed):
                module.reach = 87.0
        with pytest.MonkeyPatch.context() as patch:
            made = made_lanes(patch)
            if mode == "padded":
                patch.setattr(packing, "lanes", lambda *_: None)
            _, figures = run(roles, tiny_tokenizer, settings(), tmp_path / mode)
        assert bool(made) == (mode == "lanes") == any(number > 1 for number, _ in made)
        ends.append((figures, weights(roles)))
    (padded, before), (packed, after) = ends
    for one, other in zip(padded, packed, strict=True):
        for name in one.keys() - {n for n in one if n.startswith("time/")}:
            assert other[name] == pytest.approx(one[name], abs=2e-4, rel=2e-4), name
    assert furthest(before, after) < 2e-4
