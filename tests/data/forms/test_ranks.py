"""Are scores cut into tiers by one rule, exactly?"""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.forms.ranks import ranked


@pytest.mark.parametrize(
    ("scores", "gap", "expected"),
    [
        ([], 0, ()),
        ([3], 0, ((0,),)),
        ([1, 3, 2], 0, ((1,), (2,), (0,))),
        ([2, 1.0, 2.0, 1], 0, ((0, 2), (1, 3))),
        # The third is 0.8 below the best of its tier, though only 0.4 below the second.
        ([1.0, 0.6, 0.2], 0.5, ((0, 1), (2,))),
        # In binary 2.2 - 1.7 exceeds 0.5, 0.7 - 0.6 falls short of 0.1, and so does 0.3 - 0.2.
        ([1.7, 2.2], 0.5, ((1,), (0,))),
        ([0.7, 0.6], 0.1, ((0,), (1,))),
        ([0.3, 0.2], 0.1, ((0,), (1,))),
        ([0.3, 0.2], 0.11, ((0, 1),)),
        ([Fraction(11, 5), Fraction(17, 10)], 0.5, ((0,), (1,))),
        ([-1e-9, 1e-9, 0], 0, ((1,), (2,), (0,))),
        ([1e22, 1], 1, ((0,), (1,))),
    ],
)
def test_tiers_by_hand(scores: list, gap: float, expected: tuple) -> None:
    assert ranked(scores, gap) == expected


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 12))
def test_the_rule_in_tenths(tenths: list[int], gap: int) -> None:
    """Whole tenths are exact, so the rule can be told in whole numbers: a tier holds what equals its best or lies less
    than the gap below it, and the next tier begins with the best of what is left."""
    scores = [float(Decimal(one) / 10) for one in tenths]
    left, expected = set(range(len(tenths))), []
    while left:
        best = max(tenths[place] for place in left)
        tier = {place for place in left if best - tenths[place] < max(gap, 1)}
        expected.append(tier)
        left -= tier
    tiers = ranked(scores, gap / 10)
    assert [set(tier) for tier in tiers] == expected
    assert sum(map(len, tiers)) == len(tenths)
