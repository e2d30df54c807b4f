"""How do ratings become rankings, in one row or over the rows of one prompt?"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from data.forms import checks
from data.forms import rankings as making
from data.forms.place import Place
from data.reading.flaws import called
from data.schema import Completion, PromptText, Ranking, prompt_key

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LOWEST, HIGHEST = 0, 4
"""HelpSteer's scale."""
MARK = re.compile(r"(?:\r\n|\r|\n)?<extra_id_1>(User|Assistant)(?:\r\n|\r|\n)")
"""How HelpSteer2 sets apart the turns of a dialogue in its prompts."""


def ratings(row: dict[str, Any], at: Place) -> Ranking | None:
    """Ours: `prompt` or `messages`, `completions`, and as many `ratings`, each a number or several people's numbers."""
    if "prompt" in row and "messages" in row:
        at.report("messages", "the row has a prompt as well", "keep one of them")
    prompt = checks.prompt(row, at, "messages" if "messages" in row and "prompt" not in row else "prompt")
    completions = checks.completions(row, at)
    if any(one.ratings is not None for one in completions or ()):
        at.report("completions", "they have ratings of their own", "keep them under ratings alone")
    given = _lists(row, at)
    if completions is None or given is None:
        return None
    if len(given) != len(completions):
        what = f"there are {len(given)} for {len(completions)} completions"
        at.report("ratings", what, "write one number, or one list of numbers, for each completion")
        return None
    rated = [replace(one, ratings=numbers) for one, numbers in zip(completions, given, strict=True)]
    return making.by_score(row, at, prompt, rated, [_mean(numbers) for numbers in given], gap=at.tie_gap)


def _lists(row: dict[str, Any], at: Place) -> list[tuple[float, ...]] | None:
    value = row.get("ratings")
    if not isinstance(value, list):
        what = "the key is missing" if "ratings" not in row else f"it is {called(value)}, not a list"
        at.report("ratings", what, "write one number, or one list of numbers, for each completion")
        return None
    made = [_several({f"ratings[{place}]": one}, f"ratings[{place}]", at) for place, one in enumerate(value)]
    return None if any(one is None for one in made) else [one for one in made if one is not None]


def _several(
    row: dict[str, Any], key: str, at: Place, low: float = -1e300, high: float = 1e300
) -> tuple[float, ...] | None:
    """The number, or the several people's numbers, under `key`."""
    value = row.get(key)
    if not isinstance(value, list):
        one = checks.number(row, key, at, low, high)
        return None if one is None else (one,)
    if not value:
        at.report(key, "nobody rated it", "take it out or write a number")
        return None
    fields = {f"{key}[{place}]": one for place, one in enumerate(value)}
    numbers = [checks.number(fields, field, at, low, high) for field in fields]
    return None if None in numbers else tuple(one for one in numbers if one is not None)


def _mean(numbers: Iterable[float]) -> Fraction:
    """Exact in the decimal digits that were written, so that two thirds and two thirds tie."""
    exact = [Fraction(str(one)) for one in numbers]
    return sum(exact, Fraction()) / len(exact)


# HelpSteer and HelpSteer2


@dataclass(frozen=True)
class Rated:
    """One response to a prompt and what it was given."""

    name: str
    prompt: PromptText
    response: str
    ratings: tuple[float, ...]
    rubric: str = ""
    """For what it was given; ratings for different things are not compared."""


def helpsteer(row: dict[str, Any], at: Place) -> Rated | None:
    """One row of several with the same `prompt`; `at.axis` says which of its ratings from 0 to 4 to go by."""
    prompt = dialogue_prompt(row, at)
    response = checks.text(row, "response", at)
    numbers = _several(row, at.axis or HELPSTEER[0], at, LOWEST, HIGHEST)
    name = checks.name(row, at)
    if prompt is None or response is None or numbers is None or name is None:
        return None
    return Rated(name, prompt, response, numbers)


def dialogue_prompt(row: dict[str, Any], at: Place) -> PromptText | None:
    """The text under `prompt`, or the messages of a HelpSteer2 dialogue that is printed there."""
    said = checks.text(row, "prompt", at)
    if said is None:
        return None
    first, *pieces = MARK.split(said)
    if not pieces:
        return said
    turns = [{"role": "user", "content": first.strip()}]
    for speaker, turn in zip(pieces[::2], pieces[1::2], strict=True):
        turns.append({"role": speaker.lower(), "content": turn.strip()})
    return checks.prompt({"prompt": turns}, at, "prompt")


def by_prompt(parts: list[Any]) -> Iterator[tuple[Any, Ranking]]:
    """The rankings of all rows that `helpsteer` gave: the responses of each prompt by their mean rating.

    A response that stands in several rows was rated by as many people.
    """
    groups: dict[tuple[str, str], list[Any]] = {}
    for part in parts:
        groups.setdefault((prompt_key(part.value.prompt), part.value.rubric), []).append(part)
    for group in groups.values():
        texts: dict[str, str] = {}
        given: dict[str, tuple[float, ...]] = {}
        for part in group:
            key = part.value.response.strip()
            texts.setdefault(key, part.value.response)
            given[key] = given.get(key, ()) + part.value.ratings
        if len(given) < 2:
            _leave_out(group, "only one response")
            continue
        first = group[0]
        completions = [
            Completion(f"c{place}", texts[key], ratings=own) for place, (key, own) in enumerate(given.items())
        ]
        scores = [_mean(own) for own in given.values()]
        row = {"id": first.value.name}
        made = making.by_score(row, first.at, first.value.prompt, completions, scores, gap=first.at.tie_gap)
        if made is None:
            _leave_out(group[1:], first.at.left_out[0])
        else:
            yield first, made


def _leave_out(parts: Iterable[Any], reason: str) -> None:
    for part in parts:
        part.at.leave_out(reason)
