"""How do several processes share a long step that trains nothing? Each takes every n-th item, and all get what every one found."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from policies.template import PromptText
from reward.functions import Counted, WeightedScore

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


@contextmanager
def counted_by_all(score: WeightedScore) -> Iterator[None]:
    """Within the block each process has `score` score what is its own; behind it the score of each has counted what all scored. Every
    process is to enter."""
    said, texts = score.taken(), {name: Counter(counts) for name, counts in score.texts().items()}
    yield
    own = (score.taken(), {name: counts - texts[name] for name, counts in score.texts().items()})
    every: list[tuple[dict[str, Counted], dict[str, Counter[str]]]] = gather_object([own])
    for found, given in every:
        said = said | {name: said.get(name, Counted()) + one for name, one in found.items()}
        texts = {name: counts + given[name] for name, counts in texts.items()}
    score.counted.update(said)
    for name, counts in score.texts().items():
        counts.clear()
        counts.update(texts[name])


def scored_by_all(score: WeightedScore, prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
    """The score of each completion; each process scores its share."""
    with counted_by_all(score):
        pairs = list(zip(prompts, completions, strict=True))
        return shared(pairs, lambda mine: score([p for p, _ in mine], [c for _, c in mine]).tolist())
