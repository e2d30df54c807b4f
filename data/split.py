"""Which rows may training never see, and are these the same rows as last time?"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

Row = TypeVar("Row")


class HasJson(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def split_by(
    rows: Iterable[Row], key: Callable[[Row], str], eval_fraction: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """(train, eval), each in the order of `rows`; rows with one key stand on one side.

    The side follows from seed and key alone, by a hash, so rows that are added later move no other row. About
    `eval_fraction` (0 to 1) of the *keys* go to eval.
    """
    if not 0 <= eval_fraction <= 1:
        raise ValueError(f"eval_fraction must lie between 0 and 1, not {eval_fraction}")
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        digest = hashlib.sha256(f"{seed}:{key(row)}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (held_out if share < eval_fraction else train).append(row)
    return train, held_out


def fingerprint(rows: Iterable[HasJson]) -> str:
    """sha256 (hex) of the rows as canonical JSON lines: keys sorted, no spaces, UTF-8, in the given order."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
