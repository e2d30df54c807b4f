"""Are the figures of agreement those of the literature, and over the right items?"""

import json
import math

import numpy as np
import pytest

from pipeline.report.agreement import agreement, cohen_kappa, kendall_tau_b, matrix

NAN = float("nan")


def spread(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The items of a table of counts: rows are one judge's categories, columns the other's."""
    items = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in items], [j for _, j in items]


def test_kappa_of_three_categories() -> None:
    """Two raters of 100 patients: psychotic, neurotic, organic (Fleiss, Levin and Paik 2003, table 18.1): 0.68.

    Observed 0.75 + 0.04 + 0.10 = 0.89; by chance 0.8·0.8 + 0.1·0.05 + 0.1·0.15 = 0.66; (0.89 - 0.66) / 0.34 = 23/34.
    """
    assert cohen_kappa(*spread([[75, 1, 4], [5, 4, 1], [0, 0, 10]])) == pytest.approx(23 / 34)


def test_kappa_of_two_categories() -> None:
    """Fifty proposals, two readers, 20 yes and 15 no by both: observed 0.7, by chance 0.5·0.6 + 0.5·0.4, kappa 0.4."""
    assert cohen_kappa(*spread([[20, 5], [10, 15]])) == pytest.approx(0.4)


def test_kappa_is_one_for_the_same_and_below_zero_for_the_opposite() -> None:
    assert cohen_kappa([1, 0, -1, 1], [1, 0, -1, 1]) == pytest.approx(1.0)
    assert cohen_kappa([1, 0], [0, 1]) == pytest.approx(-1.0)


def test_kappa_that_does_not_exist_is_none() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa([1, 1], [1, 1]) is None
    assert cohen_kappa([1, 1], [1, 0]) == pytest.approx(0.0)


def test_tau_b_with_ties() -> None:
    """SciPy's documented example: -0.47140452. Of ten pairs two are tied in x and one in y; C - D = 2 - 6."""
    assert kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-4 / math.sqrt(8 * 9))


def test_tau_b_counts_pairs() -> None:
    """1 2 3 4 against 1 3 2 4: one of six pairs the other way round, (5 - 1) / 6. Any scale will do."""
    assert kendall_tau_b([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall_tau_b([1, 2, 3, 4], [-1e9, 0.2, 0.1, 7]) == pytest.approx(4 / 6)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [1]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_tau_b_that_does_not_exist_is_none(x: list[float], y: list[float]) -> None:
    assert kendall_tau_b(x, y) is None


def test_figures_are_over_what_both_judged() -> None:
    """By hand. Items 5 and 6 lack a judge. Of the five shared, a ties one (index 3); of the four others three agree.

    a: W W L T L, b: W W L W W: kappa: observed 3/5; chance (2·4 + 2·1 + 1·0) / 25 = 10/25; (0.6 - 0.4) / 0.6 = 1/3.
    """
    a = [1.0, 0.75, 0.0, 0.5, 0.0, NAN, 1.0]
    b = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, NAN]
    found = agreement({"a": a, "b": b}, list("pqrstuv"), draws=200)
    (pair,) = found["pairs"]
    assert pair["judges"] == ["a", "b"]
    assert (pair["items"], pair["decided"]) == (5, 4)
    assert pair["equal"]["mean"] == pytest.approx(3 / 4)
    assert pair["equal"]["low"] < 3 / 4 < pair["equal"]["high"]
    assert pair["kappa"] == pytest.approx(1 / 3)
    assert pair["tau_b"] is None


def test_the_interval_is_over_prompts() -> None:
    """Two prompts of ten items, agreeing throughout and not at all: prompts drawn, the share is 0, ½ or 1."""
    a, b, prompts = [1.0] * 20, [1.0] * 10 + [0.0] * 10, ["p"] * 10 + ["q"] * 10
    (pair,) = agreement({"a": a, "b": b}, prompts, draws=2000)["pairs"]
    assert pair["equal"] == {"mean": 0.5, "low": 0.0, "high": 1.0}


def test_scores_are_compared_where_both_judges_score() -> None:
    judged = {"a": [1.0], "b": [1.0], "c": [0.0]}
    found = agreement(judged, ["p"], {"a": [1, 2, 3, 4], "c": [1, 3, 2, 4]}, draws=10)
    assert [pair["tau_b"] for pair in found["pairs"]] == [None, pytest.approx(4 / 6), None]


def test_the_matrix_is_symmetric_and_the_whole_is_json() -> None:
    judged = {"a": [1.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0], "c": [NAN, NAN, NAN]}
    found = agreement(judged, ["p", "q", "r"], {"a": [1, 2], "b": [2, 1]}, draws=10)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert matrix(found, "equal") == [[None, 2 / 3, None], [2 / 3, None, None], [None, None, None]]
    assert matrix(found, "items") == [[None, 3, 0], [3, None, 0], [0, 0, None]]
    assert matrix(found, "tau_b")[0][1] == -1.0


def test_judges_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="b: outcomes of shape"):
        agreement({"a": [1.0, 0.0], "b": [1.0]}, ["p", "q"])
    with pytest.raises(ValueError, match="shapes"):
        kendall_tau_b([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="not finite"):
        kendall_tau_b([1, 2], [1, np.inf])
