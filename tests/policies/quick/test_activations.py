"""Is room for activations counted as it is used, and are Adam's moments made beforehand those that Adam makes?"""

import gc
import weakref
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import PAD
from torch import Tensor, nn

from policies.logprobs import Batch, pack
from policies.micro_batch import Forward, known
from policies.quick.activations import Activations
from policies.trainer import allocate


def one_batch() -> Batch:
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randint(3, 98, (n,), generator=generator).tolist() for n in (9, 14, 5)]
    return pack([r[:3] for r in rows], [r[3:] for r in rows], PAD)


def test_moments_made_beforehand_are_those_that_adam_makes() -> None:
    """Three steps of AdamW on the same gradients, with its state made in advance and by torch itself."""
    ends = []
    for beforehand in (True, False):
        p = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = torch.optim.AdamW([p], lr=0.1, weight_decay=0.1, fused=True)
        if beforehand:
            allocate({"p": p}, optimizer)
            assert p.grad is not None and not p.grad.any()
        for step in range(3):
            optimizer.zero_grad(set_to_none=not beforehand)
            (p**2 * (step + 1)).sum().backward()
            optimizer.step()
        ends.append((p.detach(), *optimizer.state[p].values()))
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype


class Nothing:
    """Roles without weights."""

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(())


def asked(keep: float, world: int = 1, minis: int = 1) -> Activations:
    roles: Any = Nothing()
    roles.trunk, roles.causal = None, torch.nn.Linear(1, 1)
    shape = SimpleNamespace(num_hidden_layers=1, hidden_size=1, intermediate_size=1)
    roles.causal.config = SimpleNamespace(get_text_config=lambda: shape)
    return Activations(roles, SimpleNamespace(keep_activations=keep, num_mini_batches=minis), world)


WEIGHT = torch.ones(100, 100, requires_grad=True)


def sampled(values: Tensor) -> Forward:
    """A forward whose values alone matter."""
    return Forward(values.detach(), values.detach(), values)


def grow(batch: Batch, born: list[Any]) -> Forward:
    """One (100, 100) float32 tensor kept, 40 kB: exp keeps its result."""
    y = WEIGHT.detach().requires_grad_().exp()
    born.append(weakref.ref(y))
    return sampled(y.sum())


def test_room_is_counted_in_bytes_and_not_for_several_processes_or_minibatches() -> None:
    """Room for 100 kB keeps two of 40 kB, not the third. A tensor saved twice counts once, a weight not at all."""
    batch = one_batch()
    for activations, expected in (
        (asked(1e-4), [True, True, False, False]),
        (asked(1e-4, world=2), [False] * 4),
        (asked(1e-4, minis=2), [False] * 4),
        (asked(0.0), [False] * 4),
    ):
        outs = [activations.run(partial(grow, born=[]), batch) for _ in range(4)]
        assert [known(out.values).requires_grad for out in outs] == expected
    activations = asked(1e-4)
    activations.weights = {WEIGHT.untyped_storage().data_ptr()}
    activations.run(lambda b: sampled((WEIGHT * WEIGHT).sum()), batch)
    assert activations.room == 1e5
    y = WEIGHT * 1.0
    activations.run(lambda b: sampled((y * y).sum() + (y.t() * y).sum()), batch)
    assert activations.room == pytest.approx(1e5 - 4e4)


def test_what_was_kept_goes_when_it_is_dropped() -> None:
    """As after a halt between measuring and learning: no cycle may hold on to a graph that never runs backward."""
    born: list[Any] = []
    for keep in (0.0, 1.0):
        out = asked(keep).run(partial(grow, born=born), one_batch())
        assert known(out.values).item() == pytest.approx(1e4 * torch.e, rel=1e-5)
        del out
        gc.collect()
    assert [ref() is None for ref in born] == [True, True]
