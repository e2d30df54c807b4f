"""Do all engines sample from the policy as it is, end where they must, and say so when they cannot?

Transformers' continuous batching runs here for real, on the CPU.
"""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from saying import ALONE, LIMIT, PROMPTS, SETTINGS, check_ends, figures_of, noises, say, trained_logprobs
from tiny import EOS, PAD, STOP, make_roles, randomise

from policies.backbone import BackboneError
from policies.engines import Engine, make_engine, truncated_importance_weights
from policies.roles import POLICY, Roles
from policies.rollout import sample


@pytest.fixture(params=["lora", "full"])
def roles(request: pytest.FixtureRequest, tiny_folder: Path, tiny_tokenizer: Any) -> Roles:
    """A policy away from its reference, its ends made likely: some completions stop soon, some late, some never."""
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning=request.param)
    randomise(roles, POLICY)
    with torch.no_grad():
        roles.causal.lm_head.weight[[EOS, STOP]] *= 2.5
    return roles


def test_transformers_is_the_plain_sampler_and_exact(roles: Roles, tiny_folder: Path) -> None:
    """Exact means: the log-probabilities that training computes through the adapter, up to float32 rounding."""
    engine = make_engine("transformers", roles, tiny_folder, SETTINGS, ALONE, tiny_folder)
    done: list[int] = []
    found = say(engine, progress=done.append)
    with roles.sampling() as model:
        plain = sample(model, PROMPTS, noises(4), eos_ids=[EOS, STOP], pad_id=PAD, temperature=0.7, batch_size=3)
    assert figures_of(found) == figures_of(plain)
    assert sum(done) == len(PROMPTS)
    check_ends(found)
    assert engine.exact
    for prompt, c in zip(PROMPTS, found, strict=True):
        assert c.logprobs == pytest.approx(trained_logprobs(roles, prompt, c.tokens, 0.7), abs=5e-5)


def test_transformers_follows_the_policy(lora: Roles, tiny_folder: Path) -> None:
    engine = make_engine("transformers", lora, tiny_folder, SETTINGS, ALONE, tiny_folder)
    before = say(engine)
    randomise(lora, POLICY, std=0.5)
    assert [c.tokens for c in say(engine)] != [c.tokens for c in before]


def test_not_exact_in_bfloat16(lora: Roles, tiny_folder: Path) -> None:
    lora.causal.to(torch.bfloat16)
    assert not make_engine("transformers", lora, tiny_folder, SETTINGS, ALONE, tiny_folder).exact


@pytest.mark.parametrize("batch_size", [2, 8])
def test_continuous_samples_the_policy(
    cuda: Callable[..., Engine], roles: Roles, tiny_folder: Path, batch_size: int
) -> None:
    """What it says of its draws is what one pass over prompt and completion says: top-k, another temperature, stale
    weights or prompts mixed up would all show."""
    engine = cuda("continuous", roles, tiny_folder)
    assert not engine.exact
    done: list[int] = []
    found = say(engine, batch_size=batch_size, progress=done.append)
    assert sum(done) == len(PROMPTS)
    check_ends(found)
    for prompt, c in zip(PROMPTS, found, strict=True):
        assert c.logprobs == pytest.approx(trained_logprobs(roles, prompt, c.tokens, 0.7), abs=1e-4)
    assert {len(c.tokens) for c in say(engine, eos_ids=[PAD])} >= {
        LIMIT
    }  # the ends are those asked, not the model's own


def test_continuous_belongs_to_the_noise_and_leaves_no_trace(
    cuda: Callable[..., Engine], tiny_folder: Path, tiny_tokenizer: Any
) -> None:
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning="full")
    roles.policy.train()
    engine = cuda("continuous", roles, tiny_folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = say(engine)
    assert torch.equal(torch.rand(3), expected)  # the global generator goes on as if nothing had been drawn
    assert figures_of(say(engine)) == figures_of(first)
    assert [c.tokens for c in say(engine, step=5)] != [c.tokens for c in first]
    assert roles.policy.training
    assert roles.causal.config._attn_implementation == "sdpa"


def broken(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Roles whose sampler has a continuous batching that answers, but not as it was asked."""

    def generate_batch(inputs: list[list[int]], *, generation_config: Any, **_: Any) -> dict[str, Any]:
        limit = generation_config.max_new_tokens
        return change(
            {
                f"req_{i}": SimpleNamespace(
                    prompt_ids=prompt, generated_tokens=[7] * limit, logprobs=[-1.0] * limit, error=None
                )
                for i, prompt in enumerate(inputs)
            }
        )

    model = SimpleNamespace(
        generate_batch=generate_batch,
        device=torch.device("cpu"),
        dtype=torch.float32,
        training=False,
        train=lambda mode: None,
    )
    return SimpleNamespace(sampler=lambda: model, causal=model, forget_sampler=lambda: None)


def drop_one(answers: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answers.items() if k != "req_3"}


def fail_one(answers: dict[str, Any]) -> dict[str, Any]:
    answers["req_2"].error = "out of memory"
    return answers


def swap_two(answers: dict[str, Any]) -> dict[str, Any]:
    return {k: answers[k] for k in ["req_1", "req_0", *list(answers)[2:]]}


def cut_one(answers: dict[str, Any]) -> dict[str, Any]:
    answers["req_2"].generated_tokens, answers["req_2"].logprobs = [7] * 5, [-1.0] * 5
    return answers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_one, "finished 23 of 24 prompts"),
        (fail_one, r"finished 23 of 24 prompts \(out of memory\)"),
        (swap_two, "finished 24 of 24"),
        (cut_one, "stopped after 5 of 12 tokens"),
    ],
)
def test_continuous_drops_nothing_silently(cuda: Callable[..., Engine], change: Any, words: str) -> None:
    engine = cuda("continuous", broken(change), Path("."))
    with pytest.raises(BackboneError, match=words) as error:
        say(engine)
    assert "ppo.engine: transformers" in str(error.value)
    assert len(say(cuda("continuous", broken(lambda answers: answers), Path(".")))) == len(PROMPTS)


def test_continuous_without_cuda(lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError) as error:
        make_engine("continuous", lora, tiny_folder, SETTINGS, ALONE, tiny_folder)
    told = "ppo.engine: continuous needs a CUDA GPU and there is none here; set ppo.engine: transformers"
    assert str(error.value) == told


def test_weights_by_hand() -> None:
    """π_old/μ = 2/1, ½, 1, e^1000 and e^-1000 with cap 3 and 1.5; masked tokens hold what they like."""
    ln = math.log
    old = torch.tensor([[ln(0.2), ln(0.1), -3.0, 0.0, -1000.0, math.nan]], requires_grad=True)
    rollout = torch.tensor([[ln(0.1), ln(0.2), -3.0, -1000.0, 0.0, -math.inf]])
    mask = torch.tensor([[True] * 5 + [False]])
    for cap, expected in ((3.0, [2.0, 0.5, 1.0, 3.0, 0.0, 0.0]), (1.5, [1.5, 0.5, 1.0, 1.5, 0.0, 0.0])):
        weights = truncated_importance_weights(old, rollout, mask, cap)
        torch.testing.assert_close(weights, torch.tensor([expected]))
        assert not weights.requires_grad


def test_weights_turn_the_engines_mean_into_the_policys() -> None:
    """Σ μ·w·f = Σ π·f when nothing is cut: with π = (.2, .3, .5), μ = (.5, .3, .2) and f = (1, 10, 100) that is 53.2,
    where the engine alone would say 23.5; cap 1.5 leaves .2 + 3 + .2·1.5·100 = 33.2."""
    policy, engine = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.5, 0.3, 0.2]])
    f, mask = torch.tensor([1.0, 10.0, 100.0]), torch.ones((1, 3), dtype=torch.bool)
    for cap, expected in ((10.0, 53.2), (1.5, 33.2)):
        weights = truncated_importance_weights(policy.log(), engine.log(), mask, cap)
        assert (engine * weights * f).sum().item() == pytest.approx(expected, rel=1e-5)
