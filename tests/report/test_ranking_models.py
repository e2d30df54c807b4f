"""Are scores and length-controlled win rates what published tables and closed forms say?"""

import math

import numpy as np
import pytest

import reward.statistics as reward_statistics
from pipeline import statistics
from pipeline.report import ranking_models
from pipeline.report.ranking_models import Match, bradley_terry, elo, every_pair, length_controlled_win_rate


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def games(table: dict[str, dict[str, int]]) -> list[Match]:
    """Wins of row over column, each game on a prompt of its own."""
    return [
        Match(f"{a} {b} {k}", a, b, 1.0) for a, row in table.items() for b, wins in row.items() for k in range(wins)
    ]


# Bradley–Terry


def test_scores_against_agrestis_baseball_table() -> None:
    """American League East 1987, 13 games a pair (Agresti 2002, Categorical Data Analysis, table 10.10).

    Table 10.11 gives the scores without home advantage relative to Baltimore: 1.58, 1.44, 1.29, 1.25, 1.11, 0.68.
    """
    teams = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
    wins = [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
    table = {a: dict(zip(teams, row, strict=True)) for a, row in zip(teams, wins, strict=True)}
    result = bradley_terry(games(table), draws=200)
    assert list(result["models"]) == teams and len(result["groups"]) == 1
    last = result["models"]["Baltimore"]["score"]
    published = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]
    assert [round(result["models"][team]["score"] - last, 2) for team in teams] == published
    assert sum(model["score"] for model in result["models"].values()) == pytest.approx(0, abs=1e-9)
    assert all(model["low"] < model["score"] < model["high"] for model in result["models"].values())


def test_scores_against_the_citations_of_four_journals() -> None:
    """Stigler 1994, in Agresti 2002, page 448. R's BradleyTerry2 prints, with Biometrika at 0: -2.9491, -0.4796,
    0.2690.
    """
    table = {
        "Biometrika": {"Comm Statist": 730, "JASA": 498, "JRSS-B": 221},
        "Comm Statist": {"Biometrika": 33, "JASA": 68, "JRSS-B": 17},
        "JASA": {"Biometrika": 320, "Comm Statist": 813, "JRSS-B": 142},
        "JRSS-B": {"Biometrika": 284, "Comm Statist": 276, "JASA": 325},
    }
    models = bradley_terry([match._replace(prompt="one") for match in games(table)], draws=2)["models"]
    score = {name: model["score"] - models["Biometrika"]["score"] for name, model in models.items()}
    assert score["Comm Statist"] == pytest.approx(-2.9491, abs=2e-3)
    assert score["JASA"] == pytest.approx(-0.4796, abs=5e-4)
    assert score["JRSS-B"] == pytest.approx(0.2690, abs=5e-4)


def test_two_models_differ_by_the_logit_of_the_win_rate() -> None:
    """6 wins, 2 ties and 2 losses are a rate of 0.7; the scores are ± logit(0.7)/2, as their mean is 0."""
    results = [1.0] * 6 + [0.5] * 2 + [0.0] * 2
    models = bradley_terry([Match(str(i), "a", "b", r) for i, r in enumerate(results)], draws=50)["models"]
    assert models["a"]["score"] == pytest.approx(logit(0.7) / 2, abs=2e-3)
    assert models["b"]["score"] == pytest.approx(-models["a"]["score"])


def test_three_models_with_consistent_odds() -> None:
    """Odds of 2 for a over b, 2 for b over c and 4 for a over c fit exactly: scores ln 2, 0, -ln 2."""
    table = {"a": {"b": 200, "c": 400}, "b": {"a": 100, "c": 200}, "c": {"a": 100, "b": 100}}
    models = bradley_terry(games(table), draws=2)["models"]
    assert [models[name]["score"] for name in "abc"] == pytest.approx([math.log(2), 0.0, -math.log(2)], abs=1e-3)


def test_who_is_named_first_does_not_matter() -> None:
    matches = games({"a": {"b": 7, "c": 4}, "b": {"a": 3, "c": 6}, "c": {"a": 5, "b": 2}})
    turned = [Match(m.prompt, m.b, m.a, 1 - m.outcome) for m in matches]
    there, back = bradley_terry(matches, draws=100), bradley_terry(turned, draws=100)
    for name, model in there["models"].items():
        assert back["models"][name] == pytest.approx(model)


def test_interval_is_the_logit_of_the_binomial_quantile() -> None:
    """6 wins of 10 prompts: a resample's wins are Binomial(10, 0.6), whose 2.5% and 97.5% points are 3 and 9.

    P(X <= 2) = .0123, P(X <= 3) = .0548, P(X <= 8) = .9536, P(X <= 9) = .9940. Scores are half the logit.
    """
    results = [1.0] * 6 + [0.0] * 4
    result = bradley_terry([Match(str(i), "a", "b", r) for i, r in enumerate(results)])
    assert result["models"]["a"]["low"] == pytest.approx(logit(0.3) / 2, abs=0.01)
    assert result["models"]["a"]["high"] == pytest.approx(logit(0.9) / 2, abs=0.01)
    assert result["prior_share"] == pytest.approx(0.6**10 + 0.4**10, abs=0.005)


def test_all_matches_of_a_prompt_are_drawn_together() -> None:
    """Ten copies of every match under its prompt are no new evidence; the prior pulls ten times less."""
    matches = games({"a": {"b": 12}, "b": {"a": 8}})
    once, often = bradley_terry(matches, draws=500), bradley_terry(matches * 10, draws=500)
    assert often["prompts"] == 20 and often["comparisons"] == 200
    for end in ("score", "low", "high"):
        assert often["models"]["a"][end] == pytest.approx(once["models"]["a"][end], abs=5e-3)


def test_an_unbeaten_model_is_finite_by_the_stated_prior_and_claims_no_interval() -> None:
    """30 wins of 30: the slope 30·σ(-2s) of the likelihood balances the prior's s/100, at s near 3.4."""
    result = bradley_terry([Match(str(i), "a", "b", 1.0) for i in range(30)], draws=50)
    score = result["models"]["a"]["score"]
    assert 30 / (1 + math.exp(2 * score)) == pytest.approx(0.01 * score, rel=1e-5)
    assert result["groups"] == [["a"], ["b"]] and result["prior_share"] == 1.0
    assert result["models"]["a"]["low"] is None and result["models"]["b"]["high"] is None


def test_groups_that_never_meet_are_told_apart() -> None:
    """a beats b in 14 of 20, c beats d in 12 of 20: inside a group the logits, around 0 each, as the prior has it."""
    result = bradley_terry(games({"a": {"b": 14}, "b": {"a": 6}, "c": {"d": 12}, "d": {"c": 8}}), draws=20)
    models = result["models"]
    assert result["groups"] == [["a", "b"], ["c", "d"]]
    assert models["a"]["score"] - models["b"]["score"] == pytest.approx(logit(0.7), abs=3e-3)
    assert models["c"]["score"] + models["d"]["score"] == pytest.approx(0, abs=1e-9)
    assert models["a"]["low"] is None


def test_a_circle_of_wins_is_one_group() -> None:
    """a beats b, b beats c, c beats a: nobody is unbeaten, and all are equal."""
    result = bradley_terry(games({"a": {"b": 5}, "b": {"c": 5}, "c": {"a": 5}}), draws=20)
    assert result["groups"] == [["a", "b", "c"]]
    assert [model["score"] for model in result["models"].values()] == pytest.approx([0, 0, 0], abs=1e-9)


def test_every_pair_meets_on_every_sample() -> None:
    found = every_pair({"x": [1.0, 2.0], "y": [1.0, 3.0], "z": [0.0, 9.0]}, ["p", "q"])
    assert found == [
        Match("p", "x", "y", 0.5),
        Match("q", "x", "y", 0.0),
        Match("p", "x", "z", 1.0),
        Match("q", "x", "z", 0.0),
        Match("p", "y", "z", 1.0),
        Match("q", "y", "z", 0.0),
    ]


def test_elo_of_odds_of_ten() -> None:
    """Odds of 10 to 1 are 400 points; a score of 0 stands at 1000."""
    assert (elo(0.0), elo(math.log(10))) == (1000, pytest.approx(1400))


@pytest.mark.parametrize(
    ("matches", "said"),
    [
        ([], "no samples"),
        ([Match("p", "a", "a", 1.0)], "meets itself"),
        ([Match("p", "a", "b", 1.5)], "outcome 1.5"),
        ([Match("p", "a", "b", math.nan)], "outcome nan"),
    ],
)
def test_unusable_matches_are_refused(matches: list[Match], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bradley_terry(matches)


def test_unusable_scores_name_the_models() -> None:
    with pytest.raises(ValueError, match="x against y: value 1 is not finite"):
        every_pair({"x": [1.0, 2.0], "y": [1.0, math.nan]}, ["p", "q"])
    with pytest.raises(ValueError, match="1 scores of x for 2 prompts"):
        every_pair({"x": [1.0], "y": [1.0, 2.0]}, ["p", "q"])


# Length control


def test_two_lengths_have_a_closed_form() -> None:
    """a is 10 longer in 6,000 samples and wins 90% of them, 10 shorter in 4,000 and wins half: raw rate 0.74.

    With two values of the length term, ±t, the model is saturated: θ ± φt are the two logits, so θ is their mean,
    ln(9)/2, and the rate at equal length is 3/(1 + 3) = 0.75.
    """
    outcome = [1.0] * 5400 + [0.0] * 600 + [1.0] * 2000 + [0.0] * 2000
    a, b = [30.0] * 6000 + [20.0] * 4000, [20.0] * 6000 + [30.0] * 4000
    result = length_controlled_win_rate(outcome, a, b, names(10_000), draws=2)
    assert np.mean(outcome) == 0.74
    assert result["win_rate"] == pytest.approx(0.75, abs=1e-4)
    sd = math.sqrt(100 * 4 * 0.6 * 0.4 * 10_000 / 9_999)
    assert result["length_sd"] == pytest.approx(sd)
    assert result["length_effect"] == pytest.approx(logit(0.9) / 2 / math.tanh(10 / sd), rel=1e-3)


def length_only(rng: np.random.Generator, strength: float, size: int = 300) -> tuple[list[float], list[float]]:
    """Outcomes that depend on the difference in length alone, and that difference: a is mostly longer."""
    difference = rng.normal(80, 100, size)
    chance = (1 + np.tanh(strength * np.tanh(difference / 100) / 2)) / 2  # the logistic function, without overflow
    return (rng.random(size) < chance).astype(float).tolist(), difference.tolist()


@pytest.mark.parametrize("strength", [2.0, 1000.0])
def test_a_planted_length_only_winner_loses_its_advantage(strength: float) -> None:
    """The judge looks at length alone, softly or as an absolute rule (which separates the data): at equal length, ½."""
    outcome, difference = length_only(np.random.default_rng(4), strength)
    prompts = names(300)
    plain = statistics.win_rate(outcome, [1 - x for x in outcome], prompts, draws=500)
    controlled = length_controlled_win_rate(outcome, difference, [0.0] * 300, prompts, draws=500)
    assert plain["low"] > 0.6
    assert controlled["low"] <= 0.5 <= controlled["high"]
    assert controlled["win_rate"] == pytest.approx(0.5, abs=0.12) and controlled["length_effect"] > 1
    assert controlled["overlap"]


@pytest.mark.parametrize(("strength", "bias"), [(2.0, 0.0), (1000.0, 0.04)])
def test_length_control_takes_no_side_on_average(strength: float, bias: float) -> None:
    """50 such judges: the mean of the controlled rates is ½ within 3 standard errors.

    The absolute rule is a step; the ridge makes it a slope, on whose upper side more samples lie: a is mostly longer.
    """
    rng = np.random.default_rng(6)
    rates = []
    for _ in range(50):
        outcome, difference = length_only(rng, strength)
        rates.append(length_controlled_win_rate(outcome, difference, [0.0] * 300, names(300), draws=2)["win_rate"])
    assert np.mean(rates) == pytest.approx(0.5, abs=bias + 3 * np.std(rates) / math.sqrt(50))
    assert np.std(rates) < 0.1


def test_a_better_model_of_equal_length_keeps_its_win_rate() -> None:
    """No length differs: the score equation of the model term makes the fitted rate the plain one, 70%, but for the
    ridge.
    """
    outcome, prompts = [1.0] * 140 + [0.0] * 60, names(200)
    plain = statistics.win_rate(outcome, [1 - x for x in outcome], prompts, draws=2000)
    result = length_controlled_win_rate(outcome, [25.0] * 200, [25.0] * 200, prompts)
    assert result["win_rate"] == pytest.approx(0.7, abs=1e-3)
    assert result["low"] == pytest.approx(plain["low"], abs=1e-2)
    assert result["high"] == pytest.approx(plain["high"], abs=1e-2)


def test_a_better_model_keeps_its_win_rate_where_length_means_nothing() -> None:
    """Wins are independent of a length difference that is even around 0: control changes the rate by chance only."""
    rng = np.random.default_rng(5)
    outcome = (rng.random(2000) < 0.7).astype(float)
    difference = rng.normal(0, 50, 2000).tolist()
    result = length_controlled_win_rate(outcome.tolist(), difference, [0.0] * 2000, names(2000), draws=200)
    assert result["win_rate"] == pytest.approx(outcome.mean(), abs=0.005)
    assert abs(result["length_effect"]) < 0.25


def test_swapping_the_models_mirrors_length_control_and_ties_are_even() -> None:
    """Symmetry and identity, the two properties that Dubois et al. ask of a controlled win rate."""
    outcome, difference = length_only(np.random.default_rng(8), 1.0)
    zero, prompts = [0.0] * 300, names(300)
    there = length_controlled_win_rate(outcome, difference, zero, prompts, draws=100)
    back = length_controlled_win_rate([1 - x for x in outcome], zero, difference, prompts, draws=100)
    assert back["win_rate"] == pytest.approx(1 - there["win_rate"])
    assert (back["low"], back["high"]) == (pytest.approx(1 - there["high"]), pytest.approx(1 - there["low"]))
    even = length_controlled_win_rate([0.5] * 300, difference, zero, prompts, draws=10)
    assert (even["win_rate"], even["low"], even["high"]) == (0.5, 0.5, 0.5)


def test_an_unbeaten_model_does_not_explode() -> None:
    """50 wins of 50 at equal length: the likelihood's slope 50·(1 - p) balances the ridge's 0.1·logit p, at p near
    0.99.
    """
    result = length_controlled_win_rate([1.0] * 50, [9.0] * 50, [9.0] * 50, names(50), draws=20)
    assert 50 * (1 - result["win_rate"]) == pytest.approx(0.1 * logit(result["win_rate"]), rel=1e-5)


@pytest.mark.parametrize("length_a", [[20.0] * 40, [20.0 + i for i in range(40)], [*[20.0] * 99, 5.0]])
def test_without_overlap_in_length_nothing_is_claimed(length_a: list[float]) -> None:
    """a is longer always, by one amount or by several, or in 99 of 100, and always wins: length or quality? Nobody
    knows.
    """
    size = len(length_a)
    result = length_controlled_win_rate([1.0] * size, length_a, [10.0] * size, names(size), draws=20)
    assert not result["overlap"] and 0.5 < result["win_rate"] < 1


def test_samples_of_a_prompt_stay_together_under_length_control() -> None:
    """Ten copies of every sample under its prompt: the same interval, but for the weaker pull of the ridge."""
    outcome, difference = length_only(np.random.default_rng(9), 1.0, size=100)
    once = length_controlled_win_rate(outcome, difference, [0.0] * 100, names(100), draws=300)
    often = length_controlled_win_rate(outcome * 10, difference * 10, [0.0] * 1000, names(100) * 10, draws=300)
    assert often["prompts"] == 100
    for key in ("win_rate", "low", "high"):
        assert often[key] == pytest.approx(once[key], abs=0.01)


def test_length_control_covers_the_truth() -> None:
    """True rate at equal length σ(0.5) = 0.622. 80 prompts of two samples that share outcome and lengths, so that only
    an interval over prompts is wide enough. 300 trials: 0.95 ± 2.5·√(0.95·0.05/300) is 0.919 to 0.981.
    """
    rng = np.random.default_rng(21)
    truth, held, prompts = 1 / (1 + math.exp(-0.5)), 0, [str(i // 2) for i in range(160)]
    for trial in range(300):
        difference = rng.normal(0.5, 1.0, 80)
        won = rng.random(80) < 1 / (1 + np.exp(-0.5 - np.tanh(difference)))
        outcome, longer = np.repeat(won, 2).astype(float).tolist(), np.repeat(difference, 2).tolist()
        result = length_controlled_win_rate(outcome, longer, [0.0] * 160, prompts, draws=150, seed=trial)
        held += result["low"] <= truth <= result["high"]
    assert 0.919 <= held / 300 <= 0.981


def test_chunks_of_draws_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples at a time or all at once: the same draws, and fits that agree to the solver's tolerance."""
    outcome, difference = length_only(np.random.default_rng(2), 1.0, size=60)
    matches = every_pair({"a": outcome, "b": difference}, names(60))

    def both() -> list[float]:
        controlled = length_controlled_win_rate(outcome, difference, [0.0] * 60, names(60), draws=101)
        return [controlled["low"], controlled["high"], bradley_terry(matches, draws=101)["models"]["a"]["low"]]

    whole = both()
    monkeypatch.setattr(reward_statistics, "_CELLS", 1000)
    assert both() == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("outcome", "lengths", "prompts", "said"),
    [
        ([1.0], [1.0, 2.0], ["p", "q"], "1 outcomes, 2 and 2 lengths"),
        ([1.0, 2.0], [1.0, 2.0], ["p", "q"], "an outcome is"),
        ([1.0, 0.0], [1.0, math.nan], ["p", "q"], "lengths of sample 1 are not finite"),
        ([1.0, 0.0], [1.0, 2.0], ["p"], "give each value its prompt"),
        ([], [], [], "no samples"),
    ],
)
def test_unusable_input_to_length_control_is_refused(
    outcome: list[float], lengths: list[float], prompts: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        length_controlled_win_rate(outcome, lengths, [0.0] * len(lengths), prompts)


def test_a_fit_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_models, "_STEPS", 1)
    with pytest.raises(RuntimeError, match="no convergence"):
        bradley_terry([Match("p", "a", "b", 1.0)], draws=1)


def test_a_fit_finds_its_maximum_from_a_poor_start() -> None:
    """3 wins of 10 and a start at +8, where the curve is flat: undamped Newton leaps to -500 and never comes back."""
    one = np.ones((1, 1))
    found = ranking_models._fit(one, 3 * one, 10 * one, ridge=1e-9, start=np.array([8.0]))
    assert found.item() == pytest.approx(logit(0.3), abs=1e-6)
