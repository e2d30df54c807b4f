"""What do the texts of a sample say about the data: lengths in tokens, repetition, overlap, languages?

Every function takes rows of ours and gives a dictionary of finite numbers, ready for JSON.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from data.refining import near, split
from data.schema import AnyRow, Demonstration, Judgement, Prompt, Ranking, prompt_key
from data.units import spaceless_letters
from pipeline.pages.progress import bar
from pipeline.rows.gather import EVAL, TRAIN, Portion
from pipeline.rows.portions import halved
from pipeline.settings.config import Data
from pipeline.statistics import wilson
from policies.framing import START
from policies.template import encode_completion, encode_prompt, show_prompt

NEAR = 0.8
EXAMPLES = 3
SHOWN_CHARACTERS = 1200
"""Of one text in the output: a single line of a file may hold a whole book."""
TELLING = 20
"""Characters from which a text has a language that can be told; one of a script that sets no spaces tells as much as three letters."""
READ_FOR_LANGUAGE = 300
SURE = 0.5


class Lengths(NamedTuple):
    """Tokens of one row: its prompt, each completion with EOS, and whether completions of different ranks are the same
    as far as the model can see them."""

    prompt: int
    completions: tuple[int, ...]
    indistinct: bool


def completions_of(row: AnyRow) -> list[str]:
    """Texts of a row's completions, in their own order."""
    if isinstance(row, Ranking):
        return [one.text for one in row.completions]
    return [row.completion] if isinstance(row, Demonstration | Judgement) else []


def best_of(row: AnyRow) -> str | None:
    """The best completion, None for a prompt alone, or with one that was disliked."""
    if isinstance(row, Ranking):
        return next(one.text for one in row.completions if one.id == row.ranking[0][0])
    if isinstance(row, Judgement):
        return row.completion if row.liked else None
    return row.completion if isinstance(row, Demonstration) else None


def measured(rows: Sequence[AnyRow], tokenizer: Any, max_length: int) -> tuple[list[Lengths | None], Counter[str]]:
    """Lengths of each row, None where the chat template refuses it, and what was said to those."""
    refused: Counter[str] = Counter()
    out: list[Lengths | None] = []
    for row in _watched(rows, "counting tokens"):
        try:
            prompt = encode_prompt(tokenizer, row.prompt)
        except ValueError as error:
            refused[str(error)] += 1
            out.append(None)
            continue
        completions = [encode_completion(tokenizer, row.prompt, text) for text in completions_of(row)]
        indistinct = isinstance(row, Ranking) and _indistinct(row, completions, max_length - len(prompt))
        out.append(Lengths(len(prompt) - prompt.count(START), tuple(map(len, completions)), indistinct))
    return out, refused


def _indistinct(row: Ranking, completions: Sequence[Sequence[int]], room: int) -> bool:
    ranks: dict[tuple[int, ...], int] = {}
    seen = [tuple(ids[: max(room, 0)]) for ids in completions]
    return any(ranks.setdefault(ids, rank) != rank for ids, rank in zip(seen, row.ranks(), strict=True))


def lengths(found: Sequence[Lengths | None], max_length: int, min_completion_tokens: int) -> dict[str, Any]:
    """Distribution of lengths, and what does not fit: `no_room`, prompts that stage data refuses; `cut`, completions
    that lose their end; `equal_after_cut`, rankings of completions that only differ in what is lost."""
    known = [one for one in found if one is not None]
    limit = max_length - min_completion_tokens - 1
    return {
        "prompt": distribution([one.prompt for one in known]),
        "completion": distribution([length for one in known for length in one.completions]),
        "no_room": sum(not 0 < one.prompt <= limit for one in known),
        "prompts": len(known),
        "cut": sum(one.prompt + length > max_length for one in known for length in one.completions),
        "completions": sum(len(one.completions) for one in known),
        "equal_after_cut": sum(one.indistinct for one in known),
        "refused": len(found) - len(known),
    }


def distribution(values: Sequence[int]) -> dict[str, Any] | None:
    """Median, 95th percentile (the smallest value that 95% do not exceed), largest, and counts between powers of two as
    [from, to, count]; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    bins: Counter[int] = Counter(value.bit_length() for value in ordered)
    histogram = [[2**size // 2, 2**size - 1, bins[size]] for size in range(min(bins), max(bins) + 1)]
    return {
        "median": float(statistics.median(ordered)),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "max": ordered[-1],
        "histogram": histogram,
    }


def longer_wins(rows: Sequence[AnyRow], found: Sequence[Lengths | None]) -> dict[str, Any]:
    """How often the completion with more tokens is the better one, of all pairs that are neither tied nor equally long.

    The 95% interval is Wilson's, as if pairs of one ranking were independent; None without any pair.
    """
    longer = shorter = equal = 0
    for row, one in zip(rows, found, strict=True):
        if not isinstance(row, Ranking) or one is None:
            continue
        ranks = row.ranks()
        for place, rank in enumerate(ranks):
            for other in range(place):
                better = (ranks[other] - rank) * (one.completions[place] - one.completions[other])
                longer, shorter = longer + (better > 0), shorter + (better < 0)
                equal += ranks[other] != rank and better == 0
    counts = {"pairs": longer + shorter, "longer": longer, "equal_length": equal}
    return counts | (wilson(longer, 0, shorter) if longer + shorter else dict.fromkeys(("win_rate", "low", "high")))


def near_duplicates(rows: Sequence[AnyRow]) -> dict[str, Any]:
    """Rows that say almost what a row before them says, and prompts that ask almost what another asks."""
    whole = list(dict.fromkeys("\n\n".join([show_prompt(row.prompt), *sorted(completions_of(row))]) for row in rows))
    prompts = list(dict.fromkeys(text for row in rows if (text := show_prompt(row.prompt)).strip()))
    of_rows, of_prompts = _clustered(whole), _clustered(prompts)
    examples = (of_rows if of_rows["near"] else of_prompts).pop("examples")
    of_prompts.pop("examples", None)
    of_rows.pop("examples", None)
    return {"threshold": NEAR, "rows": of_rows, "prompts": of_prompts, "examples": examples}


def _clustered(texts: Sequence[str]) -> dict[str, Any]:
    first = near.clusters(texts, NEAR)
    sizes = Counter(first)
    alike = [(head, place) for place, head in enumerate(first) if head != place]
    return {
        "different": len(texts),
        "near": len(alike),
        "clusters": sum(size > 1 for size in sizes.values()),
        "largest": max(sizes.values(), default=0),
        "examples": [[cut(texts[one]), cut(texts[other])] for one, other in alike[:EXAMPLES]],
    }


def overlap(portions: Sequence[Portion], settings: Data, seed: int) -> dict[str, Any]:
    """What the prompts of training and those held out have in common after the split that stage data makes.

    `exact` counts prompts that stand on both sides, `near` held-out prompts that resemble one of training (`NEAR`).
    """
    sides: dict[str | None, dict[str, str]] = {TRAIN: {}, EVAL: {}}
    for portion in halved(portions, settings, seed)[0]:
        for row in portion.rows:
            asked = split.asked(row.prompt)
            if asked.strip():
                sides[portion.side].setdefault(prompt_key(row.prompt), asked)
    train, held = sides[TRAIN], sides[EVAL]
    texts = [*train.values(), *held.values()]
    pairs = [(one, other) for one, other in near.near_duplicates(texts, NEAR) if one < len(train) <= other]
    closest = {other: one for one, other in reversed(pairs) if texts[one] != texts[other]}
    return {
        "train_prompts": len(train),
        "eval_prompts": len(held),
        "exact": len(train.keys() & held.keys()),
        "near": len(closest),
        "threshold": NEAR,
        "examples": [[cut(texts[one]), cut(texts[other])] for other, one in sorted(closest.items())[:EXAMPLES]],
    }


def languages(rows: Sequence[AnyRow]) -> dict[str, dict[str, int]]:
    """ISO 639 codes of prompts and best completions, the commonest first; "unsure" where no language is likelier than
    all others together, "too short to tell" below `TELLING` characters."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known: dict[str, str] = {}

    def language(text: str) -> str:
        text = " ".join(text[: 2 * READ_FOR_LANGUAGE].split())[:READ_FOR_LANGUAGE]
        if len(text) + 2 * spaceless_letters(text) < TELLING:
            return "too short to tell"
        if text not in known:
            code, probability = identifier.classify(text)
            known[text] = code if probability >= SURE else "unsure"
        return known[text]

    prompts: Counter[str] = Counter()
    completions: Counter[str] = Counter()
    for row in _watched(rows, "telling languages"):
        if (asked := split.asked(row.prompt)).strip():
            prompts[language(asked)] += 1
        if (best := best_of(row)) is not None:
            completions[language(best)] += 1
    return {"prompts": dict(prompts.most_common()), "completions": dict(completions.most_common())}


def samples(rows: Sequence[AnyRow], tokenizer: Any) -> list[dict[str, Any]]:
    """Rows as the model will see them: prompt and completion as one text, special tokens spelt out."""
    return [{"id": row.id, "source": row.source, "texts": _seen(row, tokenizer)} for row in rows]


def _seen(row: AnyRow, tokenizer: Any) -> list[dict[str, Any]]:
    try:
        prompt = encode_prompt(tokenizer, row.prompt)
    except ValueError as error:
        return [{"what": "refused", "tokens": 0, "text": str(error), "answer_at": None}]
    if isinstance(row, Prompt):
        named = [("prompt", list[int]())]
    elif isinstance(row, Demonstration):
        named = [("demonstration", encode_completion(tokenizer, row.prompt, row.completion))]
    elif isinstance(row, Judgement):
        named = [("liked" if row.liked else "disliked", encode_completion(tokenizer, row.prompt, row.completion))]
    else:
        ranked = sorted(zip(row.ranks(), row.completions, strict=True), key=lambda pair: pair[0])
        named = [(_place(rank, row), encode_completion(tokenizer, row.prompt, one.text)) for rank, one in ranked]
    return [_shown(what, prompt, ids, tokenizer) for what, ids in named]


def _place(rank: int, row: Ranking) -> str:
    """What a completion is in its ranking, in words."""
    tiers = len(row.ranking)
    if tiers == 2:
        return "chosen" if rank == 0 else "rejected"
    return "best" if rank == 0 else "worst" if rank == tiers - 1 else f"place {rank + 1} of {tiers}"


def _shown(what: str, prompt: Sequence[int], ids: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    """The text as the model sees it; `answer_at` is where the answer begins in it, None where letters span the two."""
    prompt = [one for one in prompt if one != START]  # no token of any vocabulary
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    told: dict[str, Any] = {"what": what, "tokens": len(prompt) + len(ids)}
    if not ids or not whole.startswith(before):
        return told | {"text": cut(whole), "answer_at": None}
    asked = cut(before)
    return told | {"text": asked + cut(whole[len(before) :]), "answer_at": len(asked)}


def cut(text: str) -> str:
    """Both ends of a text that is too long to be shown."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters left out) … {text[-half:]}"


def _watched(rows: Iterable[AnyRow], what: str) -> Iterator[AnyRow]:
    """The rows, with a progress bar on a terminal."""
    rows = list(rows)
    with closing(bar(len(rows), what, "rows")) as progress:
        for row in rows:
            yield row
            progress.update()
