"""Do rows go through the model at the least cost in padding and calls?"""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from policies.quick.batching import TOKENS_A_CALL_COSTS, together


def test_like_lengths_stay_together_and_far_ones_part() -> None:
    assert together([18] * 16) == [list(range(16))]
    assert together([500, 1, 1, 1]) == [[1, 2, 3], [0]]
    assert together([]) == []


def test_of_equal_costs_the_most_even_cut() -> None:
    """32 rows of 39 tokens, nine at most together: four groups either way, and the largest decides about memory."""
    assert [len(group) for group in together([39] * 32, 384)] == [8, 8, 8, 8]


def test_the_cut_costs_the_least() -> None:
    """Against every way to cut."""
    lengths = [3, 5, 5, 30, 41, 44, 90, 200]

    def cost(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, len(lengths)]
        return sum((b - a) * lengths[b - 1] + TOKENS_A_CALL_COSTS for a, b in zip(edges, edges[1:], strict=False))

    inner = range(1, len(lengths))
    least = min(cost(cuts) for n in range(len(lengths)) for cuts in itertools.combinations(inner, n))
    found = together(lengths)
    assert sum(len(group) * lengths[group[-1]] + TOKENS_A_CALL_COSTS for group in found) == least


def test_where_padding_is_not_run_few_groups_and_even_ones() -> None:
    """What counts are tokens: 160 of them in two groups of at most 100, where padded ones fill three."""
    lengths = [20, 4, 4, 20, 4, 4, 20, 4, 4, 20, 4, 4, 20, 4, 4, 20]
    groups = together(lengths, 100, padding=False)
    assert [sum(lengths[i] for i in group) for group in groups] == [80, 80]
    assert len(together(lengths, 100)) == 3


def test_padded_places_are_stored() -> None:
    """One long row among many short ones would make a rectangle of 401,000 places for 4,000 tokens."""
    assert [len(group) for group in together([2000] + [10] * 200, padding=False)] == [200, 1]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_row_once_and_within_the_limit_without_padding(lengths: list[int], limit: int) -> None:
    groups = together(lengths, limit, padding=False)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= limit for group in groups)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_row_once_and_within_the_limit(lengths: list[int], limit: int) -> None:
    groups = together(lengths, limit)
    flat = [i for group in groups for i in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths)
    for group in groups:
        assert group and (len(group) == 1 or len(group) * max(lengths[i] for i in group) <= limit)
