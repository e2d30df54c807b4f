"""Which field of a record does an option of Argilla's RankingQuestion mean?

The options of a question are whatever its author wrote: names of the fields, nearly their names, or numbers and letters
that count them. Where it is not certain which field is meant, nothing is guessed.
"""

import re
from collections.abc import Iterable, Sequence

COUNTED = re.compile(r"(?P<stem>.*?)(?:[\W_]*(?P<number>\d{1,3})|(?:^|[\W_])(?P<letter>[A-Za-z]))[\W_]*", re.DOTALL)
"""A name that ends with a number, or with a letter that stands alone."""

Place = tuple[bool, int]
"""Whether it was a number, and which."""


def meant(options: Iterable[str], fields: Sequence[str]) -> dict[str, str] | None:
    """The field that each option means, by its name or by its place among fields that are counted; None where that is
    not certain."""
    named = tuple(dict.fromkeys(options))
    if any(option in fields for option in named):
        return {option: option for option in named}
    return _by_name(named, fields) or _by_place(named, fields)


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _by_name(options: Sequence[str], fields: Sequence[str]) -> dict[str, str] | None:
    """Where they differ in case, spaces and dashes alone: "Reply 1" and reply_1."""
    found = {option: [field for field in fields if _bare(field) == _bare(option)] for option in options}
    made = {option: same[0] for option, same in found.items() if len(same) == 1}
    return made if len(set(made.values())) == len(options) else None


def _by_place(options: Sequence[str], fields: Sequence[str]) -> dict[str, str] | None:
    """Where options and fields are counted alike, all of both: A, B and response_a, response_b; 1, 2 and reply-1, reply-2.
    Letters are the places from 1 where the fields have numbers, and the other way round."""
    counted = _counted(options)
    if len(counted) != 1 or sum(map(len, counted.values())) != len(options):
        return None
    (asked,) = counted.values()
    fitting = [
        places
        for places in _counted(fields).values()
        if len(places) > 1
        and (set(places) == set(asked) or {(not is_number, at) for is_number, at in places} == set(asked))
    ]
    if len(fitting) != 1:
        return None
    by_number = {at: field for (_, at), field in fitting[0].items()}
    return {option: by_number[at] for (_, at), option in asked.items()}


def _counted(names: Iterable[str]) -> dict[tuple[str, bool], dict[Place, str]]:
    """Names by what stands before their number or letter."""
    families: dict[tuple[str, bool], dict[Place, str]] = {}
    for name in names:
        found = COUNTED.fullmatch(name)
        if found is not None:
            number, letter = found["number"], found["letter"]
            at = int(number) if number else ord(letter.lower()) - ord("a") + 1
            families.setdefault((_bare(found["stem"]), bool(number)), {})[bool(number), at] = name
    return families
