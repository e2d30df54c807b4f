"""How is a linear layer computed? A LoRA layer as one step of autograd, and products with few rows the way a CPU likes them.

What comes out is what torch's and peft's own layers give, within float tolerance; `tests/policies/quick/test_linear.py` holds them side by side.
"""

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from policies.untyped import Arguments, Context, Foreign

# From two rows up to here W·xᵀ beats x·Wᵀ in float32 on a CPU: 2 to 2.6 times at 2 to 8 rows, which are left when most of a batch
# has ended, 1.4 to 1.7 times at 16 and 32; at 128 it is a draw.
FEW_ROWS = 64


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ: (N, in) by (out, in) gives (N, out)."""
    rows = len(x)
    if 1 < rows <= FEW_ROWS and x.dtype == torch.float32 and x.is_cpu:
        return torch.mm(weight, x.t()).t().contiguous()
    return nn.functional.linear(x, weight)


class Linear(nn.Linear):
    """nn.Linear with `product` in it; has no weights of its own kind, so a model may change between the two."""

    def forward(self, input: Tensor) -> Tensor:
        # called some two hundred times for every token of a decoding step: what is asked here costs milliseconds
        rows = input.numel() // max(self.in_features, 1)
        if not 1 < rows <= FEW_ROWS or torch.is_autocast_enabled(input.device.type):
            return nn.functional.linear(input, self.weight, self.bias)
        out = product(input.reshape(rows, self.in_features), self.weight)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*input.shape[:-1], self.out_features)


def quick(model: nn.Module) -> None:
    """Let every plain nn.Linear of `model` compute as `Linear` does, in place."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


class _AdaptedProduct(torch.autograd.Function):
    """y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with frozen W (LoRA, Hu et al. 2021, 2106.09685, eq. 3), in the dtype of x.

    Of the activations only x and the narrow x·Aᵀ are kept; the sums go into the large products' results in place.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a_, b_ = a.to(x.dtype), b.to(x.dtype)
        narrow = nn.functional.linear(x, a_)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scale = scale
        return product(x, weight).addmm_(narrow, b_.t(), alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, narrow = ctx.saved_tensors
        grad = grads[0].contiguous()
        back = grad @ b.to(grad.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(back, a.to(grad.dtype), alpha=ctx.scale)
        grad_a = (back.t() @ x).to(a.dtype).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        grad_b = (grad.t() @ narrow).to(b.dtype).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        return grad_x, None, grad_a, grad_b, None


class LoraLinear(lora.Linear):
    """peft's LoRA layer on nn.Linear, its usual case computed in one step: one active adapter, no dropout, no bias, frozen weight.

    Anything else goes peft's own way. Stock layers cast the input to the adapter's float32 and add two more full-size tensors.
    """

    def forward(self, x: Tensor, *args: Arguments, **kwargs: Arguments) -> Tensor:
        active = self.active_adapters
        if args or kwargs or self.merged or len(active) != 1:
            return super().forward(x, *args, **kwargs)
        if self.disable_adapters or active[0] not in self.lora_A:
            return self.base_layer(x)
        if not self._usual(active[0], x):
            return super().forward(x)
        name, rows = active[0], x.reshape(x.numel() // max(x.shape[-1], 1), x.shape[-1])
        weight: Foreign = self.base_layer.weight
        a: Foreign = self.lora_A[name].weight
        b: Foreign = self.lora_B[name].weight
        if torch.is_grad_enabled():
            out = _AdaptedProduct.apply(rows, weight, a, b, self.scaling[name])
        else:
            narrow = nn.functional.linear(rows, a.to(x.dtype))
            out = product(rows, weight).addmm_(narrow, b.to(x.dtype).t(), alpha=self.scaling[name])
        return out.view(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def merge_into(self, out: Tensor, name: str) -> None:
        """Write W + s·B·A, (out, in), with adapter `name` into `out`: what peft's merge gives, in one pass over the weights."""
        weight: Foreign = self.base_layer.weight
        a: Foreign = self.lora_A[name].weight
        b: Foreign = self.lora_B[name].weight
        if name in self.lora_variant or not weight.dtype == a.dtype == b.dtype == out.dtype:
            out.copy_(weight + self.get_delta_weight(name).to(out.dtype))
        else:
            torch.addmm(weight, b, a, alpha=self.scaling[name], out=out)

    def _usual(self, name: str, x: Tensor) -> bool:
        return (
            isinstance(self.lora_dropout[name], nn.Identity)
            and name not in self.lora_variant
            and not self.lora_bias[name]
            and self.base_layer.bias is None
            and not self.base_layer.weight.requires_grad
            and self.base_layer.weight.dtype == x.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )


def in_one_step(config: LoraConfig) -> LoraConfig:
    """Have peft make its layers on `Linear`, which `quick` has made of nn.Linear, of `LoraLinear`. Returns `config`.

    Not on nn.Linear itself: peft asks isinstance, and the quantised layers of bitsandbytes are subclasses of it.
    """
    config._register_custom_module({Linear: LoraLinear})
    return config
