"""Does the PPO loop stop before the step that a limit or a value that is not finite would spoil, and say where?"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PROMPTS, run, same, settings, vowels, weights
from tiny import make_roles as fresh
from torch import Tensor
from two_processes import DEMONSTRATIONS, HELD_OUT

from policies.episodes import prompt_order
from policies.roles import Roles
from policies.state import load_good, load_state, save_good, save_state, settle
from policies.template import encode_prompt


def nan_for(prompt: str, after: int = 0) -> Any:
    """A score that is not a number for one prompt from its call number `after` on."""
    calls = [-1]

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
        calls[0] += 1
        out = vowels(prompts, completions)
        if calls[0] >= after:
            out[[p == prompt for p in prompts]] = torch.nan
        return out

    return score


@pytest.mark.parametrize(
    ("limits", "step", "words"),
    [
        ({"max_kl": 1e-5}, 1, "KL .* above max_kl"),
        ({"min_entropy": 50.0}, 0, "entropy .* below min_entropy"),
        ({"min_length": 50.0}, 0, "length .* below min_length"),
        ({"max_ratio": 0.5}, 0, "mean ratio 1 above max_ratio"),
    ],
)
def test_limits_halt_before_the_update(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, limits: dict[str, float], step: int, words: str
) -> None:
    """The weights are those of the last rollout within the limits: the update that led out of them is taken back."""
    section = settings(lr_scheduler_type="constant", total_episodes=24)
    good = fresh(tiny_folder, tiny_tokenizer)
    roles = fresh(tiny_folder, tiny_tokenizer)
    result, logged = run(roles, tiny_tokenizer, section.model_copy(update=limits), tmp_path / "state", seed=7)
    assert result.halted is not None
    assert re.match(f"step {step}: {words}", result.halted)
    assert len(logged) == step and same(weights(roles), weights(good))


@pytest.mark.parametrize("missing_eos_score", [None, -1.0])
@pytest.mark.parametrize("step", [0, 1])
def test_a_score_that_is_not_a_number_halts(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, step: int, missing_eos_score: float | None
) -> None:
    """Also where the rule for a missing end would have replaced it. Eight of twelve prompts an iteration: p5 is in the first two."""
    section = settings(lr_scheduler_type="constant", total_episodes=24, missing_eos_score=missing_eos_score)
    good = fresh(tiny_folder, tiny_tokenizer)
    if step:
        run(good, tiny_tokenizer, section.model_copy(update={"total_episodes": 8}), tmp_path / "good")
    roles = fresh(tiny_folder, tiny_tokenizer)
    named = [
        p
        for p in PROMPTS
        if {PROMPTS[i]["id"] for i in prompt_order(12, range(8 * step, 8 * step + 8), 3)} >= {p["id"]}
    ][0]
    result, logged = run(roles, tiny_tokenizer, section, tmp_path / "s", score=nan_for(named["prompt"], after=step))
    assert result.halted is not None and result.halted.startswith(
        f"step {step}: score not finite for prompt {named['id']};"
    )
    assert len(logged) == step and same(weights(roles), weights(good))


def test_a_score_that_is_not_a_number_in_an_evaluation_halts(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    section = settings(eval_steps=1, eval_prompts=2)
    roles = fresh(tiny_folder, tiny_tokenizer)
    result, _ = run(
        roles, tiny_tokenizer, section, tmp_path / "s", score=nan_for(HELD_OUT[1]["prompt"]), held_out=HELD_OUT
    )
    assert result.halted is not None and result.halted.startswith("step 0: score not finite for prompt h1;")


def test_logprobs_that_are_not_numbers_halt(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 1 on the forward gives NaN for the prompt p7 ("oh")."""
    section = settings(lr_scheduler_type="constant", total_episodes=24, batch_size=12, micro_batch_tokens=60)
    good = fresh(tiny_folder, tiny_tokenizer)
    roles = fresh(tiny_folder, tiny_tokenizer)
    monkeypatch.setattr(Roles, "exact", False)  # log-probabilities are those of a pass of their own, as in bfloat16
    right, done, oh = roles.policy_logprobs, [0], encode_prompt(tiny_tokenizer, "oh")

    def wrong(batch: Any, temperature: float) -> Any:
        logprobs, entropy, hidden = right(batch, temperature)
        if done[0] == 1:
            row = [r[:2] == oh for r in batch.input_ids.tolist()]
            logprobs = logprobs.masked_fill(torch.tensor(row)[:, None] & batch.mask, torch.nan)
        return logprobs, entropy, hidden

    monkeypatch.setattr(roles, "policy_logprobs", wrong)
    result, _ = run(roles, tiny_tokenizer, section, tmp_path / "s", progress=lambda n: done.__setitem__(0, n))
    assert result.halted is not None
    assert result.halted.startswith("step 1: log-probabilities not finite for prompt p7;") and "p1" not in result.halted
    assert same(weights(roles), weights(good))


@pytest.mark.parametrize("score_too", [False, True])
def test_values_that_are_not_numbers_halt(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score_too: bool
) -> None:
    """From step 1 on the critic gives NaN: its gradient is taken before anybody looks, and must not be learned from. It was the
    update that brought it about, even where the score is NaN as well."""
    section = settings(lr_scheduler_type="constant", total_episodes=24, batch_size=12, micro_batch_tokens=60)
    good, roles = fresh(tiny_folder, tiny_tokenizer), fresh(tiny_folder, tiny_tokenizer)
    right, done = roles.values, [0]

    def wrong(batch: Any, hidden: Any) -> Any:
        values = right(batch, hidden)
        return values * torch.nan if done[0] == 1 else values

    def score(prompts: Any, completions: Any) -> Any:
        scores = vowels(prompts, completions)
        return scores * torch.nan if done[0] == 1 and score_too else scores

    monkeypatch.setattr(roles, "values", wrong)
    result, _ = run(
        roles, tiny_tokenizer, section, tmp_path / "s", score=score, progress=lambda n: done.__setitem__(0, n)
    )
    assert result.halted is not None
    assert result.halted.startswith(f"step 1: {'score' if score_too else 'values'} not finite for prompt p")
    assert same(weights(roles), weights(good)) and all(p.grad is None for p in roles.parameters())


@pytest.mark.parametrize("ptx_coef", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_halts(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ptx_coef: float
) -> None:
    """In PPO's own loss, or in that of the demonstrations alone (temperature 1, while the rollout has 0.8)."""
    roles = fresh(tiny_folder, tiny_tokenizer)
    before, right = weights(roles), roles.policy_logprobs

    def wrong(batch: Any, temperature: float) -> Any:
        logprobs, entropy, hidden = right(batch, temperature)
        if torch.is_grad_enabled() and (temperature == 1.0) == bool(ptx_coef):
            logprobs.register_hook(lambda g: g * torch.inf)
        return logprobs, entropy, hidden

    monkeypatch.setattr(roles, "policy_logprobs", wrong)
    section = settings(temperature=0.8, ptx_coef=ptx_coef)
    result, _ = run(roles, tiny_tokenizer, section, tmp_path / "s", demonstrations=DEMONSTRATIONS)
    assert result.halted is not None and result.halted.startswith("step 0: gradient norm nan")
    assert same(before, weights(roles))


def test_a_resumed_run_still_knows_the_last_good_weights(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Interrupted after the first update, whose rollout then breaks the KL limit: the weights are those before that update."""
    section = settings(lr_scheduler_type="constant", total_episodes=24, save_steps=1)
    roles = fresh(tiny_folder, tiny_tokenizer)

    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(roles, tiny_tokenizer, section, tmp_path / "s", progress=interrupt, seed=7)
    assert not same(weights(roles), weights(fresh(tiny_folder, tiny_tokenizer)))
    again = fresh(tiny_folder, tiny_tokenizer)
    result, _ = run(again, tiny_tokenizer, section.model_copy(update={"max_kl": 1e-5}), tmp_path / "s")
    assert result.halted is not None and result.halted.startswith("step 1: KL")
    assert same(weights(again), weights(fresh(tiny_folder, tiny_tokenizer)))


@pytest.mark.parametrize("links", [True, False])
def test_the_weights_to_go_back_to_are_those_that_came_with_the_state(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """1 is saved as good, then the state; 2 as good after it. Before and after the state is read again. Also without hard links."""
    parameters = {"w": torch.nn.Parameter(torch.zeros(3))}
    optimizer = torch.optim.AdamW(parameters.values())
    (parameters["w"] ** 2 - parameters["w"]).sum().backward()
    optimizer.step()
    moment, of_then = optimizer.state[parameters["w"]]["exp_avg"], optimizer.state[parameters["w"]]["exp_avg"].tolist()

    def none(*_: Any) -> None:
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", none)

    def say(number: float) -> None:
        with torch.no_grad():
            parameters["w"].fill_(number)

    def back() -> list[float]:
        load_good(tmp_path / "state", parameters)
        return parameters["w"].tolist()

    say(9.0)
    assert back() == [9.0] * 3  # nothing was saved
    say(1.0)
    save_good(tmp_path / "state", parameters)
    say(5.0)
    for _ in range(2):  # the second replaces the first
        save_state(tmp_path / "state", parameters, optimizer, {"step": 1})
    optimizer.step()
    assert moment.tolist() != of_then
    say(2.0)
    save_good(tmp_path / "state", parameters)
    say(7.0)
    assert back() == [2.0] * 3
    settle(tmp_path / "state")
    assert load_state(tmp_path / "state", parameters, optimizer) == {"step": 1}
    assert parameters["w"].tolist() == [5.0] * 3
    assert moment.tolist() == of_then and optimizer.state[parameters["w"]]["step"] == 1  # in their place
    assert back() == [1.0] * 3
