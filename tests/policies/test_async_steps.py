"""One step off: which weights sample an iteration's episodes, what corrects for that, what runs beside what, and is it the same after an interruption?"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tiny import PROMPTS, asked, make_roles, run, same, settings, weights
from two_processes import HELD_OUT

from policies import ahead, trainer
from policies.drawing import Completion
from policies.engines import Engine, transformers_engine
from policies.errors import BackboneError
from policies.figures import Halt, check_limits
from policies.loop import Loop
from policies.roles import Roles

Weights = dict[str, torch.Tensor]


class Stop(Exception):
    """An interruption."""


def told(logged: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Figures without those of time, and those that only a sampler of its own has."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("time/", "sampler/", "sampling/", "lr"))} for row in logged
    ]


@pytest.mark.parametrize(("tuning", "value"), [("lora", "adapter"), ("lora", "shared"), ("full", "adapter")])
def test_where_nothing_is_learned_it_is_no_difference(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str
) -> None:
    """The same prompts, the same noise, the same figures; with a rate so small that no float32 weight moves."""
    found = []
    for steps in (0, 1):
        roles = make_roles(tiny_folder, tiny_tokenizer, tuning, value)
        section = settings(total_episodes=24, learning_rate=1e-30, async_steps=steps, value=value, eval_steps=2)
        _, logged = run(roles, tiny_tokenizer, section, tmp_path / str(steps), held_out=HELD_OUT)
        found.append(logged)
    assert len(found[0]) == 3 and not any("sampler/kl" in row for row in found[0])
    for now, off in zip(told(found[0]), told(found[1]), strict=True):
        assert off == pytest.approx(now, abs=1e-4, rel=1e-4)
    for row in found[1]:
        assert row["sampler/kl"] < 1e-9 and row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-5)


def test_the_weights_before_the_update_sample_and_importance_corrects(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterations 0, 1, 2, 3 learn from what the weights of 0, 0, 1, 2 said; each token is weighed by min(π/μ, cap), computed by hand from both."""
    roles = make_roles(tiny_folder, tiny_tokenizer)
    section = settings(total_episodes=32, async_steps=1, importance_cap=1.05, learning_rate=1e-2)
    at_start: list[Weights] = []
    learned: list[list[Any]] = []
    iteration, advantages = trainer.iteration, trainer.with_advantages

    def noted(loop: Loop, step: int, kl_coef: float) -> dict[str, float]:
        at_start.append(weights(roles))
        return iteration(loop, step, kl_coef)

    def seen(loop: Loop, batches: Any, *more: Any) -> Any:
        learned.append([(m.batch, m.importance.clone(), m.logprobs.clone()) for mini in batches for m in mini])
        return advantages(loop, batches, *more)

    monkeypatch.setattr(trainer, "iteration", noted)
    monkeypatch.setattr(trainer, "with_advantages", seen)
    _, logged = run(roles, tiny_tokenizer, section, tmp_path / "state")

    def logprobs(of: Weights, batch: Any) -> torch.Tensor:
        with torch.no_grad():
            for name, parameter in roles.trainable().items():
                parameter.copy_(of[name])
            return roles.policy_logprobs(batch, section.temperature)[0]

    assert len(learned) == 4
    for step, (micros, row) in enumerate(zip(learned, logged, strict=True)):
        gaps, tokens, capped = 0.0, 0, 0
        for batch, importance, now in micros:
            own, older = logprobs(at_start[step], batch), logprobs(at_start[max(0, step - 1)], batch)
            ratio = (own - older).exp().masked_fill(~batch.mask, 0.0)
            torch.testing.assert_close(now, own, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(importance, ratio.clamp(max=1.05), atol=1e-4, rtol=1e-4)
            gaps += (ratio - 1 - (own - older))[batch.mask].sum().item()
            tokens, capped = tokens + batch.count, capped + int((ratio > 1.05).sum())
        assert row["sampler/kl"] == pytest.approx(gaps / tokens, abs=1e-5)
        assert row["sampler/capped"] == pytest.approx(capped / tokens, abs=0.02)
        assert (row["sampler/kl"] > 1e-4) == (step > 0)


@pytest.mark.parametrize(
    ("tuning", "value", "save_steps", "stop_after"), [("lora", "shared", 2, 3), ("full", "adapter", 1, 2)]
)
def test_interrupted_and_resumed_ahead_is_the_same_to_the_bit(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str, save_steps: int, stop_after: int
) -> None:
    """The rollout that was under way comes from the state: the weights that sampled it are gone."""
    section = settings(
        total_episodes=40, save_steps=save_steps, async_steps=1, kl_target=0.05, value=value, eval_steps=2, eval_prompts=3
    )  # fmt: skip

    def once(state: Path, stop: int | None) -> tuple[Weights, dict[float, dict[str, float]], list[int]]:
        figures: dict[float, dict[str, float]] = {}
        begun: list[int] = []
        while True:
            roles = make_roles(tiny_folder, tiny_tokenizer, tuning, value)

            def progress(done: int, stop: int | None = stop) -> None:
                if done == stop:
                    raise Stop

            try:
                _, logged = run(
                    roles, tiny_tokenizer, section, state, held_out=HELD_OUT, begin=begun.append, progress=progress
                )
            except Stop:
                stop = None
                continue
            figures |= {row["step"]: {k: v for k, v in row.items() if not k.startswith("time/")} for row in logged}
            return weights(roles), figures, begun

    expected, whole, _ = once(tmp_path / "whole", None)
    found, again, begun = once(tmp_path / "cut", stop_after)
    assert begun == [0, stop_after // save_steps * save_steps]
    assert same(found, expected)
    assert again == {step: row for step, row in whole.items() if step in again} and len(again) == 5 - begun[1]


class Server:
    """An engine in a process of its own, as the trainer sees it: what it samples after the first rollout is there when `go` is set."""

    def __init__(self, roles: Roles):
        self.inner, self.events = transformers_engine(roles), list[str]()
        self.reached, self.go, self.busy = threading.Event(), threading.Event(), False
        self.waited: list[bool] = []

    def follow(self) -> None:
        assert not self.busy, "weights change under a rollout"
        self.events.append("follow")

    def run(self, prompts: Any, noises: Any, **how: Any) -> list[Completion]:
        self.busy, main = True, threading.current_thread() is threading.main_thread()
        said = self.inner(prompts, noises, **(how | {"record": None}))  # at once: it has weights of its own
        self.events.append("evaluated" if main else "asked")
        if not main and self.events.count("asked") > 1:
            self.reached.set()
            self.waited.append(self.go.wait(timeout=60))
            self.go.clear()
            self.events.append("answered")
        self.busy = False
        return said


def test_the_engine_samples_while_the_trainer_learns(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers only when the update has begun: one after the other, this would wait for ever."""
    roles = make_roles(tiny_folder, tiny_tokenizer)
    server, update = Server(roles), trainer.update

    def begin(loop: Loop, *given: Any) -> Any:
        if loop.ahead is not None:
            assert server.reached.wait(timeout=60)
            server.reached.clear()
        server.events.append("update")
        server.go.set()
        return update(loop, *given)

    monkeypatch.setattr(trainer, "update", begin)
    engine = Engine(server.run, exact=False, follow=server.follow, apart=True)
    section = settings(total_episodes=24, async_steps=1, eval_steps=1, eval_prompts=1)
    result, logged = run(roles, tiny_tokenizer, section, tmp_path / "state", held_out=HELD_OUT[:1], engine=engine)
    assert result.halted is None and len(logged) == 3 and server.waited == [True, True]
    assert server.events == [
        *("follow", "evaluated"),
        *("follow", "asked", "follow", "asked", "update", "answered", "follow", "evaluated"),
        *("follow", "asked", "update", "answered", "follow", "evaluated"),
        *("update", "follow", "evaluated"),
    ]  # fmt: skip


def test_without_a_process_of_its_own_it_samples_first(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """In the trainer's own thread, before the update: for study."""
    roles, threads = make_roles(tiny_folder, tiny_tokenizer), list[Any]()
    own = transformers_engine(roles)

    def noted(*given: Any, **how: Any) -> list[Completion]:
        threads.append(threading.current_thread())
        return own.run(*given, **how)

    run(roles, tiny_tokenizer, settings(async_steps=1), tmp_path / "state", engine=replace(own, run=noted))
    assert threads == [threading.main_thread()] * 2


def test_what_the_engine_raises_is_raised_where_it_is_awaited(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    roles, calls = make_roles(tiny_folder, tiny_tokenizer), [0]
    own = transformers_engine(roles)

    def breaks(*given: Any, **how: Any) -> list[Completion]:
        calls[0] += 1
        if calls[0] == 3:
            raise BackboneError("the server is gone")
        return own.run(*given, **how)

    engine = replace(own, run=breaks, apart=True)
    with pytest.raises(BackboneError, match="the server is gone"):
        run(roles, tiny_tokenizer, settings(total_episodes=32, async_steps=1), tmp_path / "state", engine=engine)


def test_a_state_of_one_process_is_dealt_to_two(tiny_tokenizer: Any) -> None:
    """Each takes up what was said to its own prompts, in their order."""
    everyone = asked(tiny_tokenizer)
    rows = [[i, [i, 7], [-0.5, -float(i)], i % 2 == 0] for i in range(8)]
    mine = []
    for rank in (0, 1):
        loop: Any = SimpleNamespace(
            accelerator=SimpleNamespace(num_processes=2, process_index=rank), settings=settings(), mini_size=8,
            prompts=everyone, seed=3, ahead=None,
        )  # fmt: skip
        ahead.restore(cast(Loop, loop), rows)
        mine.append([c.tokens[0] for c in loop.ahead.said])
        assert len(ahead.prompts_of(loop, 1)) == 4
        assert [c.logprobs.tolist() for c in loop.ahead.said] == [[-0.5, -float(i)] for i in mine[-1]]
    assert mine == [[0, 2, 4, 6], [1, 3, 5, 7]] and len(PROMPTS) == len(everyone)


@pytest.mark.parametrize(("step", "remedy"), [(0, "the sampler's weights or numbers are not the trainer's"), (1, "the update between them is part of it; lower learning_rate or num_ppo_epochs, or set async_steps: 0")])  # fmt: skip
def test_the_limit_says_what_the_distance_is_made_of(step: int, remedy: str) -> None:
    """In the first iteration both have the same weights; later the sampler's are one update older."""
    figures = {"objective/kl": 0.0, "policy/entropy_avg": 1.0, "completions/mean_length": 9.0, "sampler/kl": 0.5}
    with pytest.raises(Halt, match=f"above max_sampler_kl 0.02; {remedy}"):
        check_limits(figures, settings(async_steps=1, max_sampler_kl=0.02), step)
