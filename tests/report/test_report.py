"""Does the report claim only what its numbers allow, and does its page show text as text?"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison import Sample, changed, healthy, models, opinions, sample, summarise, written

from pipeline.comparison.pairing import Opinion
from pipeline.report import exports, numbers
from pipeline.report.verdict import verdict

ROOT = Path(__file__).resolve().parents[2]


def test_numbers_are_those_of_pencil_and_paper() -> None:
    """40 prompts. ppo's vader: (36 x 0.5 - 4 x 0.5)/40 = 0.4, reward twice that; sft's: (20 x 0.1 - 20 x 0.1)/40 = 0.

    ppo vs base: 36 wins, 4 losses: 0.9. sft vs base: 20 and 20: 0.5. A completion has two bigrams that no other
    completion has, so distinct-2 is 1. Difference of ppo and base: 0.4.
    """
    result = summarise(healthy())
    assert (result["prompts"], result["samples_per_model"]) == (40, 40)
    assert list(result["models"]) == ["base", "sft", "ppo"]
    ppo = result["models"]["ppo"]
    assert ppo["judge"] == {"vader": pytest.approx(0.4)}
    assert ppo["reward"] == pytest.approx(0.8)
    assert (ppo["length"], ppo["eos_rate"], ppo["distinct_2"], ppo["kl"]) == (10, 1, 1, 4)
    assert ppo["perplexity"] == 20
    assert ppo["intervals"]["vader"]["low"] < 0.4 < ppo["intervals"]["vader"]["high"]
    assert result["models"]["base"]["kl"] is None
    assert list(result["pairs"]) == ["ppo vs base", "ppo vs sft", "sft vs base"]
    won = result["pairs"]["ppo vs base"]["vader"]
    assert (won["wins"], won["ties"], won["losses"], won["win_rate"]) == (36, 0, 4, 0.9)
    assert won["difference"]["mean"] == pytest.approx(0.4)
    assert result["pairs"]["sft vs base"]["vader"]["win_rate"] == 0.5
    assert result["provenance"]["models"]["sft"]["sha256"] == "hash of sft"


def test_rates_and_means_are_over_all_samples() -> None:
    """Two seeds a prompt: lengths 10 and 20 have mean 15; one of two ended: 0.5; prompts stay 30."""
    rows = healthy(30)
    rows += [row | {"seed": 1, "length": 20, "eos": False} for row in rows]
    result = summarise(rows)
    assert (result["prompts"], result["samples_per_model"]) == (30, 60)
    assert (result["models"]["sft"]["length"], result["models"]["sft"]["eos_rate"]) == (15, 0.5)


def test_models_are_paired_by_prompt_and_seed_in_any_order() -> None:
    rows = healthy()
    assert summarise(rows[::-1])["pairs"] == summarise(rows)["pairs"]


def test_few_shot_joins_the_pairs_and_the_reading_order() -> None:
    result = summarise([sample("few_shot", i, 0.2) for i in range(40)] + healthy())
    assert list(result["models"]) == ["base", "few_shot", "sft", "ppo"]
    assert "ppo vs few_shot" in result["pairs"] and "than base (" in result["verdict"]
    assert "few_shot (" in result["verdict"]


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


# The verdict


def made(low: float, high: float, prompts: int = 100, **judges: tuple[float, float]) -> dict[str, Any]:
    """A report with only what verdict() needs: ppo vs sft with these intervals, rates in their middle."""

    def outcome(low: float, high: float) -> dict[str, float]:
        return {"win_rate": (low + high) / 2, "low": low, "high": high, "prompts": prompts}

    pair = {"vader": outcome(low, high)} | {name: outcome(*ends) for name, ends in judges.items()}
    ppo, sft = {"kl": 5.2, "length": 33.0}, {"kl": 0.0, "length": 30.0}
    found: dict[str, Any] = {"prompts": prompts, "models": {"sft": sft, "ppo": ppo}, "pairs": {"ppo vs sft": pair}}
    return found | {"main": "ppo", "optimised": "reward", "judges": [name for name in pair if name != "reward"]}


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.501, 0.7, "is better than sft"),
        (0.5, 0.7, "shows no difference from sft"),
        (0.499, 0.9, "shows no difference from sft"),
        (0.3, 0.5, "shows no difference from sft"),
        (0.3, 0.499, "is worse than sft"),
    ],
)
def test_verdict_claims_no_more_than_the_interval(low: float, high: float, says: str) -> None:
    sentence = verdict(made(low, high))
    assert says in sentence and "By vader, the aligned model (ppo)" in sentence
    assert sum(verb in sentence for verb in ("better", "worse", "no difference")) == 1


def test_verdict_gives_rate_interval_kl_length_and_the_optimised_reward() -> None:
    """Rate (0.6 + 0.7)/2 = 65%; length 33/30 = 1.10; optimised reward (0.9 + 1)/2 = 95%."""
    sentence = verdict(made(0.6, 0.7, reward=(0.9, 1.0)))
    assert sentence == (
        "By vader, the aligned model (ppo) is better than sft (win rate 65.0%, 95% interval 60.0–70.0%), "
        "over 100 prompts. That came at a KL of 5.2 nats to sft and 1.10 times the length of sft. "
        "The reward that training optimised, which is no independent judge, gives it a win rate of 95.0% against sft."
    )


def test_optimised_reward_alone_is_a_weak_claim() -> None:
    given = made(0.6, 0.7, reward=(0.9, 1.0))
    del given["pairs"]["ppo vs sft"]["vader"]
    given["judges"] = []
    sentence = verdict(given)
    assert sentence.startswith("Only the reward that training optimised judged, so the claim is weak: by it, ")


def test_a_reward_cannot_make_ppo_better_where_the_judge_does_not() -> None:
    sentence = verdict(made(0.4, 0.6, reward=(0.9, 1.0)))
    assert "shows no difference from sft" in sentence and "better" not in sentence


def test_judges_that_disagree_are_both_named() -> None:
    sentence = verdict(made(0.6, 0.7, strict=(0.2, 0.3)))
    assert "By vader, the aligned model (ppo) is better than sft" in sentence
    assert "by strict, it is worse than sft" in sentence


def test_few_prompts_allow_no_claim() -> None:
    """A model that wins on all of 5 prompts has the interval 1 to 1: no width, and no proof."""
    sentence = verdict(made(1.0, 1.0, prompts=5))
    assert "has too few prompts to be told from sft" in sentence and "better" not in sentence
    assert "better" in verdict(made(1.0, 1.0, prompts=20))


def test_verdict_without_ppo_sft_or_kl() -> None:
    assert verdict(made(0.6, 0.7) | {"pairs": {}}).startswith("No verdict")
    alone = made(0.6, 0.7)
    alone["models"]["base"] = alone["models"].pop("sft")
    alone["models"]["ppo"]["kl"] = None
    assert "at an unmeasured KL and 1.10 times the length of base" in verdict(alone)
    alone["models"]["base"]["length"] = 0.0
    assert "33.0 tokens a completion (base writes none)" in verdict(alone)


# The warnings


def test_a_healthy_run_has_no_warnings() -> None:
    assert summarise(healthy())["warnings"] == []


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("ppo", {"kl": 10.5}, "10.5 nats, above 10"),
        ("ppo", {"kl": None}, "was not measured"),
        ("ppo", {"length": 16}, "a ratio outside 0.7 to 1.5"),
        ("ppo", {"length": 6}, "a ratio outside 0.7 to 1.5"),
        ("ppo", {"eos": False}, "ppo ends 0% of its completions by itself and sft 100%"),
        ("ppo", {"tokens": [1, 2]}, "distinct-2 fell from 1.00 (sft) to 0.05 (ppo)"),
    ],
)
def test_each_sign_of_trouble_is_named_alone(model: str, change: dict[str, Any], said: str) -> None:
    """Tokens 1 2 in each of 20 completions: 1 distinct bigram of 20 = 0.05."""
    found = summarise(changed(healthy(20), model, **change))["warnings"]
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("change", [{"kl": 10.0}, {"length": 15}, {"length": 7}])
def test_limits_themselves_are_allowed(change: dict[str, Any]) -> None:
    assert summarise(changed(healthy(), "ppo", **change))["warnings"] == []


def test_trouble_of_sft_is_not_blamed_on_ppo() -> None:
    assert summarise(changed(healthy(), "sft", eos=False, tokens=[1, 2, 3]))["warnings"] == []


def test_reward_up_without_the_judge_is_over_optimisation() -> None:
    rows = [
        row | {"scores": {"reward": 3.0, "vader": row["scores"]["vader"] if i % 2 else -1.0}}
        if row["model"] == "ppo"
        else row
        for i, row in enumerate(healthy())
    ]
    found = summarise(rows)["warnings"]
    assert len(found) == 1 and "vader does not confirm" in found[0]


def test_few_prompts_and_missing_judges_or_sft_are_named() -> None:
    assert "Only 12 prompts" in summarise(healthy(12))["warnings"][0]
    assert "No independent judge" in summarise(healthy(), judges=[])["warnings"][0]
    without = [row for row in healthy() if row["model"] != "sft"]
    assert "There is no sft model" in summarise(without)["warnings"][0]


# The files


def test_all_files_are_written_and_read_back(tmp_path: Path) -> None:
    rows = healthy()
    folder = tmp_path / "new" / "compare"
    written(rows, folder)
    assert {path.name for path in folder.iterdir()} == set(exports.FILES)
    kept = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert kept == rows
    assert json.loads((folder / "report.json").read_text("utf-8")) == summarise(rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path: Path, bad: float) -> None:
    rows = healthy()
    good = summarise(rows)
    broken = copy.deepcopy(good)
    broken["models"]["ppo"]["perplexity"] = bad
    with pytest.raises(ValueError, match=r"report\.models\.ppo\.perplexity is "):
        exports.write(broken, rows, opinions(), tmp_path)
    with pytest.raises(ValueError, match=r"samples\[0\]\.scores\.vader is "):
        spoilt = [sample("base", 0, 0.0, scores={"reward": 0.0, "vader": bad}), *rows[1:]]
        exports.write(good, spoilt, opinions(), tmp_path)
    with pytest.raises(ValueError, match=r"report\.provenance\.loss\[1\] is "):
        numbers.summarise(rows, models(), opinions(), provenance={"loss": [1.0, bad]}, draws=10)
    assert list(tmp_path.iterdir()) == []


# Pairs, judges of other kinds, what is beside the win rate


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
    assert list(result["models"]) == ["base", "zeta", "alpha"] and result["main"] == "alpha"
    assert result["verdict"].startswith("By vader, alpha shows no difference from base (")


def test_the_sft_model_passed_as_ppo_shows_no_difference() -> None:
    """The same noise gives the same completions, so all 40 tie: 50%, and Wilson's interval over 40 prompts is 35.2 to
    64.8% (Newcombe's method 3 at 20 of 40)."""
    rows = [row for row in healthy() if row["model"] != "ppo"]
    rows += [row | {"model": "ppo"} for row in rows if row["model"] == "sft"]
    found = summarise(rows)
    sentence = found["verdict"]
    assert "shows no difference from" in sentence and "sft (50.0%, 35.2–64.8%)" in sentence
    assert "better" not in sentence and "worse" not in sentence
    assert "Every completion of ppo is identical to that of sft, so each comparison with it is a tie." in sentence
    assert any(w.startswith("ppo and sft gave the same completions throughout") for w in found["warnings"])
    assert found["identical"] == {"base": 0.0, "sft": 1.0}


def test_one_completion_that_differs_is_not_called_identical() -> None:
    """Neither in its text nor in whether it ended: 39 of 40 is 0.975."""
    rows = [row for row in healthy() if row["model"] != "ppo"]
    rows += [row | {"model": "ppo"} for row in rows if row["model"] == "sft"]
    for changes in ({"completion": "other"}, {"eos": False}):
        found = summarise([*rows[:-1], rows[-1] | changes])
        assert found["identical"]["sft"] == 0.975
        assert "identical" not in found["verdict"] and not any("same completions" in w for w in found["warnings"])


def test_rivals_are_told_in_a_sentence_of_their_own() -> None:
    """dpo beats ppo on 4 prompts of 40 only (those where ppo has -0.5): ppo wins 90%."""
    rows = healthy() + [sample("dpo", i, 0.2, kl=1.0) for i in range(40)]
    first, second = summarise(rows)["verdict"].split(" Beside the other methods: ")
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
    outcome = result["pairs"]["ppo vs sft"]["people"]
    assert (outcome["wins"], outcome["ties"], outcome["losses"], outcome["unjudged"]) == (20, 5, 5, 10)
    assert outcome["win_rate"] == pytest.approx(0.75) and outcome["prompts"] == 30 and outcome["difference"] is None
    assert "people" not in result["pairs"]["ppo vs base"] and result["judges"] == ["people", "vader"]
    assert result["verdict"].startswith("By people, the aligned model (ppo) is better than sft (win rate 75.0%")
    assert "(on 30 prompts or more)" in result["verdict"]
    assert result["panel"]["people"] == {"label": "human", "scores": False, "summary": {"votes": 3}}


def test_a_pair_judged_the_other_way_round_is_turned() -> None:
    keys = [(f"p{i:02}", 0) for i in range(40)]
    given = votes({("sft", "ppo"): dict.fromkeys(keys, 0.0)})
    result = numbers.summarise(healthy(), models(), given, provenance={}, draws=100)
    outcome = result["pairs"]["ppo vs sft"]["people"]
    assert outcome["wins"] == 40 and outcome["length_controlled"] is None  # nothing to fit where all went one way


def test_what_a_language_model_left_unjudged_is_counted_over_all_pairs() -> None:
    """Two of three pairs not at all, 40 each, and 10 of the third: 90."""
    said = {(f"p{i:02}", 0): 1.0 for i in range(30)}
    llm = Opinion("m", "LLM", {("ppo", "base"): said}, {"failures": 3, "not_asked": 177})
    result = numbers.summarise(healthy(), models(), [*opinions(), llm], provenance={}, draws=50)
    assert result["warnings"][0].startswith(
        "m left 90 comparisons unjudged (3 questions failed, 177 were beyond max_calls)"
    )


def test_wilson_and_the_length_controlled_rate_stand_beside_the_bootstrap() -> None:
    """36 of 40: Wilson by method 3 of Newcombe 1998 with z = 1.96, reckoned apart:
    (72 + 3.8415 ± 1.96·sqrt(3.8415 + 4·36·0.1)) / (2·43.8415) = 0.7695 and 0.9604."""
    outcome = summarise(healthy())["pairs"]["ppo vs base"]["vader"]
    assert outcome["wilson"]["low"] == pytest.approx(0.7695, abs=1e-4)
    assert outcome["wilson"]["high"] == pytest.approx(0.9604, abs=1e-4)
    # " base 3" is a letter longer than " ppo 3" on every prompt, so length cannot be told from quality
    assert outcome["length_controlled"]["overlap"] is False


def test_ranking_agreement_and_slices_are_there() -> None:
    """ppo beats base 36:4 and sft 36:4, sft and base 20:20: ppo is ranked first. vader and the reward, which is twice
    it, agree on all comparisons: kappa and tau-b 1."""
    rows = [row | {"tag": "even" if int(row["prompt_id"][1:]) % 2 == 0 else "odd"} for row in healthy()]
    result = summarise(rows)
    assert list(result["ranking"]["vader"]["models"])[0] == "ppo"
    (pair,) = result["agreement"]["pairs"]
    assert pair["kappa"] == pytest.approx(1) and pair["tau_b"] == pytest.approx(1) and pair["equal"]["mean"] == 1
    tags = result["slices"]["judges"]["vader"]["tag"]
    # ppo loses on 0, 10, 20, 30, which are even: 16 of 20 there, 20 of 20 elsewhere
    assert (tags["even"]["win_rate"], tags["odd"]["win_rate"]) == (0.8, 1.0)
    assert result["slices"]["pair"] == "ppo vs sft" and "source" not in result["slices"]["judges"]["vader"]


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
    found = [(point["name"], point["kind"], point["kl"]) for point in result["frontier"]]
    assert found == [
        ("sft", "model", 0.0),
        ("ppo", "model", 4.0),
        ("best_of_16", "bound", bound),
        ("ppo", "training", 0.0),
        ("ppo", "training", 1.0),
    ]


@pytest.mark.parametrize(
    ("high", "optimised", "raised"), [(-0.01, 0.5, True), (0.01, 0.5, False), (-0.01, -0.1, False)]
)
def test_a_judge_that_falls_while_the_reward_rises_is_a_warning(high: float, optimised: float, raised: bool) -> None:
    steps = [{"step": s, "kl": None, "scores": {"vader": {"mean": 0.0, "low": 0.0, "high": 0.0}}} for s in (0, 10)]
    fall = {"step": 0, "mean": -0.2, "low": -0.4, "high": high, "optimised": optimised}
    training = {"steps": steps, "since_peak": {"vader": fall}}
    found = summarise(healthy(), training=training)["warnings"]
    assert [text for text in found if "vader fell by 0.20 since step 0" in text] == (found if raised else [])
    assert bool(found) is raised


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tokens": [1, 2, 3, 4, 1, 2, 3, 4]},
            "4-gram repetition rose from 0.0% (sft) to 20.0% (ppo), by more than 5 points",
        ),
        ({"completion": "I'm sorry, but no."}, "refusals rose from 0.0% (sft) to 100.0% (ppo), by more than 10 points"),
        ({"entropy": 0.9}, "Entropy fell from 2.00 (sft) to 0.90 nats a token (ppo)"),
    ],
)
def test_side_effects_are_warned_of(change: dict[str, Any], said: str) -> None:
    """Tokens 1234 1234 hold five 4-grams, of which the last is the first again: 20%."""
    rows = changed([row | {"entropy": 2.0} for row in healthy(20)], "ppo", **change)
    assert any(said in text for text in summarise(rows)["warnings"])


def test_every_sign_names_its_threshold_and_its_source() -> None:
    rows = [row | {"entropy": 2.0} for row in healthy()]
    signs = summarise(rows)["signs"]
    names = {sign["name"] for sign in signs}
    assert {"KL to sft", "length", "EOS rate", "distinct-2", "4-gram repetition", "refusals", "entropy"} <= names
    assert "perplexity on demonstrations" in names and "judges confirm the reward" in names
    assert all(sign["threshold"] and sign["source"] and sign["warning"] is None for sign in signs)


def test_perplexity_that_rises_is_the_alignment_tax() -> None:
    """26 against 20 is 1.3 times, above 1.25; 25 is on the limit."""
    given = models()
    for figure, raised in ((26.0, True), (25.0, False)):
        given["ppo"]["perplexity"] = figure
        found = numbers.summarise(healthy(), given, opinions(), provenance={}, draws=50)["warnings"]
        assert any("more than 1.25 times" in text for text in found) is raised


def test_exactly_one_judge_is_the_optimised_one() -> None:
    with pytest.raises(ValueError, match="2 judges are labelled optimised"):
        numbers.summarise(healthy(), models(), [*opinions(), Opinion("vader", "optimised")], provenance={})


def test_the_same_input_gives_the_same_files_but_for_the_time(tmp_path: Path) -> None:
    """In another process too, where sets have another order."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\nfrom pathlib import Path\nimport comparison\n"
        "rows = [row | {'tag': row['prompt_id'][-1], 'source': 's'} for row in comparison.healthy()]\n"
        "comparison.written(rows, Path(sys.argv[1]), provenance={'made': sys.argv[2]})"
    )
    texts = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(folder), f"at {seed}"], check=True, env=environment, cwd=ROOT)
        texts.append({p.name: p.read_text("utf-8").replace(f"at {seed}", "at T") for p in sorted(folder.iterdir())})
    assert texts[0] == texts[1] and len(texts[0]) == len(exports.FILES)
