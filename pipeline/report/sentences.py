"""What may be said of a figure, in words? One place turns intervals into claims, so that none claims more than it may.

An outcome is what `statistics.win_rate`, `ranking_models.length_controlled_win_rate` or a slice of `slices` returned:
{"win_rate", "low", "high", "prompts", and "overlap" if length-controlled}; low and high may be None (too few to say).
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.statistics import wilson

# A percentile bootstrap over fewer prompts is too narrow, and has no width at all when one side wins them all.
MIN_PROMPTS = 20

_VERBS = {
    "better": "is better than",
    "worse": "is worse than",
    "no difference shown": "shows no difference from",
    "too few prompts": "has too few prompts to be told from",
    "length decides": "differs in length too steadily to be compared under length control with",
}


def ends(outcome: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95% interval to claim by and to print, or None when there is none.

    A bootstrap without width (every prompt went the same way, so every resample does) says nothing about chance;
    Wilson's interval over as many prompts stands in for it.
    """
    low, high, prompts = outcome["low"], outcome["high"], outcome.get("prompts")
    if low is None or high is None:
        return None
    if low == high and prompts:
        won = outcome["win_rate"] * prompts
        interval = wilson(won, 0, prompts - won)
        return interval["low"], interval["high"]
    return low, high


def reading(outcome: Mapping[str, Any]) -> str:
    """What one outcome allows to say of its first model.

    "better" or "worse" when the whole interval is on one side of ½; "no difference shown" when ½ is inside it or on its
    end; "too few prompts" below 20 of them or without an interval; "length decides" when length control had no overlap.
    """
    interval = ends(outcome)
    if outcome["prompts"] < MIN_PROMPTS or interval is None:
        return "too few prompts"
    if not outcome.get("overlap", True):
        return "length decides"
    low, high = interval
    if low > 0.5:
        return "better"
    return "worse" if high < 0.5 else "no difference shown"


def clauses(
    outcomes: Mapping[str, Mapping[str, Any]], numbers: Callable[[str, Mapping[str, Any], bool], str] | None = None
) -> str:
    """Opponent -> outcome as a predicate: "is better than base (win rate …) and shows no difference from sft (…)".

    Opponents with one reading share its verb, and the numbers are spelt out at the first of them, or
    told by `numbers` (opponent, outcome, whether it is a further one).
    """
    said: dict[str, list[str]] = {}
    for opponent, outcome in outcomes.items():
        short = bool(said)
        told = _numbers(outcome, short) if numbers is None else numbers(opponent, outcome, short)
        said.setdefault(reading(outcome), []).append(f"{opponent} ({told})")
    return joined([f"{_VERBS[key]} {joined(opponents)}" for key, opponents in said.items()])


def difference_sentence(name_a: str, name_b: str, win: Mapping[str, Any]) -> str:
    """One sentence on a against b that claims what the interval allows, with rate, interval and number of prompts."""
    return f"{name_a} {clauses({name_b: win})}, over {counted(win['prompts'], 'prompt')}."


def seeds_sentence(what: str, spread: Mapping[str, Any], sampling: tuple[float, float]) -> str:
    """A share over several training seeds (`statistics.seed_spread`) and, apart from it, the noise of sampling prompts.

    sampling: the ends of the 95% interval over prompts of one seed's figure. Gives a direction only when the t-interval
    over seeds, which is of their mean and not of any single seed, does not have ½ in it.
    """
    sides = "with 50% inside it, so other seeds could turn it round"
    if spread["min"] == spread["max"]:
        sides = "of no width, as all of them happen to give the same"
    elif spread["low"] > 0.5 or spread["high"] < 0.5:
        sides = f"all of it {'above' if spread['low'] > 0.5 else 'below'} 50%"
    return (
        f"Over {counted(spread['seeds'], 'training seed')}, {what} is {spread['mean']:.1%} on average, from "
        f"{spread['min']:.1%} to {spread['max']:.1%}; the 95% t-interval over seeds is "
        f"{_range(spread['low'], spread['high'])}, {sides}. Apart from that, the choice of prompts alone leaves "
        f"{_range(*sampling)} for one seed."
    )


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(parts: list[str]) -> str:
    """Parts of a sentence in a row: a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _numbers(outcome: Mapping[str, Any], short: bool) -> str:
    rate, interval = f"{outcome['win_rate']:.1%}", ends(outcome)
    if interval is None:
        return rate if short else f"win rate {rate}, no interval"
    return f"{rate}, {_range(*interval)}" if short else f"win rate {rate}, 95% interval {_range(*interval)}"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{high:.1%}"
