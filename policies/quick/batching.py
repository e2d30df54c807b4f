"""Which rows go through a model together? Padding costs tokens, and every call costs something of its own."""

from collections.abc import Sequence
from itertools import accumulate

# measured on two cores with 16 rows of 18 tokens in one call and in four
TOKENS_A_CALL_COSTS = 40
PLACES_PER_TOKEN = 16  # padded places that weigh as much as a token where they are stored but not run (`packing.packs`)


def together(lengths: Sequence[int], limit: int | None = None, padding: bool = True) -> list[list[int]]:
    """Indices of rows in groups of like length, shortest first, cut so that tokens and TOKENS_A_CALL_COSTS for each group are least in sum.

    A group of more than one row holds at most `limit` tokens. Padded places are tokens like others if `padding`, else PLACES_PER_TOKEN of them one.
    Of cuts that cost the same the most even one is taken (least squares), as the largest group decides about memory.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    before = list(accumulate((lengths[i] for i in order), initial=0))  # tokens of the first n rows

    def size(start: int, end: int) -> int:
        places, tokens = (end - start) * lengths[order[end - 1]], before[end] - before[start]
        return places if padding else tokens + (places - tokens) // PLACES_PER_TOKEN

    # of the first n rows: the least cost, the groups' tokens squared and summed (least where they are even), the last group's start
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    first = 0  # the largest last group that `limit` allows begins here
    for end in range(1, len(order) + 1):
        while limit is not None and first < end - 1 and size(first, end) > limit:
            first += 1
        sizes = ((start, size(start, end)) for start in range(first, end))
        best.append(min((best[start][0] + n + TOKENS_A_CALL_COSTS, best[start][1] + n**2, start) for start, n in sizes))
    groups, end = [], len(order)
    while end:
        start = best[end][2]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
