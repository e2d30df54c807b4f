"""Are log-probabilities from hidden states, and their gradients, the plain ones?"""

import pytest
import torch
from torch import Tensor, nn

from policies.logprobs import plain_logprobs
from policies.quick.head import CHUNK, HeadLogprobs


def inputs(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(count)
    hidden, weight = torch.randn(count, 16, generator=g), 0.5 * torch.randn(40, 16, generator=g)
    return hidden.to(dtype), weight.to(dtype), torch.randint(40, (count,), generator=g)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.7, 0.25])
@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 88])
def test_head_logprobs_are_the_plain_ones(count: int, scale: float) -> None:
    """Values, entropies, and gradients of hidden states and weight of Σ c·log p; entropies take no part in them."""
    results = []
    for quick in (True, False):
        hidden, weight, tokens = inputs(count, torch.float32)
        hidden.requires_grad_(), weight.requires_grad_()
        if quick:
            found, entropy = HeadLogprobs.apply(hidden, weight, tokens, scale, True)
        else:
            found, entropy = plain_logprobs(nn.functional.linear(hidden, weight) * scale, tokens)
        assert not entropy.requires_grad and found.shape == entropy.shape == (count,)
        (found * torch.linspace(-1, 2, count)).sum().backward()
        results.append((found.detach(), entropy, hidden.grad, weight.grad))
    for name, a, b in zip(("logprobs", "entropy", "hidden", "weight"), *results, strict=True):
        assert a is not None and b is not None
        assert count == 0 or (a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max().item()), name


def test_logits_that_lie_far_apart() -> None:
    """One word holds all of the probability, so that the others' are 0; log-probabilities stay finite, gradients right,
    and none is above 0, wherever the token lies."""
    hidden = torch.ones(40, 16)
    weight = torch.full((40, 16), -200.0)
    weight[17] = 200.0
    found, kept = [], []
    for quick in (True, False):
        h = hidden.clone().requires_grad_()
        if quick:
            logp, entropy = HeadLogprobs.apply(h, weight, torch.arange(40), 1.0, True)
        else:
            logp, entropy = plain_logprobs(nn.functional.linear(h, weight), torch.arange(40))
        logp.sum().backward()
        found.append(torch.stack([logp.detach(), entropy]))
        kept.append(h.grad)
    assert found[0][0, 17] == 0.0 and (found[0][0] <= 0).all() and found[0][0, 0] == -6400.0
    assert torch.equal(*found) and torch.equal(*kept)


@pytest.mark.parametrize("token", [-1, 40, 1000])
def test_a_token_outside_of_the_vocabulary_raises(token: int) -> None:
    hidden, weight, tokens = inputs(3, torch.float32)
    tokens[1] = token
    with pytest.raises(RuntimeError, match="out of bounds"):
        HeadLogprobs.apply(hidden, weight, tokens, 1.0, False)


@pytest.mark.parametrize(("of_hidden", "of_weight"), [(True, False), (False, True), (False, False)])
def test_gradients_only_where_wanted(of_hidden: bool, of_weight: bool) -> None:
    """A frozen head under an adapter, as with LoRA; and without gradients nothing is kept."""
    hidden, weight, tokens = inputs(300, torch.float32)
    hidden.requires_grad_(of_hidden), weight.requires_grad_(of_weight)
    found = HeadLogprobs.apply(hidden, weight, tokens, 0.8, True)[0]
    assert found.requires_grad == (of_hidden or of_weight)
    plain = plain_logprobs(nn.functional.linear(hidden, weight) * 0.8, tokens)[0]
    torch.testing.assert_close(found, plain)
    if not found.requires_grad:
        return
    wanted = [t for t in (hidden, weight) if t.requires_grad]
    expected = torch.autograd.grad(plain.sum(), wanted)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), wanted), expected, atol=1e-4, rtol=1e-5)


def test_head_logprobs_in_bfloat16() -> None:
    """Logits are rounded to bfloat16 as any bfloat16 head gives them, 2⁻⁹ of each, and no more: all else is float32.

    A log-probability moves by at most twice the largest logit's rounding, an entropy by twice that times 1 + the
    spread of the logits.
    Gradients: softmax (2⁻⁹), g·(1[token] - softmax) (2⁻⁹) and the result (2⁻⁹) are rounded, on top of the logits' own
    error in softmax.
    """
    hidden, weight, tokens = inputs(300, torch.bfloat16)
    wide = [t.double().requires_grad_() for t in (hidden, weight)]
    exact, exact_entropy = plain_logprobs(wide[0] @ wide[1].T / 0.7, tokens)
    exact.sum().backward()
    hidden.requires_grad_(), weight.requires_grad_()
    found, entropy = HeadLogprobs.apply(hidden, weight, tokens, 1 / 0.7, True)
    found.sum().backward()
    assert found.dtype == entropy.dtype == torch.float32
    z = (wide[0] @ wide[1].T / 0.7).detach()
    error = 2.0**-9 * z.abs().amax(1) * 1.1
    spread = z.amax(1) - z.amin(1)
    assert ((found - exact).abs() <= 2 * error).all()
    assert ((entropy - exact_entropy).abs() <= 2 * error * (1 + spread)).all()
    onehot_less_p = nn.functional.one_hot(tokens, 40) - torch.softmax(z, -1)
    off = (2 * error[:, None] * torch.softmax(z, -1) + 3 * 2.0**-9) / 0.7  # of the logits' gradient, elementwise
    for t, w, size in (
        (hidden, wide[0], off @ wide[1].abs() + 2.0**-8 * (onehot_less_p.abs() / 0.7) @ wide[1].abs()),
        (weight, wide[1], off.T @ wide[0].abs() + 2.0**-8 * (onehot_less_p.abs().T / 0.7) @ wide[0].abs()),
    ):
        assert t.grad is not None and w.grad is not None and t.grad.dtype == torch.bfloat16
        assert ((t.grad.double() - w.grad).abs() <= size.detach()).all()


def test_bfloat16_gradients_of_a_row_sum_to_nothing() -> None:
    """Rows of W with a common mean c: what the gradient has along c is g·(1 - Σ softmax), which rounding g once on each side would
    make as large as the rest. Relative error of the whole, by float64: .006 with one rounded g, .03 with two."""
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(6000, 64, generator=generator) + 10 * torch.randn(1, 64, generator=generator)).bfloat16()
    hidden = (0.01 * torch.randn(64, 64, generator=generator)).bfloat16().requires_grad_()
    tokens, g = torch.randint(6000, (64,), generator=generator), torch.randn(64, generator=generator)
    wide = hidden.detach().double().requires_grad_()
    (plain_logprobs(wide @ weight.double().T, tokens)[0] * g).sum().backward()
    (HeadLogprobs.apply(hidden, weight, tokens, 1.0, True)[0] * g).sum().backward()
    assert hidden.grad is not None and wide.grad is not None
    assert ((hidden.grad.double() - wide.grad).norm() / wide.grad.norm()).item() < 0.012
