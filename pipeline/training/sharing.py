"""How do several processes share a long step that trains nothing? Each takes every n-th item, and all get what every one found."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

T = TypeVar("T")
R = TypeVar("R")


def share_of(count: int) -> int:
    """How many of `count` items fall to the first process."""
    return -(-count // PartialState().num_processes)


def shared(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """What `work` gives for each of `items`, in their order, in every process; each process works on its share of them. To be called
    by all processes with the same items; one without a share does not work."""
    state = PartialState()
    world = state.num_processes
    mine = items[state.process_index :: world]
    own = list(work(mine)) if mine else []
    assert len(own) == len(mine), "work gives one result for each item"
    if world == 1:
        return own
    every: list[list[R]] = gather_object([own])
    return [every[number % world][number // world] for number in range(len(items))]
