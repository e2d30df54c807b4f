"""On which prompts does a model win? Win rates by tag, prompt length, language, source, or your own cut.

A slicing function takes rows {"prompt_id", "prompt" (text), "tag", "source", …} and names one slice for each row:
slicing(rows) -> list[str]. It sees all rows at once, as terciles need them; every row of a prompt gets the same slice.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline import statistics
from pipeline.language import fixed, phrase

MIN_PROMPTS = 10  # below, a percentile bootstrap resamples too few values to have ends worth printing

Row = Mapping[str, Any]
Slicing = Callable[[Sequence[Row]], list[str]]


def by_tag(rows: Sequence[Row]) -> list[str]:
    """The prompt's own tag; "no tag" where there is none."""
    return [row.get("tag") or "no tag" for row in rows]


def by_source(rows: Sequence[Row]) -> list[str]:
    """Where the prompt came from; "no source" where that is not told."""
    return [row.get("source") or "no source" for row in rows]


def by_language(rows: Sequence[Row]) -> list[str]:
    """The row's "language" where it has one, else the script that most letters of the prompt are in.

    A script is no language (French and English are both "Latin script"), and the name says so. Kana anywhere make a
    text "Japanese script", as Japanese is written with more Han characters than kana at times. "no letters" is a slice.
    """
    return [row.get("language") or _script(row["prompt"]) for row in rows]


def by_prompt_length(rows: Sequence[Row]) -> list[str]:
    """Terciles of the length in characters over distinct prompts; prompts of one length share a slice, named by its
    range.

    The cuts are the type-7 quantiles at 1/3 and 2/3 (Hyndman and Fan 1996), and a prompt on a cut is on its short side.
    Where many prompts are equally long there are fewer than three slices.
    """
    lengths = {row["prompt_id"]: len(row["prompt"]) for row in rows}
    if not lengths:
        return []
    first, second = np.quantile(list(lengths.values()), [1 / 3, 2 / 3])
    third = {prompt: int(length > first) + int(length > second) for prompt, length in lengths.items()}
    names = {}
    for place, word in enumerate(("short", "middle", "long")):
        own = [length for prompt, length in lengths.items() if third[prompt] == place]
        if own:
            names[place] = f"{word}: {min(own)} to {max(own)} characters"
    return [names[third[row["prompt_id"]]] for row in rows]


SLICINGS: dict[str, Slicing] = {
    fixed("tag"): by_tag,
    fixed("prompt length"): by_prompt_length,
    fixed("language"): by_language,
    fixed("source"): by_source,
}
_LENGTH = re.compile(r"(short|middle|long): (\d+) to (\d+) characters")
_LENGTHS = {
    "short": fixed("short: {low} to {high} characters"),
    "middle": fixed("middle: {low} to {high} characters"),
    "long": fixed("long: {low} to {high} characters"),
}
_NONE = tuple(map(fixed, ("no tag", "no source", "no letters")))


def name_of_slice(cut: str, name: str) -> str:
    """A slice's name as it is shown; a tag or source of the user's is what it is."""
    if cut == "prompt length" and (found := _LENGTH.fullmatch(name)):
        return phrase(_LENGTHS[found[1]], low=found[2], high=found[3])
    if cut == "language" and name.endswith(" script"):
        return phrase("{script} script", script=phrase(name.removesuffix(" script")))
    return phrase(name) if name in _NONE else name


def slice_win_rates(
    rows: Sequence[Row],
    a: Sequence[float],
    b: Sequence[float],
    slicing: Slicing,
    tie: float = statistics.TIE,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, int | float | None]]:
    """Slice name -> what `statistics.win_rate` says of it and "samples" (int), the largest slice first.

    rows (N,) describe the prompts of the scores a and b (N,), paired as there. A slice of fewer than 10 prompts keeps
    its counts and rate, but "low" and "high" are None: it allows no claim. (`sentences.reading` asks for more prompts
    still.) Every slice has an interval of its own at 95%, so among twenty slices one strays by chance.
    Raises ValueError when numbers differ, when the slicing puts one prompt into two slices, or as `win_rate`.
    """
    names = slicing(rows)
    if not len(names) == len(rows) == len(a) == len(b):
        counts = f"{len(names)} slices, {len(rows)} rows, {len(a)} and {len(b)} scores"
        raise ValueError(f"{counts}: give one of each a sample")
    slice_of: dict[str, str] = {}
    members: dict[str, list[int]] = {}
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        if slice_of.setdefault(row["prompt_id"], name) != name:
            raise ValueError(
                f"prompt {row['prompt_id']!r} is in the slices {slice_of[row['prompt_id']]!r} and {name!r}: "
                "a slicing goes by prompt, as all samples of a prompt are resampled together"
            )
        members.setdefault(name, []).append(i)
    found: dict[str, dict[str, int | float | None]] = {}
    for name in sorted(members, key=lambda name: (-len(members[name]), name)):
        own = members[name]
        prompts = [rows[i]["prompt_id"] for i in own]
        outcome = statistics.win_rate([a[i] for i in own], [b[i] for i in own], prompts, tie, draws, seed)
        ends: dict[str, int | float | None] = {"low": None, "high": None} if outcome["prompts"] < MIN_PROMPTS else {}
        found[name] = {**outcome, **ends, "samples": len(own)}
    return found


_SCRIPTS = {
    "LATIN": fixed("Latin"),
    "CJK": fixed("Han"),
    "HIRAGANA": fixed("Japanese"),
    "KATAKANA": fixed("Japanese"),
    "KATAKANA-HIRAGANA": fixed("Japanese"),
    "HANGUL": fixed("Korean"),
    "CYRILLIC": fixed("Cyrillic"),
    "ARABIC": fixed("Arabic"),
    "HEBREW": fixed("Hebrew"),
    "GREEK": fixed("Greek"),
    "DEVANAGARI": fixed("Devanagari"),
    "THAI": fixed("Thai"),
}


def _script(text: str) -> str:
    """The commonest script of the letters, by the first word of their Unicode names."""
    counts = Counter(
        _SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0], fixed("another"))
        for letter in text
        if letter.isalpha()
    )
    if not counts:
        return "no letters"
    if "Japanese" in counts and counts["Han"] + counts["Japanese"] > counts.total() / 2:
        return "Japanese script"
    return f"{min(counts, key=lambda script: (-counts[script], script))} script"
