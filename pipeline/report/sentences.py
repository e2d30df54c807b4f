"""What may be said of a figure, in words? One place turns intervals into claims, so that none claims more than it may.

An outcome is what `statistics.win_rate`, `ranking_models.length_controlled_win_rate` or a slice of `slices` returned:
{"win_rate", "low", "high", "prompts", and "overlap" if length-controlled}; low and high may be None (too few to say).
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.language import fixed, phrase
from pipeline.statistics import wilson

# A percentile bootstrap over fewer prompts is too narrow, and has no width at all when one side wins them all.
MIN_PROMPTS = 20

_VERBS = {
    "better": fixed("is better than {others}"),
    "worse": fixed("is worse than {others}"),
    "no difference shown": fixed("shows no difference from {others}"),
    "too few prompts": fixed("has too few prompts to be told from {others}"),
    "length decides": fixed("differs in length too steadily to be compared under length control with {others}"),
}
READINGS = tuple(map(fixed, ("better", "worse", "no difference shown", "too few prompts", "length decides")))
_COUNTED = {
    "prompt": (fixed("{number} prompt"), fixed("{number} prompts")),
    "held-out prompt": (fixed("{number} held-out prompt"), fixed("{number} held-out prompts")),
    "training seed": (fixed("{number} training seed"), fixed("{number} training seeds")),
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
        said.setdefault(reading(outcome), []).append(phrase("{opponent} ({numbers})", opponent=opponent, numbers=told))
    claims = [phrase(_VERBS[key], others=joined(opponents)) for key, opponents in said.items()]
    if len(claims) == 1:
        return claims[0]
    return phrase("{clauses} and {last}", clauses=", ".join(claims[:-1]), last=claims[-1])


def difference_sentence(name_a: str, name_b: str, win: Mapping[str, Any]) -> str:
    """One sentence on a against b that claims what the interval allows, with rate, interval and number of prompts."""
    return phrase(
        "{name} {claim}, over {prompts}.",
        **{"name": name_a, "claim": clauses({name_b: win}), "prompts": counted(win["prompts"], "prompt")},
    )


def seeds_sentence(what: str, spread: Mapping[str, Any], sampling: tuple[float, float]) -> str:
    """A share over several training seeds (`statistics.seed_spread`) and, apart from it, the noise of sampling prompts.

    sampling: the ends of the 95% interval over prompts of one seed's figure. Gives a direction only when the t-interval
    over seeds, which is of their mean and not of any single seed, does not have ½ in it.
    """
    sides = phrase("with 50% inside it, so other seeds could turn it round")
    if spread["min"] == spread["max"]:
        sides = phrase("of no width, as all of them happen to give the same")
    elif spread["low"] > 0.5 or spread["high"] < 0.5:
        sides = phrase("all of it above 50%") if spread["low"] > 0.5 else phrase("all of it below 50%")
    return phrase(
        "Over {seeds}, {what} is {mean:.1%} on average, from {least:.1%} to {most:.1%}; the 95% t-interval over seeds is "
        "{range}, {sides}. Apart from that, the choice of prompts alone leaves {sampling} for one seed.",
        **{"seeds": counted(spread["seeds"], "training seed"), "what": what, "mean": spread["mean"]},
        **{"least": spread["min"], "most": spread["max"], "range": _range(spread["low"], spread["high"])},
        **{"sides": sides, "sampling": _range(*sampling)},
    )


def counted(number: int, noun: str) -> str:
    one, more = _COUNTED[noun]
    return phrase(one if number == 1 else more, number=number)


def joined(parts: list[str]) -> str:
    """Parts of a sentence in a row: a; a and b; a, b and c."""
    if len(parts) == 1:
        return parts[0]
    return phrase("{parts} and {last}", parts=phrase(", ").join(parts[:-1]), last=parts[-1])


def _numbers(outcome: Mapping[str, Any], short: bool) -> str:
    rate, interval = f"{outcome['win_rate']:.1%}", ends(outcome)
    if interval is None:
        return rate if short else phrase("win rate {rate}, no interval", rate=rate)
    if short:
        return phrase("{rate}, {range}", rate=rate, range=_range(*interval))
    return phrase("win rate {rate}, 95% interval {range}", rate=rate, range=_range(*interval))


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{high:.1%}"
