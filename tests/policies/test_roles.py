"""Do four roles on one base stay apart: the reference untouched, the score the reward model's, the critic begun from it?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import DEMO_TEXTS, EOS, PAD, lora, make_roles, randomise, run, settings, weights
from torch import nn
from transformers import AutoModelForSequenceClassification

from pipeline.training.model_folder import save_merged
from pipeline.training.roles import _last_score, _normalised, _reward_adapter, rides_on_base
from policies.backbone import adapter, decoder, load_causal, load_classifier, new_classifier, output_head
from policies.logprobs import Batch, pack
from policies.roles import POLICY, Roles, lora_roles
from reward.model import Scorer, load_scorer, write_contract

MEAN, STD = 0.7, 2.5


def batch() -> Batch:
    return pack([[5], [9, 7, 30], [60, 61, 3, 4, 5]], [[33, EOS], [4, 5, 6, EOS], [17]], PAD)


@pytest.fixture(scope="module")
def reward_folder(tiny_folder: Path, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published reward model on the tiny base: an adapter that is not zero, a head that is not fresh, mean and std."""
    folder = tmp_path_factory.mktemp("reward") / "reward"
    model = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, 4)
    config = LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=9, target_modules="all-linear")
    wrapped: Any = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_B" in name or "score" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    save_merged(folder, wrapped.eval(), tiny_tokenizer)
    write_contract(folder, mean=MEAN, std=STD, max_length=64, tokenizer=tiny_tokenizer, template="")
    return folder


def with_reward(folder: Path, tokenizer: Any, reward_folder: Path, value: str = "adapter") -> tuple[Roles, nn.Linear]:
    """Roles as pipeline.training.roles.build makes them: policy, reward and value adapters on the tiny base."""
    torch.manual_seed(0)
    policy = get_peft_model(load_causal(folder, tokenizer, torch.float32), lora(), adapter_name=POLICY)
    head = _reward_adapter(policy, reward_folder / "adapter")
    contract = json.loads((reward_folder / "scoring.json").read_text())
    return lora_roles(policy, value, _normalised(head, contract)), head


def test_reference_is_the_sft_model_to_the_bit(tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path) -> None:
    roles, _ = with_reward(tiny_folder, tiny_tokenizer, reward_folder)
    randomise(roles, "policy")
    plain, b = load_causal(tiny_folder, tiny_tokenizer, torch.float32), batch()
    with torch.no_grad():
        given = {"input_ids": b.input_ids, "attention_mask": b.attention_mask}
        expected = decoder(plain)(**given, use_cache=False).last_hidden_state
        assert torch.equal(roles.hidden("reference", b.input_ids, b.attention_mask), expected)
        for role in ("policy", "critic"):
            assert (roles.hidden(role, b.input_ids, b.attention_mask) - expected).abs().max() > 0.01, role
        roles(b, 1.0)
        assert torch.equal(roles.hidden("reference", b.input_ids, b.attention_mask), expected)


def test_full_roles_are_separate_models(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    roles, b = make_roles(tiny_folder, tiny_tokenizer, "full"), batch()
    with torch.no_grad():
        before = roles.hidden("reference", b.input_ids, b.attention_mask)
        for p in (*roles.policy.parameters(), *roles.critic.parameters()):  # type: ignore[union-attr]
            p.mul_(1.5)
        assert torch.equal(roles.hidden("reference", b.input_ids, b.attention_mask), before)
        assert not torch.equal(roles.hidden("policy", b.input_ids, b.attention_mask), before)


@pytest.mark.parametrize("reward_reaches_deeper", [False, True])
def test_the_merged_copy_is_there_while_sampling_alone(
    tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path, reward_reaches_deeper: bool
) -> None:
    """Its matrices take no memory afterwards, those of the base stay, and the next one is the same again."""
    torch.manual_seed(0)
    base = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    config = lora()
    if reward_reaches_deeper:
        config.layers_to_transform = [1]
        config.target_modules = ["q_proj", "down_proj"]
    policy = get_peft_model(base, config, adapter_name=POLICY)
    _reward_adapter(policy, reward_folder / "adapter")
    roles, ids = lora_roles(policy, "shared", None), batch().input_ids
    randomise(roles, "policy")
    before = {name: p.clone() for name, p in roles.named_parameters()}
    said = []
    for _ in range(2):
        with torch.no_grad(), roles.sampling() as model:
            said.append(model(input_ids=ids).logits)
        held = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters()}
        of_base = {p.untyped_storage().data_ptr() for p in roles.parameters()}
        assert sum(n for at, n in held.items() if at not in of_base) == 0
    assert torch.equal(*said)
    assert all(torch.equal(p, before[name]) for name, p in roles.named_parameters())
    with torch.no_grad(), adapter(roles.policy, POLICY):
        torch.testing.assert_close(said[0], roles.policy(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_sampler_is_the_merged_model(tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path) -> None:
    """Against peft's own merge of the policy adapter; again after the adapter has moved; without touching the base."""
    roles, _ = with_reward(tiny_folder, tiny_tokenizer, reward_folder)
    b = batch()
    for std in (0.1, 0.3):
        randomise(roles, "policy", std=std)
        sampler: Any = roles.sampler()
        twin, _ = with_reward(tiny_folder, tiny_tokenizer, reward_folder)
        twin.load_state_dict(roles.state_dict())
        adapted: Any = twin.policy
        merged = adapted.merge_and_unload(adapter_names=["policy"])
        with torch.no_grad():
            expected = merged(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
            found = sampler(input_ids=b.input_ids, attention_mask=b.attention_mask).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert sampler is roles.sampler()
    assert not any(p.requires_grad for p in sampler.parameters())
    plain = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    for (name, p), q in zip(plain.named_parameters(), sampler.parameters(), strict=True):
        assert torch.equal(p, q) == ("proj" not in name), name
    assert sampler.model.embed_tokens.weight is roles.causal.get_input_embeddings().weight  # shared, not copied
    assert set(roles.state_dict()) == set(make_names(tiny_folder, tiny_tokenizer, reward_folder))


def make_names(folder: Path, tokenizer: Any, reward_folder: Path) -> list[str]:
    return list(with_reward(folder, tokenizer, reward_folder)[0].state_dict())


def test_score_through_the_roles_is_the_reward_models(
    tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path
) -> None:
    """The adapter on the shared base, the published weights in plain transformers, and load_scorer: one score."""
    assert rides_on_base(reward_folder, "sft") and not rides_on_base(reward_folder, "an/encoder")
    roles, head = with_reward(tiny_folder, tiny_tokenizer, reward_folder)
    randomise(roles, "policy", "critic")  # no business of the score's
    prompts, completions = DEMO_TEXTS
    scorer = Scorer(lambda ids, mask: _last_score(roles, head, ids, mask), tiny_tokenizer, MEAN, STD, 64, 2)
    model = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    loaded = load_scorer(reward_folder, torch.float32, torch.device("cpu"), 4)
    assert loaded.max_length == 64
    for prompt, completion, through_roles, through_scorer in zip(
        prompts, completions, scorer(prompts, completions), loaded(prompts, completions), strict=True
    ):
        ids = tiny_tokenizer(prompt + completion)["input_ids"] + [EOS]
        with torch.no_grad():
            plain = (model(torch.tensor([ids])).logits[0, 0].item() - MEAN) / STD
        assert through_roles.item() == pytest.approx(plain, abs=2e-5)
        assert through_scorer.item() == pytest.approx(plain, abs=2e-5)
    assert scorer(prompts, completions).std() > 0.1


def test_critic_starts_as_the_normalised_reward_model(
    tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path
) -> None:
    """V at the state before each token is the score that the text up to there would get, (raw - mean) / std."""
    roles, _ = with_reward(tiny_folder, tiny_tokenizer, reward_folder)
    model = load_classifier(reward_folder, tiny_tokenizer, torch.float32)
    b = batch()
    with torch.no_grad():
        values = roles(b, 1.0)[2]
        for row, count in enumerate(b.mask.sum(1).tolist()):
            for t in range(count):
                ids = b.input_ids[row : row + 1, : int(b.positions[row, t]) + 1]
                expected = (model(ids).logits[0, 0].item() - MEAN) / STD
                assert values[row, t].item() == pytest.approx(expected, abs=2e-5)
    assert not values[~b.mask].any()
    for name, p in roles.named_parameters():  # its own parameters, not the reward model's
        if ".critic." in name:
            with torch.no_grad():
                p.add_(1.0)
    assert not any(torch.equal(p, q) for p, q in pairs(roles))


def pairs(roles: Roles) -> list[tuple[torch.Tensor, torch.Tensor]]:
    named = dict(roles.named_parameters())
    return [(p, named[n.replace(".critic.", ".reward.")]) for n, p in named.items() if ".critic." in n]


@pytest.mark.parametrize("value", ["adapter", "shared"])
def test_lora_trains_policy_value_and_head_and_nothing_else(
    tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path, tmp_path: Path, value: str
) -> None:
    """2 layers × 7 matrices × (A, B) an adapter, and the head's weight and bias; every other weight stays to the bit."""
    roles, head = with_reward(tiny_folder, tiny_tokenizer, reward_folder, value)
    names = set(roles.trainable())
    for trained, count in (("policy", 28), ("critic", 28 if value == "adapter" else 0), ("reward", 0)):
        assert len({n for n in names if f".{trained}." in n and "lora_" in n}) == count
    assert len(names) == (58 if value == "adapter" else 30) and {"value_head.weight", "value_head.bias"} <= names
    before = {n: p.detach().clone() for n, p in roles.named_parameters()}
    score_head = head.weight.detach().clone()
    run(roles, tiny_tokenizer, settings(value=value), tmp_path / "state")
    moved = {n for n, p in roles.named_parameters() if not torch.equal(p, before[n])}
    assert moved == names
    assert torch.equal(head.weight, score_head)


@pytest.mark.parametrize("value", ["adapter", "shared"])
def test_full_trains_all_of_policy_and_critic_and_not_the_reference(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, value: str
) -> None:
    roles = make_roles(tiny_folder, tiny_tokenizer, "full", value)
    names = set(roles.trainable())
    assert {n.split(".")[0] for n in names} == (
        {"policy", "critic", "value_head"} if value == "adapter" else {"policy", "value_head"}
    )
    assert all(p.requires_grad for p in roles.policy.parameters())
    before = {n: p.detach().clone() for n, p in roles.named_parameters()}
    start = weights(roles)
    run(roles, tiny_tokenizer, settings(value=value), tmp_path / "state")
    moved = {n for n, p in roles.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(start) == names


def test_adapters_are_told_apart_from_modules_of_the_same_name(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """BERT's attention has a matrix called "value"; it belongs to the frozen base."""
    base: Any = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    layer = base.model.layers[0].self_attn
    layer.value = nn.Linear(32, 32)
    policy = get_peft_model(base, lora(), adapter_name=POLICY)
    trained = set(lora_roles(policy, "adapter", None).trainable()) - {"value_head.weight", "value_head.bias"}
    assert trained and all("lora_" in name for name in trained)


def test_a_reward_adapter_that_does_not_fit_is_refused(
    tiny_folder: Path, tiny_tokenizer: Any, reward_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from pipeline.artifacts.errors import ArtifactError
    from policies.backbone import BackboneError

    whole = load_file(reward_folder / "adapter" / "adapter_model.safetensors")
    for drop, error in (("score", ArtifactError), ("layers.1.mlp.up_proj.lora_A", BackboneError)):
        folder = tmp_path / drop
        folder.mkdir()
        (folder / "adapter_config.json").write_bytes((reward_folder / "adapter" / "adapter_config.json").read_bytes())
        save_file({n: w for n, w in whole.items() if drop not in n}, folder / "adapter_model.safetensors")
        policy = get_peft_model(load_causal(tiny_folder, tiny_tokenizer, torch.float32), lora(), adapter_name=POLICY)
        with pytest.raises(error):
            _reward_adapter(policy, folder)


def test_output_head_of_the_published_model_is_the_trained_one(tiny_tokenizer: Any, reward_folder: Path) -> None:
    from safetensors.torch import load_file

    head = output_head(load_classifier(reward_folder, tiny_tokenizer, torch.float32))
    saved = load_file(reward_folder / "adapter" / "adapter_model.safetensors")
    (matrix,) = [w for n, w in saved.items() if "score" in n]
    assert torch.equal(head.weight, matrix)


@pytest.mark.parametrize(("tuning", "value"), [("lora", "adapter"), ("lora", "shared"), ("full", "adapter")])
def test_only_what_is_trained_is_sent_to_other_processes(tiny_folder: Path, tiny_tokenizer: Any, tuning: str, value: str) -> None:  # fmt: skip
    """DDP sends nothing that it is told to ignore: frozen weights, which every process reads from the same files, and buffers."""
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning, value)
    ignored = set(roles._ddp_params_and_buffers_to_ignore)
    assert (
        not ignored & set(roles.trainable())
        and ignored | set(roles.trainable()) >= dict(roles.named_parameters()).keys()
    )
    assert dict(roles.named_buffers()).keys() <= ignored
