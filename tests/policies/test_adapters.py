"""Do adapters sit where a recipe puts them, and nowhere where they would be lost, or be in the reference too?"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import randomise, run, settings
from zoo.build import build, save

from pipeline.settings.sections import Lora
from pipeline.training.model_folder import save_merged
from policies.adapters import adaptable, lora_config
from policies.backbone import BackboneError, load_causal
from policies.logprobs import pack
from policies.roles import POLICY, Roles, lora_roles
from policies.tokenizers import load_tokenizer

F32 = torch.float32


def roles_of(folder: Path, **lora: Any) -> Roles:
    model: Any = load_causal(folder, load_tokenizer(folder), F32)
    torch.manual_seed(0)
    policy: Any = get_peft_model(
        model, lora_config(model, Lora(r=4, lora_alpha=8, **lora), "CAUSAL_LM"), adapter_name=POLICY
    )
    return lora_roles(policy, "adapter", None)


def adapted(roles: Roles) -> list[str]:
    return sorted(n.removesuffix(".lora_A") for n, _ in roles.causal.named_modules() if n.endswith(".lora_A"))


def test_an_adapter_on_the_output_layer_is_the_policys_alone(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """The reference is the model that was loaded; the policy is what the merged weights say, in sampling and as published."""
    roles = roles_of(tiny_folder, target_modules=["lm_head", "q_proj"])
    assert any(name.endswith("lm_head") for name in adapted(roles))
    plain: Any = load_causal(tiny_folder, tiny_tokenizer, F32)
    randomise(roles, POLICY)
    prompts, completions = [[5, 6, 7], [9, 8, 7, 6, 5]], [[11, 12, 13], [14, 15]]
    batch = pack(prompts, completions, 0)

    def said(model: Any) -> list[float]:
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            z = model(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            found += [z[len(prompt) + i - 1, token].item() for i, token in enumerate(completion)]
        return found

    with torch.no_grad():
        reference, policy = roles.reference_logprobs(batch, 1.0)[batch.mask], roles(batch, 1.0)[0][batch.mask]
        assert reference.tolist() == pytest.approx(said(plain), abs=1e-5)
        assert policy.tolist() == pytest.approx(said(roles.sampler()), abs=1e-4)
        assert (policy - reference).abs().max() > 0.05
        save_merged(tmp_path / "made", roles.policy, tiny_tokenizer, POLICY)
        assert policy.tolist() == pytest.approx(said(load_causal(tmp_path / "made", tiny_tokenizer, F32)), abs=1e-4)


def test_ppo_with_an_adapter_on_the_output_layer(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    roles = roles_of(tiny_folder, target_modules=["lm_head", "q_proj"])
    result, figures = run(roles, tiny_tokenizer, settings(), tmp_path / "s")
    assert result.halted is None
    assert abs(figures[0]["objective/kl"]) < 1e-4 < abs(figures[1]["objective/kl"])


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["lm_head"], "names lm_head, whose weight is that of model.embed_tokens too, so that merging .* leave it out"),
        (["embed_tokens"], "names model.embed_tokens, a Embedding and no linear layer; choose of .*q_proj"),
        (["q_porj"], "names no module of LlamaForCausalLM; it has down_proj, gate_proj, .*q_proj"),
        (["self_attn"], "names model.layers.0.self_attn, a LlamaAttention and no linear layer"),
        (".*embed_tokens", "names model.embed_tokens, a Embedding and no linear layer"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: Any, told: str) -> None:
    model = build("llama", tie_word_embeddings=True)
    with pytest.raises(BackboneError, match=f"^lora.target_modules: .*{told}"):
        lora_config(model, Lora(target_modules=targets), "CAUSAL_LM")


def test_a_weight_that_is_read_past_its_layer_is_left_alone() -> None:
    """An adapter there would never be at work, and merged it would be."""
    model = build("llama")
    attention = model.model.layers[1].self_attn
    attention.q_proj.forward = None  # whoever calls it fails
    shape = attention.q_proj.weight

    class Past(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(32, 32, bias=False)
            self.inner.weight = shape

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.inner.weight)

    attention.q_proj = Past()
    assert "model.layers.1.self_attn.q_proj.inner" not in adaptable(model)
    assert {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"} < adaptable(model)


@pytest.mark.parametrize("lora", [{}, {"layers": "last 1"}, {"target_modules": ["q_proj", "v_proj"]}])
def test_towers_are_left_alone(tmp_path: Path, lora: dict[str, Any]) -> None:
    """Gemma 3 sees; its vision tower has layers with numbers and the same names of their own."""
    roles = roles_of(save("gemma3", tmp_path), **lora)
    names = adapted(roles)
    assert names and all(name.startswith("model.language_model.layers.") for name in names)
    count = roles.causal.config.get_text_config().num_hidden_layers
    numbers = {int(name.split(".")[3]) for name in names}
    assert numbers == ({count - 1} if "layers" in lora else set(range(count)))


def test_what_peft_would_put_elsewhere_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """By the names of a dense layer of DeepSeek peft adapts the experts."""
    model = build("deepseek_v3")
    config = lora_config(model, Lora(), "CAUSAL_LM")
    names = adaptable(model)
    assert names and not any(name.endswith("gate_proj") for name in names)
    assert "keeps down_proj, gate_proj, up_proj without an adapter" in capsys.readouterr().err
    policy = get_peft_model(copy.deepcopy(model), config)
    assert {n for n, m in policy.named_modules() if hasattr(m, "lora_A")} == {f"base_model.model.{n}" for n in names}
    assert all(p.requires_grad for p in model.parameters())  # the trial left the model as it was
