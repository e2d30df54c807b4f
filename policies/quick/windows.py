"""How is a sliding window tried on a few tokens? By making it short for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from policies.untyped import Foreign

SHORT = 4  # tokens
NAMES = ("sliding_window", "attention_chunk_size", "window_size", "local_window_size")


@contextmanager
def short_windows(model: nn.Module) -> Iterator[None]:
    """Within the block, every sliding window and chunk of attention that a config of `model` names is at most SHORT tokens long.

    Masks are made from the configuration in each forward, so that what a long text would meet is met by a short one. The same
    holds for a module that has its window as an attribute.
    """
    configs: list[Foreign] = [getattr(module, "config", None) for module in model.modules()]
    owners: list[Foreign] = [*{id(c): c for c in configs if c is not None}.values(), *model.modules()]
    before: list[tuple[Foreign, str, int]] = []
    for owner in owners:
        for name in NAMES:
            value = vars(owner).get(name)
            if type(value) is int and value > SHORT:
                before.append((owner, name, value))
                setattr(owner, name, SHORT)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
