"""Is the gradient of one step the one written out by hand, with demonstrations and without?"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny import make_roles, randomise, run, settings
from torch import Tensor, nn
from two_processes import DEMONSTRATIONS

from policies import trainer
from policies.episodes import Episode
from policies.roles import Roles


def fresh(folder: Path, tokenizer: Any, tuning: str = "lora", value: str = "adapter") -> Roles:
    return make_roles(folder, tokenizer, tuning, value)


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
    clip, draw = accelerator.clip_grad_norm_, trainer.scored

    def spy(parameters: Any, norm: float) -> Any:
        grads.update({n: p.grad.clone() for n, p in roles.trainable().items() if p.grad is not None})
        return clip(parameters, norm)

    def keep(*args: Any, **kw: Any) -> list[Episode]:
        episodes.extend(draw(*args, **kw))
        return list(episodes)

    monkeypatch.setattr(accelerator, "clip_grad_norm_", spy)
    monkeypatch.setattr(trainer, "scored", keep)
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
        randomise(r, "critic")
    grads, episodes, _ = captured(tiny_folder, tiny_tokenizer, tmp_path / "s", monkeypatch, roles, section)
    model: Any = twin.policy

    def use(adapter: str) -> None:
        model.base_model.set_adapter(adapter)
        model.requires_grad_(True)  # peft freezes the other adapter, whose gradient is still to come

    def policy(ids: Tensor) -> Any:
        use("policy")
        return model(ids)

    def critic(ids: Tensor) -> Any:
        use("critic")
        return (model(ids, output_hidden_states=True).hidden_states[-1],)

    def reference(ids: Tensor) -> Any:
        with model.disable_adapter():
            return model(ids)

    slow_gradient(policy, reference, critic, twin.value_head, episodes, section, per_sequence=False)
    expected = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], atol=2e-5, rtol=1e-3, msg=name)
    assert {n for n, g in grads.items() if g.abs().max() > 0} >= {n for n in grads if "lora_B" in n}


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
