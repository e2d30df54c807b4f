"""Is what is published what was trained? Merged weights against the adapter, by plain transformers, peft and numpy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pipeline.training import merging
from pipeline.training.merging import distributions, divergence, kept_when_held, merge
from pipeline.training.model_folder import save_policy
from policies.backbone import load_causal
from policies.precision import Held

STEP = 2.0**-7  # of bfloat16 from 1 to 2
TURNS = [([5, 9, 40], [33, 4, 1]), ([60], [17, 8, 9, 10, 1]), ([3, 4], [1])]


def unused() -> Any:
    raise AssertionError("only an adapter on a quantised base is merged into its parent")


def one_layer(update: float) -> Any:
    """A linear layer of four ones in bfloat16, and an adapter that adds `update` to each."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).to(torch.bfloat16)
    model: Any = get_peft_model(net, LoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        layer.lora_A["default"].weight.fill_(1.0)
        layer.lora_B["default"].weight.fill_(update)
    net.get_input_embeddings = lambda: None  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("update", "dtype", "would_keep"),
    [
        (STEP, torch.bfloat16, 1.0),  # on the grid
        (0.45 * STEP, torch.float32, 0.0),  # below half a step: nothing of it
        (0.75 * STEP, torch.float32, 1 - (1 / 3) ** 2),  # rounded up by a third of itself
        (8.1 * STEP, torch.bfloat16, 1 - (0.1 / 8.1) ** 2),
    ],
)
def test_the_coarser_dtype_is_taken_where_it_keeps_the_update(
    update: float, dtype: torch.dtype, would_keep: float
) -> None:
    plain, stored = merge(one_layer(update))
    assert stored.dtype == dtype == plain[0].weight.dtype
    assert stored.kept_in_training_dtype == pytest.approx(would_keep, abs=1e-6)
    assert stored.kept >= 0.98 and (stored.kept == pytest.approx(would_keep, abs=1e-6) or dtype == torch.float32)
    if dtype == torch.float32:
        assert plain[0].weight.flatten().tolist() == pytest.approx([1 + update] * 4, abs=1e-7)


def adapted(folder: Path, tokenizer: Any, dtype: torch.dtype, size: float, name: str = "default") -> Any:
    """The tiny model with an adapter on every linear layer whose products have entries of about `size`."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model: Any = get_peft_model(load_causal(folder, tokenizer, dtype), config, adapter_name=name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.copy_(size * torch.randn(p.shape, generator=generator))
    return model.eval()


def kept_by_files(base: Path, made: Path) -> tuple[float, float]:
    """From the files alone, in float64: the share of the update that the stored weights keep, and what bfloat16 would have kept."""
    before, after = load_file(base / "model.safetensors"), load_file(made / "model.safetensors")
    adapter = load_file(made / "adapter" / "adapter_model.safetensors")
    config = json.loads((made / "adapter" / "adapter_config.json").read_text())
    lost = rounded = update = 0.0
    for name in [n for n in adapter if "lora_A" in n]:
        weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        a, b = (adapter[n].double().numpy() for n in (name, name.replace("lora_A", "lora_B")))
        change = config["lora_alpha"] / config["r"] * (b @ a)
        loaded = before[weight].bfloat16().double().numpy()
        wanted = loaded + change
        lost += np.square(after[weight].double().numpy() - wanted).sum()
        rounded += np.square(torch.tensor(wanted).bfloat16().double().numpy() - wanted).sum()
        update += np.square(change).sum()
    return 1 - lost / update, 1 - rounded / update


@pytest.mark.parametrize(("size", "dtype"), [(1e-4, torch.float32), (0.2, torch.bfloat16)])
@pytest.mark.parametrize("name", ["default", "policy"])
def test_a_bfloat16_policy_is_published_as_it_was_trained(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, size: float, dtype: torch.dtype, name: str
) -> None:
    """Updates as small as a learning rate of 1e-5 makes them would be lost in bfloat16; large ones are not."""
    model = adapted(tiny_folder, tiny_tokenizer, torch.bfloat16, size, name)
    saved = save_policy(tmp_path, model, tiny_tokenizer, TURNS, unused, name)
    kept, in_bfloat16 = kept_by_files(tiny_folder, tmp_path)
    assert saved.merged is not None and saved.dtype == dtype
    assert saved.figures["merged/kept"] == pytest.approx(kept, abs=1e-6) and kept >= 0.98
    assert saved.merged.kept_in_training_dtype == pytest.approx(in_bfloat16, abs=1e-3)
    assert (in_bfloat16 >= 0.98) == (dtype == torch.bfloat16)
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plain.dtype == dtype and saved.model.dtype == dtype
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    attached: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    kl = divergence(distributions(attached, TURNS), distributions(plain, TURNS))
    assert kl == pytest.approx(saved.figures["merged/kl"], rel=0.05) and 0 < kl < 0.01


def test_a_published_policy_that_lacks_the_update_is_found(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgot(layer: Any, name: str) -> Any:
        weight, update = right(layer, name)
        return weight - update, update

    right = merging._parts
    monkeypatch.setattr(merging, "_parts", forgot)
    model = adapted(tiny_folder, tiny_tokenizer, torch.float32, 0.2)
    assert save_policy(tmp_path, model, tiny_tokenizer, TURNS, unused).figures["merged/kl"] > 0.1


def test_with_all_weights_trained_nothing_is_merged(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    saved = save_policy(
        tmp_path, load_causal(tiny_folder, tiny_tokenizer, torch.float32), tiny_tokenizer, TURNS, unused
    )
    assert (saved.figures, saved.merged, saved.dtype) == ({}, None, torch.float32)


def test_divergence_is_kl_by_its_definition() -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    by_hand = (0.5 * np.log(2) + 0.25 * np.log(0.5)) / 2
    found = divergence([torch.tensor(np.log(p))], [torch.tensor(np.log(q))])
    assert found == pytest.approx(by_hand, abs=1e-12)


def test_what_a_dtype_keeps_of_all_weights() -> None:
    base, trained = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 1.0]]))
        trained.weight.copy_(torch.tensor([[1.0 + STEP, 1.0 + STEP / 4]]))
    assert kept_when_held(trained, base, torch.bfloat16) == pytest.approx(1 - (1 / 16) / (1 + 1 / 16))
    assert kept_when_held(trained, base, torch.float32) == 1.0
    assert kept_when_held(base, base, torch.bfloat16) == 1.0


def test_an_adapter_on_a_tied_output_layer_leaves_the_embedding(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Merging into the one tensor that both share would change what goes in as well."""
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base = load_causal(tmp_path / "base", tiny_tokenizer, torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"], init_lora_weights=False)
    model: Any = get_peft_model(base, lora).eval()
    saved = save_policy(tmp_path / "made", model, tiny_tokenizer, TURNS, unused)
    assert saved.figures["merged/kl"] < 1e-6
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    embedding = load_file(tmp_path / "base" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(again.get_input_embeddings().weight, embedding)
    ours, theirs = distributions(saved.model, TURNS), distributions(again, TURNS)
    assert divergence(ours, theirs) < 1e-6


@pytest.mark.parametrize(
    ("stored", "asked", "found"),
    [
        (torch.float32, torch.bfloat16, torch.float32),  # never rounded
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.float32),  # what costs nothing but time on a GPU, and less on a CPU
        (torch.float16, torch.bfloat16, torch.float32),
    ],
)
def test_a_folder_is_read_in_its_own_dtype(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, stored: torch.dtype, asked: torch.dtype, found: torch.dtype
) -> None:
    model: Any = load_causal(tiny_folder, tiny_tokenizer, stored)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    again: Any = load_causal(tmp_path, tiny_tokenizer, Held(asked, unrounded=True))
    written = load_file(tmp_path / "model.safetensors")
    assert again.dtype == found
    assert all(torch.equal(p, written[name].to(found)) for name, p in again.named_parameters())
