"""Which keys does a row have, and what kind of thing stands under each? This is all that a format is recognised by.

Rows of one file have few shapes, so recognition is done once a shape and not once a row.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from data.reading.written import STARTS, kind_of

Signature = tuple[tuple[str, Any], ...]
LISTS = (list, tuple)


def signature(row: dict[str, Any]) -> Signature:
    """A hashable account of a row: each key with the type of its value, or, for an object or a list's first element that
    is one, with that object's keys."""
    return tuple(
        [
            (
                key,
                (kind_of(value) if value[:1] in STARTS else "text") if type(value) is str else _kind(value, 2),
            )
            for key, value in row.items()
        ]
    )


def _kind(value: Any, depth: int) -> Any:
    if isinstance(value, LISTS):
        return ("list", _kind(value[0], depth - 1)) if value and depth else ("list", None)
    if isinstance(value, str):
        return kind_of(value) if value[:1] in STARTS else "text"
    if isinstance(value, dict):
        return "object", tuple(value)
    return type(value).__name__


class Shape:
    """A signature to ask questions of."""

    def __init__(self, of: Signature):
        self.kinds = dict(of)

    def has(self, *names: str, without: Iterable[str] = ()) -> bool:
        """Whether all of `names` are keys and none of `without` is."""
        return all(name in self.kinds for name in names) and not any(name in self.kinds for name in without)

    def inside(self, key: str) -> frozenset[str]:
        """Keys of the object under `key`, or of the first element of the list there; none where there is no object."""
        kind = self.kinds.get(key)
        if isinstance(kind, tuple) and kind[0] == "list":
            kind = kind[1]
        return frozenset(kind[1]) if isinstance(kind, tuple) and kind[0] == "object" else frozenset()

    def is_object(self, key: str) -> bool:
        kind = self.kinds.get(key)
        return isinstance(kind, tuple) and kind[0] == "object"

    def is_list(self, key: str) -> bool:
        kind = self.kinds.get(key)
        return isinstance(kind, tuple) and kind[0] == "list"

    def is_transcript(self, key: str) -> bool:
        return self.kinds.get(key) == "transcript"


class Format(NamedTuple):
    """One way in which rows are written.

    `matches` says of a shape whether it is this format's; over all formats it must be true of one alone. `parse(row, at)`
    gives one of our rows, a list of them, or None with a problem reported (`at.report`) or the row left out by design
    (`at.leave_out`). Where several rows make one of ours, `parse` gives a part and `gather` makes the whole of all
    parts. `polarity` is what the format takes as better, in words. `axes` are the judgements a row may hold,
    `default_axis` the one taken when the user names none.

    Every column of a row is accounted for (`columns.py`): `reads` names those that `parse` looks at, with spaces between;
    `reads_of(row)` those whose names the row gives, `leaves` those of a published set that say nothing to learn; what is in neither is told. With `fronts` a system text
    and a history beside the prompt are put before it. `tells` says that `parse` itself accounts for the texts, whose
    names the rows choose.
    """

    kind: str
    matches: Callable[[Shape], bool]
    parse: Callable[[dict[str, Any], Any], Any]
    polarity: str = ""
    gather: Callable[[list[Any]], Iterable[Any]] | None = None
    axes: tuple[str, ...] = ()
    default_axis: str | None = None
    reads: str = ""
    leaves: str = ""
    reads_of: Callable[[dict[str, Any]], set[str]] | None = None
    fronts: bool = False
    tells: bool = False


def has(*names: str, without: Iterable[str] = ()) -> Callable[[Shape], bool]:
    """The commonest recognition: some keys are there and some are not."""
    left_out = tuple(without)
    return lambda shape: shape.has(*names, without=left_out)
