"""What do the tests of linear layers share? Sizes, and how far a result may be off."""

import torch
from torch import Tensor

from policies.quick.linear import FEW_ROWS

ROWS = [1, 2, 3, 8, 10, 11, 32, 47, FEW_ROWS, FEW_ROWS + 1]  # on both sides of 1 and of FEW_ROWS
IN, OUT, RANK = 24, 20, 4
UNIT = 2.0**-9  # half the spacing of bfloat16 numbers near 1, the error of one rounding


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def within(found: Tensor, exact: Tensor, size: Tensor, roundings: int) -> None:
    """Every entry of `found` is off by at most so many roundings of `size`, the same sum over absolute values."""
    assert ((found.double() - exact).abs() <= roundings * UNIT * size + 1e-6).all()
