"""Are models and tokenizers loaded whole or refused, padded with a token of its own, and adapted where the recipe says?"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from pipeline.settings.sections import Lora
from policies import backbone
from policies.adapters import lora_config
from policies.backbone import (
    BackboneError,
    adapter,
    decoder,
    load_causal,
    load_classifier,
    new_classifier,
    output_head,
)
from policies.precision import pick_dtype
from policies.quick.linear import quick
from policies.tokenizers import eos_ids, load_tokenizer

WORDS = ["<s>", "</s>", "<unk>", *"abcdefghij"]
F32 = torch.float32


def config(**more: Any) -> LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings = {"vocab_size": len(WORDS), "num_hidden_layers": 3, "initializer_range": 0.2, "pad_token_id": None}
    return LlamaConfig(**{**sizes, **settings, **more})


def save_tokenizer(folder: Path, **special: str) -> Path:
    rules = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=rules, **special).save_pretrained(folder)
    return folder


def save(folder: Path, kind: Any = LlamaForCausalLM, **more: Any) -> Path:
    """A random model of `kind` and its tokenizer with EOS and nothing else."""
    torch.manual_seed(0)
    kind(config(**more)).save_pretrained(folder)
    return save_tokenizer(folder, eos_token="</s>")


@pytest.fixture
def causal(tmp_path: Path) -> Any:
    """A causal model of three layers, float32."""
    folder = save(tmp_path / "causal")
    return load_causal(folder, load_tokenizer(folder), F32)


def test_a_pad_of_its_own_is_kept(tmp_path: Path) -> None:
    made = load_tokenizer(save_tokenizer(tmp_path, eos_token="</s>", pad_token="j", unk_token="<unk>"))
    assert (made.pad_token, made.eos_token, len(made), made.padding_side) == ("j", "</s>", len(WORDS), "right")


OTHERS: list[dict[str, str]] = [{}, {"unk_token": "<unk>"}, {"unk_token": "<s>", "bos_token": "<s>"}]


@pytest.mark.parametrize("other", OTHERS)
def test_a_policy_gets_no_token_that_could_be_sampled(tmp_path: Path, other: dict[str, str]) -> None:
    """Where there is no pad EOS pads: the embedding stays as it is, and so does what is said (a fresh row took up to 90%)."""
    save(tmp_path)
    made = load_tokenizer(save_tokenizer(tmp_path, eos_token="</s>", **other))
    assert made.pad_token == "</s>" and len(made) == len(WORDS)
    model: Any = load_causal(tmp_path, made, F32)
    plain: Any = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, 1, 5]])
    assert model.lm_head.weight.shape[0] == len(WORDS)
    torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert model.config.pad_token_id is None and model.generation_config.pad_token_id == 1


def test_eos_learns_where_it_pads(tmp_path: Path) -> None:
    """A config that calls EOS its pad, as trl writes it, would keep the row of the token that ends earlier turns from learning."""
    folder = save(tmp_path, pad_token_id=1)
    model: Any = load_causal(folder, load_tokenizer(folder), F32)
    model(torch.tensor([[3, 1, 5]])).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad[1].abs().max() > 0
    plain: Any = LlamaForCausalLM.from_pretrained(folder)
    plain(torch.tensor([[3, 1, 5]])).logits.sum().backward()
    assert plain.model.embed_tokens.weight.grad[1].abs().max() == 0


@pytest.mark.parametrize("other", [*OTHERS, {"pad_token": "</s>"}, {"unk_token": "</s>"}])
def test_a_scorer_gets_a_pad_that_ends_no_text(tmp_path: Path, other: dict[str, str]) -> None:
    """transformers' classifiers read the score at the last token that is no pad."""
    made = load_tokenizer(save_tokenizer(tmp_path / "a", eos_token="</s>", **other), scores=True)
    assert made.pad_token == "<|pad|>" and made.pad_token_id == len(WORDS) == len(made) - 1
    made.save_pretrained(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b", scores=True)
    assert (again.pad_token_id, len(again)) == (made.pad_token_id, len(made))


def test_a_scorers_embedding_is_widened_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = save(tmp_path)
    tokenizer = load_tokenizer(folder, scores=True)
    model: Any = new_classifier(folder, tokenizer, F32, seed=0)
    embedding = model.get_input_embeddings().weight
    assert len(embedding) == len(WORDS) + 1 and model.config.pad_token_id == len(WORDS)
    assert torch.equal(embedding[: len(WORDS)], LlamaForCausalLM.from_pretrained(folder).model.embed_tokens.weight)
    assert not model.training
    with pytest.raises(BackboneError, match="has 13 tokens and its tokenizer 14"):
        load_causal(folder, tokenizer, F32)  # such a row could be sampled
    with pytest.raises(ValueError, match="scores=True"):
        new_classifier(folder, load_tokenizer(folder), F32, seed=0)


def test_tokens_without_a_row_are_read_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pad that the author added to the tokenizer alone, as many do, or an image's token of a model that knows texts only."""
    folder = save(tmp_path)
    save_tokenizer(folder, eos_token="</s>", pad_token="[PAD]", unk_token="<unk>")
    for scores, pad in ((False, "</s>"), (True, "<|pad|>")):
        made = load_tokenizer(folder, scores=scores)
        assert made.pad_token == pad and made("[PAD]")["input_ids"] == [WORDS.index("<unk>")]
    assert "its model has no embedding for [PAD], which its tokenizer adds" in capsys.readouterr().err
    made.save_pretrained(tmp_path / "again")
    assert "[PAD]" not in AutoTokenizer.from_pretrained(tmp_path / "again").get_vocab()
    save_tokenizer(folder, eos_token="<end>")
    with pytest.raises(BackboneError, match=r"no embedding for \(<end>; 13 rows\)"):
        load_tokenizer(folder)


def test_wider_embeddings_are_left_alone(tmp_path: Path) -> None:
    """Many models pad their vocabulary to a multiple of 64."""
    folder = save(tmp_path, vocab_size=64)
    model: Any = load_causal(folder, load_tokenizer(folder), F32)
    assert len(model.get_input_embeddings().weight) == 64


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, unk_token="<unk>")
    with pytest.raises(BackboneError, match="no EOS token.*set eos_token in its tokenizer_config.json"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, scores=True).pad_token == "<|pad|>"


def test_what_is_not_there_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path in ("./nowhere", "empty"):
        with pytest.raises(BackboneError, match=r"no tokenizer to be had there .*; give a folder or Hub id") as caught:
            load_tokenizer(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="no model to be had there"):
        load_causal(folder, load_tokenizer(folder), F32)


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_is_no_reward_model(tmp_path: Path, tied: bool) -> None:
    """transformers would give it a random head and a warning."""
    folder = save(tmp_path, tie_word_embeddings=tied)
    with pytest.raises(BackboneError, match=r"do not fit LlamaForSequenceClassification: .*score\.weight"):
        load_classifier(folder, load_tokenizer(folder, scores=True), F32)


def test_a_reward_model_has_one_output(tmp_path: Path) -> None:
    folder = save(tmp_path / "two", LlamaForSequenceClassification, num_labels=2)
    with pytest.raises(BackboneError, match=r"two: has 2 outputs; a reward model has one"):
        load_classifier(folder, load_tokenizer(folder, scores=True), F32)
    folder = save(tmp_path / "one", LlamaForSequenceClassification, num_labels=1)
    model = load_classifier(folder, load_tokenizer(folder, scores=True), F32)
    assert torch.equal(output_head(model).weight, LlamaForSequenceClassification.from_pretrained(folder).score.weight)
    with pytest.raises(BackboneError, match=r"do not fit LlamaForCausalLM: .*score\.weight|lm_head"):
        load_causal(folder, load_tokenizer(folder), F32)


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 4}))
    with pytest.raises(BackboneError, match=r"model\.layers\.3\."):
        load_causal(folder, load_tokenizer(folder), F32)


def test_a_new_head_is_small_seeded_and_one_output(tmp_path: Path) -> None:
    """Weight N(0, 1/sqrt(d+1)), d = 16: over many seeds the standard deviation is 0.2425 within 3%."""
    folder = save(tmp_path)
    heads = [
        output_head(new_classifier(folder, load_tokenizer(folder, scores=True), F32, seed=s)).weight for s in (0, 0, 1)
    ]
    assert heads[0].shape == (1, 16) and torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    drawn = nn.Linear(16, 4000)
    backbone.init_head(drawn, seed=3)
    assert drawn.weight.std().item() == pytest.approx(1 / math.sqrt(17), rel=0.03)
    assert drawn.bias.abs().max() == 0
    with pytest.raises(BackboneError, match="no linear layer with one output"):
        output_head(nn.Sequential(nn.Linear(2, 3)))


@pytest.mark.parametrize(
    ("supported", "allowed", "on_cpu"),
    [
        (False, False, torch.float32),
        (True, False, torch.float32),  # a kernel that keeps the tiles to itself
        (True, True, torch.bfloat16),
    ],
)
def test_dtypes(supported: bool, allowed: bool, on_cpu: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: supported)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: allowed)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [pick_dtype("auto", d) for d in (cpu, cuda)] == [on_cpu, torch.bfloat16]
    assert [pick_dtype(n, cpu) for n in ("float32", "bfloat16")] == [torch.float32, torch.bfloat16]


def test_a_torch_that_cannot_tell_of_tiles_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32


def test_every_end_of_a_completion_is_known() -> None:
    tokenizer: Any = SimpleNamespace(eos_token_id=1, chat_template=None)
    for named, ends in ((None, [1]), (1, [1]), (5, [1, 5]), ([7, 1, 5], [1, 5, 7]), ([], [1])):
        model: Any = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
        assert eos_ids(model, tokenizer) == ends
    assert eos_ids(SimpleNamespace(generation_config=None), tokenizer) == [1]  # type: ignore[arg-type]


def adapted(model: Any) -> tuple[set[int], set[str]]:
    """Numbers of the layers and names of the modules that have an adapter."""
    names = [name.split(".") for name, _ in model.named_parameters() if "lora_A" in name]
    return {int(n[n.index("layers") + 1]) for n in names}, {n[n.index("lora_A") - 1] for n in names}


ATTENTION, MLP = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("settings", "layers", "modules"),
    [
        ({}, {0, 1, 2}, ATTENTION | MLP),
        ({"layers": "last 1"}, {2}, ATTENTION | MLP),
        ({"layers": "last 3"}, {0, 1, 2}, ATTENTION | MLP),
        ({"layers": "last 2", "target_modules": ["q_proj", "v_proj"]}, {1, 2}, {"q_proj", "v_proj"}),
        ({"target_modules": ["up_proj"]}, {0, 1, 2}, {"up_proj"}),
    ],
)
def test_lora_goes_where_the_recipe_says(
    causal: Any, settings: dict[str, Any], layers: set[int], modules: set[str]
) -> None:
    lora = Lora(r=2, lora_alpha=6, **settings)
    model: Any = get_peft_model(causal, lora_config(causal, lora, "CAUSAL_LM"))
    assert adapted(model) == (layers, modules)
    layer = model.get_base_model().model.layers[2]
    target = layer.mlp.up_proj if "up_proj" in modules else layer.self_attn.q_proj
    assert (target.r["default"], target.scaling["default"]) == (2, 3.0)


def test_lora_on_the_last_layers_of_a_classifier_leaves_its_head(tmp_path: Path) -> None:
    folder = save(tmp_path)
    model = new_classifier(folder, load_tokenizer(folder, scores=True), F32, seed=0)
    assert adapted(get_peft_model(model, lora_config(model, Lora(layers="last 2"), "SEQ_CLS"))) == (
        {1, 2},
        ATTENTION | MLP,
    )


def test_lora_settings_that_do_not_fit_are_refused(causal: Any) -> None:
    with pytest.raises(BackboneError, match=r"lora\.layers: 'last 4' of a model with 3 layers; choose at most last 3"):
        lora_config(causal, Lora(layers="last 4"), "CAUSAL_LM")
    with pytest.raises(BackboneError, match=r"lora\.layers: goes with lora\.target_modules as all-linear or a list"):
        lora_config(causal, Lora(layers="last 1", target_modules=r".*q_proj"), "CAUSAL_LM")


@pytest.fixture
def two(causal: Any) -> Any:
    """The causal model with two random adapters, one and two; one at work."""
    lora = lora_config(causal, Lora(r=2), "CAUSAL_LM")
    model = get_peft_model(causal, lora, adapter_name="one")
    model.add_adapter("two", lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


IDS = torch.tensor([[3, 4, 5, 6, 7]])


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def test_adapters_switch_and_come_back(two: Any) -> None:
    """Against peft's own set_adapter, which is right but touches requires_grad."""
    expected = {}
    for name in ("one", "two"):
        two.set_adapter(name)
        expected[name] = logits(two)
    two.set_adapter("one")
    assert not torch.equal(expected["one"], expected["two"])
    with adapter(two, "two"):
        assert torch.equal(logits(two), expected["two"])
        with adapter(two, None):
            assert not torch.equal(logits(two), expected["two"])
            with adapter(two, "one"):
                assert torch.equal(logits(two), expected["one"])
        assert torch.equal(logits(two), expected["two"])
    assert torch.equal(logits(two), expected["one"])


def test_without_adapter_it_is_the_base_exactly(two: Any, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(tmp_path / "causal").eval()
    quick(base)  # the same products, else they round differently
    with adapter(two, None):
        # more words are more columns of the last product, which may round differently
        torch.testing.assert_close(logits(two)[..., : len(WORDS)], logits(base), rtol=1e-5, atol=1e-6)
        hidden = decoder(two)(input_ids=IDS).last_hidden_state
    assert torch.equal(hidden, base.model(input_ids=IDS).last_hidden_state)


def test_switching_leaves_gradients_alone_and_survives_an_error(two: Any) -> None:
    """DDP must not see requires_grad change; an error inside must not leave the reference at work in place of the policy."""
    before, at_work = {n: p.requires_grad for n, p in two.named_parameters()}, logits(two)
    with adapter(two, "two"):
        assert {n: p.requires_grad for n, p in two.named_parameters()} == before
    with pytest.raises(KeyboardInterrupt), adapter(two, None):
        raise KeyboardInterrupt
    assert torch.equal(logits(two), at_work)
    assert {n: p.requires_grad for n, p in two.named_parameters()} == before


def test_an_adapter_that_is_not_there_is_no_silent_base(two: Any) -> None:
    with pytest.raises(KeyError, match="polcy"), adapter(two, "polcy"):
        pass


def test_the_trunk_has_no_head(two: Any, causal: Any, tmp_path: Path) -> None:
    assert decoder(two) is two.get_base_model().model
    classifier = new_classifier(tmp_path / "causal", load_tokenizer(tmp_path / "causal", scores=True), F32, seed=0)
    assert decoder(classifier) is classifier.model
