"""Do our LoRA layers compute what peft's own do: outputs, gradients, dtypes, and what is saved?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import IN, OUT, RANK, ROWS, UNIT, random, within
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from tiny import randomise
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from pipeline.settings.sections import Lora
from policies.adapters import lora_config
from policies.backbone import adapter, load_causal
from policies.quick.linear import Linear, LoraLinear, _AdaptedProduct, in_one_step, quick

# --- LoRA layers


def adapted(ours: bool, dtype: torch.dtype = torch.float32, bias: bool = False, **config: Any) -> Any:
    """Two linear layers with tanh between, adapters on both, always the same weights; B is not zero."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(IN, OUT, bias=bias), nn.Tanh(), nn.Linear(OUT, IN, bias=bias)).to(dtype)
    settings = LoraConfig(**{"r": RANK, "lora_alpha": 12, "target_modules": ["0", "2"], **config})
    if ours:
        quick(net)  # as every loader does
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
    base = plain[2].base_layer(torch.tanh(plain[0].base_layer(x)))
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
