"""A device that is not there: tensors that compute on the CPU and say that they lie elsewhere, so that each wait for them is counted.

Inside `Elsewhere()` every operation is looked at. What reads a device's numbers (item, tolist, a copy to the CPU, an index by a mask)
would hold a GPU's host up; what is given tensors of both places would fail there. The device is called `meta`.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("meta")
OURS = tuple(str(ROOT / room) + "/" for room in ("policies", "reward", "pipeline"))
SIZES_FROM_VALUES = ("aten::nonzero", "aten::masked_select", "aten::unique", "aten::_unique", "aten::equal")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class Far(torch.Tensor):
    """A tensor on the device; `near` holds its numbers."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=DEVICE,
            requires_grad=near.requires_grad,
        )
        made.near = near.detach()
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(_now[-1] if _now else Elsewhere(), func, args, kwargs or {})

    def tolist(self) -> Any:
        if _now:
            _now[-1].waited("tolist")
        return self.near.tolist()

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined,no-any-return]

    @data.setter
    def data(self, value: "Far") -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.near = value.near

    def __deepcopy__(self, memo: dict[int, Any]) -> "Far":
        made = Far(self.near.clone())
        made.requires_grad_(self.requires_grad)
        memo[id(self)] = made
        return made


class Elsewhere(TorchDispatchMode):
    """Within the block the device is there. `waits`, `copies` and `mixed` count by the line of ours that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()

    def __enter__(self) -> "Elsewhere":
        _now.append(self)
        self.patched = ExitStack()
        self.patched.enter_context(patch.object(torch, "tensor", self.tensor))
        self.patched.enter_context(patch.object(torch, "is_autocast_enabled", lambda *device: False))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _now.pop()
        self.patched.close()

    def tensor(self, data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        """torch.tensor, which is no operation that a mode sees."""
        made = _TENSOR(data, **more)
        if device is None or torch.device(device).type != DEVICE.type:
            return made
        if made.numel():
            self.copies[_line() or ""] += 1
        return Far(made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(self, func, args, kwargs or {})

    def waited(self, what: str) -> None:
        if (line := _line()) is not None:
            self.waits[f"{line} {what}"] += 1


_now: list[Elsewhere] = []
_TENSOR = torch.tensor


def _line() -> str | None:
    """The line of ours that asked; None where an optimizer steps, which a GPU does fused and without a wait."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/optim/" in name:
            return None
        if name.startswith(OURS):
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "tests or libraries"


def _computed(told: Elsewhere, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.name().partition(".")[0]
    leaves = tree_leaves((args, kwargs))
    far = [x for x in leaves if isinstance(x, Far)]
    near = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Far)]
    wanted = kwargs.get("device")
    goes_far = bool(far) if wanted is None else torch.device(wanted).type == DEVICE.type
    if name in ("aten::_to_copy", "aten::copy_"):
        return _copied(told, name, func, args, kwargs, goes_far)
    if not far and not goes_far:
        return func(*args, **kwargs)
    _look(told, name, args, far, near)
    given = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    if wanted is not None:
        given["device"] = "cpu"
    out = func(*tree_map(_near, args), **tree_map(_near, given))
    if name == "aten::_local_scalar_dense":
        return out
    out = tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if far else out


def _look(told: Elsewhere, name: str, args: Any, far: list[Far], near: list[torch.Tensor]) -> None:
    if name == "aten::_local_scalar_dense" or name.startswith(SIZES_FROM_VALUES):
        told.waited(name)
    if name in INDEXED and any(isinstance(i, Far) and i.dtype == torch.bool for i in args[1] or ()):
        told.waited("index by a mask")
    if far and any(x.dim() for x in near) and (line := _line()) is not None:
        told.mixed[f"{line} {name}"] += 1


def _copied(told: Elsewhere, name: str, func: Any, args: Any, kwargs: dict[str, Any], goes_far: bool) -> Any:
    if name == "aten::copy_":
        target, source = args[0], args[1]
        if isinstance(source, Far) and not isinstance(target, Far):
            told.waited("copy to the CPU")
        elif isinstance(target, Far) and not isinstance(source, Far) and source.dim():
            told.copies[_line() or ""] += 1
        _near(target).copy_(_near(source))
        return target
    source = args[0]
    if isinstance(source, Far) and kwargs.get("device") is None:
        goes_far = True
    out = func(_near(source), **{k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")})
    if isinstance(source, Far) and not goes_far:
        told.waited("copy to the CPU")
    elif goes_far and not isinstance(source, Far):
        told.copies[_line() or ""] += 1
    return Far(out) if goes_far else out


def _near(x: Any) -> Any:
    return x.near if isinstance(x, Far) else x


def sent(module: nn.Module) -> nn.Module:
    """The module with all its weights on the device, tied ones still tied."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and not isinstance(p, Far):
                moved.setdefault(id(p), nn.Parameter(Far(p.data), requires_grad=p.requires_grad))
                part._parameters[name] = moved[id(p)]
        for name, b in part._buffers.items():
            if b is not None and not isinstance(b, Far):
                moved.setdefault(id(b), Far(b))
                part._buffers[name] = moved[id(b)]
    return module
