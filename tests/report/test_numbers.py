"""Are the report's numbers those of pencil and paper, paired, judged and ordered as they should be?"""

import math
from collections.abc import Callable

import pytest
from comparison import Sample, healthy, models, opinions, sample, summarise

from pipeline.comparison.pairing import Opinion
from pipeline.report import numbers
from pipeline.report.findings import Member


def test_numbers_are_those_of_pencil_and_paper() -> None:
    """40 prompts. ppo's vader: (36 x 0.5 - 4 x 0.5)/40 = 0.4, reward twice that; sft's: (20 x 0.1 - 20 x 0.1)/40 = 0.

    ppo vs base: 36 wins, 4 losses: 0.9. sft vs base: 20 and 20: 0.5. A completion has two bigrams that no other
    completion has, so distinct-2 is 1. Difference of ppo and base: 0.4.
    """
    result = summarise(healthy())
    assert (result.prompts, result.samples_per_model) == (40, 40)
    assert list(result.models) == ["base", "sft", "ppo"]
    ppo = result.models["ppo"]
    assert ppo.judge == {"vader": pytest.approx(0.4)}
    assert ppo.reward == pytest.approx(0.8)
    assert (ppo.length, ppo.eos_rate, ppo.distinct_2, ppo.kl) == (10, 1, 1, 4)
    assert ppo.perplexity == 20
    assert ppo.intervals["vader"]["low"] < 0.4 < ppo.intervals["vader"]["high"]
    assert result.models["base"].kl is None
    assert list(result.pairs) == ["ppo vs base", "ppo vs sft", "sft vs base"]
    won = result.pairs["ppo vs base"]["vader"]
    assert (won["wins"], won["ties"], won["losses"], won["win_rate"]) == (36, 0, 4, 0.9)
    assert won["difference"]["mean"] == pytest.approx(0.4)
    assert result.pairs["sft vs base"]["vader"]["win_rate"] == 0.5
    assert result.provenance["models"]["sft"]["sha256"] == "hash of sft"


def test_rates_and_means_are_over_all_samples() -> None:
    """Two seeds a prompt: lengths 10 and 20 have mean 15; one of two ended: 0.5; prompts stay 30."""
    rows = healthy(30)
    rows += [row | {"seed": 1, "length": 20, "eos": False} for row in rows]
    result = summarise(rows)
    assert (result.prompts, result.samples_per_model) == (30, 60)
    assert (result.models["sft"].length, result.models["sft"].eos_rate) == (15, 0.5)


def test_models_are_paired_by_prompt_and_seed_in_any_order() -> None:
    rows = healthy()
    assert summarise(rows[::-1]).pairs == summarise(rows).pairs


def test_few_shot_joins_the_pairs_and_the_reading_order() -> None:
    result = summarise([sample("few_shot", i, 0.2) for i in range(40)] + healthy())
    assert list(result.models) == ["base", "few_shot", "sft", "ppo"]
    assert "ppo vs few_shot" in result.pairs and "than base (" in result.verdict
    assert "few_shot (" in result.verdict


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[:-1], "ppo and base were not sampled alike.*p39"),
        (lambda rows: rows + rows[:1], "base has two samples of prompt 'p00' with seed 0"),
        (lambda rows: [rows[0] | {"prompt": "other"}, *rows[1:]], "prompt 'p00' has two texts"),
        (lambda rows: [*rows[:-1], rows[-1] | {"kl": None}], "ppo: 1 of 40 samples have no kl"),
        (lambda rows: [*rows[:-1], rows[-1] | {"kl": math.inf}], "not finite"),
        (lambda rows: [*rows[:-1], rows[-1] | {"scores": {"reward": 1.0}}], "prompt 'p39' has no score by 'vader'"),
        (lambda rows: [*rows[:-1], rows[-1] | {"scores": {"reward": math.nan, "vader": 0.0}}], "not finite"),
        (lambda rows: [], "no samples"),
    ],
)
def test_samples_that_do_not_pair_up_are_refused(spoil: Callable[[list[Sample]], list[Sample]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        numbers.summarise(spoil(healthy()), models(), opinions(), provenance={}, draws=10)


def test_models_and_samples_must_agree() -> None:
    with pytest.raises(ValueError, match=r"samples are of \['base', 'ppo', 'sft'\] but models describes \['ppo'\]"):
        numbers.summarise(healthy(), models("ppo"), opinions(), provenance={})


def test_pairs_are_the_main_model_against_all_then_the_rest_against_base_and_sft() -> None:
    assert numbers.pairs_of(["base", "sft", "ppo", "dpo"]) == [
        ("ppo", "base"),
        ("ppo", "sft"),
        ("ppo", "dpo"),
        ("sft", "base"),
        ("dpo", "base"),
        ("dpo", "sft"),
    ]
    assert numbers.pairs_of(["base"]) == []
    # without ppo the last model is the one that the report is about
    assert numbers.pairs_of(["base", "sft", "org/model"]) == [
        ("org/model", "base"),
        ("org/model", "sft"),
        ("sft", "base"),
    ]


def test_unknown_models_keep_the_order_in_which_they_are_described() -> None:
    rows = [sample(name, i, 0.1) for name in ("zeta", "alpha", "base") for i in range(20)]
    result = summarise(rows)
    assert list(result.models) == ["base", "zeta", "alpha"] and result.main == "alpha"
    assert result.verdict.startswith("By vader, alpha shows no difference from base (")


def test_the_sft_model_passed_as_ppo_shows_no_difference() -> None:
    """The same noise gives the same completions, so all 40 tie: 50%, and Wilson's interval over 40 prompts is 35.2 to
    64.8% (Newcombe's method 3 at 20 of 40)."""
    rows = [row for row in healthy() if row["model"] != "ppo"]
    rows += [row | {"model": "ppo"} for row in rows if row["model"] == "sft"]
    found = summarise(rows)
    sentence = found.verdict
    assert "shows no difference from" in sentence and "sft (50.0%, 35.2–64.8%)" in sentence
    assert "better" not in sentence and "worse" not in sentence
    assert "Every completion of ppo is identical to that of sft, so each comparison with it is a tie." in sentence
    assert any(w.startswith("ppo and sft gave the same completions throughout") for w in found.warnings)
    assert found.identical == {"base": 0.0, "sft": 1.0}


def test_one_completion_that_differs_is_not_called_identical() -> None:
    """Neither in its text nor in whether it ended: 39 of 40 is 0.975."""
    rows = [row for row in healthy() if row["model"] != "ppo"]
    rows += [row | {"model": "ppo"} for row in rows if row["model"] == "sft"]
    for changes in ({"completion": "other"}, {"eos": False}):
        found = summarise([*rows[:-1], rows[-1] | changes])
        assert found.identical["sft"] == 0.975
        assert "identical" not in found.verdict and not any("same completions" in w for w in found.warnings)


def test_rivals_are_told_in_a_sentence_of_their_own() -> None:
    """dpo beats ppo on 4 prompts of 40 only (those where ppo has -0.5): ppo wins 90%."""
    rows = healthy() + [sample("dpo", i, 0.2, kl=1.0) for i in range(40)]
    first, second = summarise(rows).verdict.split(" Beside the other methods: ")
    assert "dpo" not in first
    assert second.startswith("by vader, it is better than dpo (win rate 90.0%, 95% interval ")


def votes(values: dict[tuple[str, str], dict[tuple[str, int], float]]) -> list[Opinion]:
    return [*opinions(), Opinion("people", "human", values, {"votes": 3})]


def test_a_judge_that_only_compares_is_read_as_majority_and_counts_what_it_left_out() -> None:
    """People judged 30 of 40 prompts of ppo vs sft: 20 for ppo (one by 2 of 3 votes), 5 ties, 5 for sft.
    (20 + 5/2)/30 = 75%. They are named before every other judge."""
    keys = [(f"p{i:02}", 0) for i in range(30)]
    said = dict(zip(keys, [2 / 3, *[1.0] * 19, *[0.5] * 5, *[0.0] * 5], strict=True)) | {("p39", 0): math.nan}
    result = numbers.summarise(healthy(), models(), votes({("ppo", "sft"): said}), provenance={}, draws=100)
    outcome = result.pairs["ppo vs sft"]["people"]
    assert (outcome["wins"], outcome["ties"], outcome["losses"], outcome["unjudged"]) == (20, 5, 5, 10)
    assert outcome["win_rate"] == pytest.approx(0.75) and outcome["prompts"] == 30 and outcome["difference"] is None
    assert "people" not in result.pairs["ppo vs base"] and result.judges == ["people", "vader"]
    assert result.verdict.startswith("By people, the aligned model (ppo) is better than sft (win rate 75.0%")
    assert "(on 30 prompts or more)" in result.verdict
    assert result.panel["people"] == Member("human", False, {"votes": 3})


def test_a_pair_judged_the_other_way_round_is_turned() -> None:
    keys = [(f"p{i:02}", 0) for i in range(40)]
    given = votes({("sft", "ppo"): dict.fromkeys(keys, 0.0)})
    result = numbers.summarise(healthy(), models(), given, provenance={}, draws=100)
    outcome = result.pairs["ppo vs sft"]["people"]
    assert outcome["wins"] == 40 and outcome["length_controlled"] is None  # nothing to fit where all went one way


def test_what_a_language_model_left_unjudged_is_counted_over_all_pairs() -> None:
    """Two of three pairs not at all, 40 each, and 10 of the third: 90."""
    said = {(f"p{i:02}", 0): 1.0 for i in range(30)}
    llm = Opinion("m", "LLM", {("ppo", "base"): said}, {"failures": 3, "not_asked": 177})
    result = numbers.summarise(healthy(), models(), [*opinions(), llm], provenance={}, draws=50)
    assert result.warnings[0].startswith(
        "m left 90 comparisons unjudged (3 questions failed, 177 were beyond max_calls)"
    )


def test_wilson_and_the_length_controlled_rate_stand_beside_the_bootstrap() -> None:
    """36 of 40: Wilson by method 3 of Newcombe 1998 with z = 1.96, reckoned apart:
    (72 + 3.8415 ± 1.96·sqrt(3.8415 + 4·36·0.1)) / (2·43.8415) = 0.7695 and 0.9604."""
    outcome = summarise(healthy()).pairs["ppo vs base"]["vader"]
    assert outcome["wilson"]["low"] == pytest.approx(0.7695, abs=1e-4)
    assert outcome["wilson"]["high"] == pytest.approx(0.9604, abs=1e-4)
    # " base 3" is a letter longer than " ppo 3" on every prompt, so length cannot be told from quality
    assert outcome["length_controlled"]["overlap"] is False


def test_ranking_agreement_and_slices_are_there() -> None:
    """ppo beats base 36:4 and sft 36:4, sft and base 20:20: ppo is ranked first. vader and the reward, which is twice
    it, agree on all comparisons: kappa and tau-b 1."""
    rows = [row | {"tag": "even" if int(row["prompt_id"][1:]) % 2 == 0 else "odd"} for row in healthy()]
    result = summarise(rows)
    assert list(result.ranking["vader"]["models"])[0] == "ppo"
    (pair,) = result.agreement["pairs"]
    assert pair["kappa"] == pytest.approx(1) and pair["tau_b"] == pytest.approx(1) and pair["equal"]["mean"] == 1
    tags = result.slices["judges"]["vader"]["tag"]
    # ppo loses on 0, 10, 20, 30, which are even: 16 of 20 there, 20 of 20 elsewhere
    assert (tags["even"]["win_rate"], tags["odd"]["win_rate"]) == (0.8, 1.0)
    assert result.slices["pair"] == "ppo vs sft" and "source" not in result.slices["judges"]["vader"]


def test_the_frontier_holds_models_bounds_and_training() -> None:
    """log 16 - 15/16 = 1.835; a model without KL (base here) is not on it."""
    bound = math.log(16) - 15 / 16
    rows = healthy() + [sample("best_of_16", i, 0.3, kl=None) for i in range(40)]
    given = models("base", "sft", "ppo", "best_of_16")
    given["best_of_16"]["kl_bound"] = bound
    point = {"mean": 0.1, "low": 0.0, "high": 0.2}
    steps = [{"step": s, "kl": s / 10, "scores": {"reward": point, "vader": point}} for s in (0, 10)]
    training = {"steps": steps, "since_peak": {}}
    result = numbers.summarise(rows, given, opinions(), provenance={}, training=training, draws=50)
    found = [(point.name, point.kind, point.kl) for point in result.frontier]
    assert found == [
        ("sft", "model", 0.0),
        ("ppo", "model", 4.0),
        ("best_of_16", "bound", bound),
        ("ppo", "training", 0.0),
        ("ppo", "training", 1.0),
    ]


def test_exactly_one_judge_is_the_optimised_one() -> None:
    with pytest.raises(ValueError, match="2 judges are labelled optimised"):
        numbers.summarise(healthy(), models(), [*opinions(), Opinion("vader", "optimised")], provenance={})
