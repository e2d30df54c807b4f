"""Does policies/ppo.py compute what the papers say? Every expected value is derived here by hand or by slow plain
Python.

Gradients, masks and padding are held to the same: a masked entry is zero in the result, reaches nothing else, and gets
no gradient.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from policies.ppo import adaptive_kl_coef, gae, kl_estimates, policy_loss, shape_rewards, value_loss, whiten

GARBAGE = [0.0, 1e4, -1e4, math.nan, math.inf, -math.inf]
finite = st.floats(-3.0, 3.0, width=32)
quick = settings(max_examples=40, deadline=None)  # the first call of an operation is slow, which is no finding


@st.composite
def padded(draw: st.DrawFn, tensors: int) -> tuple[list[Tensor], Tensor]:
    """`tensors` tensors (B, T) float32 and a right-padded mask whose rows hold 0 to T tokens, at least one in all."""
    width = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=4).filter(any))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    size = mask.numel()
    made = [
        torch.tensor(draw(st.lists(finite, min_size=size, max_size=size))).reshape(mask.shape) for _ in range(tensors)
    ]
    return made, mask


def row(*x: float) -> Tensor:
    return torch.tensor([x])


def full(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_rewards_are_the_kl_penalty_with_the_score_on_the_last_valid_token() -> None:
    """β = 0.1. Row 1, three tokens: log π - log π_ref = (-1) - (-1.5) = .5, (-2) - (-1) = -1, (-.5) - (-2.5) = 2 ->
    penalties -.05, .1, -.2, and the score 3 on the third: 2.8. Row 2, one token: difference -.2 -> .02, score -1: -.98.
    Row 3, all four tokens equal to the reference: only the score .25, on the fourth."""
    logprobs = torch.tensor([[-1.0, -2.0, -0.5, 9.0], [-0.7, 9.0, 9.0, 9.0], [-1.0, -1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -1.0, -2.5, 5.0], [-0.5, 5.0, 5.0, 5.0], [-1.0, -1.0, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    rewards = shape_rewards(torch.tensor([3.0, -1.0, 0.25]), logprobs, reference, mask, 0.1)
    expected = torch.tensor([[-0.05, 0.1, 2.8, 0.0], [-0.98, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.25]])
    assert_close(rewards, expected)


def test_rewards_carry_no_gradient() -> None:
    logprobs = row(-1.0, -2.0).requires_grad_()
    assert not shape_rewards(torch.ones(1), logprobs, row(-1.5, -1.0), full(logprobs), 0.1).requires_grad


@quick
@given(padded(2), st.floats(0.0, 2.0))
def test_rewards_of_a_completion_sum_to_its_score_less_the_kl(made: tuple[list[Tensor], Tensor], beta: float) -> None:
    """The sum over tokens is R - β log(π(y)/π_ref(y)) (InstructGPT eq. 2); a row without a token has no reward."""
    (logprobs, reference), mask = made
    scores = torch.arange(1.0, len(mask) + 1)
    totals = shape_rewards(scores, logprobs, reference, mask, beta).sum(1).tolist()
    for i, n in enumerate(mask.sum(1).tolist()):
        kl = sum(logprobs[i, :n].tolist()) - sum(reference[i, :n].tolist())
        assert totals[i] == pytest.approx(i + 1 - beta * kl if n else 0.0, abs=1e-4)


# --- advantages -------------------------------------------------------------------------------------------------------


def gae_by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} - V_t and V after the end 0: GAE eq. 16 as a double sum, one
    row."""
    after = [*values, 0.0][1:]
    delta = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]


def test_gae_of_a_worked_example() -> None:
    """γ = 1, λ = .95. δ_2 = 1 - .7 = .3; δ_1 = .7 - .6 = .1; δ_0 = .6 - .5 = .1.
    A_2 = .3; A_1 = .1 + .95·.3 = .385; A_0 = .1 + .95·.385 = .46575. Returns A + V = .96575, .985, 1."""
    rewards, values = row(0.0, 0.0, 1.0), row(0.5, 0.6, 0.7)
    advantages, returns = gae(rewards, values, full(rewards), 1.0, 0.95)
    assert_close(advantages, row(0.46575, 0.385, 0.3))
    assert_close(returns, row(0.96575, 0.985, 1.0))


def test_gae_discounts() -> None:
    """γ = .9, λ = .5, r = (1, 2), V = (3, 4). δ_1 = 2 - 4 = -2; δ_0 = 1 + .9·4 - 3 = 1.6; A_0 = 1.6 + .45·(-2) = .7.
    With λ = 0, A = δ. With λ = 1, A_0 = 1 + .9·2 - 3 = -.2."""
    rewards, values = row(1.0, 2.0), row(3.0, 4.0)
    for lam, first in ((0.5, 0.7), (0.0, 1.6), (1.0, -0.2)):
        advantages, returns = gae(rewards, values, full(rewards), 0.9, lam)
        assert_close(advantages, row(first, -2.0))
        assert_close(returns, row(first + 3.0, 2.0))


def test_there_is_no_bootstrap_from_the_padding() -> None:
    """Two tokens and two of padding whose values are 100: the same as without padding. λ = 1, γ = 1: A = (3 - 1, 2 -
    1)."""
    mask = torch.tensor([[True, True, False, False]])
    advantages, returns = gae(row(1.0, 2.0, 50.0, 50.0), row(1.0, 1.0, 100.0, 100.0), mask, 1.0, 1.0)
    assert_close(advantages, row(2.0, 1.0, 0.0, 0.0))
    assert_close(returns, row(3.0, 2.0, 0.0, 0.0))


@quick
@given(padded(2), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_gae_is_its_definition_on_every_row(made: tuple[list[Tensor], Tensor], gamma: float, lam: float) -> None:
    (rewards, values), mask = made
    kept = rewards.clone(), values.clone()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, n in enumerate(mask.sum(1).tolist()):
        expected = gae_by_definition(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        width = mask.shape[1]
        assert advantages[i].tolist() == pytest.approx(expected + [0.0] * (width - n), abs=1e-4)
        with_values = [a + v for a, v in zip(expected, values[i, :n].tolist(), strict=True)]
        assert returns[i].tolist() == pytest.approx(with_values + [0.0] * (width - n), abs=1e-4)
    assert torch.equal(rewards, kept[0]) and torch.equal(values, kept[1]), "the inputs were changed in place"


# --- whitening --------------------------------------------------------------------------------------------------------

NINE = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])


def test_whiten_keeps_the_mean_when_asked() -> None:
    """1.2 … 2.0: mean 1.6, biased variance 2(.16 + .09 + .04 + .01)/9 = .0666667, deviation .2581989. First row
    -.4/.2581989 + 1.6 = .0508067, -.3/.2581989 + 1.6 = .4381050, -.2/.2581989 + 1.6 = .8254033; the unbiased variance
    (.075) would give .1394."""
    out = whiten(NINE, full(NINE), shift_mean=False)
    assert_close(out[0], torch.tensor([0.0508067, 0.4381050, 0.8254033]), atol=1e-4, rtol=0)
    assert_close(out.mean(), torch.tensor(1.6))


def test_whiten_to_mean_zero() -> None:
    """0 and 2: mean 1, biased variance 1, so -1 and 1 (the unbiased variance, 2, would give .707)."""
    x = row(0.0, 2.0)
    assert_close(whiten(x, full(x)), row(-1.0, 1.0))


def test_whiten_adds_its_epsilon_inside_the_root() -> None:
    """±1e-4: variance 1e-8, so 1e-4/√(1e-8 + 1e-8) = .7071; an epsilon outside the root would leave about 1. A constant
    gives 0."""
    x = row(-1e-4, 1e-4)
    assert_close(whiten(x, full(x)), row(-(0.5**0.5), 0.5**0.5))
    assert_close(whiten(torch.full((2, 2), 3.0), torch.ones(2, 2).bool()), torch.zeros(2, 2))


def test_whiten_takes_its_moments_over_the_valid_entries_of_all_rows() -> None:
    """Valid: 0, 2 in row 1 and 4 in row 2: mean 2, variance 8/3, so ∓2/√(8/3) = ∓1.2247449. Row by row it would be -1,
    1, 0."""
    mask = torch.tensor([[True, True], [True, False]])
    out = whiten(torch.tensor([[0.0, 2.0], [4.0, 77.0]]), mask)
    assert_close(out, torch.tensor([[-1.2247449, 0.0], [1.2247449, 0.0]]))


@quick
@given(padded(1), st.booleans(), st.floats(0.5, 3.0), st.floats(-2.0, 2.0))
def test_whiten_forgets_scale_and_shift(
    made: tuple[list[Tensor], Tensor], shift_mean: bool, scale: float, shift: float
) -> None:
    """whiten(a·x + b) = whiten(x) for a > 0, but for the mean where that is kept; the result has the moments it
    promises."""
    (x,), mask = made
    valid = x[mask].double()
    assume(float(valid.var(correction=0)) > 1e-2)
    out, moved = whiten(x, mask, shift_mean)[mask].double(), whiten(scale * x + shift, mask, shift_mean)[mask].double()
    kept = 0.0 if shift_mean else float(valid.mean())
    kept_moved = 0.0 if shift_mean else scale * float(valid.mean()) + shift
    assert float(out.mean()) == pytest.approx(kept, abs=1e-3)
    assert float(out.var(correction=0)) == pytest.approx(1.0, abs=1e-3)
    assert_close(out - kept, moved - kept_moved, atol=2e-3, rtol=0)


# --- policy loss ------------------------------------------------------------------------------------------------------

# (ratio ρ, A) -> loss max(-Aρ, -A·clip(ρ, .8, 1.2)), loss with dual clip c = 3, and d loss / d log π of each: -Aρ where
# the unclipped branch is the one that counts (d ρ / d log π = ρ), 0 where a clip holds it.
TABLE = [
    (1.5, 1.0, -1.2, -1.2, 0.0, 0.0),  # has moved far enough towards a good action: held
    (0.5, 1.0, -0.5, -0.5, -0.5, -0.5),  # has moved away from a good action: pulled back
    (1.5, -1.0, 1.5, 1.5, 1.5, 1.5),
    (0.5, -1.0, 0.8, 0.8, 0.0, 0.0),
    (4.0, -1.0, 4.0, 3.0, 4.0, 0.0),
    (4.0, 1.0, -1.2, -1.2, 0.0, 0.0),  # dual clip is for A < 0 only
    (1.0, 2.0, -2.0, -2.0, -2.0, -2.0),  # at ρ = 1 the plain policy gradient, -A
    (1.0, -2.0, 2.0, 2.0, 2.0, 2.0),
    (1.1, 1.0, -1.1, -1.1, -1.1, -1.1),
    (0.9, -1.0, 0.9, 0.9, 0.9, 0.9),
    (0.7, 0.0, 0.0, 0.0, 0.0, 0.0),
    (4.0, -2.0, 8.0, 6.0, 8.0, 0.0),
]


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_policy_loss_and_its_gradient(dual_clip: float | None) -> None:
    """TABLE, in which each value is one multiplication from PPO eq. 7 and dual-clip PPO (1912.09729)."""
    ratio, advantages, loss, dual_loss, slope, dual_slope = (torch.tensor(c)[None] for c in zip(*TABLE, strict=True))
    old = torch.full_like(ratio, -1.3)
    new = (old + ratio.log()).requires_grad_()
    out = policy_loss(new, old, advantages, full(ratio), 0.2, dual_clip)
    assert_close(out, loss if dual_clip is None else dual_loss)
    out.sum().backward()
    assert new.grad is not None
    assert_close(new.grad, slope if dual_clip is None else dual_slope)


def test_policy_loss_reads_its_cliprange() -> None:
    """ε = .1 and A = 1: ρ = 1.5 -> -1.1. A = -1: ρ = .5 -> .9."""
    ratio = row(1.5, 0.5)
    assert_close(policy_loss(ratio.log(), torch.zeros(1, 2), row(1.0, -1.0), full(ratio), 0.1), row(-1.1, 0.9))


def test_a_step_down_the_policy_loss_makes_good_actions_likelier() -> None:
    """From ρ = 1, one small step of gradient descent: up where A > 0, down where A < 0."""
    old = row(-1.0, -1.0)
    new = old.clone().requires_grad_()
    policy_loss(new, old, row(1.0, -1.0), full(old), 0.2).sum().backward()
    assert new.grad is not None
    step = (new.detach() - 0.1 * new.grad - old)[0]
    assert step[0] > 0 > step[1]


@quick
@given(padded(3), st.floats(0.05, 0.5), st.sampled_from([None, 1.5, 3.0]))
def test_policy_loss_is_its_formula(made: tuple[list[Tensor], Tensor], epsilon: float, c: float | None) -> None:
    """Scalar by scalar: -min(ρA, clip(ρ)A), and for A < 0 at most -cA."""
    (new, old, advantages), mask = made
    out = policy_loss(new, old, advantages, mask, epsilon, c)
    for got, p, q, a, valid in zip(*(x.flatten().tolist() for x in (out, new, old, advantages, mask)), strict=True):
        ratio = math.exp(p - q)
        objective = min(ratio * a, min(max(ratio, 1 - epsilon), 1 + epsilon) * a)
        if c is not None and a < 0:
            objective = max(objective, c * a)
        assert got == pytest.approx(-objective if valid else 0.0, rel=1e-4, abs=1e-5)


# --- value loss -------------------------------------------------------------------------------------------------------


def test_value_loss_and_its_gradient() -> None:
    """V_old = .5, c = .2. V = 1, R = 2: clipped .7, ½ max(1, 1.69) = .845, held by the clip: slope 0.
    V = 1, R = 0: ½ max(1, .49) = .5, slope V - R = 1. V = 0, R = -2: clipped .3, ½ max(4, 5.29) = 2.645, slope 0.
    V = 0, R = 1: ½ max(1, .49) = .5, slope -1. V = .6, R = 1, inside the range: ½·.16 = .08, slope -.4."""
    values = row(1.0, 1.0, 0.0, 0.0, 0.6).requires_grad_()
    out = value_loss(values, torch.full((1, 5), 0.5), row(2.0, 0.0, -2.0, 1.0, 1.0), full(values), 0.2)
    assert_close(out, row(0.845, 0.5, 2.645, 0.5, 0.08))
    out.sum().backward()
    assert values.grad is not None
    assert_close(values.grad, row(0.0, 1.0, 0.0, -1.0, -0.4))


@quick
@given(padded(3), st.floats(0.05, 2.0))
def test_value_loss_is_its_formula(made: tuple[list[Tensor], Tensor], c: float) -> None:
    (values, old, returns), mask = made
    out = value_loss(values, old, returns, mask, c)
    for got, v, w, r, valid in zip(*(x.flatten().tolist() for x in (out, values, old, returns, mask)), strict=True):
        clipped = min(max(v, w - c), w + c)
        expected = 0.5 * max((v - r) ** 2, (clipped - r) ** 2)
        assert got == pytest.approx(expected if valid else 0.0, rel=1e-4, abs=1e-5)


# --- KL ---------------------------------------------------------------------------------------------------------------


def test_kl_estimates_of_a_log_ratio_of_a_half() -> None:
    """log π - log π_ref = .5: k1 = .5, k2 = .25/2 = .125, k3 = e^-.5 - 1 + .5 = .1065307. With the ratio upside down
    (-.5): k1 = -.5, k2 = .125, k3 = e^.5 - 1 - .5 = .1487213."""
    out = kl_estimates(row(-1.0, -1.5), row(-1.5, -1.0))
    assert_close(out["k1"], row(0.5, -0.5))
    assert_close(out["k2"], row(0.125, 0.125))
    assert_close(out["k3"], row(0.1065307, 0.1487213))


def test_k1_and_k3_are_unbiased_for_kl_of_the_policy_from_the_reference() -> None:
    """Exactly, over a distribution of three: Σ π k1 = Σ π k3 = KL(π ‖ π_ref), and not KL(π_ref ‖ π)."""
    pi, ref = [0.7, 0.2, 0.1], [0.2, 0.3, 0.5]
    kl = sum(p * math.log(p / q) for p, q in zip(pi, ref, strict=True))
    out = kl_estimates(row(*pi).log(), row(*ref).log())
    for name in ("k1", "k3"):
        assert float((row(*pi) * out[name]).sum()) == pytest.approx(kl, abs=1e-6)


def test_k3_keeps_its_digits_where_policy_and_reference_almost_agree() -> None:
    """d = 1e-3: k3 = d²/2 - d³/6 + … = 4.998334e-7; exp(-d) - 1 in float32 would be off by up to 6e-8, a tenth of
    it."""
    d = torch.tensor([[1e-3, -1e-3]])
    out = kl_estimates(d, torch.zeros_like(d))["k3"]
    assert_close(out, row(4.998334e-7, 5.001667e-7), rtol=1e-3, atol=0)


@quick
@given(padded(2))
def test_k2_and_k3_are_never_negative(made: tuple[list[Tensor], Tensor]) -> None:
    (logprobs, reference), _ = made
    out = kl_estimates(logprobs, reference)
    assert (out["k2"] >= 0).all() and (out["k3"] >= -1e-6).all()
    assert all(x.shape == logprobs.shape for x in out.values())


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (12.0, 0.100512),
        (100.0, 0.100512),
        (0.0, 0.099488),
        (-3.0, 0.099488),
        (6.6, 0.100256),
        (5.4, 0.099744),
        (6.0, 0.1),
    ],
)
def test_adaptive_kl_coef(kl: float, expected: float) -> None:
    """β = .1, target 6, horizon 10 000, n = 256: n/horizon = .0256. KL 12: clip(1, ±.2) = .2 -> .1(1 + .2·.0256) =
    .100512. KL 0: -.2 -> .099488. KL 6.6: .1 -> .1·1.00256. On target: unchanged. (lm-human-preferences,
    AdaptiveKLController)"""
    assert adaptive_kl_coef(0.1, kl, 6.0, 10_000, 256) == pytest.approx(expected, rel=1e-9)


# --- masks and padding ------------------------------------------------------------------------------------------------

Apply = Callable[[list[Tensor], Tensor], list[Tensor]]
MASKED: dict[str, tuple[int, Apply]] = {
    "shape_rewards": (2, lambda x, m: [shape_rewards(torch.ones(len(m)), x[0], x[1], m, 0.1)]),
    "gae": (2, lambda x, m: list(gae(x[0], x[1], m, 0.9, 0.95))),
    "whiten": (1, lambda x, m: [whiten(x[0], m)]),
    "whiten, mean kept": (1, lambda x, m: [whiten(x[0], m, shift_mean=False)]),
    "policy_loss": (3, lambda x, m: [policy_loss(x[0], x[1], x[2], m, 0.2)]),
    "policy_loss, dual clip": (3, lambda x, m: [policy_loss(x[0], x[1], x[2], m, 0.2, 3.0)]),
    "value_loss": (3, lambda x, m: [value_loss(x[0], x[1], x[2], m, 0.2)]),
}


@pytest.mark.parametrize("name", MASKED)
@quick
@given(data=st.data(), garbage=st.sampled_from(GARBAGE))
def test_padding_is_zero_and_reaches_nothing(name: str, data: st.DataObject, garbage: float) -> None:
    """Whatever stands in the padding, not-a-number included, and however wide it is, the result is the same and zero
    there."""
    tensors, apply = MASKED[name]
    inputs, mask = data.draw(padded(tensors))
    plain = apply(inputs, mask)
    dirty = apply([x.masked_fill(~mask, garbage) for x in inputs], mask)
    wide_mask = torch.cat([mask, torch.zeros_like(mask)], dim=1)
    wide = apply([torch.cat([x, torch.full_like(x, garbage)], dim=1) for x in inputs], wide_mask)
    for a, b, c in zip(plain, dirty, wide, strict=True):
        assert a.shape == mask.shape and (a[~mask] == 0).all() and (c[~wide_mask] == 0).all()
        assert_close(b, a, rtol=0, atol=0)
        assert_close(c[:, : mask.shape[1]], a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4, 1e15])
@pytest.mark.parametrize("name", ["policy_loss", "policy_loss, dual clip", "value_loss"])
def test_padding_gets_no_gradient(name: str, garbage: float) -> None:
    """Padding of new and old disagrees by up to e^1e15 in ratio; its gradient is still zero, and the others' what they
    were."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    old, target = torch.full((2, 3), 0.1), torch.tensor([[1.0, -1.0, 5.0], [2.0, 5.0, 5.0]])

    def gradient(padding: float) -> Tensor:
        new = torch.full((2, 3), 0.15).masked_fill(~mask, padding).requires_grad_()
        MASKED[name][1]([new, old, target], mask)[0].sum().backward()
        assert new.grad is not None
        return new.grad

    out = gradient(garbage)
    assert (out[~mask] == 0).all() and (out[mask] != 0).all()
    assert torch.equal(out, gradient(0.1))


def test_losses_are_per_token_not_averaged() -> None:
    """Three valid tokens in two rows of length 2 and 1: each keeps its own loss, so that the trainer can divide the sum
    by the tokens of the optimizer step. Policy: ρ = 1, so -A. Value: ½(V - R)²."""
    mask = torch.tensor([[True, True], [True, False]])
    zeros = torch.zeros(2, 2)
    targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert_close(policy_loss(zeros, zeros, targets, mask, 0.2), torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]))
    assert_close(value_loss(zeros, zeros, targets, mask, 0.2), torch.tensor([[0.5, 2.0], [4.5, 0.0]]))
