"""Is pass@k the unbiased estimator, do its intervals count prompts, and do the words claim what a verifier shows and no more?"""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import models, sample
from scipy.stats import hypergeom

from pipeline import statistics
from pipeline.comparison.pairing import Opinion, paired
from pipeline.report import exports, numbers, passes
from pipeline.report.answer import answer
from pipeline.report.findings import Report
from pipeline.settings.config import Config

CHECK = "reward.verifiers:number"


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_it_is_the_share_of_all_choices_that_hold_a_right_one(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert statistics.pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, choices)), len(choices))))


def test_it_is_one_less_the_hypergeometric_chance_of_none() -> None:
    """scipy's own, at the sizes of Chen et al. 2021 (n = 200, k to 100), where C(n, k) is no float."""
    for c, k in itertools.product((0, 1, 7, 150, 200), (1, 10, 100)):
        assert statistics.pass_at_k(200, c, k) == pytest.approx(1 - hypergeom.pmf(0, 200, c, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_more_tries_than_samples_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="give 1 to"):
        statistics.pass_at_k(n, c, k)


def solved(right: dict[str, list[list[int]]], tags: list[str] | None = None) -> list[dict[str, Any]]:
    """right: model -> prompt -> sample -> 0 or 1."""
    rows = []
    for model, by_prompt in right.items():
        for prompt, marks in enumerate(by_prompt):
            for seed, mark in enumerate(marks):
                scores = {"reward": float(mark), CHECK: float(mark)}
                more = {} if tags is None else {"tag": tags[prompt]}
                rows.append(sample(model, prompt, 0.0, seed=seed, scores=scores, **more))
    return rows


def report(rows: list[dict[str, Any]], label: Any = "verifier", optimised: str = CHECK) -> Report:
    opinions = [Opinion("reward", "optimised"), Opinion(CHECK, label)]
    names = list(dict.fromkeys(row["model"] for row in rows))
    told = {"score that was optimised": optimised}
    return numbers.summarise(rows, models(*names), opinions, provenance=told, draws=500)


# 40 prompts, four samples: sft solves 1 of 4 of the even ones, ppo 3 of 4 of all
RIGHT = {"sft": [[1, 0, 0, 0] if p % 2 == 0 else [0] * 4 for p in range(40)], "ppo": [[1, 1, 0, 1]] * 40}
TAGS = ["chain" if p < 24 else "bare" for p in range(40)]


def test_figures_of_models_pairs_and_tasks() -> None:
    """By hand: sft pass@1 (½·¼) = ⅛, pass@4 ½, pass@2 ½·(1 − 3/6) = ¼; ppo ¾, 1, 1."""
    own = report(solved(RIGHT, TAGS)).passes[CHECK]
    assert own["samples"] == 4 and own["k"] == [1, 2, 4] and list(own["tasks"]) == ["all", "bare", "chain"]
    every = own["tasks"]["all"]
    means = {model: [found["mean"] for found in tries.values()] for model, tries in every["models"].items()}
    assert means == {"sft": pytest.approx([0.125, 0.25, 0.5]), "ppo": pytest.approx([0.75, 1.0, 1.0])}
    gap = every["pairs"]["ppo vs sft"]["pass@1"]
    assert gap["mean"] == pytest.approx(0.625)
    # half of the prompts gain ¾, half ½: sd 1/8, so the mean of 40 has a standard error of 1/8/√40
    assert gap["low"] == pytest.approx(0.625 - 1.96 * 0.125 / 40**0.5, abs=0.012)
    assert gap["high"] == pytest.approx(0.625 + 1.96 * 0.125 / 40**0.5, abs=0.012)
    assert (
        own["tasks"]["chain"]["prompts"] == 24 and own["tasks"]["chain"]["models"]["sft"]["pass@1"]["low"] is not None
    )
    assert own["tasks"]["bare"]["prompts"] == 16 and own["tasks"]["bare"]["models"]["sft"]["pass@1"]["low"] is None


def test_all_right_has_wilsons_width() -> None:
    """Wilson for 40 of 40: low = 1/(1 + z²/40) = 0.9124, Newcombe 1998."""
    found = report(solved(RIGHT)).passes[CHECK]["tasks"]["all"]["models"]["ppo"]["pass@4"]
    assert (
        found["mean"] == 1 and found["high"] == 1 and found["low"] == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)
    )


def test_samples_of_a_prompt_are_no_further_prompts() -> None:
    """Doubling the samples of each prompt, all alike, leaves the interval as it is."""
    once = {model: [marks[:1] for marks in by_prompt] for model, by_prompt in RIGHT.items()}
    twice = {model: [marks[:1] * 2 for marks in by_prompt] for model, by_prompt in RIGHT.items()}
    first, second = (
        report(solved(rows)).passes[CHECK]["tasks"]["all"]["models"]["sft"]["pass@1"] for rows in (once, twice)
    )
    assert first == second


def test_the_verdict_and_the_answer_speak_of_right_answers() -> None:
    found = report(solved(RIGHT, TAGS))
    assert (
        f"By {CHECK}, the aligned model (ppo) is better than sft (pass@1 75.0% against 12.5%, +62.5 points, 95% interval"
        in found.verdict
    )
    assert f"Training maximised {CHECK} itself, on other prompts; on these it is no proxy" in found.verdict
    assert "no independent judge" not in found.verdict and "win rate" not in found.verdict
    assert "Within 4 tries (pass@4) ppo solves 100.0% against 50.0% of sft (+50.0 points" in found.verdict
    assert "pass@1 of each task: bare 75.0% against 12.5% of sft (+62.5 points); chain 75.0%" in found.verdict
    assert str(answer(found)) == "Yes. Right in 75.0% of its answers, its fine-tuned start in 12.5%."
    assert not [sign for sign in found.signs if sign.name == "judges confirm the reward"]


def test_a_fall_and_no_difference_are_told_as_such() -> None:
    fall = report(solved({"sft": RIGHT["ppo"], "ppo": RIGHT["sft"]}))
    assert "is worse than sft (pass@1 12.5% against 75.0%, −62.5 points" in fall.verdict
    assert str(answer(fall)) == "No. Right in only 12.5% of its answers, its fine-tuned start in 75.0%."
    same = report(solved({"sft": RIGHT["sft"], "ppo": [marks[::-1] for marks in RIGHT["sft"]]}))
    assert "shows no difference from sft (pass@1 12.5% against 12.5%, +0.0 points" in same.verdict
    assert answer(same).word == "Cannot tell"


def test_a_verifier_beside_a_reward_model_is_a_judge_like_others() -> None:
    found = report(solved(RIGHT), optimised="reward")
    assert "The reward that training optimised, which is no independent judge" in found.verdict
    assert [sign.figure for sign in found.signs if sign.name == "judges confirm the reward"] == ["1 of 1 judges"]


def test_only_judges_of_right_and_wrong_have_it() -> None:
    rows = solved(RIGHT)
    rows[3]["scores"][CHECK] = 0.5
    found = passes.block(
        [Opinion("reward", "optimised"), Opinion(CHECK, "independent")], paired(rows, models("sft", "ppo"))
    )
    assert list(found) == ["reward"], "the optimised score is right or wrong, the other one no more"
    assert list(report(solved(RIGHT)).passes) == [CHECK], "beside a verifier the optimised score is not told twice"


def test_the_win_rate_says_the_same() -> None:
    """½ + half the difference, ends and all: so the claims of both never part."""
    found = report(solved(RIGHT))
    pair, gap = found.pairs["ppo vs sft"][CHECK], found.passes[CHECK]["tasks"]["all"]["pairs"]["ppo vs sft"]["pass@1"]
    for ours, theirs in (("win_rate", "mean"), ("low", "low"), ("high", "high")):
        assert pair[ours] == pytest.approx(0.5 + gap[theirs] / 2)


def test_every_file_of_the_report_has_it(tmp_path: Path) -> None:
    rows, opinions = solved(RIGHT, TAGS), [Opinion("reward", "optimised"), Opinion(CHECK, "verifier")]
    exports.write(report(rows), rows, opinions, tmp_path)
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert f"Solved, by {CHECK}" in page and "+62.5 points, 95% interval" in page and "Chen et al. 2021" in page
    assert "| all | 40 | ppo | 75.0% (" in text and "| bare | 16 | sft | 12.5% | 25.0% | 50.0% |" in text
    table = [line.split(",") for line in (tmp_path / "report.csv").read_text().splitlines()]
    row = dict(zip(table[0], next(line for line in table if CHECK in line), strict=True))
    assert (float(row["pass_1"]), float(row["other_pass_1"])) == (0.75, 0.125)
    blank = dict(zip(table[0], next(line for line in table if "optimised" in line), strict=True))
    assert blank["pass_1"] == ""
    assert np.isfinite(report(rows).passes[CHECK]["tasks"]["all"]["pairs"]["ppo vs sft"]["pass@4"]["low"])


def test_a_verifier_may_be_maximised_and_judge_and_no_other_function() -> None:
    Config.model_validate({"compare": {"judges": [CHECK]}, "ppo": {"reward_funcs": [CHECK]}})
    with pytest.raises(ValueError, match="is what ppo.reward_funcs maximises, so it cannot judge"):
        Config.model_validate({"compare": {"judges": ["mine:f"]}, "ppo": {"reward_funcs": ["mine:f"]}})
