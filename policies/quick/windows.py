"""How is a sliding window tried on a few tokens? By making it short for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from policies.untyped import Foreign

SHORT = 4  # tokens
PARTS, OTHERS = ("window", "chunk", "topk"), ("pattern", "layers")  # of the names of widths, and of numbers of layers


@contextmanager
def short_windows(*models: nn.Module) -> Iterator[list[str]]:
    """Within the block, every window and chunk of attention that a config of `models` names is at most SHORT tokens long; the names.

    Masks are made from the configuration in each forward, so that what a long text would meet is met by a short one. The same
    holds for a module that has its window as an attribute.
    """
    modules: list[Foreign] = [*{id(m): m for model in models for m in model.modules()}.values()]
    configs: list[Foreign] = [getattr(module, "config", None) for module in modules]
    owners: list[Foreign] = [*{id(c): c for c in configs if c is not None}.values(), *modules]
    before: list[tuple[Foreign, str, int]] = []
    for owner in owners:
        for name, value in vars(owner).items():
            width = any(part in name for part in PARTS) and not any(part in name for part in OTHERS)
            if width and type(value) is int and value > SHORT:
                before.append((owner, name, value))
    for owner, name, _ in before:
        owner.__dict__[name] = SHORT
    try:
        yield sorted({name for _, name, _ in before})
    finally:
        for owner, name, value in before:
            owner.__dict__[name] = value
