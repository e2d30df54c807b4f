"""Are the measures of agreement those of the literature, and are they taken of the right pairs of people?"""

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.refining.agreement import agreement, alpha, orders, tau_b
from data.refining.resampled import _coincidences, intervals, ordinal
from data.schema import Completion, Ranking

NONE = None
FOUR_BY_TWELVE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]
THREE_BY_FIFTEEN = [
    [NONE, NONE, NONE, NONE, NONE, 3, 4, 1, 2, 1, 1, 3, 3, NONE, 3],
    [1, NONE, 2, 1, 3, 3, 4, 3, NONE, NONE, NONE, NONE, NONE, NONE, NONE],
    [NONE, NONE, 2, 1, 3, 4, 4, NONE, 2, 1, 1, 3, 3, NONE, 4],
]


def units(table: Sequence[Sequence[int | None]]) -> list[list[float]]:
    """Values by unit of a table of coders by units."""
    return [[value for value in column if value is not None] for column in zip(*table, strict=True)]


@pytest.mark.parametrize(
    ("table", "level", "published"),
    [
        (FOUR_BY_TWELVE, "nominal", 0.743),
        (FOUR_BY_TWELVE, "ordinal", 0.815),
        (FOUR_BY_TWELVE, "interval", 0.849),
        (THREE_BY_FIFTEEN, "nominal", 0.691),
        (THREE_BY_FIFTEEN, "interval", 0.811),
    ],
)
def test_alpha_is_krippendorffs(table, level, published) -> None:
    """The examples of Computing Krippendorff's Alpha-Reliability (2011, section C and D) and of the article on alpha in
    Wikipedia, to the three digits they give."""
    assert alpha(units(table), level) == pytest.approx(published, abs=5e-4)


def coincidences(judged: list[list[int]], level: str) -> float | None:
    """Alpha by the definition: a matrix of ordered pairs of values in one unit, each weighing 1 / (m - 1), the expected
    one from its margins, and the ordinal difference summed value by value."""
    pairable = [unit for unit in judged if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit})
    matrix = {(c, k): 0.0 for c in values for k in values}
    for unit in pairable:
        for c, k in permutations(range(len(unit)), 2):
            matrix[unit[c], unit[k]] += 1 / (len(unit) - 1)
    margin = {c: sum(matrix[c, k] for k in values) for c in values}

    def difference(c: int, k: int) -> float:
        low, high = min(c, k), max(c, k)
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return float((c - k) ** 2)
        return (sum(margin[g] for g in values if low <= g <= high) - (margin[c] + margin[k]) / 2) ** 2

    n = sum(margin.values())
    observed = sum(matrix[c, k] * difference(c, k) for c in values for k in values)
    expected = sum(margin[c] * margin[k] * difference(c, k) for c in values for k in values) / (n - 1) if n > 1 else 0
    return 1 - observed / expected if expected else None


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=5), max_size=8), st.sampled_from(["nominal", "ordinal", "interval"])
)
def test_alpha_is_that_of_the_coincidence_matrix(judged, level) -> None:
    expected = coincidences(judged, level)
    assert alpha(judged, level) == (None if expected is None else pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("nothing", [[], [[1]], [[1], [2]], [[3, 3], [3, 3]]])
def test_alpha_of_nothing_that_varies_is_none(nothing) -> None:
    assert alpha(nothing) is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # Pairs: 5 alike, 1 opposite, no ties: (5 - 1) / 6.
        ([1, 2, 3, 4], [1, 2, 4, 3], 2 / 3),
        # Pairs 0-1 and 1-2 are tied in one list each, the other four are alike: 4 / sqrt(5 · 5).
        ([1, 1, 2, 3], [1, 2, 2, 3], 0.8),
        # Two tied pairs in the first list, one in the second; 2 alike, 6 opposite: -4 / sqrt(8 · 9). In SciPy's manual.
        ([12, 2, 1, 12, 2], [1, 4, 7, 1, 0], -0.4714045),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 2, 4, 5, 6, 7], [1, 2, 2, 4, 5, 6, 7], 1.0),
        ([1, 1], [1, 2], None),
        ([1], [1], None),
    ],
)
def test_tau_b_is_kendalls(one, other, expected) -> None:
    found = tau_b(one, other)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-7))
    assert tau_b(other, one) == found


def test_tau_b_of_a_ranking_with_itself_is_one_exactly() -> None:
    assert {tau_b(list(range(k)), list(range(k))) for k in range(2, 30)} == {1.0}


def test_tau_b_needs_the_same_things() -> None:
    with pytest.raises(ValueError, match="2 ranks against 3"):
        tau_b([1, 2], [1, 2, 3])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=7))
def test_every_pair_is_alike_opposite_or_tied(ranks) -> None:
    same, reverse, tied = orders([a for a, _ in ranks], [b for _, b in ranks])
    assert same + reverse + tied == math.comb(len(ranks), 2)


def ranking(order: str, annotator: str | None, prompt: str = "p", shown: str | None = None) -> Ranking:
    """`order` as "a>b=c"; `shown` is the order in which the completions stand in the row."""
    letters = shown or "".join(sorted(c for c in order if c.isalpha()))
    ids = {letter: f"c{place}" for place, letter in enumerate(letters)}
    completions = tuple(Completion(ids[letter], f"text {letter}") for letter in letters)
    tiers = tuple(tuple(ids[letter] for letter in tier.split("=")) for tier in order.split(">"))
    return Ranking(f"{prompt} {annotator}", prompt, completions, tiers, "f:1", annotator)


def test_agreement_by_hand() -> None:
    """A: a>b>c, B: a>c>b, C: a=b>c. Pairs of completions, of two people each:

    A and B: ab and ac alike, bc opposite, tau-b (2 - 1) / 3. A and C: ac and bc alike, ab tied, tau-b 2 / sqrt(3 · 2).
    B and C: ac alike, bc opposite, ab tied, tau-b 0. In all 5 alike, 2 opposite, 2 tied.
    Mean ranks: a (0, 0, ½), b (1, 2, ½), c (2, 1, 2). B's row has its completions in another order.
    """
    found = agreement([ranking("a>b>c", "A"), ranking("a>c>b", "B", shown="cab"), ranking("a=b>c", "C")])
    assert (found["items"], found["annotators"], found["rankings"]) == (1, 3, 3)
    assert (found["alike"], found["opposite"], found["tied"]) == (5, 2, 2)
    assert found["pairwise"] == pytest.approx(5 / 7)
    assert found["tau_b"] == pytest.approx((1 / 3 + 2 / math.sqrt(6)) / 3)
    assert (found["tau_b_of"], found["tau_b_undefined"]) == (3, 0)
    ranks: list[list[float]] = [[0, 0, 0.5], [1, 2, 0.5], [2, 1, 2]]
    assert found["alpha"] == pytest.approx(
        coincidences([[int(2 * rank) for rank in unit] for unit in ranks], "ordinal")
    )


def test_people_of_one_mind_agree_fully() -> None:
    """Three people on each of two items: 3 pairs of people, 3 and 1 pairs of completions, 12 in all."""
    rows = [ranking("c>a>b", who) for who in "xyz"] + [ranking("b>a", who, "q") for who in "xyz"]
    found = agreement(rows)
    assert (found["pairwise"], found["tau_b"], found["alpha"]) == (1.0, 1.0, 1.0)
    assert (found["alike"], found["tau_b_of"], found["items"], found["rankings"]) == (12, 6, 2, 6)


def test_who_judged_alone_or_without_a_name_has_no_say() -> None:
    rows = [ranking("a>b", "A"), ranking("b>a", None), ranking("a>b", "B", "q"), ranking("a>b>c", "C")]
    found = agreement(rows)
    assert (found["items"], found["annotators"], found["alike"] + found["opposite"]) == (0, 0, 0)
    assert found["pairwise"] is found["tau_b"] is found["alpha"] is None


def test_of_two_rankings_by_one_person_the_first_counts() -> None:
    found = agreement([ranking("a>b", "A"), ranking("b>a", "A"), ranking("a>b", "B")])
    assert (found["alike"], found["opposite"]) == (1, 0)


def test_opposite_minds_are_worse_than_chance() -> None:
    """Ranks 0 and 1 for either completion, never the same: all of what could be observed is disagreement."""
    found = agreement([ranking("a>b", "A"), ranking("b>a", "B")])
    assert (found["pairwise"], found["tau_b"]) == (0.0, -1.0)
    # o_01 = 2, n_0 = n_1 = 2: 1 - 3 · 2 / 4.
    assert found["alpha"] == pytest.approx(-0.5)


def test_a_tie_between_two_has_no_tau() -> None:
    """Where somebody ties all there is, no order can be compared: formats leave such rows out, other code may not."""
    tie = Ranking("r", "p", ranking("a>b", None).completions, (("c0", "c1"),), "f:1", "C")
    found = agreement([ranking("a>b", "A"), tie])
    assert (found["tied"], found["tau_b"], found["tau_b_undefined"], found["pairwise"]) == (1, None, 1, None)


def test_the_matrix_that_is_drawn_again_gives_the_published_alpha() -> None:
    found = [tuple(float(value) for value in unit) for unit in units(FOUR_BY_TWELVE) if len(unit) > 1]
    values = {float(value): place for place, value in enumerate(range(1, 6))}
    table = sum(_coincidences([unit], values) for unit in found).reshape(5, 5)  # type: ignore[union-attr]
    assert ordinal(table) == pytest.approx(0.815, abs=5e-4)


def test_intervals_are_of_items_drawn_again() -> None:
    """Of 100 items with one pair each, 80 put alike: the share's deviation is sqrt(0.8 · 0.2 / 100) = 0.04."""
    alike = [[ranking("a>b", "A", f"p{n}"), ranking("a>b" if n < 80 else "b>a", "B", f"p{n}")] for n in range(100)]
    found = agreement([row for item in alike for row in item])
    low, high = found["pairwise_interval"]
    assert found["pairwise"] == pytest.approx(0.8) and low == pytest.approx(0.72, abs=0.02)
    assert high == pytest.approx(0.88, abs=0.02)
    below, above = found["alpha_interval"]
    assert below < found["alpha"] < above and above - below == pytest.approx(2 * (high - low), rel=0.05)
    assert agreement([row for item in alike for row in item]) == found, "the draws are the same each time"


def test_a_few_items_have_no_interval_and_people_of_one_mind_no_width() -> None:
    assert intervals([(1, 0)] * 4, [[(0.0, 0.0), (1.0, 1.0)]] * 4) == (None, None)
    assert intervals([(1, 0)] * 9, [[(0.0, 0.0), (1.0, 1.0)]] * 9) == ((1.0, 1.0), (1.0, 1.0))
    assert intervals([(0, 0)] * 9, [[(0.5, 0.5), (0.5, 0.5)]] * 9) == (None, None)
