"""Do the weights hold, is no row taken twice, and does the mixture follow from the seed alone?"""

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.refining.mixing import amounts, shares, shuffled, thinned


@dataclass(frozen=True)
class Row:
    id: str


def rows(prefix, count):
    return [Row(f"{prefix}{number}") for number in range(count)]


@pytest.mark.parametrize(
    ("available", "weights", "taken"),
    [
        ({"a": 100, "b": 100, "c": 10}, {"a": 2, "b": 1, "c": 1}, {"a": 20, "b": 10, "c": 10}),
        ({"a": 7, "b": 5}, {"a": 0.5, "b": 0.5}, {"a": 5, "b": 5}),
        ({"a": 10, "b": 10}, {"a": 3, "b": 1}, {"a": 10, "b": 3}),
        ({"a": 10, "b": 10}, {"a": 4, "b": 1}, {"a": 10, "b": 3}),
        ({"a": 2, "b": 9}, {"a": 0.4, "b": 0.3}, {"a": 2, "b": 2}),
        ({"a": 1000, "b": 1}, {"a": 1, "b": 0.0001}, {"a": 1000, "b": 1}),
        ({"a": 0, "b": 5}, {"a": 1, "b": 1}, {"b": 5}),
        ({"a": 4}, {"a": 0.3}, {"a": 4}),
        ({}, {}, {}),
    ],
)
def test_amounts(available, weights, taken):
    """By hand: the scarcest source for its weight is taken whole, the others in proportion; 10/3 and 10/4 are 3 (half
    up); a source is never rounded away; 0.4 and 0.3 stand exactly 4 to 3, so 2 to 1.5, as they do not in binary."""
    assert amounts(available, weights) == taken


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 9)), min_size=1, max_size=5))
def test_it_is_the_largest_mixture_in_which_the_weights_hold(sources):
    """Some source is used up, so there is no larger one; each is within half a row of its share, or is one row."""
    available = {str(n): count for n, (count, _) in enumerate(sources)}
    weights = {str(n): weight for n, (_, weight) in enumerate(sources)}
    taken = amounts(available, weights)
    assert all(1 <= taken[name] <= available[name] for name in available)
    full = [name for name in available if taken[name] == available[name]]
    unit = min(Fraction(available[name], weights[name]) for name in available)
    assert any(Fraction(available[name], weights[name]) == unit for name in full)
    assert all(abs(taken[name] - unit * weights[name]) <= Fraction(1, 2) or taken[name] == 1 for name in available)


def test_the_rows_with_the_lowest_hashes_are_taken():
    """The smallest of sha256("3:thin:a:ID"), in hexadecimal, kept in their order."""
    given = rows("r", 30)
    lowest = sorted(given, key=lambda row: hashlib.sha256(f"3:thin:a:{row.id}".encode()).hexdigest())[:8]
    assert thinned(given, 8, "a", 3) == [row for row in given if row in lowest]
    assert thinned(given, 30, "a", 3) == thinned(given, 99, "a", 3) == given
    assert thinned(given, 0, "a", 3) == []


def test_thinning_depends_on_ids_name_and_seed_and_not_on_where_a_row_stands():
    given = rows("r", 200)
    mixed = random.Random(0).sample(given, len(given))
    chosen = set(thinned(given, 50, "a", 0))
    assert set(thinned(mixed, 50, "a", 0)) == chosen
    assert chosen < set(thinned(given, 60, "a", 0))
    assert set(thinned(given, 50, "b", 0)) != chosen != set(thinned(given, 50, "a", 1))
    later = set(thinned([*given, *rows("new", 20)], 50, "a", 0))
    assert {row for row in later if row.id.startswith("r")} <= chosen  # rows added later only push others out


def test_the_order_mixes_the_sources_whatever_their_order():
    """50 of 1,000 rows beside 50 of 50. Of 100 places the mean of 50 drawn fairly is 49.5, its standard deviation 2.9;
    four of them are 11.6. Rows taken for their low hashes would come first if their order went by the same hash."""
    sources = [("a", thinned(rows("a", 1000), 50, "a", 0)), ("b", rows("b", 50))]
    mixed = shuffled(sources, 0)
    assert Counter(row.id[0] for row in mixed) == {"a": 50, "b": 50}
    places = [place for place, row in enumerate(mixed) if row.id.startswith("a")]
    assert abs(sum(places) / 50 - 49.5) < 11.6
    assert shuffled(sources[::-1], 0) == mixed != shuffled(sources, 1)
    assert shuffled([(name, given[::-1]) for name, given in sources], 0) == mixed


def test_shares_by_tag():
    assert shares(["b", "a", "b", "b", None]) == {"a": {"rows": 1, "share": 0.25}, "b": {"rows": 3, "share": 0.75}}
    assert shares([]) == {}
