"""Do the ranking losses compute what the papers say? Values by hand, and each formula again in slow plain Python."""

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reward.losses import k_wise, plackett_luce

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [k_wise, plackett_luce]
both = pytest.mark.parametrize("loss", LOSSES)
quick = settings(max_examples=60, deadline=None)  # the first call of an operation is slow, which is no finding


def softplus(x: float) -> float:
    """-log σ(-x) = log(1 + e^x)"""
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def slow_k_wise(scores: list[list[float]], ranks: list[list[int]]) -> float:
    """InstructGPT (2203.02155) eq. 1, group by group: mean of -log σ(r_w - r_l) over the pairs with a winner; mean over
    groups."""
    means = []
    for s, r in zip(scores, ranks, strict=True):
        pairs = [
            softplus(s[loser] - s[winner])
            for winner in range(len(s))
            for loser in range(len(s))
            if 0 <= r[winner] < r[loser]
        ]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means) if means else 0.0


def slow_plackett_luce(scores: list[list[float]], ranks: list[list[int]]) -> float:
    """-log of the product of choice probabilities e^s / Σ e^s (Luce 1959, Plackett 1975): each completion is chosen
    from itself and everything ranked strictly worse. Mean over the groups that have a choice at all."""
    totals = []
    for s, r in zip(scores, ranks, strict=True):
        total, choices = 0.0, 0
        for chosen in range(len(s)):
            rivals = [s[j] for j in range(len(s)) if 0 <= r[chosen] < r[j]]
            if rivals:
                choices += 1
                total -= math.log(math.exp(s[chosen]) / sum(math.exp(x) for x in [s[chosen], *rivals]))
        if choices:
            totals.append(total)
    return sum(totals) / len(totals) if totals else 0.0


SLOW: list[tuple[Loss, Callable[[list[list[float]], list[list[int]]], float]]] = [
    (k_wise, slow_k_wise),
    (plackett_luce, slow_plackett_luce),
]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """`scores` (G, K) float32 in [-4, 4] and `ranks` (G, K) int64 with ties, gaps and padding (-1) anywhere."""
    g, k = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    scores = draw(st.lists(st.floats(-4.0, 4.0, width=32), min_size=g * k, max_size=g * k))
    ranks = draw(st.lists(st.integers(-1, 4), min_size=g * k, max_size=g * k))
    return torch.tensor(scores).reshape(g, k), torch.tensor(ranks).reshape(g, k)


def gradient(loss: Loss, scores: Tensor, ranks: Tensor) -> Tensor:
    leaf = scores.clone().requires_grad_()
    loss(leaf, ranks).backward()
    assert leaf.grad is not None
    return leaf.grad


# --- values -----------------------------------------------------------------------------------------------------------


def test_three_in_order() -> None:
    """Scores 2 > 1 > 0. Bradley–Terry: log(1 + e^-1) = .313262 twice, log(1 + e^-2) = .126928; mean .251150.
    Plackett–Luce: log(1 + e^-1 + e^-2) = .407606 for the first choice, .313262 for the second: .720868."""
    scores, ranks = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 1, 2]])
    assert float(k_wise(scores, ranks)) == pytest.approx(0.251150, abs=1e-6)
    assert float(plackett_luce(scores, ranks)) == pytest.approx(0.720868, abs=1e-6)


def test_three_in_the_wrong_order() -> None:
    """The same scores with the ranks reversed: log(1 + e) = 1.313262 twice and log(1 + e²) = 2.126928, mean 1.584484.
    Plackett–Luce: log(1 + e + e²) = 2.407606 and 1.313262, sum 3.720868."""
    scores, ranks = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2, 1, 0]])
    assert float(k_wise(scores, ranks)) == pytest.approx(1.584484, abs=1e-6)
    assert float(plackett_luce(scores, ranks)) == pytest.approx(3.720868, abs=1e-6)


def test_a_tie_is_no_pair_and_no_rival() -> None:
    """Scores 2, 1, 0; the first two tied for best. Pairs: log(1 + e^-2) = .126928, log(1 + e^-1) = .313262; mean
    .220095. Plackett–Luce: each of the two against the third only: .126928 + .313262 = .440190."""
    scores, ranks = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 0, 1]])
    assert float(k_wise(scores, ranks)) == pytest.approx(0.220095, abs=1e-6)
    assert float(plackett_luce(scores, ranks)) == pytest.approx(0.440190, abs=1e-6)


def test_a_tie_for_the_last_place() -> None:
    """Scores 2, 1, 0; the last two tied. The same two pairs as above would be .313262 and .126928. Plackett–Luce: one
    choice, log(1 + e^-1 + e^-2) = .407606."""
    scores, ranks = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 3, 3]])
    assert float(k_wise(scores, ranks)) == pytest.approx(0.220095, abs=1e-6)
    assert float(plackett_luce(scores, ranks)) == pytest.approx(0.407606, abs=1e-6)


def test_groups_weigh_the_same_whatever_their_size() -> None:
    """A ranking of three (.251150, .720868) and a padded pair with difference -1 (log(1 + e) = 1.313262): the means are
    .782206 and 1.017065. By pair instead of by group the first would be .516678."""
    scores = torch.tensor([[2.0, 1.0, 0.0], [3.0, 4.0, 9.0]])
    ranks = torch.tensor([[0, 1, 2], [0, 1, -1]])
    assert float(k_wise(scores, ranks)) == pytest.approx(0.782206, abs=1e-6)
    assert float(plackett_luce(scores, ranks)) == pytest.approx(1.017065, abs=1e-6)


def test_label_smoothing_mixes_in_the_flipped_pair() -> None:
    """Difference 1, ε = .1: .9·.313262 + .1·1.313262 = .413262. With ε > 0 the loss is least where σ(Δ) = 1 - ε: Δ =
    log 9."""
    ranks = torch.tensor([[0, 1]])
    assert float(k_wise(torch.tensor([[1.0, 0.0]]), ranks, label_smoothing=0.1)) == pytest.approx(0.413262, abs=1e-6)
    at_best = gradient(lambda s, r: k_wise(s, r, label_smoothing=0.1), torch.tensor([[math.log(9.0), 0.0]]), ranks)
    assert_close(at_best, torch.zeros(1, 2), atol=1e-6, rtol=0)


def test_margin_is_subtracted_from_the_winners_lead() -> None:
    """Llama 2 (2307.09288) eq. 2. Ranks say 1 > 0 > 2, scores 0, 1, -1; margins m[1,0] = .5, m[0,2] = 2, m[1,2] = 1:
    log(1 + e^-.5) = .474077, log(1 + e^1) = 1.313262, log(1 + e^-1) = .313262; mean .700200. What stands where nobody
    wins is not read: 99."""
    margin = torch.full((1, 3, 3), 99.0)
    margin[0, 1, 0], margin[0, 0, 2], margin[0, 1, 2] = 0.5, 2.0, 1.0
    loss = k_wise(torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[1, 0, 2]]), margin=margin)
    assert float(loss) == pytest.approx(0.700200, abs=1e-6)


# --- against the slow versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "slow"), SLOW)
@quick
@given(made=groups())
def test_the_loss_is_its_formula(
    loss: Loss, slow: Callable[[list[list[float]], list[list[int]]], float], made: tuple[Tensor, Tensor]
) -> None:
    scores, ranks = made
    out = loss(scores, ranks)
    assert out.shape == ()
    assert float(out) == pytest.approx(slow(scores.tolist(), ranks.tolist()), rel=1e-4, abs=1e-5)


# --- laws -------------------------------------------------------------------------------------------------------------


@given(st.floats(-20.0, 20.0, width=32), st.floats(-20.0, 20.0, width=32), st.booleans())
@quick
def test_plackett_luce_of_two_is_bradley_terry(a: float, b: float, first: bool) -> None:
    scores, ranks = torch.tensor([[a, b]]), torch.tensor([[0, 1] if first else [1, 0]])
    assert_close(plackett_luce(scores, ranks), k_wise(scores, ranks), rtol=1e-5, atol=1e-6)


def test_plackett_luce_is_a_distribution_over_the_orders() -> None:
    """e^-loss summed over the 4! strict rankings of four completions is 1; over the two of a pair, Bradley–Terry's is
    too."""
    scores = torch.tensor([[0.3, -1.2, 2.0, 0.0]], dtype=torch.float64)
    total = sum(math.exp(-float(plackett_luce(scores, torch.tensor([order])))) for order in permutations(range(4)))
    assert total == pytest.approx(1.0, abs=1e-9)
    total = sum(math.exp(-float(k_wise(scores[:, :2], torch.tensor([order])))) for order in permutations(range(2)))
    assert total == pytest.approx(1.0, abs=1e-9)


@both
@quick
@given(made=groups(), data=st.data())
def test_the_order_in_which_completions_and_groups_stand_is_nothing(
    loss: Loss, made: tuple[Tensor, Tensor], data: st.DataObject
) -> None:
    scores, ranks = made
    columns = data.draw(st.permutations(range(scores.shape[1])))
    rows = data.draw(st.permutations(range(scores.shape[0])))
    assert_close(loss(scores[rows][:, columns], ranks[rows][:, columns]), loss(scores, ranks), rtol=1e-5, atol=1e-6)


@both
@quick
@given(made=groups(), shift=st.floats(-5.0, 5.0))
def test_only_differences_of_scores_and_the_order_of_ranks_count(
    loss: Loss, made: tuple[Tensor, Tensor], shift: float
) -> None:
    """A prompt's own constant cancels; ranks 0, 1, 2 say what 3, 5, 7 say."""
    scores, ranks = made
    spread = torch.where(ranks < 0, ranks, 2 * ranks + 3)
    assert_close(loss(scores + shift, spread), loss(scores, ranks), rtol=1e-4, atol=1e-5)


@both
@quick
@given(made=groups(), garbage=st.floats(-1e4, 1e4, width=32), width=st.integers(0, 3))
def test_padding_reaches_nothing(loss: Loss, made: tuple[Tensor, Tensor], garbage: float, width: int) -> None:
    """Neither the loss nor a gradient depends on padded scores or on how many there are; padding's own gradient is
    zero."""
    scores, ranks = made
    extra = torch.full((len(scores), width), garbage)
    dirty = torch.cat([scores.masked_fill(ranks < 0, garbage), extra], dim=1)
    wide = torch.cat([ranks, torch.full_like(extra, -1, dtype=torch.int64)], dim=1)
    assert_close(loss(dirty, wide), loss(scores, ranks), rtol=1e-5, atol=1e-6)
    slope = gradient(loss, dirty, wide)
    assert (slope[wide < 0] == 0).all()
    assert_close(slope[:, : scores.shape[1]], gradient(loss, scores, ranks), rtol=1e-4, atol=1e-6)


@both
@quick
@given(made=groups())
def test_the_gradient_raises_the_best_and_lowers_the_worst(loss: Loss, made: tuple[Tensor, Tensor]) -> None:
    """Descent follows -gradient. The best of a group can only rise, the worst only fall, and what one gains others
    lose; in a group in which all are tied nothing moves."""
    scores, ranks = made
    for slope, r in zip(gradient(loss, scores, ranks), ranks, strict=True):
        assert float(slope.sum()) == pytest.approx(0.0, abs=1e-5)
        present = r[r >= 0]
        if len(present) == 0 or present.min() == present.max():
            assert (slope == 0).all()
        else:
            assert (slope[r == present.min()] < 0).all() and (slope[r == present.max()] > 0).all()


def test_the_gradient_of_a_pair() -> None:
    """d/ds_w of log(1 + e^-(s_w - s_l)) is -σ(s_l - s_w): at a difference of 1, -.268941; the loser gets the
    opposite."""
    for loss in LOSSES:
        slope = gradient(loss, torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]]))
        assert_close(slope, torch.tensor([[0.268941, -0.268941]]), atol=1e-6, rtol=0)


@both
def test_a_group_without_a_pair_adds_nothing(loss: Loss) -> None:
    """All tied, a single completion, nothing but padding: the mean is over the groups that say something. Without any,
    the loss is 0 and so is its gradient, not NaN."""
    silent = torch.tensor([[1, 1, 1], [0, -1, -1], [-1, -1, -1]])
    scores = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert float(loss(scores, silent)) == 0.0
    assert (gradient(loss, scores, silent) == 0).all()
    alone = loss(scores[:1], torch.tensor([[0, 1, 2]]))
    assert_close(loss(scores.repeat(2, 1)[:4], torch.cat([silent, torch.tensor([[0, 1, 2]])])), alone)


@both
def test_extreme_scores_stay_finite(loss: Loss) -> None:
    """At a difference of 2e4 the wrong way round the loss of a pair is 2e4, not infinity, and its slope 1."""
    scores, ranks = torch.tensor([[-1e4, 1e4]]), torch.tensor([[0, 1]])
    assert float(loss(scores, ranks)) == pytest.approx(2e4)
    assert_close(gradient(loss, scores, ranks), torch.tensor([[-1.0, 1.0]]))
