"""Which rows are the same, blank or unfit to learn from, once they are written in one way?

`clean` mends and removes, and counts by name: `read` = `kept` + `blank` + `too_few_ranks` + `duplicates` +
`near_duplicates`.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from data.refining import markup
from data.schema import AnyRow, Completion, Demonstration, Judgement, PromptText, Ranking

Row = TypeVar("Row", bound=AnyRow)

# In this order: the characters that betray a wrong decoding are among the control characters.
MENDING: dict[str, Callable[[str], str]] = {
    "mojibake": markup.mojibake,
    "html": markup.html,
    "control_characters": markup.control_characters,
    "nfc": markup.nfc,
}
REMOVED = ("blank", "too_few_ranks", "duplicates", "near_duplicates")
COMPLETIONS = ("blank_completions", "duplicate_completions", "contradicting_completions")
COUNTS = ("read", *MENDING, *REMOVED, *COMPLETIONS, "kept")


@dataclass(frozen=True)
class Steps:
    """What is done to rows. `near_duplicates` is the similarity from which a row is a repetition, None for never."""

    nfc: bool = True
    control_characters: bool = True
    mojibake: bool = False
    html: bool = False
    duplicates: bool = True
    near_duplicates: float | None = None


@dataclass(frozen=True)
class Cleaned(Generic[Row]):
    """The rows that are left, in order, and the places that they had among those given."""

    rows: list[Row]
    places: list[int]
    counts: dict[str, int]


def mend(text: str, steps: Steps) -> tuple[str, set[str]]:
    """The text with all the mending steps done, and the names of those that changed it. White space stays as it is.

    The steps are repeated until none finds anything (`&amp;lt;` is `<`), so mending twice is mending once.
    """
    changed: set[str] = set()
    before = None
    while before != text:
        before = text
        for name, step in MENDING.items():
            if getattr(steps, name) and (better := step(text)) != text:
                text = better
                changed.add(name)
    return text, changed


def clean(rows: Iterable[Row], steps: Steps | None = None) -> Cleaned[Row]:
    """Mend texts; remove blank rows, duplicates and near-duplicates. Order is kept, the first of equal rows stays.

    Counts, all names always there: `read`, `kept`; rows changed by each mending step, under its name; rows removed as
    `blank`, as rankings with fewer than two ranks left (`too_few_ranks`), as `duplicates` (the same prompt and answers,
    judged alike by the same annotator) or as `near_duplicates` (as similar as `steps` says, by the same annotator);
    single completions removed from rankings as `blank_completions`, as `duplicate_completions` (an equal one has the
    same rank and stays) or `contradicting_completions` (equal ones have different ranks, so all of them go).
    """
    steps = steps or Steps()
    counts = dict.fromkeys(COUNTS, 0)
    kept: list[Row] = []
    places: list[int] = []
    seen: set[bytes] = set()
    for place, row in enumerate(rows):
        counts["read"] += 1
        sound, reason = _sound(row, steps, counts)
        if sound is not None and steps.duplicates:
            content = _content(sound)
            reason = "duplicates" if content in seen else ""
            seen.add(content)
        if sound is None or reason:
            counts[reason] += 1
        else:
            kept.append(sound)
            places.append(place)
    if steps.near_duplicates is not None:
        again = _repeated(kept, steps.near_duplicates)
        counts["near_duplicates"] = len(again)
        places = [places[number] for number in range(len(kept)) if number not in again]
        kept = [row for number, row in enumerate(kept) if number not in again]
    counts["kept"] = len(kept)
    return Cleaned(kept, places, counts)


def single(row: Row, steps: Steps) -> tuple[Row | None, str]:
    """One row mended and without unfit completions, or None and the name under which such rows are removed."""
    return _sound(row, steps, dict.fromkeys(COUNTS, 0))


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


def _sound(row: Row, steps: Steps, counts: dict[str, int]) -> tuple[Row | None, str]:
    """The row mended and without unfit completions, or None and the reason."""
    mended, changed = _mended(row, steps)
    for name in changed:
        counts[name] += 1
    if not _has_text(mended, was=row):
        return None, "blank"
    if isinstance(mended, Ranking):
        left = _sound_completions(mended, counts)
        return (None, "too_few_ranks") if left is None else (left, "")  # type: ignore[return-value]
    return mended, ""


def _mended(row: Row, steps: Steps) -> tuple[Row, set[str]]:
    changed: set[str] = set()

    def better(text: str) -> str:
        text, by = mend(text, steps)
        changed.update(by)
        return text

    prompt = (
        better(row.prompt)
        if isinstance(row.prompt, str)
        else [{**turn, "content": better(turn["content"])} for turn in row.prompt]
    )
    if isinstance(row, Demonstration | Judgement):
        return replace(row, prompt=prompt, completion=better(row.completion)), changed
    if isinstance(row, Ranking):
        completions = tuple(replace(one, text=better(one.text)) for one in row.completions)
        return replace(row, prompt=prompt, completions=completions), changed
    return replace(row, prompt=prompt), changed


def _has_text(row: Row, was: Row) -> bool:
    """Whether nothing in the row is blank; a demonstration may have come without a prompt, as a text to imitate."""
    texts = [row.prompt] if isinstance(row.prompt, str) else [turn["content"] for turn in row.prompt]
    if isinstance(row, Demonstration | Judgement):
        texts = [row.completion] if was.prompt == "" else [*texts, row.completion]
    return all(text.strip() for text in texts)


def _sound_completions(ranking: Ranking, counts: dict[str, int]) -> Ranking | None:
    blank = {one.id for one in ranking.completions if not one.text.strip()}
    counts["blank_completions"] += len(blank)
    same, contradicting = _equal(ranking, [one.text for one in ranking.completions])
    counts["duplicate_completions"] += len(same - blank)
    counts["contradicting_completions"] += len(contradicting - blank)
    return _without(ranking, blank | same | contradicting)


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


def _content(row: AnyRow) -> bytes:
    """A digest of what a row says, without its id, its source and the models that wrote it."""
    said: list[object] = [row.prompt]
    if isinstance(row, Demonstration | Judgement):
        said.append(row.completion)
    if isinstance(row, Judgement):
        said.append(row.liked)
    if isinstance(row, Ranking):
        texts = {one.id: (one.text, one.ratings or ()) for one in row.completions}
        said += [row.annotator, [sorted(texts[one] for one in tier) for tier in row.ranking]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def _repeated(rows: Sequence[AnyRow], threshold: float) -> set[int]:
    """Numbers of the rows that are nearly one before them. Two people's judgements of the same are two judgements, and so
    are a liked and a disliked completion."""
    from data.refining.near import near_duplicates  # only for whoever switches this on

    voices: dict[str | bool | None, list[int]] = {}
    for number, row in enumerate(rows):
        voice = row.liked if isinstance(row, Judgement) else getattr(row, "annotator", None)
        voices.setdefault(voice, []).append(number)
    gone: set[int] = set()
    for numbers in voices.values():
        pairs = near_duplicates([_said(rows[number]) for number in numbers], threshold)
        gone.update(numbers[later] for _, later in pairs)
    return gone


def _said(row: AnyRow) -> str:
    """All that a row says as one text; completions best first."""
    texts = [row.prompt] if isinstance(row.prompt, str) else [turn["content"] for turn in row.prompt]
    if isinstance(row, Demonstration | Judgement):
        texts.append(row.completion)
    if isinstance(row, Ranking):
        by_id = {one.id: one.text for one in row.completions}
        texts += [by_id[one] for tier in row.ranking for one in tier]
    return "\n".join(texts)
