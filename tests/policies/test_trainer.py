"""Does the PPO loop do what it says: a first step at ratio 1, the same whatever the micro-batches, and a better score at the end?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import asked, furthest, make_roles, randomise, run, said, same, settings, vowels, weights
from torch import Tensor
from two_processes import DEMONSTRATIONS, HELD_OUT

from policies.figures import update_figures
from policies.roles import Roles


def fresh(folder: Path, tokenizer: Any, tuning: str = "lora", value: str = "adapter") -> Roles:
    return make_roles(folder, tokenizer, tuning, value)


# --- step 0: ratio 1 and KL 0, and faults that break them


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_first_step_has_ratio_one_and_no_kl(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str
) -> None:
    section = settings(num_ppo_epochs=1, total_episodes=8, micro_batch_tokens=60, temperature=0.8)
    result, (figures,) = run(fresh(tiny_folder, tiny_tokenizer, tuning), tiny_tokenizer, section, tmp_path / "state")
    assert result.halted is None and result.first == result.last == figures
    assert abs(figures["objective/kl"]) < 1e-5 and figures["policy/approxkl_avg"] < 1e-10
    assert figures["val/ratio"] == pytest.approx(1.0, abs=1e-6) and figures["val/ratio_var"] < 1e-6
    assert figures["policy/clipfrac_avg"] == 0.0


def test_the_value_explained_by_hand() -> None:
    """Returns 1 and 3, variance 1; what the critic missed 0 and 1, variance ¼: it explains ¾. Of equal returns nothing can be."""
    totals = dict.fromkeys(("policy", "value", "approxkl", "clipped", "value_clipped", "ratio", "ratio_square"), 0.0)
    totals |= {"tokens": 2.0, "steps": 1.0, "grad_norm": 0.0, "return": 4.0, "return_square": 10.0}
    totals |= {"residual": 1.0, "residual_square": 1.0}
    assert update_figures(totals)["val/explained_variance"] == 0.75
    assert update_figures(totals | {"return": 2.0, "return_square": 2.0})["val/explained_variance"] == 0.0


def _dropout(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any
    for module in roles.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    monkeypatch.setattr(roles, "eval", roles.train)


def _adapter_not_zero(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    randomise(roles, "policy", std=0.02)


def _reference_without_temperature(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    right = roles.reference_logprobs
    monkeypatch.setattr(roles, "reference_logprobs", lambda batch, temperature: right(batch, 1.0))


def _last_micro_batch_differs(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = roles.reference_logprobs, [0]

    def wrong(batch: Any, temperature: float) -> Tensor:
        calls[0] += 1
        return right(batch, temperature) + (0.01 * batch.mask if calls[0] == 2 else 0.0)

    monkeypatch.setattr(roles, "reference_logprobs", wrong)


def _update_without_temperature(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    right = roles.policy_logprobs
    monkeypatch.setattr(roles, "policy_logprobs", lambda batch, t: right(batch, 1.0 if torch.is_grad_enabled() else t))


@pytest.mark.parametrize(
    ("tuning", "fault", "message"),
    [
        ("lora", _dropout, "policy and reference differ"),
        ("full", _dropout, "policy and reference differ"),
        ("lora", _adapter_not_zero, "policy and reference differ"),
        ("lora", _reference_without_temperature, "policy and reference differ"),
        ("full", _reference_without_temperature, "policy and reference differ"),
        ("lora", _last_micro_batch_differs, "policy and reference differ"),
        ("lora", _update_without_temperature, "the ratio is"),
        ("full", _update_without_temperature, "the ratio is"),
    ],
)
def test_faults_at_the_first_step_are_caught(
    tiny_folder: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tuning: str,
    fault: Any,
    message: str,
) -> None:
    roles = fresh(tiny_folder, tiny_tokenizer, tuning)
    fault(roles, monkeypatch)
    section = settings(micro_batch_tokens=60, temperature=0.8)
    before = weights(roles)
    with pytest.raises(RuntimeError, match=message):
        run(roles, tiny_tokenizer, section, tmp_path / "state")
    assert same(before, weights(roles))


# --- the same result whatever the micro-batches


@pytest.mark.parametrize(("tuning", "value"), [("lora", "adapter"), ("full", "shared")])
def test_micro_batches_do_not_matter(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str
) -> None:
    """1 × 8 = 2 × 4 = 4 × 2 = 8 × 1 after two iterations, the ptx gradient included."""
    found = []
    for size in (8, 4, 2, 1):
        section = settings(micro_batch_tokens=size * 15, ptx_coef=0.5, value=value, missing_eos_score=None)
        roles = fresh(tiny_folder, tiny_tokenizer, tuning, value)
        start = weights(roles)
        run(roles, tiny_tokenizer, section, tmp_path / str(size), demonstrations=DEMONSTRATIONS)
        found.append(weights(roles))
        assert furthest(start, found[-1]) > 1e-3
    assert max(furthest(found[0], other) for other in found[1:]) < 1e-5


# --- completions without an end


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, lambda raw: -1.0),
        ({"missing_eos_score": -2.5}, lambda raw: -2.5),
        ({"missing_eos_score": None, "missing_eos_penalty": 0.75}, lambda raw: raw - 0.75),
        ({"missing_eos_score": None}, lambda raw: raw),
    ],
)
def test_missing_eos(tiny_folder: Path, tiny_tokenizer: Any, changes: dict[str, Any], rule: Any) -> None:
    roles = fresh(tiny_folder, tiny_tokenizer)
    with torch.no_grad():
        roles.causal.lm_head.weight[[1, 2]] *= 2.5  # both ends of the generation config
    episodes = said(roles, tiny_tokenizer, asked(tiny_tokenizer), settings(**changes))
    assert {e.completion.finished for e in episodes} == {True, False}
    assert {e.completion.tokens[-1] for e in episodes if e.completion.finished} == {1, 2}
    for e in episodes:
        raw = vowels([e.prompt], [e.text]).item()
        assert e.raw_score == raw
        assert e.score == pytest.approx(raw if e.completion.finished else rule(raw))
        assert e.text == tiny_tokenizer.decode([t for t in e.completion.tokens if t > 2])


# --- it learns


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("value", ["adapter", "shared"])
def test_ppo_raises_a_toy_score(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str
) -> None:
    """The score counts one character; with 15 iterations of 32 completions of 8 tokens it becomes several times as frequent."""

    def count(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(text.count("e")) for text in completions])

    section = settings(
        total_episodes=480, batch_size=32, micro_batch_tokens=480, num_ppo_epochs=4, response_length=8,
        learning_rate=1e-2 if tuning == "lora" else 3e-3, value=value, missing_eos_score=None, kl_coef=0.01,
        lr_scheduler_type="constant", save_steps=100,
    )  # fmt: skip
    _, logged = run(
        fresh(tiny_folder, tiny_tokenizer, tuning, value), tiny_tokenizer, section, tmp_path / "s", score=count
    )
    scores = [f["objective/scores"] for f in logged]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 1.0, scores


# --- evaluation


def test_evaluations_come_at_their_steps_with_the_same_noise(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """With a learning rate of next to nothing the policy stays, so equal noise is equal text; rollouts go on to differ."""
    section = settings(total_episodes=40, learning_rate=1e-30, eval_steps=2, eval_prompts=4, batch_size=8)
    shown: dict[int, list[str]] = {}
    asked: list[list[str]] = []

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
        asked.append(list(completions))
        return vowels(prompts, completions)

    result, logged = run(
        fresh(tiny_folder, tiny_tokenizer),
        tiny_tokenizer,
        section,
        tmp_path / "s",
        score=score,
        held_out=HELD_OUT,
        show=lambda step, episodes: shown.__setitem__(step, [f"{e.prompt_id} {e.text}" for e in episodes]),
    )
    assert list(shown) == [e["step"] for e in result.evals] == [0, 2, 4, 5]
    assert [name.split()[0] for name in shown[0]] == ["h0", "h1", "h2", "h3"]  # eval_prompts of the five
    assert shown[0] == shown[2] == shown[4] == shown[5]
    training = [texts for texts in asked if len(texts) == 8]
    assert len(training) == 5 and len({tuple(t) for t in training}) == 5
    assert [("eval/scores" in f) for f in logged] == [False, True, False, True, True]
    expected = vowels(HELD_OUT[:4], [t.split(" ", 1)[1] for t in shown[0]]).mean().item()
    assert result.evals[-1]["eval/scores"] == pytest.approx(expected)
