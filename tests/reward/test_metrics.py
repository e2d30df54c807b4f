"""Are a reward model's figures what pencil and paper say, and do the metrics work without a network or a file?"""

import math
import socket
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward import metrics, statistics
from reward.metrics import (
    brier_score,
    calibration_error,
    find_pairs,
    human_ceiling,
    length_correlation,
    length_null,
    margins,
    mean_of_pairs,
    outcomes,
    paired_gain,
    pairwise_accuracy,
    rater_agreement,
)

RANKS = [[0, 1, 2], [0, 0, 1], [1, 0]]
SCORES = [[3.0, 1.0, 2.0], [1.0, 5.0, 1.0], [0.0, 4.0]]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_accuracy_counts_pairs_not_groups_and_halves_score_ties() -> None:
    """Group 0: 3>1 right, 3>2 right, 1>2 wrong. Group 1: the two at rank 0 are no pair; 1=1 ½, 5>1 right. Group 2:
    right.

    (2 + 1.5 + 1) / 6 = .75. A mean of group means would be (2/3 + 3/4 + 1) / 3 = .806.
    """
    result = pairwise_accuracy(SCORES, RANKS)
    assert result["pairwise_accuracy"] == 0.75
    assert result["pairs"] == 6


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-2, 2), st.integers(-1, 3)), min_size=1, max_size=5), min_size=1, max_size=6
    )
)
@settings(max_examples=80, deadline=None)
def test_accuracy_agrees_with_a_loop_over_pairs(groups: list[list[tuple[int, int]]]) -> None:
    """For each pair of one group with two ranks, neither -1: does the one of lower rank have the higher score?"""
    points, pairs = 0.0, 0
    for group in groups:
        for (score, rank), (other_score, other_rank) in combinations(group, 2):
            if rank == other_rank or rank == -1 or other_rank == -1:
                continue
            pairs += 1
            if score == other_score:
                points += 0.5
            elif (score > other_score) == (rank < other_rank):
                points += 1
    scores = [[float(score) for score, _ in group] for group in groups]
    ranks = [[rank for _, rank in group] for group in groups]
    if not pairs:
        with pytest.raises(ValueError, match="no pairs to judge: no two completions of a group differ in rank"):
            pairwise_accuracy(scores, ranks, draws=2)
        return
    result = pairwise_accuracy(scores, ranks, draws=2)
    assert result["pairs"] == pairs
    assert result["pairwise_accuracy"] == pytest.approx(points / pairs)


def test_padding_is_never_looked_at() -> None:
    """A padded place would be a right pair if its rank -1 were read as "best", and its nan would be an error."""
    plain = pairwise_accuracy([[1.0, 2.0], [4.0, 3.0, 2.0]], [[0, 1], [0, 1, 2]])
    padded = pairwise_accuracy([[1.0, 2.0, math.nan], [4.0, 3.0, 2.0]], [[0, 1, -1], [0, 1, 2]])
    assert plain == padded
    assert plain["pairwise_accuracy"] == 0.75


def test_with_ratings_only_pairs_far_enough_apart_count_in_the_order_of_the_ratings() -> None:
    """Ratings 2.3, 1.8, 1.4 with reversed ranks. 2.3 - 1.8 (.49999999999999978 in floating point) and 2.3 - 1.4 make
    pairs, 1.8 - 1.4 none. Scores 2, 1, 3 order the first right and the second wrong: 1/2. By the ranks, worst first, 3
    > 1 and 3 > 2 are right and 1 > 2 is wrong: 2/3.
    """
    scores, ratings, ranks = [[2.0, 1.0, 3.0]], [[2.3, 1.8, 1.4]], [[2, 1, 0]]
    assert 2.3 - 1.8 < 0.5
    result = pairwise_accuracy(scores, ranks, ratings, min_gap=0.5)
    assert (result["pairwise_accuracy"], result["pairs"]) == (0.5, 2)
    assert pairwise_accuracy(scores, ranks)["pairwise_accuracy"] == pytest.approx(2 / 3)


def test_equal_ratings_are_no_pair_even_without_a_gap() -> None:
    result = pairwise_accuracy([[1.0, 2.0, 0.0]], [[0, 1, 2]], [[1.0, 1.0, 0.0]])
    assert result["pairs"] == 2


def test_interval_is_the_binomial_quantile() -> None:
    """Ten groups of one pair, nine right: a resample's count is Binomial(10, .9). P(X <= 6) = .0128, P(X <= 7) = .0702,
    so the 2.5% point is 7; P(X <= 9) = .651, so the 97.5% point is 10.
    """
    result = pairwise_accuracy([[1.0, 0.0]] * 9 + [[0.0, 1.0]], [[0, 1]] * 10)
    assert result["pairwise_accuracy"] == pytest.approx(0.9)
    assert (result["low"], result["high"]) == (pytest.approx(0.7), pytest.approx(1.0))


def test_pairs_of_one_group_are_drawn_together_and_groups_without_pairs_never() -> None:
    """Group a: three pairs, all right; b: one, wrong. Resamples aa, ab (twice), bb: 1, 3/4, 0, each end with
    probability ¼, so the interval is 0 to 1. Four independent pairs would have P(none right) = 1/256 and never reach 0
    at 2.5%. The tied group, were it drawn, would give 0/0.
    """
    result = pairwise_accuracy([[3.0, 2.0, 1.0], [0.0, 1.0], [5.0, 6.0]], [[0, 1, 2], [0, 1], [0, 0]])
    assert result == {"pairwise_accuracy": 0.75, "pairs": 4, "low": 0.0, "high": 1.0}


def test_interval_has_the_width_of_the_normal_one_and_is_seeded() -> None:
    """400 groups of one pair, 280 right: 2·1.96·√(.7·.3/400) = .0898."""
    scores, ranks = [[1.0, 0.0]] * 280 + [[0.0, 1.0]] * 120, [[0, 1]] * 400
    first, again, other = (pairwise_accuracy(scores, ranks, seed=seed) for seed in (0, 0, 1))
    assert first["high"] - first["low"] == pytest.approx(0.0898, abs=0.006)
    assert first["low"] < 0.7 < first["high"]
    assert first == again
    assert other["low"] == pytest.approx(first["low"], abs=0.01)


def test_draws_in_several_blocks_are_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 100 cells and ten groups, 1005 draws come in 101 blocks; the interval stays the binomial one."""
    monkeypatch.setattr(statistics, "_CELLS", 100)
    result = pairwise_accuracy([[1.0, 0.0]] * 9 + [[0.0, 1.0]], [[0, 1]] * 10, draws=1005)
    assert (result["low"], result["high"]) == (pytest.approx(0.7), pytest.approx(1.0))


def test_length_null_takes_its_better_sign() -> None:
    """Pairs (better, worse) of lengths (3,5), (2,9), (4,4), (7,1): longer is right in 1.5 of 4, shorter in 2.5."""
    result = length_null([[3, 5], [2, 9], [4, 4], [7, 1]], [[0, 1]] * 4)
    assert (result["longer"], result["shorter"], result["length_accuracy"]) == (0.375, 0.625, 0.625)
    assert result["pairs"] == 4
    assert result["low"] < 0.625 < result["high"]
    turned = length_null([[3, 5], [2, 9], [4, 4], [7, 1]], [[1, 0]] * 4)
    assert (turned["longer"], turned["length_accuracy"]) == (0.625, 0.625)


def test_gain_is_zero_for_a_model_of_length_and_its_interval_is_paired() -> None:
    """Scores that fall with length are the null itself (shorter is better here): every difference is 0, whichever
    groups are drawn. Two separate bootstraps would give an interval about .5 wide each.
    """
    lengths, ranks = [[3, 5], [2, 9], [1, 8], [7, 1]] * 5, [[0, 1]] * 20
    scores = [[-float(length) for length in group] for group in lengths]
    assert paired_gain(scores, lengths, ranks) == {"gain": 0.0, "low": 0.0, "high": 0.0}


def test_gain_by_hand() -> None:
    """Two groups. Longer is right in the first, wrong in the second: the null has ½ with either sign (ties go to
    longer). The model is right in both. Differences 0 and 1: gain ½; resamples 0, ½, ½, 1: the interval is 0 to 1.
    """
    result = paired_gain([[1.0, 0.0], [1.0, 0.0]], [[9, 1], [1, 9]], [[0, 1], [0, 1]])
    assert result == {"gain": 0.5, "low": 0.0, "high": 1.0}


def test_a_model_that_knows_more_than_length_has_a_gain_above_zero() -> None:
    """200 pairs; the model is right in all, longer in 120: gain .4, normal interval .4 ± 1.96·√(.24/200) = .332 to
    .468.
    """
    lengths, ranks = [[2, 1]] * 120 + [[1, 2]] * 80, [[0, 1]] * 200
    result = paired_gain([[1.0, 0.0]] * 200, lengths, ranks)
    assert result["gain"] == pytest.approx(0.4)
    assert result["low"] == pytest.approx(0.332, abs=0.011)
    assert result["high"] == pytest.approx(0.468, abs=0.011)


def test_gain_and_null_look_at_the_same_rated_pairs() -> None:
    """Ratings 0, 1, 3 and a gap of 2: third over first and third over second are pairs. Longer is right in both, the
    model in the second alone: ½ - 1. By the ranks, which say the reverse, shorter is right in all three pairs, and the
    model in 2 > 0 and 2 > 1 but not in 0 > 1: 2/3 - 1."""
    scores, lengths, ranks, ratings = [[2.0, 0.0, 1.0]], [[1, 2, 3]], [[0, 1, 2]], [[0.0, 1.0, 3.0]]
    assert length_null(lengths, ranks, ratings, 2)["pairs"] == 2
    assert paired_gain(scores, lengths, ranks, ratings, 2)["gain"] == -0.5
    assert paired_gain(scores, lengths, ranks)["gain"] == pytest.approx(-1 / 3)


def test_calibration_error_by_hand() -> None:
    """Three pairs of confidence .77 (bin .75 to .8), two right; one of .93 (.9 to .95), right.

    ¾·|2/3 - .77| + ¼·|1 - .93| = .0775 + .0175 = .095.
    """
    a, b = logit(0.77), logit(0.93)
    result = calibration_error([[a, 0.0], [0.0, -a], [1.0, 1.0 + a], [b + 2.0, 2.0]], [[0, 1]] * 4)
    assert result["ece"] == pytest.approx(0.095)
    filled = {round(part["low"], 2): part for part in result["bins"] if part["count"]}
    assert filled.keys() == {0.75, 0.9}
    assert filled[0.75] == pytest.approx({"low": 0.75, "high": 0.8, "confidence": 0.77, "accuracy": 2 / 3, "count": 3})
    assert len(result["bins"]) == 10
    assert [part["confidence"] for part in result["bins"]].count(None) == 8


def test_calibration_at_both_ends_of_the_scale() -> None:
    """Equal scores: confidence ½, correct ½, the lowest bin. Scores 10,000 apart: confidence 1, no overflow, the
    highest bin; wrong there costs 1. (0 + 1) / 2.
    """
    result = calibration_error([[1.0, 1.0], [-5000.0, 5000.0]], [[0, 1], [0, 1]])
    assert (result["bins"][0]["count"], result["bins"][9]["count"]) == (1, 1)
    assert (result["bins"][0]["accuracy"], result["bins"][9]["accuracy"]) == (0.5, 0.0)
    assert result["ece"] == pytest.approx(0.5)


def test_scores_that_are_true_log_odds_are_calibrated_and_thrice_as_large_are_not() -> None:
    """20,000 pairs decided with probability σ(d), d uniform on [-2, 2]: the sampling error of a bin is about .01.
    Scores 3d claim σ(3|d|) where σ(|d|) is true: the integral of the difference over d in [0, 2] is [ln(1+e^6) - ln
    2]/3 - [ln(1+e^2) - ln 2] = 1.7698 - 1.4338 = .3360, half of it is the mean: .168.
    """
    rng = np.random.default_rng(0)
    difference = rng.uniform(-2, 2, 20_000)
    first_wins = rng.uniform(size=20_000) < 1 / (1 + np.exp(-difference))
    ranks = [[0, 1] if won else [1, 0] for won in first_wins]
    assert calibration_error([[d, 0.0] for d in difference], ranks)["ece"] < 0.02
    assert calibration_error([[3 * d, 0.0] for d in difference], ranks)["ece"] == pytest.approx(0.168, abs=0.015)


def test_spearman_with_a_tie_by_hand() -> None:
    """y = 5 6 7 8 7 has ranks 1 2 3.5 5 3.5. Deviations x: -2..2, y: -2 -1 .5 2 .5: Σxy = 8, Σx² = 10, Σy² = 9.5;
    8/√95 = .820783. Ranking the tie as 3 and 4 would give .9."""
    assert length_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.820783, abs=1e-6)


def test_spearman_is_of_ranks_has_a_sign_and_is_zero_without_an_order() -> None:
    assert length_correlation([1.0, 10.0, 1000.0], [1, 2, 3]) == 1.0
    assert length_correlation([1.0, 10.0, 1000.0], [3, 2, 1]) == -1.0
    assert length_correlation([4.0, 4.0, 4.0], [1, 2, 3]) == 0.0


def test_human_ceiling_by_hand() -> None:
    """Means 2 and 1. Rater pairs: 3>0, 3>1, 3>2 right; 1>0 right, 1=1 half, 1<2 wrong: 4.5/6. Against the third
    completion (mean -1, ratings -1 -1) all right: 1 and 1. (.75 + 1 + 1) / 3.
    """
    assert human_ceiling([[[3, 1], [0, 1, 2], [-1, -1]]]) == pytest.approx(2.75 / 3)


def test_human_ceiling_leaves_out_close_pairs_and_other_groups() -> None:
    """Means 2, 1.6, 0 with a gap of .5: pairs (2, 0) and (1.6, 0). Raters of the second: 3 2 1 1 1, of the third 1 -1
    0. (2,0): 2 beats all: 1. (1.6,0): 3 and 2 win 3 of 3; each 1 beats -1 and 0, ties 1: 2.5 of 3; (6 + 7.5)/15 = .9.
    The lone completion of the second group makes no pair with the first.
    """
    assert human_ceiling([[[2, 2], [3, 2, 1, 1, 1], [1, -1, 0]], [[-4]]]) == pytest.approx(0.95)
    assert human_ceiling([[[2, 2], [3, 2, 1, 1, 1], [1, -1, 0]]], min_gap=2) == pytest.approx(1.0)


def test_brier_score_of_known_probabilities() -> None:
    """The better completion is given .9, .6 and .2: (.1² + .4² + .8²) / 3 = (.01 + .16 + .64) / 3 = .27. A coin: ½² = .25.

    A model that is certain scores 0 where it is right and 1 where it is wrong, and does not overflow.
    """
    scores = [[logit(0.9), 0.0], [0.0, logit(0.6)], [logit(0.2), 0.0]]
    assert brier_score(scores, [[0, 1], [1, 0], [0, 1]]) == pytest.approx(0.27)
    assert brier_score([[3.0, 3.0]], [[0, 1]]) == 0.25
    assert brier_score([[1000.0, 0.0]], [[0, 1]]) == 0.0
    assert brier_score([[1000.0, 0.0]], [[1, 0]]) == 1.0


def test_outcomes_margins_and_raters_pair_by_pair() -> None:
    """Pairs of RANKS in order: (0,1) (0,2) (1,2); (0,2) (1,2); (1,0). Of two raters 1 3 against 2 2: one below, one above: ½.

    Against the order of the pair, whichever that is: raters 3 4 of the worse and 2 of the better agree never.
    """
    pairs = find_pairs(RANKS)
    assert outcomes(SCORES, RANKS, pairs).tolist() == [1, 1, 0, 0.5, 1, 1]
    assert margins(SCORES, RANKS, pairs).tolist() == [2, 1, -1, 0, 4, 4]
    assert margins(SCORES, RANKS, pairs.only(pairs.group == 1)).tolist() == [0, 4]
    ranks = [[0, 1], [1, 0]]
    assert rater_agreement([[[1, 3], [2, 2]], [[3, 4], [2]]], find_pairs(ranks)).tolist() == [0.5, 0]


def test_a_mean_of_few_groups_or_equal_values_gets_no_interval() -> None:
    """Nine groups of two pairs, half of them right: .5 and no ends; ten groups: ends around .5; ten all right: no width, so no ends."""
    for groups, value, told in ((9, 0.0, False), (10, 0.0, True), (10, 1.0, False)):
        pairs = find_pairs([[0, 1, 1]] * groups)
        values = np.array([1.0, value] * groups)
        if value == 0.0:
            values = np.repeat([1.0, 0.0], groups)
        found = mean_of_pairs(values, pairs, draws=500)
        assert (found["mean"], found["pairs"], found["groups"]) == (0.5 if value == 0 else 1.0, 2 * groups, groups)
        low, high = found["low"], found["high"]
        assert (low is not None and high is not None and low < 0.5 < high) if told else low is high is None
    with pytest.raises(ValueError, match="no pairs"):
        mean_of_pairs(np.array([]), find_pairs([[0, 1]]).only(np.array([False])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairwise_accuracy([[1.0, math.nan]], [[0, 1]]), "group 0: score 1 is nan, not a finite number"),
        (lambda: pairwise_accuracy([[1.0, 2.0], [math.inf, 0.0]], [[0, 1]] * 2), "group 1: score 0 is inf"),
        (lambda: pairwise_accuracy([[1.0]], [[0, 1]]), "group 0: 1 scores for 2 ranks"),
        (lambda: pairwise_accuracy([[1.0, 2.0]], [[0, 1]] * 2), "scores of 1 groups and ranks of 2"),
        (lambda: pairwise_accuracy([[1.0, 2.0]], [[0, 1]], min_gap=0.5), "give the ratings"),
        (lambda: pairwise_accuracy([[1.0, 2.0]], [[0, 1]], [[1.0]]), "group 0: 1 ratings for 2 ranks"),
        (lambda: pairwise_accuracy([[1.0, 2.0]], [[0, 1]], [[1.0, math.nan]]), "group 0: rating 1 is nan"),
        (lambda: pairwise_accuracy([[1.0, 2.0]], [[0, 1]], [[1.0, 1.2]], 0.5), "different ratings, at least 0.5 apart"),
        (lambda: pairwise_accuracy([], []), "no pairs to judge"),
        (lambda: length_null([[3]], [[0, 1]]), "group 0: 1 lengths for 2 ranks"),
        (lambda: paired_gain([[1.0, 2.0]], [[3, math.nan]], [[0, 1]]), "group 0: length 1 is nan"),
        (lambda: calibration_error([[1.0, math.nan]], [[0, 1]]), "group 0: score 1 is nan"),
        (lambda: length_correlation([1.0], [1.0]), "two completions or more"),
        (lambda: length_correlation([1.0, 2.0], [1.0]), "2 scores for 1 lengths"),
        (lambda: length_correlation([1.0, math.nan], [1.0, 2.0]), "completion 1: its score or length is not finite"),
        (lambda: human_ceiling([[[1, 2], []]]), "group 0: completion 1 has no ratings"),
        (lambda: human_ceiling([[[1, 2], [1, 2]]]), "no pairs to judge"),
    ],
)
def test_bad_input_is_an_error_that_says_where(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No socket opens; returns the folder where evaluate would keep its files."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_metrics_are_shells_that_leave_no_files(offline: Path) -> None:
    lengths, ratings = [[3, 1, 2], [1, 5, 1], [9, 4]], [[2.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.3]]
    shells: list[tuple[evaluate.Metric, Callable[..., dict[str, float]], list[list[float]]]] = [
        (metrics.PairwiseAccuracy(), pairwise_accuracy, SCORES),
        (metrics.LengthNull(), length_null, [[float(length) for length in group] for group in lengths]),
        (metrics.ExpectedCalibrationError(), calibration_error, SCORES),
    ]
    for metric, function, values in shells:
        assert metric.compute(predictions=values, references=RANKS) == function(values, RANKS)
        gapped = metric.compute(predictions=values, references=RANKS, ratings=ratings, min_gap=0.5)
        assert gapped == function(values, RANKS, ratings, 0.5)
        assert gapped != function(values, RANKS)
    correlation = metrics.LengthCorrelation()
    assert correlation.compute(predictions=[1, 2, 3, 4, 5], references=[5, 6, 7, 8, 7]) == {
        "length_correlation": pytest.approx(0.820783, abs=1e-6)
    }
    assert list(offline.iterdir()) == []


def test_a_metric_takes_batches_and_padded_tensors_and_keeps_float64(offline: Path) -> None:
    """Two batches of one metric: 1 right, then 1 wrong and 1 padded. In float32 2**24 + 1 would tie with 2**24."""
    metric = metrics.PairwiseAccuracy()
    metric.add_batch(predictions=[[2.0**24 + 1, 2.0**24]], references=[[0, 1]])
    metric.add_batch(predictions=torch.tensor([[0.0, 1.0, 9.0]]), references=torch.tensor([[0, 1, -1]]))
    result = metric.compute()
    assert result is not None
    assert (result["pairwise_accuracy"], result["pairs"]) == (0.5, 2)
    again = metric.compute(predictions=np.array([[1.0, 0.0]]), references=np.array([[0, 1]]))
    assert again is not None
    assert (again["pairwise_accuracy"], again["pairs"]) == (1.0, 1)
