"""Which rows are the same, empty or unfit to learn from, once they are written in one way?

`clean` normalises and removes, and counts by name: `read` = `kept` + `duplicates` + `empty` + `too_few_ranks`.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from data.schema import Completion, Demonstration, Prompt, PromptText, Ranking

Row = TypeVar("Row", bound=Demonstration | Prompt | Ranking)

COUNTS = (
    "read",
    "normalised",
    "duplicates",
    "empty",
    "empty_completions",
    "duplicate_completions",
    "contradicting_completions",
    "too_few_ranks",
    "kept",
)
LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85]")
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def normalise(text: str) -> str:
    r"""Unicode NFC, every kind of line end as \n, no control characters but \n and \t. White space stays as it is."""
    return unicodedata.normalize("NFC", CONTROLS.sub("", LINE_ENDS.sub("\n", text)))


def clean(rows: Iterable[Row]) -> tuple[list[Row], dict[str, int]]:
    """Normalise texts; remove empty texts and exact duplicates. Order is kept, the first of equal rows stays.

    Counts, all names always there: `read`, `kept`; rows changed by `normalise` (`normalised`); rows removed as
    `duplicates` (the same prompt and answers, judged alike by the same annotator), as `empty`, or as rankings with
    fewer than two ranks left (`too_few_ranks`); single completions removed from rankings as `empty_completions`, as
    `duplicate_completions` (an equal one has the same rank and stays) or `contradicting_completions` (equal ones have
    different ranks, so all of them go).
    """
    counts = dict.fromkeys(COUNTS, 0)
    kept: list[Row] = []
    seen: set[Hashable] = set()
    for row in rows:
        counts["read"] += 1
        written = _normalised(row)
        counts["normalised"] += written != row
        if not _has_text(written):
            counts["empty"] += 1
            continue
        if isinstance(written, Ranking):
            left = _sound_completions(written, counts)
            if left is None:
                counts["too_few_ranks"] += 1
                continue
            written = left  # type: ignore[assignment]  # a Ranking came in, so a Ranking goes out
        content = _content(written)
        if content in seen:
            counts["duplicates"] += 1
            continue
        seen.add(content)
        kept.append(written)
    counts["kept"] = len(kept)
    return kept, counts


def equal_after_truncation(
    rankings: Iterable[Ranking], encode: Callable[[PromptText, str], Sequence[int]], max_length: int
) -> tuple[list[Ranking], int]:
    """Remove completions that a model which sees `max_length` tokens cannot tell apart; give the number removed.

    `encode(prompt, completion)` gives the token ids of both together, of which the first `max_length` are kept. Of
    equal completions in one rank the first stays; where their ranks differ all go. Rankings with fewer than two ranks
    left are dropped, which the caller sees by their number.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}")
    kept: list[Ranking] = []
    removed = 0
    for ranking in rankings:
        keys = [tuple(encode(ranking.prompt, one.text)[:max_length]) for one in ranking.completions]
        same, contradicting = _equal(ranking, keys)
        removed += len(same | contradicting)
        if left := _without(ranking, same | contradicting):
            kept.append(left)
    return kept, removed


def _normalised(row: Row) -> Row:
    prompt = (
        normalise(row.prompt)
        if isinstance(row.prompt, str)
        else [{**turn, "content": normalise(turn["content"])} for turn in row.prompt]
    )
    if isinstance(row, Demonstration):
        return replace(row, prompt=prompt, completion=normalise(row.completion))
    if isinstance(row, Ranking):
        completions = tuple(replace(one, text=normalise(one.text)) for one in row.completions)
        return replace(row, prompt=prompt, completions=completions)
    return replace(row, prompt=prompt)


def _has_text(row: Demonstration | Prompt | Ranking) -> bool:
    texts = [row.prompt] if isinstance(row.prompt, str) else [turn["content"] for turn in row.prompt]
    if isinstance(row, Demonstration):
        texts.append(row.completion)
    return all(text.strip() for text in texts)


def _sound_completions(ranking: Ranking, counts: dict[str, int]) -> Ranking | None:
    empty = {one.id for one in ranking.completions if not one.text.strip()}
    counts["empty_completions"] += len(empty)
    same, contradicting = _equal(ranking, [one.text for one in ranking.completions])
    counts["duplicate_completions"] += len(same - empty)
    counts["contradicting_completions"] += len(contradicting - empty)
    return _without(ranking, empty | same | contradicting)


def _equal(ranking: Ranking, keys: Sequence[Hashable]) -> tuple[set[str], set[str]]:
    """(ids that repeat one before them in the same rank, ids whose equals have another rank)."""
    groups: dict[Hashable, list[tuple[int, Completion]]] = {}
    for key, rank, one in zip(keys, ranking.ranks(), ranking.completions, strict=True):
        groups.setdefault(key, []).append((rank, one))
    same: set[str] = set()
    contradicting: set[str] = set()
    for group in groups.values():
        if len({rank for rank, _ in group}) > 1:
            contradicting.update(one.id for _, one in group)
        else:
            same.update(one.id for _, one in group[1:])
    return same, contradicting


def _without(ranking: Ranking, ids: set[str]) -> Ranking | None:
    """The ranking without these completions, None where fewer than two ranks are left."""
    if not ids:
        return ranking
    tiers = [tuple(one for one in tier if one not in ids) for tier in ranking.ranking]
    left = tuple(tier for tier in tiers if tier)
    completions = tuple(one for one in ranking.completions if one.id not in ids)
    return replace(ranking, completions=completions, ranking=left) if len(left) > 1 else None


def _content(row: Demonstration | Prompt | Ranking) -> Hashable:
    """What a row says, without its id, its source and the models that wrote it."""
    prompt = json.dumps(row.prompt, ensure_ascii=False, sort_keys=True)
    if isinstance(row, Demonstration):
        return prompt, row.completion
    if isinstance(row, Ranking):
        texts = {one.id: (one.text, one.ratings or ()) for one in row.completions}
        return prompt, row.annotator, tuple(tuple(sorted(texts[one] for one in tier)) for tier in row.ranking)
    return prompt
