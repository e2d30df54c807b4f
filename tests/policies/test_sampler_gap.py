"""How far is the sampler from the policy? Figures by hand, the limit that halts, and that the engine follows before anything is sampled."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make_roles, run, settings

from policies.engines import Engine
from policies.roles import Roles
from policies.rollout import sample


def shifted(roles: Roles, nats: float, follow: Callable[[], None] = lambda: None) -> Engine:
    """An engine that draws as ours does and calls every token `nats` likelier than it is, as one with other weights may."""

    def draw(prompts: Any, noises: Any, **how: Any) -> Any:
        with roles.sampling() as model:
            said = sample(model, prompts, noises, **(how | {"record": None}))
        return [replace(one, logprobs=one.logprobs + nats) for one in said]

    return Engine(draw, exact=False, follow=follow)


@pytest.mark.parametrize(("nats", "capped"), [(0.0, 0.0), (0.2, 0.0), (-0.3, 0.0), (-1.0, 1.0)])
def test_figures_by_hand(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, nats: float, capped: float) -> None:
    """r = π/μ = e^-nats on every token: KL(μ‖π) is r - 1 - log r, the mean weight min(r, 2), and all are capped where r > 2."""
    roles = make_roles(tiny_folder, tiny_tokenizer)
    section = settings(total_episodes=8, importance_cap=2.0)
    _, (figures,) = run(roles, tiny_tokenizer, section, tmp_path / "state", engine=shifted(roles, nats))
    assert figures["sampler/kl"] == pytest.approx(math.exp(-nats) - 1 + nats, abs=1e-5)
    assert figures["sampler/capped"] == capped
    assert figures["sampling/importance_sampling_ratio/mean"] == pytest.approx(min(math.exp(-nats), 2.0), abs=1e-5)


def test_an_exact_sampler_has_no_gap_to_tell(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    _, (figures,) = run(
        make_roles(tiny_folder, tiny_tokenizer), tiny_tokenizer, settings(total_episodes=8), tmp_path / "state"
    )
    assert not [name for name in figures if name.startswith("sampler/")]


@pytest.mark.parametrize(("most", "halts"), [(0.018, True), (0.020, False)])
def test_a_sampler_that_is_too_far_halts(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, most: float, halts: bool
) -> None:
    """.2 nats a token are a KL of .0187."""
    roles = make_roles(tiny_folder, tiny_tokenizer)
    section = settings(total_episodes=8, max_sampler_kl=most)
    result, logged = run(roles, tiny_tokenizer, section, tmp_path / "state", engine=shifted(roles, 0.2))
    assert (result.halted is not None, len(logged)) == (halts, int(not halts))
    if halts:
        assert result.halted == (
            "step 0: KL of sampler to policy 0.0187 above max_sampler_kl 0.018; the sampler's weights or numbers are not the trainer's; "
            "set engine: transformers, or dtype: float32"
        )


def test_the_engine_follows_before_every_rollout(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Two iterations and evaluations before, between and after them; what is sampled without following is stale."""
    roles, events = make_roles(tiny_folder, tiny_tokenizer), list[str]()
    engine = shifted(roles, 0.0, lambda: events.append("follow"))

    def noted(*given: Any, **how: Any) -> Any:
        events.append("sample")
        return engine.run(*given, **how)

    held_out = [{"id": "h", "prompt": "so"}]
    run(
        *(roles, tiny_tokenizer, settings(eval_steps=1, eval_prompts=1), tmp_path / "state"),
        held_out=held_out,
        engine=replace(engine, run=noted),
    )
    assert events == ["follow", "sample"] * 5
