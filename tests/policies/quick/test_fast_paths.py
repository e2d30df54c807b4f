"""Does a PPO run come to the same weights by its quick ways as by the slow, obvious one, and are they really taken?

The slow one: stock transformers and peft layers, whole forwards of the whole model for every role and epoch,
log_softmax of all logits,
nothing kept. Then each quick way alone left out, and all of them together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from tiny import PAD, furthest, run, settings, weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from two_processes import DEMONSTRATIONS
from zoo.build import build

from pipeline.settings.sections import Lora
from policies import logprobs
from policies.adapters import lora_config
from policies.backbone import decoder, init_head, load_causal
from policies.engines import Engine, make_engine
from policies.logprobs import Batch, pack, token_logprobs
from policies.loop import Loop
from policies.micro_batch import Forward, known
from policies.quick.activations import Activations
from policies.quick.head import HeadLogprobs
from policies.roles import POLICY, VALUE, Roles, lora_roles
from policies.rollout import sample


def one_batch() -> Batch:
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randint(3, 98, (n,), generator=generator).tolist() for n in (9, 14, 5)]
    return pack([r[:3] for r in rows], [r[3:] for r in rows], PAD)


LAYERS, DEPTH = 4, 2


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with four layers."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, eos_token_id=1, pad_token_id=PAD,
        bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[1] *= 2.0
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(folder)
    return folder


def quick_roles(folder: Path, tokenizer: Any, value: str) -> Roles:
    """As the pipeline makes them, adapters in the last two layers."""
    base = load_causal(folder, tokenizer, torch.float32)
    config = lora_config(base, Lora(r=4, lora_alpha=8, layers=f"last {LAYERS - DEPTH}"), "CAUSAL_LM")
    roles = _started(get_peft_model(base, config, POLICY), value)
    assert roles.trunk is not None and roles.trunk.depth == DEPTH and roles.exact
    return roles


def slow_roles(folder: Path, tokenizer: Any, value: str) -> Roles:
    """The same weights in stock layers, without a trunk."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=names, layers_to_transform=list(range(DEPTH, LAYERS)), task_type="CAUSAL_LM"
    )
    roles = _started(get_peft_model(base, config, POLICY), value)
    object.__setattr__(roles, "trunk", None)
    assert not any(type(m).__module__ == "policies.quick.linear" for m in roles.modules())
    return roles


def _started(policy: Any, value: str) -> Roles:
    roles = lora_roles(policy, value, None)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in roles.named_parameters():
            if "lora_A" in name or f"lora_B.{VALUE}" in name:  # the policy's B stays 0: it starts as the reference
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    init_head(roles.value_head, seed=5)
    return roles


def slow_logprobs(model: Any, hidden: Tensor, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Of every position's logits, row by row."""
    table = torch.log_softmax(model.get_output_embeddings()(hidden).float() / temperature, -1)
    out, entropy = (torch.zeros(batch.mask.shape) for _ in range(2))
    for b, t in batch.mask.nonzero().tolist():
        at = table[b, batch.positions[b, t]]
        out[b, t] = at[batch.tokens[b, t]]
        entropy[b, t] = -(at.exp() * at).sum().detach()
    return out, entropy


@contextmanager
def watched(roles: Roles) -> Iterator[dict[str, int]]:
    """How often, within the block, what is run: the lowest layer outside sampling, reference, policy and critic."""
    counts = {"lowest": 0, "reference": 0, "policy": 0, "critic": 0}
    with pytest.MonkeyPatch.context() as patch:

        def spy(name: str, right: Callable[..., Any], *args: Any) -> Any:
            counts[name] += 1
            return right(*args)

        def entered(layer: nn.Module, args: Any, kw: dict[str, Any]) -> None:
            counts["lowest"] += kw.get("past_key_values") is None  # sampling has a cache

        for name, method in (("reference", "reference_logprobs"), ("policy", "policy_logprobs"), ("critic", "values")):
            patch.setattr(roles, method, partial(spy, name, getattr(roles, method)))
        body: Any = decoder(roles.policy)
        hook = body.layers[0].register_forward_pre_hook(entered, with_kwargs=True)
        yield counts
        hook.remove()


SLOW: dict[tuple[str, int], tuple[dict[str, Tensor], list[list[float]]]] = {}
PLAIN = {"keep_activations": 0.0, "micro_batch_tokens": 10000}
LOGGED = ("objective/kl", "objective/scores", "objective/entropy", "loss/policy_avg", "loss/value_avg", "val/ratio")


def section(value: str, epochs: int, **changes: Any) -> Any:
    given = {"value": value, "num_ppo_epochs": epochs, "total_episodes": 24, "temperature": 0.8, "kl_coef": 0.3}
    return settings(**{**given, "missing_eos_score": None, "learning_rate": 5e-3, "save_steps": 100, **changes})


def finished(roles: Roles, figures: Sequence[dict[str, float]]) -> tuple[dict[str, Tensor], list[list[float]]]:
    return weights(roles), [[f[name] for name in LOGGED] for f in figures]


def slow_run(folder: Path, tokenizer: Any, state: Path, value: str, epochs: int) -> Any:
    if (value, epochs) not in SLOW:
        roles = slow_roles(folder, tokenizer, value)
        start = weights(roles)
        with pytest.MonkeyPatch.context() as patch, watched(roles) as counts:
            patch.setattr(Roles, "exact", False)
            patch.setattr(Loop, "separate_critic", False)  # it is run for its values, then again with the policy
            patch.setattr("policies.roles.token_logprobs", slow_logprobs)
            patch.setattr("policies.episodes.together", lambda lengths, *_: [list(range(len(lengths)))])
            patch.setattr("policies.quick.packing.lanes", lambda *_: None)
            _, figures = run(roles, tokenizer, section(value, epochs, **PLAIN), state)
        assert counts["reference"] == 3 and counts["policy"] == counts["critic"] == 3 * (1 + epochs)
        assert furthest(start, weights(roles)) > 5e-3 and len({f["completions/mean_length"] for f in figures}) > 1
        SLOW[value, epochs] = finished(roles, figures)
    return SLOW[value, epochs]


def stateless(roles: Roles) -> Engine:
    """An engine that gives tokens and log-probabilities alone, as one in another program does."""

    def draw(prompts: Any, noises: Any, **kw: Any) -> Any:
        with roles.sampling() as model:
            return sample(model, prompts, noises, **(kw | {"record": None}))

    return Engine(draw, exact=False)


EVERY = [("adapter", 1), ("adapter", 3), ("shared", 1), ("shared", 3)]
WAYS = {
    "all": EVERY,
    "no trunk": [("adapter", 3), ("shared", 1)],
    "not exact": [("adapter", 1), ("shared", 3)],
    "stateless engine": [("adapter", 3), ("shared", 1)],
    "nothing kept": [("adapter", 1), ("shared", 3)],
    "some kept": [("adapter", 3), ("shared", 1)],
    "small": [("adapter", 3), ("shared", 1)],
    "checkpoints": [("adapter", 3), ("shared", 1)],
}


@pytest.mark.parametrize(("way", "value", "epochs"), [(way, *rest) for way, cases in WAYS.items() for rest in cases])
def test_weights_are_those_of_the_slow_way(
    deep: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, value: str, epochs: int
) -> None:
    """Three iterations at temperature 0.8. Adam's ε is 1e-5, so that a gradient that is mere rounding moves nothing."""
    expected, figures = slow_run(deep, tiny_tokenizer, tmp_path / "slow", value, epochs)
    roles = quick_roles(deep, tiny_tokenizer, value)
    changes: dict[str, Any] = {"keep_activations": 1.0, "micro_batch_tokens": 60}
    more: dict[str, Any] = {}
    if way == "no trunk":
        object.__setattr__(roles, "trunk", None)
    elif way == "stateless engine":
        more["engine"] = stateless(roles)
    if way in ("not exact", "nothing kept", "some kept"):
        monkeypatch.setattr(Roles, "exact", False)
        changes["keep_activations"] = {"nothing kept": 0.0, "some kept": 3e-4}.get(way, 1.0)
    elif way == "small":
        changes["micro_batch_tokens"] = 30
    elif way == "checkpoints":
        changes["gradient_checkpointing"] = True
        assert roles.recomputes()  # tried once, before passes are counted
    kept: list[bool] = []
    right = Activations.run

    def spy(self: Activations, forward: Callable[[Batch], Forward], batch: Batch) -> Forward:
        out = right(self, forward, batch)
        kept.append(out.logprobs.requires_grad)
        return out

    monkeypatch.setattr(Activations, "run", spy)
    with watched(roles) as counts:
        _, logged = run(roles, tiny_tokenizer, section(value, epochs, **changes), tmp_path / "quick", **more)
    found, found_figures = finished(roles, logged)
    assert furthest(expected, found) < 1e-5
    for a, b in zip(found_figures, figures, strict=True):
        assert a == pytest.approx(b, abs=2e-5, rel=2e-5)
    inexact = way in ("not exact", "stateless engine", "nothing kept", "some kept")
    assert (counts["lowest"] == 0) == (way not in ("no trunk", "stateless engine"))
    assert bool(kept) == inexact  # log-probabilities of the rollout need no forward
    if kept:
        assert set(kept) == {"nothing kept": {False}, "some kept": {True, False}}.get(way, {True})
    passes = counts["reference"]  # one a micro-batch; more of the others is work done twice
    assert passes > 3 and counts["policy"] == epochs * passes + kept.count(False)
    assert counts["critic"] == epochs * passes + (kept.count(False) if value == "shared" else 0)


@pytest.mark.parametrize(("exact", "whiten"), [(True, False), (False, True)])
def test_after_the_first_minibatch_nothing_is_kept(
    deep: Path, tiny_tokenizer: Any, tmp_path: Path, exact: bool, whiten: bool
) -> None:
    """After the first of an epoch's two steps the weights are no longer those that were measured: only the first minibatch's
    critic learns from the forward that gave its values. Beside it, all run again, and policy and critic together."""
    found = []
    for quick in (True, False):
        roles = quick_roles(deep, tiny_tokenizer, "adapter")
        with pytest.MonkeyPatch.context() as patch, watched(roles) as counts:
            if not (quick and exact):
                patch.setattr(Roles, "exact", False)
            if not quick:
                object.__setattr__(roles, "trunk", None)
                patch.setattr(Loop, "separate_critic", False)
            more: Any = {"num_mini_batches": 2, "keep_activations": float(quick), "whiten_rewards": whiten}
            run(roles, tiny_tokenizer, section("adapter", 2, total_episodes=16, **more), tmp_path / f"{quick}")
        passes = counts["reference"]
        assert passes % 4 == 0  # two iterations of two minibatches, as many micro-batches in each
        assert counts["critic"] == (2 * passes + passes // 2 if quick else 3 * passes)
        found.append(weights(roles))
    assert (
        furthest(*found) < 5e-5
    )  # rounding: 7e-6, with whitened rewards 2e-5; a gradient too much or too little: 1e-2


@pytest.mark.parametrize("trunk", [True, False])
def test_checkpointing_recomputes_each_role_under_its_own_adapter(deep: Path, tiny_tokenizer: Any, trunk: bool) -> None:
    """One backward through policy and critic together, when no adapter is chosen any more.

    The feed-forward of the last layer runs once a role in the forward, and once more in the backward; what is kept is
    less.
    """
    grads, kept, calls = {}, {}, {}
    for on in (False, True):
        roles = quick_roles(deep, tiny_tokenizer, "adapter")
        with torch.no_grad():
            for name, p in roles.named_parameters():
                if f"lora_B.{POLICY}" in name:
                    p.fill_(0.05)
        if not trunk:
            object.__setattr__(roles, "trunk", None)
        roles.checkpointing = on
        assert roles.recomputes()  # tried once, before passes are counted
        body: Any = decoder(roles.policy)
        seen: list[int] = []
        body.layers[-1].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        activations = Activations(roles, SimpleNamespace(keep_activations=1.0, num_mini_batches=1), 1)

        def both(batch: Batch, roles: Roles = roles) -> Forward:
            return Forward(*roles(batch, 0.7))

        out = activations.run(both, one_batch())
        kept[on], before = 1e9 - activations.room, len(seen)
        assert not any(layer.gradient_checkpointing or layer.training for layer in body.layers)
        (out.logprobs.sum() + (known(out.values) ** 2).sum()).backward()
        calls[on] = (before, len(seen))
        grads[on] = {name: p.grad.clone() for name, p in roles.trainable().items() if p.grad is not None}
    assert calls == {False: (2, 2), True: (2, 4)}
    assert kept[True] < 0.5 * kept[False]
    assert grads[True].keys() == grads[False].keys() and any(f".{VALUE}." in name for name in grads[True])
    for name, g in grads[False].items():
        assert g.abs().max() > 0, name
        torch.testing.assert_close(grads[True][name], g, atol=1e-5, rtol=1e-4, msg=name)


def test_the_critics_activations_are_gone_when_the_policys_come(
    deep: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A critic of its own is run and differentiated in every micro-batch, in the first epoch with its values; then the policy."""
    roles = quick_roles(deep, tiny_tokenizer, "adapter")
    seen: list[str] = []

    def spied(owner: Any, name: str) -> None:
        right = getattr(owner, name)

        def spy(*args: Any, **kw: Any) -> Any:
            if torch.is_grad_enabled():
                seen.append(name)
            return right(*args, **kw)

        monkeypatch.setattr(owner, name, spy)

    spied(roles, "values")
    spied(roles, "policy_logprobs")
    spied(Accelerator, "backward")
    once = section(
        "adapter", 2, keep_activations=0.0, micro_batch_tokens=60, total_episodes=8, batch_size=8, ptx_coef=0.5
    )
    run(roles, tiny_tokenizer, once, tmp_path / "s", demonstrations=DEMONSTRATIONS)
    critic, policy = ["values", "backward"], ["policy_logprobs", "backward"]
    rounds = seen.index("policy_logprobs") // 2
    again = (len(seen) - 2 * rounds) // 2 - 3 * rounds  # backwards of demonstrations, in two epochs, without the critic
    assert rounds > 1 and again > 0 and again % 2 == 0
    mixed = policy * (again // 2)
    assert seen == critic * rounds + mixed + policy * rounds + mixed + (critic + policy) * rounds
    assert all(p.grad is None for p in roles.parameters())  # their memory is given back


@pytest.mark.parametrize("kind, way", [("llama", "quick"), ("granite", "quick"), ("phi", "plain"), ("gemma2", "plain")])
def test_which_heads_are_quick(monkeypatch: pytest.MonkeyPatch, kind: str, way: str) -> None:
    """A head with a bias or capped logits goes the plain way; either gives log_softmax of the model's own logits."""
    model = build(kind)
    calls: list[str] = []
    right: dict[str, Callable[..., Any]] = {"plain": logprobs.plain_logprobs, "quick": HeadLogprobs.forward}

    def spy(which: str, *args: Any) -> Any:
        calls.append(which)
        return right[which](*args)

    monkeypatch.setattr(logprobs, "plain_logprobs", partial(spy, "plain"))
    monkeypatch.setattr(HeadLogprobs, "forward", partial(spy, "quick"))
    batch = one_batch()
    hidden = decoder(model)(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state.detach()
    found, entropy = token_logprobs(model, hidden, batch, 0.7)
    assert calls == [way]
    z = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double() / 0.7
    table = torch.log_softmax(z, -1)
    for b in range(len(hidden)):
        for t in range(int(batch.mask[b].sum())):
            at = table[b, batch.positions[b, t]]
            assert found[b, t].item() == pytest.approx(at[batch.tokens[b, t]].item(), abs=2e-5)
            assert entropy[b, t].item() == pytest.approx(-(at.exp() * at).sum().item(), abs=5e-5)
    assert not found[~batch.mask].any() and not entropy[~batch.mask].any()


def test_engines_by_name_are_those_of_the_run(deep: Path, tiny_tokenizer: Any) -> None:
    """The engine above that hides its states says what the run's own says."""
    roles = quick_roles(deep, tiny_tokenizer, "shared")
    noises = [torch.rand(6, generator=torch.Generator().manual_seed(i)).double().numpy() for i in range(3)]
    kw: dict[str, Any] = {"eos_ids": [1, 2], "pad_id": PAD, "temperature": 0.8, "batch_size": 2}
    found, own = (
        e([[5], [6, 7], [8]], noises, **kw)
        for e in (stateless(roles), make_engine("transformers", roles, "", None, None, Path()))
    )
    assert [c.tokens for c in found] == [c.tokens for c in own] and all(c.hidden is None for c in found)
