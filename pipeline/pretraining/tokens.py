"""How do documents become rows of one length? End to end in one array, and cut."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

SLICE = 2**24  # tokens that are counted in one call
BATCH = 1000  # documents that are encoded in one call


@dataclass(frozen=True)
class Tokens:
    """All training documents: `ids` (T,) end to end, `starts` (D + 1,) where each begins, and T. The ids lie in a file and are read as needed."""

    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]

    def document(self, number: int) -> NDArray[np.uint32]:
        return self.ids[self.starts[number] : self.starts[number + 1]]

    def counts(self, size: int) -> NDArray[np.int64]:
        """How often each of `size` tokens stands there, (size,); read in slices, as all of them may be more than memory holds."""
        found = np.zeros(size, dtype=np.int64)
        for start in range(0, len(self.ids), SLICE):
            found += np.bincount(self.ids[start : start + SLICE], minlength=size)
        return found

    def __len__(self) -> int:
        """Documents."""
        return len(self.starts) - 1


def encoded(texts: Iterable[str], rules: Tokenizer, before: list[int], after: list[int]) -> Iterator[list[int]]:
    """The tokens of each text, between `before` and `after`."""
    rest = iter(texts)
    while part := list(islice(rest, BATCH)):
        for found in rules.encode_batch(part, add_special_tokens=False):
            yield [*before, *found.ids, *after]


def written(documents: Iterable[list[int]], folder: Path) -> None:
    """Write what `opened` reads."""
    starts = [0]
    with (folder / "tokens.bin").open("wb") as file:
        for ids in documents:
            file.write(np.asarray(ids, dtype=np.uint32).tobytes())
            starts.append(starts[-1] + len(ids))
    np.save(folder / "starts.npy", np.asarray(starts, dtype=np.int64))


def opened(folder: Path) -> Tokens:
    """The documents that were written to `folder`."""
    return Tokens(np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r"), np.load(folder / "starts.npy"))
