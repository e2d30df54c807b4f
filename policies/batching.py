"""Which rows go through a model together? Padding costs tokens, and every call costs something of its own."""

from collections.abc import Sequence

PASS = (
    40  # what one more call costs, in tokens: measured on two cores with 16 rows of 18 tokens in one call and in four
)


def together(lengths: Sequence[int], limit: int | None = None) -> list[list[int]]:
    """Indices of rows in groups of like length, shortest first, cut so that padded tokens and PASS for each group are least in sum.

    A group of more than one row holds at most `limit` tokens, padding included. Of cuts that cost the same the most even one is taken
    (least squares), as the largest group decides about memory.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    # of the first n rows: the least cost, the groups' tokens squared and summed (least where they are even), the last group's start
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        first = 0 if limit is None else max(0, min(end - 1, end - limit // max(longest, 1)))
        sizes = ((start, (end - start) * longest) for start in range(first, end))
        best.append(min((best[start][0] + size + PASS, best[start][1] + size**2, start) for start, size in sizes))
    groups, end = [], len(order)
    while end:
        start = best[end][2]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
