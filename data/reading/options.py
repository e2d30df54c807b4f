"""What may a user say about a source that its rows do not say themselves?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from data.reading.limits import USUAL, Limits


@dataclass(frozen=True)
class Options:
    """How one source is read.

    `format` is a name in `formats.FORMATS`, detected when None. `columns` maps our field names to the source's,
    `ignore` takes columns away before anything looks at the row, `keep` puts them beside it, for reward functions;
    `encoding` is that of text files. `map` is a `module:function` that turns a row into another, into a list of rows, or
    into None (left out, and counted). `axis` chooses among several judgements of one row, `tie_gap` is the rating
    difference below which completions are tied,
    `reverse` turns the format's order of preference round. `max_rows` ends reading after so many rows, and lets a Hub
    data set be streamed instead of fetched whole. `limits` is how much is taken of a row or of a packed file.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    encoding: str = "utf-8"
    map: str | None = None
    axis: str | None = None
    tie_gap: float = 0.0
    reverse: bool = False
    aggregate: Literal["each", "mean", "majority"] = "each"
    skip_bad: bool = False
    max_rows: int | None = None
    limits: Limits = USUAL
