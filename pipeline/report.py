"""Is the aligned model better, by how much, and at what price? One dict, one sentence and one page that answer it.

`compare` samples every model on the same held-out prompts with the same seeds and hands the rows to `summarise`;
`write` turns the result into report.html (one file, no network), report.json and samples.jsonl.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipeline import statistics

ORDER = ("base", "few_shot", "sft", "ppo")
PAIRS = (("ppo", "base"), ("ppo", "sft"), ("ppo", "few_shot"), ("sft", "base"))

# A percentile bootstrap over fewer prompts is too narrow, and has no width at all when one side wins them all.
MIN_PROMPTS = 20
MAX_KL = 10.0  # nats a sequence: a healthy run stays below (lm-human-preferences aims at 6 for 24 tokens)
LENGTH_RATIO = (0.7, 1.5)
MAX_EOS_DROP = 0.05
MAX_DISTINCT_DROP = 0.2

_SHOWN = 4  # samples in each of best, worst and random
_SHOWN_CHARACTERS = 1500  # of a text: keeps the page below 1 MB however long the samples are


def summarise(
    samples: list[dict[str, Any]],
    models: dict[str, dict[str, Any]],
    judges: list[str],
    *,
    provenance: dict[str, Any],
    optimised: str = "reward",
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every number of the comparison, with its verdict and warnings, ready for JSON.

    samples: rows {"prompt_id", "prompt", "model", "completion", "length" (tokens), "eos", "seed", "kl" (nats of the
    whole completion to sft, or None), "scores" {judge: float}, "tokens"}, where `prompt` is the held-out prompt without
    any few-shot examples. Models are paired by (prompt_id, seed), so each must have the same ones, once.
    models: model -> {"perplexity" on held-out demonstrations, or None, and whatever else says what it is}.
    judges: names in `scores`; `optimised` is the score that training maximised, whether or not it is among them.
    Raises ValueError when the samples do not pair up or a number is missing or not finite.
    """
    if not samples:
        raise ValueError("no samples: nothing to compare")
    rows = _paired(samples, models)
    independent = [judge for judge in judges if judge != optimised]
    keys = list(next(iter(rows.values())))
    prompts = [prompt for prompt, _ in keys]

    def interval(values: Sequence[float]) -> dict[str, float]:
        return statistics.mean_interval(values, prompts, draws, seed)

    def scores(model: str, judge: str) -> list[float]:
        return [_score(rows[model][key], judge) for key in keys]

    report: dict[str, Any] = {
        "prompts": len(set(prompts)),
        "samples_per_model": len(keys),
        "optimised": optimised,
        "judges": independent,
        "models": {},
        "pairs": {},
    }
    for model, own in rows.items():
        intervals = {judge: interval(scores(model, judge)) for judge in [optimised, *independent]}
        intervals["length"] = interval([own[key]["length"] for key in keys])
        kl = [own[key]["kl"] for key in keys]
        missing = kl.count(None)
        if 0 < missing < len(kl):
            raise ValueError(f"{model}: {missing} of {len(kl)} samples have no kl: give it for all or for none")
        if not missing:
            intervals["kl"] = interval(kl)
        perplexity = models[model]["perplexity"]
        report["models"][model] = {
            "reward": intervals[optimised]["mean"],
            "judge": {judge: intervals[judge]["mean"] for judge in independent},
            "length": intervals["length"]["mean"],
            "eos_rate": sum(bool(own[key]["eos"]) for key in keys) / len(keys),
            "distinct_2": statistics.distinct_n([own[key]["tokens"] for key in keys], 2),
            "kl": None if missing else intervals["kl"]["mean"],
            "perplexity": None if perplexity is None else float(perplexity),
            "intervals": intervals,
        }
    for left, right in PAIRS:
        if left not in rows or right not in rows:
            continue
        pair = report["pairs"][f"{left} vs {right}"] = {}
        for judge in [*independent, optimised]:
            a, b = scores(left, judge), scores(right, judge)
            difference = interval([x - y for x, y in zip(a, b, strict=True)])
            pair[judge] = statistics.win_rate(a, b, prompts, draws=draws, seed=seed) | {"difference": difference}
    report["verdict"] = verdict(report)
    report["warnings"] = warnings(report)
    report["provenance"] = provenance | {"models": {model: models[model] for model in rows}}
    _require_finite(report, "report")
    return report


Rows = dict[str, dict[tuple[str, int], dict[str, Any]]]


def _paired(samples: list[dict[str, Any]], models: dict[str, dict[str, Any]]) -> Rows:
    """model -> (prompt_id, seed) -> row, models in reading order and keys in the same order for all of them."""
    found = {row["model"] for row in samples}
    if found != set(models):
        raise ValueError(f"samples are of {sorted(found)} but models describes {sorted(models)}")
    known = [model for model in ORDER if model in models]
    rows: Rows = {model: {} for model in [*known, *sorted(set(models) - set(known))]}
    texts: dict[str, str] = {}
    for row in samples:
        key = (row["prompt_id"], row["seed"])
        if key in rows[row["model"]]:
            raise ValueError(f"{row['model']} has two samples of prompt {key[0]!r} with seed {key[1]}")
        if texts.setdefault(key[0], row["prompt"]) != row["prompt"]:
            raise ValueError(f"prompt {key[0]!r} has two texts: {texts[key[0]]!r} and {row['prompt']!r}")
        rows[row["model"]][key] = row
    first = next(iter(rows))
    for model, own in rows.items():
        if odd := sorted(own.keys() ^ rows[first].keys()):
            raise ValueError(f"{model} and {first} were not sampled alike: only one has prompt, seed {odd[0]}")
    keys = sorted(rows[first])
    return {model: {key: own[key] for key in keys} for model, own in rows.items()}


def _score(row: dict[str, Any], judge: str) -> float:
    if judge not in row["scores"]:
        raise ValueError(f"a sample of {row['model']} for prompt {row['prompt_id']!r} has no score by {judge!r}")
    return float(row["scores"][judge])


def reading(outcome: dict[str, Any], prompts: int) -> str:
    """What one pair's interval allows to say of its first model: better, worse, no difference shown, too few prompts.

    outcome: what `statistics.win_rate` returned over so many distinct prompts.
    """
    if prompts < MIN_PROMPTS:
        return "too few prompts"
    if outcome["low"] > 0.5:
        return "better"
    return "worse" if outcome["high"] < 0.5 else "no difference shown"


def verdict(report: dict[str, Any]) -> str:
    """One sentence: is ppo better, by whose judgement, by how much, at what KL and length. Claims what intervals allow.

    Needs "prompts", "models" and "pairs" of `report`; "optimised" is "reward" when absent. Every independent judge and
    every opponent is named, so that a favourable one cannot stand for the rest.
    """
    pairs = {name: pair for name, pair in report["pairs"].items() if name.startswith("ppo vs ")}
    if not pairs:
        return "No verdict: the comparison needs ppo and a model to compare it with."
    optimised = report.get("optimised", "reward")
    judges = list(dict.fromkeys(judge for pair in pairs.values() for judge in pair if judge != optimised))
    ending = f"over {_count(report['prompts'], 'prompt')}, {_price(report['models'])}"
    if not judges:
        claim = f"by it, the aligned model (ppo) {_clauses(report, pairs, optimised)}, {ending}"
        return f"Only the reward that training optimised judged, so the claim is weak: {claim}."
    first, *others = judges
    by_judge = f"By {first}, the aligned model (ppo) {_clauses(report, pairs, first)}"
    by_judge += "".join(f"; by {judge}, it {_clauses(report, pairs, judge)}" for judge in others)
    rates = [
        f"{pair[optimised]['win_rate']:.1%} against {name.removeprefix('ppo vs ')}"
        for name, pair in pairs.items()
        if optimised in pair
    ]
    closing = f"; the reward that training optimised, no independent judge, gives it {_join(rates)}" if rates else ""
    return f"{by_judge}, {ending}{closing}."


def _clauses(report: dict[str, Any], pairs: dict[str, Any], judge: str) -> str:
    verbs = {
        "better": "is better than",
        "worse": "is worse than",
        "no difference shown": "shows no difference from",
        "too few prompts": "has too few prompts to be told from",
    }
    said: dict[str, list[str]] = {}  # opponents that share a reading share its verb
    for name, pair in pairs.items():
        if judge in pair:
            low, high = f"{100 * pair[judge]['low']:.1f}", f"{pair[judge]['high']:.1%}"
            rate = f"{pair[judge]['win_rate']:.1%}"
            # spelt out once, at the first opponent
            numbers = f"{rate}, {low}–{high}" if said else f"win rate {rate}, 95% interval {low}–{high}"
            opponents = said.setdefault(reading(pair[judge], report["prompts"]), [])
            opponents.append(f"{name.removeprefix('ppo vs ')} ({numbers})")
    return _join([f"{verbs[key]} {_join(opponents)}" for key, opponents in said.items()])


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _price(models: dict[str, Any]) -> str:
    """At what KL and length ppo's win came."""
    ppo = models["ppo"]
    kl = "at an unmeasured KL" if ppo["kl"] is None else f"at a KL of {ppo['kl']:.1f} nats to sft"
    other = next(name for name in ("sft", "base", "few_shot") if name in models)
    if models[other]["length"] == 0:
        return f"{kl} and {ppo['length']:.1f} tokens a completion ({other} writes none)"
    return f"{kl} and {ppo['length'] / models[other]['length']:.2f} times the length of {other}"


def warnings(report: dict[str, Any]) -> list[str]:
    """What a careful reader should know before believing the verdict: one sentence each, none when all is well."""
    found = []
    models, pairs, prompts = report["models"], report["pairs"], report["prompts"]
    if prompts < MIN_PROMPTS:
        found.append(f"Only {_count(prompts, 'prompt')}: below {MIN_PROMPTS}, the intervals are too narrow to trust.")
    if not report["judges"]:
        found.append("No independent judge: a policy can raise the reward it is trained on without being any better.")
    if "ppo" not in models:
        return found
    ppo = models["ppo"]
    if ppo["kl"] is None:
        found.append("The KL of ppo to sft was not measured, so nothing says how far the policy has moved.")
    elif ppo["kl"] > MAX_KL:
        found.append(
            f"The KL of ppo to sft is {ppo['kl']:.1f} nats, above {MAX_KL:g}: a policy this far away "
            "often satisfies the reward model rather than people."
        )
    if "sft" not in models:
        return [*found, "There is no sft model here, so length, EOS rate and distinct-2 of ppo were not checked."]
    sft = models["sft"]
    low, high = LENGTH_RATIO
    if not low * sft["length"] <= ppo["length"] <= high * sft["length"]:
        found.append(
            f"ppo writes {ppo['length']:.1f} tokens a completion and sft {sft['length']:.1f}, a ratio outside "
            f"{low:g} to {high:g}: judges often favour length, so part of a gain may be length alone."
        )
    if sft["eos_rate"] - ppo["eos_rate"] > MAX_EOS_DROP:
        found.append(
            f"ppo ends {ppo['eos_rate']:.0%} of its completions by itself and sft {sft['eos_rate']:.0%}: "
            "completions that the length limit cut are judged unfinished."
        )
    if ppo["distinct_2"] < (1 - MAX_DISTINCT_DROP) * sft["distinct_2"]:
        found.append(
            f"distinct-2 fell from {sft['distinct_2']:.2f} (sft) to {ppo['distinct_2']:.2f} (ppo), by more than "
            f"{MAX_DISTINCT_DROP:.0%}: ppo repeats itself; look for one phrase in all of the random samples."
        )
    outcomes = pairs["ppo vs sft"]
    if report["judges"] and reading(outcomes[report["optimised"]], prompts) == "better":
        doubters = [judge for judge in report["judges"] if reading(outcomes[judge], prompts) != "better"]
        if doubters:
            found.append(
                f"The optimised reward prefers ppo to sft, which {_join(doubters)} does not confirm: "
                "that is how over-optimisation looks."
            )
    return found


def write(report: dict[str, Any], samples: list[dict[str, Any]], folder: Path) -> None:
    """Write report.html, report.json and samples.jsonl (UTF-8) into `folder`, or nothing at all.

    Raises ValueError naming the number when one is not finite: JSON has no NaN and a page should show none.
    """
    _require_finite(report, "report")
    for index, row in enumerate(samples):
        _require_finite(row, f"samples[{index}]")
    pages = {
        "report.html": _page(report, samples).encode("utf-8", "replace"),
        "report.json": (_json(report, indent=2) + "\n").encode("utf-8", "backslashreplace"),
        "samples.jsonl": "".join(_json(row) + "\n" for row in samples).encode("utf-8", "backslashreplace"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        (folder / name).write_bytes(content)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _json(value: Any, indent: int | None = None) -> str:
    # Half a surrogate pair survives as \udXXX through "backslashreplace", which is how JSON spells it too.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _require_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a report holds finite numbers only")
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_finite(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _require_finite(inner, f"{where}[{index}]")


def _page(report: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    limits: dict[str, Any] = {"kl": MAX_KL, "length": LENGTH_RATIO, "eos": MAX_EOS_DROP, "distinct": MAX_DISTINCT_DROP}
    return template.render(report=report, examples=_examples(report, samples), reading=reading, cut=_cut, limits=limits)


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} … (cut here)"


def _examples(report: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Best, worst and random prompts by how much ppo beats sft (or another model) on the first independent judge."""
    rows = _paired(samples, dict.fromkeys(report["models"], {}))
    pair = next((name for name in ("ppo vs sft", *report["pairs"]) if name in report["pairs"]), None)
    judge = (report["judges"] or [report["optimised"]])[0]
    keys = list(next(iter(rows.values())))

    gains: dict[tuple[str, int], float] = {}

    def shown(key: tuple[str, int]) -> dict[str, Any]:
        own = {model: rows[model][key] for model in rows}
        return {"prompt": next(iter(own.values()))["prompt"], "difference": gains.get(key), "rows": own}

    groups: list[tuple[str, list[tuple[str, int]]]] = []
    if pair is not None:
        left, right = pair.split(" vs ")
        gains = {key: _score(rows[left][key], judge) - _score(rows[right][key], judge) for key in keys}
        ordered = sorted(keys, key=lambda key: -gains[key])
        groups.append(("Best", ordered[: min(_SHOWN, (len(keys) + 1) // 2)]))
        groups.append(("Worst", ordered[::-1][: min(_SHOWN, len(keys) // 2)]))
    # drawn from all samples, so that these, unlike the other two groups, are a fair picture
    drawn = np.random.default_rng(0).permutation(len(keys))[:_SHOWN]
    groups.append(("Random", [keys[index] for index in drawn]))
    return {
        "pair": pair,
        "judge": judge,
        "groups": [(title, [shown(key) for key in chosen]) for title, chosen in groups],
    }
