"""Do our linear layers compute what torch's own do: outputs, gradients, dtypes?"""

from typing import Any

import pytest
import torch
from exactness import IN, OUT, ROWS, random, within
from torch import Tensor, nn

from policies.quick.linear import FEW_ROWS, Linear, product, quick


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_product_is_torchs(rows: int, dtype: torch.dtype) -> None:
    """In bfloat16 the result alone is rounded, as sums are in float32; in float32 only the order of the sum differs."""
    x, weight = random(rows, IN).to(dtype), random(OUT, IN, seed=1).to(dtype)
    found = product(x, weight)
    assert found.dtype == dtype and found.is_contiguous() and found.shape == (rows, OUT)
    exact, size = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    if dtype == torch.bfloat16:
        within(found, exact, size, 2)
    else:
        torch.testing.assert_close(found, nn.functional.linear(x, weight), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [8, 13])
def test_a_product_has_the_gradients_of_one(rows: int) -> None:
    x, weight = random(rows, IN).requires_grad_(), random(OUT, IN, seed=1).requires_grad_()
    found = product(x, weight)
    assert found.is_contiguous()
    torch.testing.assert_close(found, nn.functional.linear(x, weight), atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    y = x.detach().double() @ weight.detach().double().T
    torch.testing.assert_close(x.grad, (2 * y @ weight.detach().double()).float(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(weight.grad, (2 * y.T @ x.detach().double()).float(), atol=1e-4, rtol=1e-5)


def test_few_rows_take_the_quick_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would hold torch against itself."""
    taken: list[int] = []
    right = torch.mm

    def spy(a: Tensor, b: Tensor) -> Tensor:
        taken.append(b.shape[1])
        return right(a, b)

    monkeypatch.setattr(torch, "mm", spy)
    for rows in ROWS:
        product(random(rows, IN), random(OUT, IN))
        product(random(rows, IN).bfloat16(), random(OUT, IN).bfloat16())
    assert taken == [n for n in ROWS if 1 < n <= FEW_ROWS]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(n,) for n in ROWS] + [(3, 3), (2, 32), (43, 3), (2, 2, 5), (0,), (2, 0)])
def test_linear_is_torchs(shape: tuple[int, ...], bias: bool) -> None:
    """Output and gradients of input, weight and bias, with one to three dimensions of rows, and with no rows at all."""
    stock = nn.Linear(IN, OUT, bias=bias)
    ours = nn.Sequential(nn.Linear(IN, OUT, bias=bias))
    ours[0].load_state_dict(stock.state_dict())
    quick(ours)
    assert type(ours[0]) is Linear
    results = []
    for layer in (stock, ours):
        x = random(*shape, IN).requires_grad_()
        out = layer(x)
        (out * random(*shape, OUT, seed=2)).sum().backward()
        results.append([out.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_linear_in_bfloat16(rows: int) -> None:
    """Two roundings at most, of the product and of the sum with the bias (stock: one); of the gradients, one."""
    layer = nn.Linear(IN, OUT, dtype=torch.bfloat16)
    quick(nn.Sequential(layer))
    x, grad = random(rows, IN).bfloat16().requires_grad_(), random(rows, OUT, seed=2).bfloat16()
    out = layer(x)
    out.backward(grad)
    assert out.dtype == torch.bfloat16 and x.grad is not None
    wide, w, b, g = (t.detach().double() for t in (x, layer.weight, layer.bias, grad))
    within(out, wide @ w.T + b, wide.abs() @ w.abs().T + b.abs(), 3)
    within(x.grad, g @ w, g.abs() @ w.abs(), 2)


def test_layouts_of_the_input_do_not_matter() -> None:
    """Transposed, strided and expanded tensors, on both sides of FEW_ROWS."""
    inner = nn.Linear(IN, OUT)
    layer = nn.Sequential(inner)
    weight, bias = inner.weight, inner.bias
    quick(layer)
    for x in (
        random(IN, 16).t(),
        random(IN, 200).t(),
        random(16, 2 * IN)[:, ::2],
        random(3, IN, 7).transpose(1, 2),
        random(1, 5, IN).expand(4, 5, IN),
    ):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, bias), atol=1e-5, rtol=1e-5)
        assert layer(x).is_contiguous()


def test_autocast_gives_the_dtype_that_torch_gives() -> None:
    inner = nn.Linear(IN, OUT)
    layer, x = nn.Sequential(inner), random(16, IN)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        quick(layer)
        found = layer(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    within(found, expected.detach().double(), x.abs() @ inner.weight.abs().T + inner.bias.abs(), 4)


def test_quick_changes_plain_linears_alone() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Own(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Conv1d(1, 1, 1))
    weights = [p.data_ptr() for p in model.parameters()]
    quick(model)
    nested: Any = model[2]
    assert [type(m) for m in (model[0], model[1], nested[0])] == [Linear, Own, Linear]
    assert [p.data_ptr() for p in model.parameters()] == weights
