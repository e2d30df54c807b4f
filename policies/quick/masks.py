"""Is there padding in a mask? Whoever made it knows, and transformers need not ask the device in every forward."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import masking_utils

from policies.untyped import Foreign

ASKED_BY = (
    "fast_all"  # transformers 5.23's question to the device, in masking_utils; where there is none, nothing is spared
)


@contextmanager
def padding_known(padded: bool) -> Iterator[None]:
    """Within the block every mask of padding that a decoder with a filled cache is given has padding, or has none, as `padded` says.

    To be dropped when transformers takes the answer as an argument.
    """
    library: Foreign = masking_utils
    before = getattr(library, ASKED_BY, None)
    if before is None:
        yield
        return
    setattr(library, ASKED_BY, lambda mask: not padded)
    try:
        yield
    finally:
        setattr(library, ASKED_BY, before)
