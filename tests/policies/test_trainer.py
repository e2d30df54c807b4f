"""Does the PPO loop do what it says: the right gradient, the same whatever the micro-batches, processes and interruptions, and no step too far?"""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import PROMPTS, furthest, make_roles, randomise, run, same, settings, vowels, weights
from torch import Tensor, nn
from two_processes import DEMONSTRATIONS, HELD_OUT, train_tiny

from policies import trainer
from policies.engines import make_engine
from policies.episodes import Episode, rollout
from policies.roles import Roles
from policies.template import encode_prompt


class Stop(Exception):
    """An interruption."""


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


# --- one step's gradient, written out


def captured(
    tiny_folder: Path,
    tokenizer: Any,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    roles: Roles,
    section: Any,
    **more: Any,
) -> tuple[dict[str, Tensor], list[Episode], dict[str, float]]:
    """One iteration of one step: (the gradient before it is clipped, the episodes, the figures)."""
    accelerator = Accelerator(cpu=True)
    grads: dict[str, Tensor] = {}
    episodes: list[Episode] = []
    clip, draw = accelerator.clip_grad_norm_, trainer.rollout

    def spy(parameters: Any, norm: float) -> Any:
        grads.update({n: p.grad.clone() for n, p in roles.trainable().items() if p.grad is not None})
        return clip(parameters, norm)

    def keep(*args: Any, **kw: Any) -> list[Episode]:
        episodes.extend(draw(*args, **kw))
        return list(episodes)

    monkeypatch.setattr(accelerator, "clip_grad_norm_", spy)
    monkeypatch.setattr(trainer, "rollout", keep)
    _, logged = run(roles, tokenizer, section, state, accelerator=accelerator, **more)
    monkeypatch.undo()
    return grads, episodes, logged[0]


def slow_gradient(
    policy: Any,
    reference: Any,
    critic: Any,
    head: nn.Linear,
    episodes: Sequence[Episode],
    section: Any,
    per_sequence: bool,
) -> None:
    """PPO's first step from its papers, episode by episode in float64, into .grad of `policy`, `critic` and `head`.

    r_t = -β(log π - log π_ref) + [t = T] score; A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γV_{t+1} - V_t and V after the end 0;
    R_t = A_t + V_t; A standardised over all tokens. At ratio 1 neither clip is at work, so the gradient is that of
    (1/N) Σ_tokens [-A_t·π/π_old + c·½(V - R_t)²], N tokens in all.
    """
    t, g = section.temperature, section.gamma * section.lam
    rows = []
    for e in episodes:
        ids, start = torch.tensor([e.prompt_ids + e.completion.tokens]), len(e.prompt_ids) - 1
        tokens = torch.tensor(e.completion.tokens)[:, None]
        logp = torch.log_softmax(policy(ids).logits[0, start:-1].double() / t, -1).gather(1, tokens)[:, 0]
        with torch.no_grad():
            ref = torch.log_softmax(reference(ids).logits[0, start:-1].double() / t, -1).gather(1, tokens)[:, 0]
        v = head(critic(ids)[0][0, start:-1])[:, 0].double()
        old, n = v.detach(), len(v)
        r = -section.kl_coef * (logp.detach() - ref)
        r[-1] += e.score
        delta = [r[i] + (section.gamma * old[i + 1] if i + 1 < n else 0.0) - old[i] for i in range(n)]
        a = torch.stack([sum(g ** (j - i) * delta[j] for j in range(i, n)) for i in range(n)])
        rows.append((logp, v, a, a + old))
    every = torch.cat([a for _, _, a, _ in rows])
    mean, std = every.mean(), every.std(correction=0)
    total: Any = 0.0
    for logp, v, a, returns in rows:
        each = -(a - mean) / std * torch.exp(logp - logp.detach()) + section.vf_coef * 0.5 * (v - returns) ** 2
        total = total + (each.mean() / len(rows) if per_sequence else each.sum() / len(every))
    total.backward()


def test_gradient_of_one_step_full(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences of unequal lengths in two micro-batches: the loss is per token of the step, which a mean of means is not."""
    section = settings(
        num_ppo_epochs=1, total_episodes=8, micro_batch_tokens=30, temperature=0.8, max_grad_norm=1e9, kl_coef=0.3,
        gamma=0.97, lam=0.9, response_length=12, missing_eos_score=None,
    )  # fmt: skip
    model: Any
    roles = fresh(tiny_folder, tiny_tokenizer, "full")
    with torch.no_grad():  # ends are likely, so that lengths differ
        for model in (roles.policy, roles.reference):
            model.lm_head.weight[1] *= 2.0
    grads, episodes, figures = captured(
        tiny_folder, tiny_tokenizer, tmp_path / "s", monkeypatch, roles, section, seed=7
    )
    assert len({len(e.completion.tokens) for e in episodes}) >= 4
    for per_sequence in (False, True):
        twin = fresh(tiny_folder, tiny_tokenizer, "full")
        with torch.no_grad():
            for model in (twin.policy, twin.reference):
                model.lm_head.weight[1] *= 2.0
        twin.value_head.load_state_dict(fresh(tiny_folder, tiny_tokenizer, "full").value_head.state_dict())
        slow_gradient(twin.policy, twin.reference, twin.critic, twin.value_head, episodes, section, per_sequence)
        expected: dict[str, Any] = {n: p.grad for n, p in twin.trainable().items()}
        assert expected.keys() == grads.keys()
        size = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        apart = math.sqrt(sum(float((g - expected[n]).square().sum()) for n, g in grads.items())) / size
        assert apart > 0.05 if per_sequence else apart < 1e-4
        if not per_sequence:
            assert figures["grad_norm"] == pytest.approx(size, rel=1e-4)


def test_gradient_of_one_step_lora(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same through adapters: policy and value adapter each get their own loss's gradient, by peft's own switches."""
    section = settings(num_ppo_epochs=1, total_episodes=8, micro_batch_tokens=60, max_grad_norm=1e9)
    roles, twin = (fresh(tiny_folder, tiny_tokenizer) for _ in range(2))
    for r in (roles, twin):
        randomise(r, "value")
    grads, episodes, _ = captured(tiny_folder, tiny_tokenizer, tmp_path / "s", monkeypatch, roles, section)
    model: Any = twin.policy

    def use(adapter: str) -> None:
        model.base_model.set_adapter(adapter)
        model.requires_grad_(True)  # peft freezes the other adapter, whose gradient is still to come

    def policy(ids: Tensor) -> Any:
        use("policy")
        return model(ids)

    def critic(ids: Tensor) -> Any:
        use("value")
        return (model(ids, output_hidden_states=True).hidden_states[-1],)

    def reference(ids: Tensor) -> Any:
        with model.disable_adapter():
            return model(ids)

    slow_gradient(policy, reference, critic, twin.value_head, episodes, section, per_sequence=False)
    expected = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], atol=2e-5, rtol=1e-3, msg=name)
    assert {n for n, g in grads.items() if g.abs().max() > 0} >= {n for n in grads if "lora_B" in n}


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
    prompts = [{**p, "ids": encode_prompt(tiny_tokenizer, p["prompt"]), "sample": 0} for p in PROMPTS]
    episodes = rollout(
        roles,
        make_engine("transformers", roles, "", None),
        tiny_tokenizer,
        vowels,
        prompts,
        0,
        settings(**changes),
        1,
        {},
    )
    assert {e.completion.finished for e in episodes} == {True, False}
    assert {e.completion.tokens[-1] for e in episodes if e.completion.finished} == {1, 2}
    for e in episodes:
        raw = vowels([e.prompt], [e.text]).item()
        assert e.raw_score == raw
        assert e.score == pytest.approx(raw if e.completion.finished else rule(raw))
        assert e.text == tiny_tokenizer.decode([t for t in e.completion.tokens if t > 2])


# --- interruption


@pytest.mark.parametrize(
    ("tuning", "value", "save_steps", "stop_after"),
    [
        ("lora", "adapter", 1, 2),
        ("lora", "adapter", 2, 3),
        ("lora", "shared", 2, 3),
        ("full", "adapter", 2, 3),
        ("full", "shared", 3, 1),
    ],
)
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    tiny_folder: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
    tuning: str,
    value: str,
    save_steps: int,
    stop_after: int,
) -> None:
    """An exception from `progress` after a step that may or may not have been saved; then fresh objects on the same folder."""
    section = settings(
        total_episodes=40, save_steps=save_steps, kl_target=0.05, kl_horizon=40, value=value, eval_steps=2, eval_prompts=3,
        lr_scheduler_type="cosine",
    )  # fmt: skip

    def once(state: Path, stop: int | None) -> tuple[Any, dict[float, Any], dict[str, Tensor], list[int]]:
        figures: dict[float, Any] = {}
        begun: list[int] = []
        while True:
            roles = fresh(tiny_folder, tiny_tokenizer, tuning, value)

            def progress(done: int, stop: int | None = stop) -> None:
                if done == stop:
                    raise Stop

            def keep(row: dict[str, float]) -> None:
                figures[row["step"]] = {k: v for k, v in row.items() if not k.startswith("time/")}

            try:
                result = trainer.train(
                    Accelerator(cpu=True), roles, tiny_tokenizer, PROMPTS, HELD_OUT, vowels, section, state=state, seed=3,
                    log=keep, begin=begun.append, progress=progress,
                )  # fmt: skip
                return result, figures, weights(roles), begun
            except Stop:
                stop = None

    whole, logged, expected, _ = once(tmp_path / "whole", None)
    result, again, found, begun = once(tmp_path / "cut", stop_after)
    assert begun == [0, stop_after // save_steps * save_steps]
    assert same(found, expected)
    assert digest(found) == digest(expected)
    assert again == logged and result.evals == whole.evals
    assert {f["objective/kl_coef"] for f in logged.values()} != {section.kl_coef}


def digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(n.encode() + t.numpy().tobytes() for n, t in sorted(tensors.items()))).hexdigest()


def test_an_interrupted_save_keeps_the_older_state(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies while the state of step 2 is written, and again between the two renames that put it in place."""
    section = settings(total_episodes=24)
    expected = fresh(tiny_folder, tiny_tokenizer)
    run(expected, tiny_tokenizer, section, tmp_path / "whole")
    for number, place in enumerate(("write", "rename")):
        state, calls, begun = tmp_path / place, [0], list[int]()
        with monkeypatch.context() as patch:
            if place == "write":
                real = json.dump

                def dump(*args: Any, calls: list[int] = calls, real: Any = real, **kw: Any) -> None:
                    calls[0] += 1
                    if calls[0] == 2:
                        raise Stop
                    real(*args, **kw)

                patch.setattr("policies.state.json.dump", dump)
            else:
                rename = Path.rename

                def moved(self: Path, target: Any, calls: list[int] = calls, rename: Any = rename) -> Any:
                    calls[0] += self.name.endswith(".new")
                    if self.name.endswith(".new") and calls[0] == 2:
                        raise Stop
                    return rename(self, target)

                patch.setattr(Path, "rename", moved)
            with pytest.raises(Stop):
                run(fresh(tiny_folder, tiny_tokenizer), tiny_tokenizer, section, state)
        roles = fresh(tiny_folder, tiny_tokenizer)
        run(roles, tiny_tokenizer, section, state, begin=begun.append)
        assert begun == [1] and same(weights(roles), weights(expected)), (number, place)


# --- several processes


def test_two_processes_equal_one(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """torchrun with gloo, whitening, minibatches, ptx, evaluation and the adaptive KL on; and a halt that only one process meets."""
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root.parent), str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*call, str(root / "two_processes.py"), str(tiny_folder), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "[rank" in line)[-3000:]
    result, logged, roles = train_tiny(tiny_folder, tmp_path / "alone", 1)
    told = json.loads((tmp_path / "logged.json").read_text())
    assert told["world"] == 2
    assert furthest(weights(roles), load_file(tmp_path / "weights.safetensors")) < 1e-5
    assert len(told["logged"]) == len(logged) == 3
    for two, one in zip(told["logged"], logged, strict=True):
        for key, figure in one.items():
            if not key.startswith("time/"):
                assert two[key] == pytest.approx(figure, rel=1e-3, abs=1e-4), key
    assert [e["step"] for e in told["evals"]] == [0, 2, 3]
    for two, one in zip(told["evals"], result.evals, strict=True):
        assert two == pytest.approx(one)
    halted = [(tmp_path / f"halted.{rank}").read_text() for rank in (0, 1)]
    assert halted[0] == halted[1] and "score not finite for prompt p5;" in halted[0]


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


# --- demonstrations


def test_ptx_adds_the_gradient_of_the_sft_loss(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """γ·∇(mean negative log-likelihood of completion tokens at temperature 1) over as many demonstrations as a step has episodes.

    The three demonstrations come round: eight rows are the first three, the first three, the first two.
    """
    gradients = []
    for coefficient in (0.0, 0.7):
        section = settings(
            num_ppo_epochs=1, total_episodes=8, micro_batch_tokens=60, ptx_coef=coefficient, temperature=0.8,
            max_grad_norm=1e9,
        )  # fmt: skip
        roles = fresh(tiny_folder, tiny_tokenizer, "full", "shared")
        section = section.model_copy(update={"value": "shared"})
        grads, _, _ = captured(
            tiny_folder,
            tiny_tokenizer,
            tmp_path / str(coefficient),
            monkeypatch,
            roles,
            section,
            demonstrations=DEMONSTRATIONS,
        )
        gradients.append(grads)
    twin = fresh(tiny_folder, tiny_tokenizer, "full", "shared")
    rows = [DEMONSTRATIONS[i % 3] for i in range(8)]
    total = torch.zeros((), dtype=torch.float64)
    for prompt, completion in rows:
        z = twin.policy(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
        total = total - torch.log_softmax(z, -1).gather(1, torch.tensor(completion)[:, None]).sum()
    (0.7 * total / sum(len(c) for _, c in rows)).backward()
    for name, p in twin.trainable().items():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(gradients[1][name] - gradients[0][name], expected, atol=2e-6, rtol=1e-3, msg=name)


def test_the_ptx_gradient_is_clipped_too(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    section = settings(num_ppo_epochs=1, total_episodes=8, ptx_coef=1000.0, max_grad_norm=0.5)
    seen: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kw: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(math.sqrt(sum(float(g.square().sum()) for g in grads)))
        return step(self, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        run(fresh(tiny_folder, tiny_tokenizer), tiny_tokenizer, section, tmp_path / "s", demonstrations=DEMONSTRATIONS)
    assert seen == [pytest.approx(0.5, rel=1e-3)]


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
