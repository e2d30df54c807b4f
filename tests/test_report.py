"""Does the report claim only what its numbers allow, and does its page show text as text?"""

import copy
import html.parser
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import report

Sample = dict[str, Any]


def sample(model: str, prompt: int, vader: float, **changes: Any) -> Sample:
    row: Sample = {
        "prompt_id": f"p{prompt:02}",
        "prompt": f"Opening {prompt}",
        "model": model,
        "completion": f" {model} {prompt}",
        "length": 10,
        "eos": True,
        "seed": 0,
        "kl": None if model == "base" else 0.0 if model == "sft" else 4.0,
        "scores": {"reward": 2 * vader, "vader": vader},
        "tokens": [prompt, 1000 + prompt, 2000 + prompt],
    }
    return row | changes


def healthy(prompts: int = 40) -> list[Sample]:
    """vader: base 0; sft 0.1 on even prompts and -0.1 on odd; ppo 0.5 on all but every tenth, where -0.5."""
    rows = []
    for i in range(prompts):
        rows.append(sample("base", i, 0.0))
        rows.append(sample("sft", i, 0.1 if i % 2 == 0 else -0.1))
        rows.append(sample("ppo", i, -0.5 if i % 10 == 0 else 0.5))
    return rows


def models(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"perplexity": 20.0, "sha256": f"hash of {name}"} for name in names or ("base", "sft", "ppo")}


def summarise(samples: list[Sample], judges: list[str] | None = None, **more: Any) -> dict[str, Any]:
    names = list(dict.fromkeys(row["model"] for row in samples))
    return report.summarise(
        samples,
        models(*names),
        ["vader"] if judges is None else judges,
        provenance={"command": "make compare RUN=x", "seeds": [0]},
        draws=500,
        **more,
    )


def changed(rows: list[Sample], model: str, **changes: Any) -> list[Sample]:
    return [row | changes if row["model"] == model else row for row in rows]


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
        report.summarise(spoil(healthy()), models(), ["vader"], provenance={}, draws=10)


def test_models_and_samples_must_agree() -> None:
    with pytest.raises(ValueError, match=r"samples are of \['base', 'ppo', 'sft'\] but models describes \['ppo'\]"):
        report.summarise(healthy(), models("ppo"), ["vader"], provenance={})


# The verdict


def made(low: float, high: float, prompts: int = 100, **judges: tuple[float, float]) -> dict[str, Any]:
    """A report with only what verdict() needs: ppo vs sft with these intervals, rates in their middle."""

    def outcome(low: float, high: float) -> dict[str, float]:
        return {"win_rate": (low + high) / 2, "low": low, "high": high}

    pair = {"vader": outcome(low, high)} | {name: outcome(*ends) for name, ends in judges.items()}
    ppo, sft = {"kl": 5.2, "length": 33.0}, {"kl": 0.0, "length": 30.0}
    return {"prompts": prompts, "models": {"sft": sft, "ppo": ppo}, "pairs": {"ppo vs sft": pair}}


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
    sentence = report.verdict(made(low, high))
    assert says in sentence and "By vader, the aligned model (ppo)" in sentence
    assert sum(verb in sentence for verb in ("better", "worse", "no difference")) == 1


def test_verdict_gives_rate_interval_kl_length_and_the_optimised_reward() -> None:
    """Rate (0.6 + 0.7)/2 = 65%; length 33/30 = 1.10; optimised reward (0.9 + 1)/2 = 95%."""
    sentence = report.verdict(made(0.6, 0.7, reward=(0.9, 1.0)))
    assert sentence == (
        "By vader, the aligned model (ppo) is better than sft (win rate 65.0%, 95% interval 60.0–70.0%), "
        "over 100 prompts, at a KL of 5.2 nats to sft and 1.10 times the length of sft; "
        "the reward that training optimised, no independent judge, gives it 95.0% against sft."
    )


def test_optimised_reward_alone_is_a_weak_claim() -> None:
    given = made(0.6, 0.7, reward=(0.9, 1.0))
    del given["pairs"]["ppo vs sft"]["vader"]
    sentence = report.verdict(given)
    assert sentence.startswith("Only the reward that training optimised judged, so the claim is weak: by it, ")


def test_a_reward_cannot_make_ppo_better_where_the_judge_does_not() -> None:
    sentence = report.verdict(made(0.4, 0.6, reward=(0.9, 1.0)))
    assert "shows no difference from sft" in sentence and "better" not in sentence


def test_judges_that_disagree_are_both_named() -> None:
    sentence = report.verdict(made(0.6, 0.7, strict=(0.2, 0.3)))
    assert "By vader, the aligned model (ppo) is better than sft" in sentence
    assert "by strict, it is worse than sft" in sentence


def test_few_prompts_allow_no_claim() -> None:
    """A model that wins on all of 5 prompts has the interval 1 to 1: no width, and no proof."""
    sentence = report.verdict(made(1.0, 1.0, prompts=5))
    assert "has too few prompts to be told from sft" in sentence and "better" not in sentence
    assert "better" in report.verdict(made(1.0, 1.0, prompts=20))


def test_verdict_without_ppo_sft_or_kl() -> None:
    assert report.verdict(made(0.6, 0.7) | {"pairs": {}}).startswith("No verdict")
    alone = made(0.6, 0.7)
    alone["models"]["base"] = alone["models"].pop("sft")
    alone["models"]["ppo"]["kl"] = None
    assert "at an unmeasured KL and 1.10 times the length of base" in report.verdict(alone)
    alone["models"]["base"]["length"] = 0.0
    assert "33.0 tokens a completion (base writes none)" in report.verdict(alone)


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
    assert "No independent judge" in summarise(healthy(), judges=["reward"])["warnings"][0]
    without = [row for row in healthy() if row["model"] != "sft"]
    assert "There is no sft model" in summarise(without)["warnings"][0]


# The files


class Page(html.parser.HTMLParser):
    """Collects a page's elements, attributes and text as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def written(rows: list[Sample], folder: Path, **more: Any) -> Page:
    report.write(summarise(rows, **more), rows, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_three_files_are_written_and_read_back(tmp_path: Path) -> None:
    rows = healthy()
    written(rows, tmp_path / "new" / "compare")
    assert sorted(path.name for path in (tmp_path / "new" / "compare").iterdir()) == [
        "report.html", "report.json", "samples.jsonl",
    ]  # fmt: skip
    kept = [json.loads(line) for line in (tmp_path / "new/compare/samples.jsonl").read_text("utf-8").splitlines()]
    assert kept == rows
    assert json.loads((tmp_path / "new/compare/report.json").read_text("utf-8")) == summarise(rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path: Path, bad: float) -> None:
    rows = healthy()
    good = summarise(rows)
    broken = copy.deepcopy(good)
    broken["models"]["ppo"]["perplexity"] = bad
    with pytest.raises(ValueError, match=r"report\.models\.ppo\.perplexity is "):
        report.write(broken, rows, tmp_path)
    with pytest.raises(ValueError, match=r"samples\[0\]\.scores\.vader is "):
        report.write(good, [sample("base", 0, 0.0, scores={"reward": 0.0, "vader": bad}), *rows[1:]], tmp_path)
    with pytest.raises(ValueError, match=r"report\.provenance\.loss\[1\] is "):
        report.summarise(rows, models(), ["vader"], provenance={"loss": [1.0, bad]}, draws=10)
    assert list(tmp_path.iterdir()) == []


NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp; </section></style> {{ 7*7 }}"


def test_text_of_models_prompts_and_provenance_is_never_markup(tmp_path: Path) -> None:
    rows = [row | {"completion": NASTY, "prompt": NASTY} for row in healthy()]
    result = report.summarise(
        rows, models(), ["vader"], provenance={"command": NASTY, NASTY: {"deep": [NASTY]}, "note": NASTY}, draws=10
    )
    report.write(result, rows, tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "script" not in page.tags and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    # 12 examples of 3 completions and a prompt; in provenance two values and a key, while the list shows as JSON
    assert page.text.count(NASTY) == 12 * 3 + 12 + 3
    assert page.tags.count("section") == 12 * 3


def test_names_of_judges_are_never_markup(tmp_path: Path) -> None:
    evil = "m:<script>"
    rows = [row | {"scores": {"reward": 0.0, evil: row["scores"]["vader"]}} for row in healthy()]
    page = written(rows, tmp_path, judges=[evil])
    assert "script" not in page.tags and evil in page.text


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    page = written(healthy(), tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "base", "form"} & set(page.tags)
    assert [value for name, value in page.attributes if name in ("src", "href", "action", "srcset")] == []
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "prefers-color-scheme: dark" in text


def test_the_verdict_comes_first_and_everything_is_on_the_page(tmp_path: Path) -> None:
    rows = changed(healthy(), "ppo", kl=10.5)
    page = written(rows, tmp_path)
    result = summarise(rows)
    text = page.text[page.text.index("Is the aligned model better?") :]  # leaves the style sheet out
    parts = [result["verdict"], "Models", "Pairs", "Warnings", result["warnings"][0], "Provenance"]
    places = [text.index(part) for part in [*parts, "make compare RUN=x", "hash of sft", "Samples", "Best"]]
    assert places == sorted(places)
    assert page.tags.count("svg") == 3 * 2


def test_best_and_worst_are_by_ppo_minus_sft_on_the_judge(tmp_path: Path) -> None:
    """ppo - sft: 0.5 + 0.1 = 0.6 on odd prompts (best), -0.5 - 0.1 = -0.6 on 0, 10, 20, 30 (worst). The reward says the
    opposite here and must not be asked."""
    rows = [row | {"scores": {"reward": -row["scores"]["vader"], "vader": row["scores"]["vader"]}} for row in healthy()]
    text = written(rows, tmp_path).text
    best = text[text.rindex("Best\n") : text.rindex("Worst\n")]
    worst = text[text.rindex("Worst\n") : text.rindex("Random\n")]
    assert [f"Opening {i}\n" in best for i in (1, 3, 5, 7)] == [True] * 4
    assert [f"Opening {i}\n" in worst for i in (0, 10, 20, 30)] == [True] * 4
    assert best.count("+0.60") == 4 and worst.count("−0.60") == 4
    assert text[text.rindex("Random\n") :].count("Opening") == 4


def test_without_independent_judge_the_reward_chooses(tmp_path: Path) -> None:
    assert "Best and worst are by ppo vs sft on reward" in written(healthy(), tmp_path, judges=[]).text


def test_few_prompts_are_never_both_best_and_worst(tmp_path: Path) -> None:
    text = written(healthy(3), tmp_path).text
    best = text[text.rindex("Best\n") : text.rindex("Worst\n")]
    worst = text[text.rindex("Worst\n") : text.rindex("Random\n")]
    assert (best.count("Opening"), worst.count("Opening")) == (2, 1)
    assert "Opening 0" in worst


def test_chinese_and_broken_unicode_survive(tmp_path: Path) -> None:
    """Half a surrogate pair must reach samples.jsonl as it is, and not break the page."""
    rows = changed(healthy(), "ppo", completion="这部电影很好看。\ud83d\u202e\x00", prompt="Opening 0")
    rows = [row | {"prompt": "电影"} for row in rows]
    page = written(rows, tmp_path)
    assert "电影" in page.text and "这部电影很好看。" in page.text
    assert "这部电影" in (tmp_path / "samples.jsonl").read_text("utf-8")
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text("utf-8").split("\n") if line]
    assert kept == rows


def test_the_page_stays_below_a_megabyte(tmp_path: Path) -> None:
    """The worst text: each character takes five bytes once escaped."""
    rows = [row | {"completion": "'" * 20_000, "prompt": "&" * 20_000} for row in healthy()]
    rows += [row | {"model": "few_shot"} for row in rows if row["model"] == "base"]
    page = written(rows, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    assert "(cut here)" in page.text


def test_a_comparison_without_ppo_still_has_a_page(tmp_path: Path) -> None:
    rows = [row for row in healthy() if row["model"] != "ppo"]
    assert "No verdict" in written(rows, tmp_path).text
    only = [row for row in healthy() if row["model"] == "base"]
    assert "form no pair" in written(only, tmp_path).text
