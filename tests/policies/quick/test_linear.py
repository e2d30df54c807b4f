"""Do our linear layers compute what torch's and peft's own do: outputs, gradients, dtypes, and what is saved?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from tiny import randomise
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.settings.sections import Lora
from policies.backbone import adapter, load_causal, lora_config
from policies.quick import linear
from policies.quick.linear import FEW_ROWS, Linear, LoraLinear, _AdaptedProduct, in_one_step, product, quick

ROWS = [1, 2, 3, 8, 10, 11, 32, 47, FEW_ROWS, FEW_ROWS + 1]  # on both sides of 1, UNEVEN and FEW_ROWS
IN, OUT, RANK = 24, 20, 4
UNIT = 2.0**-9  # half the spacing of bfloat16 numbers near 1, the error of one rounding


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def within(found: Tensor, exact: Tensor, size: Tensor, roundings: int) -> None:
    """Every entry of `found` is off by at most so many roundings of `size`, the same sum over absolute values."""
    assert ((found.double() - exact).abs() <= roundings * UNIT * size + 1e-6).all()


# --- products


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
@pytest.mark.parametrize("part", [1, 7, OUT - 1, OUT])
def test_an_output_layer_in_parts_is_the_product(part: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PART", part)
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
    assert taken == [2, 3, 8, 10, 16, 32, 48, FEW_ROWS]


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


# --- LoRA layers


def adapted(ours: bool, dtype: torch.dtype = torch.float32, bias: bool = False, **config: Any) -> Any:
    """Two linear layers with tanh between, adapters on both, always the same weights; B is not zero."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(IN, OUT, bias=bias), nn.Tanh(), nn.Linear(OUT, IN, bias=bias)).to(dtype)
    settings = LoraConfig(**{"r": RANK, "lora_alpha": 12, "target_modules": ["0", "2"], **config})
    model = get_peft_model(net, in_one_step(settings) if ours else settings)
    fill(model)
    layers = [m for m in model.modules() if isinstance(m, lora.Linear)]
    assert [type(layer) for layer in layers] == [LoraLinear if ours else lora.Linear] * 2
    return model.eval()


@torch.no_grad()
def fill(model: nn.Module) -> None:
    for number, (name, p) in enumerate(model.named_parameters()):
        if "lora_" in name:
            p.copy_(0.3 * random(*p.shape, seed=number))


def grown(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Output, and gradients of the input and of all that is trained, of one forward and backward."""
    x = x.clone().requires_grad_()
    out = model(x)
    (out.float() * random(*x.shape, seed=8)).sum().backward()
    assert x.grad is not None
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"out": out.detach(), "x": x.grad, **grads}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        apart = (found[name] - tensor).abs().max().item() if tensor.numel() else 0.0
        assert apart <= 1e-5 * max(1.0, tensor.abs().max().item() if tensor.numel() else 0.0), name


@pytest.fixture
def peft_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often peft's own forward was entered since last asked."""
    calls = [0]
    right = lora.Linear.forward

    def spy(self: Any, *args: Any, **kw: Any) -> Tensor:
        calls[0] += 1
        return right(self, *args, **kw)

    monkeypatch.setattr(lora.Linear, "forward", spy)

    def since() -> int:
        found, calls[0] = calls[0], 0
        return found

    return since


@pytest.mark.parametrize("shape", [(n,) for n in ROWS] + [(4, 5), (2, 40), (2, 3, 4)])
def test_lora_is_pefts(shape: tuple[int, ...], peft_calls: Callable[[], int]) -> None:
    x = random(*shape, IN, seed=5)
    expected = grown(adapted(False), x)
    assert peft_calls() == 2
    ours = adapted(True)
    found = grown(ours, x)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected["out"], atol=1e-5, rtol=1e-5)
    assert peft_calls() == 0 and len(found) == 2 + 4  # output, input, A and B of two layers
    equal(found, expected)
    base = adapted(False)
    with base.disable_adapter():
        assert (base(x) - expected["out"]).abs().max() > 0.1  # the adapter matters


def test_lora_of_a_strided_or_empty_input() -> None:
    for x in (random(3, IN, 7).transpose(1, 2), random(12, 2 * IN)[:, ::2], random(0, IN), random(2, 0, IN)):
        equal(grown(adapted(True), x), grown(adapted(False), x))


def test_lora_in_bfloat16() -> None:
    """One layer against float64 on the same numbers, elementwise; u = 2⁻⁹ is one rounding.

    y = x·Wᵀ + s·n·Bᵀ with n = x·Aᵀ: rounded are A, B, n and the product x·Wᵀ, and y: 5 at most on any term, to first
    order.
    The same for ∂x = g·W + s·(g·B)·A. ∂A = s·(g·B)ᵀ·x: B, g·B, the product and its scaling (in float32: none): 3. ∂B
    likewise.
    """
    a, b = 0.3 * random(RANK, IN), 0.3 * random(OUT, RANK, seed=1)
    for rows in ROWS:
        weight = random(OUT, IN, seed=2).bfloat16()
        x, g = random(rows, IN, seed=3).bfloat16().requires_grad_(), random(rows, OUT, seed=4).bfloat16()
        a.grad = b.grad = None
        out = _AdaptedProduct.apply(x, weight, a.requires_grad_(), b.requires_grad_(), 3.0)
        out.backward(g)
        assert out.dtype == torch.bfloat16 and a.grad is not None and b.grad is not None and x.grad is not None
        assert a.grad.dtype == b.grad.dtype == torch.float32 and x.grad.dtype == torch.bfloat16
        X, W, A, B, G = (t.detach().double() for t in (x, weight, a, b, g))
        p, q, r, t, h = (m.abs() for m in (X, W, A, B, G))
        within(out, X @ W.T + 3 * (X @ A.T) @ B.T, p @ q.T + 3 * (p @ r.T) @ t.T, 6)
        within(x.grad, G @ W + 3 * (G @ B) @ A, h @ q + 3 * (h @ t) @ r, 6)
        within(a.grad, 3 * (G @ B).T @ X, 3 * (h @ t).T @ p, 4)
        within(b.grad, 3 * G.T @ (X @ A.T), 3 * h.T @ (p @ r.T), 4)


def test_adapters_stay_float32_on_a_bfloat16_base(peft_calls: Callable[[], int]) -> None:
    """Both are off by roundings from float32 on the same weights: stock by two a layer (the product, the result), ours
    by five at most (A, B and x·Aᵀ too), so about 5/2 of stock's distance; 3 here. Adapters' gradients are float32."""
    x = random(30, IN, seed=5).bfloat16()
    ours, stock, wide = adapted(True, torch.bfloat16), adapted(False, torch.bfloat16), adapted(False)
    wide.load_state_dict({k: v.float() for k, v in ours.state_dict().items()})
    peft_calls()
    found = grown(ours, x)
    assert peft_calls() == 0
    expected, exact = grown(stock, x), grown(wide, x.float())
    with torch.no_grad():
        found["decoded"], expected["decoded"], exact["decoded"] = ours(x), expected["out"], exact["out"]
    for name, p in ours.named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert p.requires_grad == ("lora_" in name)
    for name, tensor in exact.items():
        assert found[name].dtype == expected[name].dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        distance, allowed = ((t[name].double() - tensor.double()).norm() for t in (found, expected))
        assert distance < max(3 * allowed, UNIT * tensor.norm()), (name, distance / tensor.norm())


def test_gradcheck() -> None:
    """Finite differences in float64, by torch."""
    tensors = [random(*s, seed=i).double() for i, s in enumerate([(7, 5), (6, 5), (2, 5), (6, 2)])]
    for i in (0, 2, 3):
        tensors[i].requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: _AdaptedProduct.apply(*t, 0.7), tensors)
    tensors[0].requires_grad_(False)  # the first adapted layer, where nothing below is trained
    assert torch.autograd.gradcheck(lambda *t: _AdaptedProduct.apply(*t, 0.7), tensors)


def test_switched_off_or_absent_it_is_the_base(peft_calls: Callable[[], int]) -> None:
    x = random(11, IN, seed=5)
    ours, plain = adapted(True), adapted(True).get_base_model()
    base = nn.functional.linear(torch.tanh(nn.functional.linear(x, plain[0].weight)), plain[2].weight)
    with ours.disable_adapter():
        assert torch.equal(ours(x), base)
    with adapter(ours, None):
        assert torch.equal(ours(x), base)
    ours.add_adapter("top", in_one_step(LoraConfig(r=2, lora_alpha=8, target_modules=["2"])))
    stock = adapted(False)
    stock.add_adapter("top", LoraConfig(r=2, lora_alpha=8, target_modules=["2"]))
    for model in (ours, stock):
        fill(model)
        model.base_model.set_adapter("top")
    peft_calls()
    expected, calls = grown(stock, x), peft_calls()
    equal(grown(ours, x), expected)
    assert (calls, peft_calls()) == (2, 0)
    assert not any(".0.lora" in name for name in expected)  # the layer below has no such adapter: it is the base


def test_two_adapters_switch(peft_calls: Callable[[], int]) -> None:
    """By `backbone.adapter` on ours, by peft's set_adapter on stock layers."""
    x = random(20, IN, seed=5)
    second: dict[str, Any] = {"r": 2, "lora_alpha": 10, "target_modules": ["0", "2"]}
    ours, stock = adapted(True), adapted(False)
    ours.add_adapter(
        "second", LoraConfig(**second)
    )  # peft asks the config for a class where it makes a layer, and these are made
    stock.add_adapter("second", LoraConfig(**second))
    outs = []
    for name in ("default", "second", "default"):
        for model in (ours, stock):
            fill(model)
            for key, p in model.named_parameters():
                p.requires_grad_(f".{name}." in key)
        stock.base_model.set_adapter(name)
        expected = grown(stock, x)
        peft_calls()
        with adapter(ours, name):
            equal(grown(ours, x), expected)
        assert peft_calls() == 0
        outs.append(expected["out"])
    assert torch.equal(outs[0], outs[2]) and (outs[0] - outs[1]).abs().max() > 0.1


@pytest.mark.parametrize("case", ["dropout", "bias", "lora_bias", "both", "mixed", "trained", "dora", "autocast"])
def test_what_is_unusual_goes_pefts_way(case: str, peft_calls: Callable[[], int]) -> None:
    """And gives what peft gives, on the same random numbers where there are any."""
    x = random(10, IN, seed=5)
    unusual: dict[str, dict[str, Any]] = {
        "dropout": {"lora_dropout": 0.5}, "lora_bias": {"lora_bias": True}, "dora": {"use_dora": True},
    }  # fmt: skip
    models = [adapted(ours, bias=case == "bias", **unusual.get(case, {})) for ours in (True, False)]
    results = []
    for model in models:
        kw: dict[str, Any] = {}
        if case in ("both", "mixed"):
            model.add_adapter("second", LoraConfig(r=2, target_modules=["0", "2"]))
            fill(model)
        if case == "both":
            model.base_model.set_adapter(["default", "second"])
        if case == "mixed":
            kw = {"adapter_names": ["default", "second"] * 5}
        if case == "trained":
            model.requires_grad_(True)
        model.train(case == "dropout")
        peft_calls()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            results.append(grown(With(model, kw), x) if kw else grown(model, x))
        assert peft_calls() == 2
    equal(*results)


class With(nn.Module):
    """A model called with further arguments."""

    def __init__(self, model: nn.Module, kw: dict[str, Any]):
        super().__init__()
        self.model, self.kw = model, kw

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, **self.kw)


def test_merged(peft_calls: Callable[[], int]) -> None:
    """A merged layer is its base alone; switched off, peft first takes the adapter out of the weights again."""
    x = random(10, IN, seed=5)
    ours, stock = adapted(True), adapted(False)
    with torch.no_grad():
        expected = stock(x)
        with stock.disable_adapter():
            base = stock(x)
        ours.merge_adapter()
        peft_calls()
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
        assert peft_calls() == 2
        with ours.disable_adapter():
            torch.testing.assert_close(ours(x), base, atol=1e-5, rtol=1e-5)
        assert (base - expected).abs().max() > 0.1


# --- on a language model, as the pipeline makes it


def test_saved_adapters_load_with_stock_peft(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """From `lora_config`; loaded on plain transformers weights by plain peft, the logits are the same."""
    base = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    model: Any = get_peft_model(base, lora_config(base, Lora(r=4, lora_alpha=8, layers="last 1"), "CAUSAL_LM"))
    randomise(model, "default")
    ours = [m for m in model.modules() if isinstance(m, LoraLinear)]
    assert len(ours) == 7 and all(type(m.base_layer) is Linear for m in ours)
    model.save_pretrained(tmp_path)
    assert "linear" not in (tmp_path / "adapter_config.json").read_text().lower()
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    loaded: Any = PeftModel.from_pretrained(plain, tmp_path)
    layers = [type(m) for m in loaded.modules() if isinstance(m, lora.Linear)]
    assert layers == [lora.Linear] * 7 and not any(isinstance(m, Linear) for m in loaded.modules())
    ids = torch.randint(3, 98, (3, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = loaded(ids).logits, model(ids).logits
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        with model.disable_adapter():
            assert (model(ids).logits - found).abs().max() > 0.1
