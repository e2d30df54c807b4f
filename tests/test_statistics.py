"""Are the intervals, win rates and diversity of the comparison what pencil and paper say?"""

import math

import numpy as np
import pytest

import reward.statistics as reward_statistics
from pipeline import statistics


def test_wins_ties_and_losses_are_counted_by_hand() -> None:
    """a - b = 1, 0, -2, 3, 1e-10: wins at 1 and 3, a loss at -2, ties at 0 and at 1e-10 (within 1e-9): (2 + 2/2)/5."""
    result = statistics.win_rate([1, 2, 3, 4, 1e-10], [0, 2, 5, 1, 0], ["a", "b", "c", "d", "e"])
    assert (result["wins"], result["ties"], result["losses"]) == (2, 2, 1)
    assert result["win_rate"] == pytest.approx(3 / 5)


def test_a_wider_tie_band_turns_small_differences_into_ties() -> None:
    """With a band of 0.5, differences 0.4 and -0.5 tie (the edge belongs to the tie) and 0.6 wins."""
    result = statistics.win_rate([0.4, 0.0, 0.6], [0.0, 0.5, 0.0], ["a", "b", "c"], tie=0.5)
    assert (result["wins"], result["ties"], result["losses"]) == (1, 2, 0)


def test_interval_is_the_binomial_quantile() -> None:
    """One sample a prompt, 9 wins of 10: a resample's wins are Binomial(10, 0.9).

    P(X <= 6) = 0.0128 and P(X <= 7) = 0.0702, so the 2.5% point is 7; P(X <= 9) = 0.651, so the 97.5% point is 10.
    """
    result = statistics.win_rate([1] * 9 + [0], [0] * 9 + [1], [str(i) for i in range(10)])
    assert result["win_rate"] == pytest.approx(0.9)
    assert (result["low"], result["high"]) == (pytest.approx(0.7), pytest.approx(1.0))


def test_mean_interval_is_the_binomial_quantile() -> None:
    """Values 0, 0, 0, 1: a resample's sum is Binomial(4, 1/4). P(0) = .316, P(X <= 2) = .949, P(X <= 3) = .996."""
    result = statistics.mean_interval([0, 0, 0, 1], ["a", "b", "c", "d"])
    assert result == {"mean": 0.25, "low": 0.0, "high": 0.75}


def test_samples_of_one_prompt_are_drawn_together() -> None:
    """Prompt a wins all three of its samples, prompt b loses its one. Resamples are aa, ab (twice), bb: 1, 3/4, 0.

    Each end has probability 1/4, so the interval is 0 to 1. Of four independent samples it would never reach 0 at the
    2.5% point, as P(no win) = 1/256. The rate counts samples, not prompts: 3/4, not 1/2.
    """
    result = statistics.win_rate([1, 1, 1, 0], [0, 0, 0, 1], ["a", "a", "a", "b"])
    assert result["win_rate"] == 0.75
    assert (result["low"], result["high"]) == (0.0, 1.0)


def test_a_resample_weighs_prompts_by_their_samples() -> None:
    """Prompt a wins 3 of 3 samples; b, c and d lose 1 of 1. With a drawn k times of 4, the rate is 3k / (3k + 4 - k).

    k is Binomial(4, 1/4): P(k <= 2) = .949 and P(k <= 3) = .996, so the 97.5% point is k = 3: 9/10. The mean of the
    prompts' own rates would be 3/4 there.
    """
    result = statistics.win_rate([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "c", "d"])
    assert result["win_rate"] == 0.5
    assert (result["low"], result["high"]) == (0.0, pytest.approx(0.9))


def test_repeating_every_sample_adds_no_certainty() -> None:
    """Ten copies of each sample under its prompt are no new evidence: the same interval to the last digit."""
    a, b, prompts = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0], [2.0] * 6, list("abcdef")
    once = statistics.win_rate(a, b, prompts)
    often = statistics.win_rate(a * 10, b * 10, prompts * 10)
    assert (often["low"], often["high"]) == (once["low"], once["high"])
    assert often["wins"] == 10 * once["wins"]


def test_order_of_samples_does_not_matter_and_pairs_stay_pairs() -> None:
    """Shuffling samples together changes nothing, and a prompt's difficulty cancels within a pair.

    a beats b by 0.1 on every prompt, while prompts differ by up to 9: paired, a wins all.
    """
    b = [float(i) for i in range(10)]
    a = [x + 0.1 for x in b]
    prompts = [str(i // 2) for i in range(10)]
    order = np.random.default_rng(0).permutation(10)
    shuffled = statistics.win_rate([a[i] for i in order], [b[i] for i in order], [prompts[i] for i in order])
    assert shuffled == statistics.win_rate(a, b, prompts)
    assert (shuffled["wins"], shuffled["low"]) == (10, 1.0)


def test_swapping_the_models_mirrors_the_result() -> None:
    """Rate and interval of b against a are one minus those of a against b, ends exchanged (same resamples)."""
    rng = np.random.default_rng(1)
    a, b, prompts = rng.normal(0.3, 1, 60).tolist(), rng.normal(0, 1, 60).tolist(), [str(i // 3) for i in range(60)]
    there, back = statistics.win_rate(a, b, prompts), statistics.win_rate(b, a, prompts)
    assert back["win_rate"] == pytest.approx(1 - there["win_rate"])
    assert (back["low"], back["high"]) == (pytest.approx(1 - there["high"]), pytest.approx(1 - there["low"]))


def test_chunks_of_draws_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holding two resamples at once instead of all draws the same random numbers in the same order."""
    x, prompts = list(np.random.default_rng(2).normal(size=40)), [str(i) for i in range(40)]
    whole = statistics.mean_interval(x, prompts, draws=501)
    monkeypatch.setattr(reward_statistics, "_CELLS", 80)
    assert statistics.mean_interval(x, prompts, draws=501) == whole


def _coverage(grouped: bool, trials: int) -> float:
    """Share of simulated comparisons whose interval holds the true win rate, known by construction.

    80 prompts of 4 samples. A prompt's chance to win is 0.1 or 0.9, equally likely: the truth is 0.5 by symmetry.
    """
    rng = np.random.default_rng(7)
    prompts = [str(i // 4) if grouped else str(i) for i in range(320)]
    held = 0
    for trial in range(trials):
        chance = np.repeat(rng.choice([0.1, 0.9], size=80), 4)
        a = (rng.random(320) < chance).astype(float)
        result = statistics.win_rate(a.tolist(), (1 - a).tolist(), prompts, draws=400, seed=trial)
        held += result["low"] <= 0.5 <= result["high"]
    return held / trials


def test_interval_covers_the_truth_95_times_in_100() -> None:
    assert 0.93 <= _coverage(grouped=True, trials=1000) <= 0.97


def test_ignoring_the_prompts_would_cover_too_rarely() -> None:
    """The design effect is 1 + 3 x 0.64 = 2.92 (correlation 4 x 0.4^2 = 0.64), so the naive interval is 1.7 times too
    narrow: it covers about P(|Z| < 1.96/1.71) = 0.75."""
    assert 0.70 <= _coverage(grouped=False, trials=400) <= 0.80


def test_distinct_n_by_hand() -> None:
    """a b a b has bigrams ab, ba, ab and b a has ba: 2 distinct of 4. Unigrams: 2 of 6. Trigrams aba, bab: 2 of 2."""
    texts = [["a", "b", "a", "b"], ["b", "a"]]
    assert statistics.distinct_n(texts, 2) == pytest.approx(2 / 4)
    assert statistics.distinct_n(texts, 1) == pytest.approx(2 / 6)
    assert statistics.distinct_n(texts, 3) == 1.0


def test_no_n_gram_crosses_texts_and_short_texts_have_none() -> None:
    assert statistics.distinct_n([[1], [2], []], 2) == 0.0
    assert statistics.distinct_n([[1, 2], [1, 2]], 2) == 0.5


@pytest.mark.parametrize(
    ("a", "b", "prompts", "said"),
    [
        ([1.0], [1.0, 2.0], ["a"], "needs pairs"),
        ([1.0], [1.0], ["a", "b"], "give each value its prompt"),
        ([], [], [], "no samples"),
        ([1.0, math.nan], [1.0, 1.0], ["a", "b"], "value 1 is not finite"),
        ([math.inf], [math.inf], ["a"], "not finite"),
    ],
)
def test_unusable_input_is_refused(a: list[float], b: list[float], prompts: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        statistics.win_rate(a, b, prompts)


def test_n_grams_of_length_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="starts at 1"):
        statistics.distinct_n([[1, 2]], 0)


# Wilson's interval


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_the_published_table(wins: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857–872, table I, method 3 (score without continuity correction)."""
    result = statistics.wilson(wins, 0, total - wins)
    assert (round(result["low"], 4), round(result["high"], 4)) == (low, high)
    assert result["win_rate"] == pytest.approx(wins / total)


def test_wilson_counts_a_tie_as_half_a_win() -> None:
    """3 wins, 4 ties and 3 losses are 5 of 10: the interval of 5/10, by hand ½ ± z·√(z² + 10) / (2·(10 + z²)).

    z² = 3.8415: 1.95996·√13.8415/(2·13.8415) = 0.26340.
    """
    result = statistics.wilson(3, 4, 3)
    assert result["win_rate"] == 0.5
    assert (result["low"], result["high"]) == (pytest.approx(0.23660, abs=1e-5), pytest.approx(0.76340, abs=1e-5))


def test_wilson_mirrors_and_has_width_for_an_unbeaten_model() -> None:
    """20 of 20: the mirror of Newcombe's 0 of 20, so from 1 - 0.1611 to 1, where the bootstrap has no width."""
    result = statistics.wilson(20, 0, 0)
    assert (result["low"], result["high"]) == (pytest.approx(0.8389, abs=5e-5), pytest.approx(1.0))
    bootstrap = statistics.win_rate([1] * 20, [0] * 20, [str(i) for i in range(20)])
    assert (bootstrap["low"], bootstrap["high"], bootstrap["prompts"]) == (1.0, 1.0, 20)


@pytest.mark.parametrize(("counts", "said"), [((0, 0, 0), "nothing to compute"), ((1, -1, 2), "not negative")])
def test_wilson_refuses_impossible_counts(counts: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        statistics.wilson(*counts)


def test_wilson_covers_the_truth_95_times_in_100() -> None:
    """20,000 tables of 60 comparisons, the chance to win uniform on 0.1 to 0.9: the coverage averaged over it."""
    rng = np.random.default_rng(11)
    chance = rng.uniform(0.1, 0.9, 20_000)
    wins = rng.binomial(60, chance)
    ends = [statistics.wilson(won, 0, 60 - won) for won in range(61)]
    held = [ends[won]["low"] <= truth <= ends[won]["high"] for won, truth in zip(wins, chance, strict=True)]
    assert 0.93 <= np.mean(held) <= 0.97


def test_mean_interval_covers_the_truth_95_times_in_100() -> None:
    """80 prompts of 3 samples: a skewed level per prompt, Gamma(4) with mean 4, and normal noise of sd 2 a sample."""
    rng = np.random.default_rng(13)
    prompts = [str(i // 3) for i in range(240)]
    held = 0
    for trial in range(1000):
        x = np.repeat(rng.gamma(4.0, size=80), 3) + rng.normal(0, 2, 240)
        result = statistics.mean_interval(x.tolist(), prompts, draws=400, seed=trial)
        held += result["low"] <= 4.0 <= result["high"]
    assert 0.93 <= held / 1000 <= 0.97


def test_a_ratio_needs_something_to_divide_by() -> None:
    """Of two prompts one has denominator 0: a quarter of the resamples is that one twice."""
    with pytest.raises(ValueError, match="nothing to divide by"):
        statistics.ratio_interval(np.array([1.0, 1.0]), np.array([0.0, 1.0]), ["a", "b"], 100, 0)


# Between training seeds


@pytest.mark.parametrize(
    ("freedom", "published"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042)]
)
def test_t_quantiles_against_the_published_table(freedom: int, published: float) -> None:
    """NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2, column 0.975."""
    assert round(statistics.t_quantile(0.975, freedom), 3) == published


def test_seed_spread_by_hand() -> None:
    """0.5, 0.6 and 0.7: mean 0.6, sd 0.1, half width 4.30265·0.1/√3 = 0.24841."""
    result = statistics.seed_spread([0.5, 0.7, 0.6])
    assert (result["seeds"], result["min"], result["max"]) == (3, 0.5, 0.7)
    assert (result["mean"], result["sd"]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert (result["low"], result["high"]) == (pytest.approx(0.35159, abs=1e-5), pytest.approx(0.84841, abs=1e-5))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_spread_covers_the_truth_95_times_in_100(seeds: int) -> None:
    """Normal figures around 0.6 with sd 0.05: Student's interval is exact there, however few the seeds."""
    figures = np.random.default_rng(17).normal(0.6, 0.05, (1500, seeds))
    held = [result["low"] <= 0.6 <= result["high"] for result in map(statistics.seed_spread, figures)]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(
    ("figures", "said"), [([0.5], "two or more"), ([], "two or more"), ([0.5, math.nan], "seed 1 is not finite")]
)
def test_a_spread_needs_two_finite_figures(figures: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        statistics.seed_spread(figures)


@pytest.mark.parametrize(("share", "freedom"), [(0.4, 3), (1.0, 3), (0.975, 0)])
def test_no_t_quantile_outside_its_range(share: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        statistics.t_quantile(share, freedom)
