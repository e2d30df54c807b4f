"""What goes between host and device at once, where one thing at a time would be waited for each time?"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from policies.untyped import Foreign

READ_AT_ONCE = 2**26  # numbers whose copy on the device is made for it


def moved(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Integers on the CPU, int64 of any shapes, to the device in one copy."""
    if torch.device(device).type == "cpu":
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(device)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def read_back(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, many of one dtype at a time."""
    out: dict[str, Tensor] = {}
    waiting: list[str] = []

    def read() -> None:
        parts = torch.cat([tensors[name].flatten() for name in waiting]).cpu()
        sizes = [tensors[name].numel() for name in waiting]
        out.update((n, p.view(tensors[n].shape)) for n, p in zip(waiting, parts.split(sizes), strict=True))
        waiting.clear()

    for name in sorted(tensors, key=lambda name: str(tensors[name].dtype)):
        full = sum(tensors[other].numel() for other in waiting) + tensors[name].numel() > READ_AT_ONCE
        if waiting and (full or tensors[name].dtype != tensors[waiting[0]].dtype):
            read()
        waiting.append(name)
    if waiting:
        read()
    return {name: out[name].contiguous() for name in tensors}


def with_lengths(mask: Tensor, lengths: Sequence[int]) -> Tensor:
    """A mask (B, L) of right-padded rows that remembers how long they are, so that nobody need ask the device."""
    remembering: Foreign = mask
    remembering.lengths = list(lengths)
    return mask


def lengths_of(mask: Tensor) -> list[int] | None:
    """What `with_lengths` remembered."""
    remembering: Foreign = mask
    found: list[int] | None = getattr(remembering, "lengths", None)
    return found
