"""Which rows may training never see, and are these the same rows as last time?"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from data.schema import AnyRow, Demonstration, PromptText, Ranking, prompt_key

Row = TypeVar("Row")


class HasJson(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def place(seed: int, key: str) -> float:
    """Where a key stands between 0 and 1, by a hash: it follows from seed and key alone."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_by(
    rows: Iterable[Row], key: Callable[[Row], str], eval_fraction: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """(train, eval), each in the order of `rows`; rows with one key stand on one side.

    The side follows from seed and key alone, by a hash, so rows that are added later move no other row. About
    `eval_fraction` (0 to 1) of the *keys* go to eval.
    """
    if not 0 <= eval_fraction <= 1:
        raise ValueError(f"eval_fraction must lie between 0 and 1, not {eval_fraction}")
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        (held_out if place(seed, key(row)) < eval_fraction else train).append(row)
    return train, held_out


def key_of(row: AnyRow) -> str:
    """What decides a row's side: its prompt; the text itself where a demonstration has no prompt."""
    if isinstance(row, Demonstration) and row.prompt == "":
        return prompt_key(row.completion)
    return prompt_key(row.prompt)


def asked(prompt: PromptText) -> str:
    """What a prompt asks, for comparing: its text, or its messages without the system's, which many prompts share."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def alike(rows: Iterable[AnyRow], similarity: float | None) -> dict[str, Hashable]:
    """The group of every row's key; prompts that are alike share one.

    Alike are prompts whose texts have at least this Jaccard similarity, and what they are alike to in turn; None lets
    each key stand for itself.
    """
    texts: dict[str, str] = {}
    for row in rows:
        key = key_of(row)
        if key not in texts:
            texts[key] = asked(row.prompt) or getattr(row, "completion", "")
    if similarity is None:
        return {key: key for key in texts}
    from data.refining.near import clusters  # rensa is of no use to whoever compares exactly

    return dict(zip(texts, clusters(list(texts.values()), similarity), strict=True))


def held_out(
    groups: Mapping[str, Hashable],
    strata: Mapping[str, Collection[str]],
    eval_fraction: float,
    seed: int,
    fixed: Collection[str] = (),
) -> set[str]:
    """The keys that training may not see: of each stratum about `eval_fraction` of its keys, and `fixed` wherever.

    `groups` gives the group of every key there is (see `alike`), and a group is held out whole or not at all. `strata`
    are the keys of each source. Where a stratum has two or more groups at least one of them is held out and one is not.
    Groups are taken in the order of a seeded hash, so keys that are added later move few others; one that would take
    the stratum past its share is passed over. The order in which keys and strata are given does not matter.
    """
    if not 0 < eval_fraction < 1:
        raise ValueError(f"eval_fraction must lie between 0 and 1, not {eval_fraction}")
    order: dict[Hashable, float] = {}
    for key, group in groups.items():
        order[group] = min(order.get(group, 1.0), place(seed, key))
    taken = {groups[key] for key in fixed}
    for _, keys in sorted(strata.items()):
        _hold_out(Counter(groups[key] for key in set(keys)), eval_fraction, order, taken)
    return {key for key, group in groups.items() if group in taken}


def _hold_out(
    sizes: Mapping[Hashable, int], eval_fraction: float, order: Mapping[Hashable, float], taken: set[Hashable]
) -> None:
    """Add groups of one stratum, of these sizes, to those taken, until it has its share."""
    whole = sum(sizes.values())
    wanted = min(max(1, int(eval_fraction * whole + 0.5)), whole - 1)
    have = sum(size for group, size in sizes.items() if group in taken)
    free = sorted((group for group in sizes if group not in taken), key=lambda group: order[group])
    for group in free:
        if have + sizes[group] <= wanted:
            taken.add(group)
            have += sizes[group]
    if not have and len(free) > 1:
        taken.add(min(free, key=lambda group: (sizes[group], order[group])))


def set_aside(
    rows: Sequence[Ranking], similarity: float | None, fraction: float, seed: int
) -> tuple[list[Ranking], list[Ranking]]:
    """(kept, aside), each in the order of `rows`; of the rows of each tag about `fraction` (0 to 1, both excluded) go aside.

    Rows with one prompt, or with prompts that are `alike`, stand on one side. Where a tag has two or more such groups at
    least one of them goes aside and one is kept. As in `held_out`, the order of a seeded hash decides who goes.
    """
    groups = alike(rows, similarity)
    order: dict[Hashable, float] = {}
    for key, group in groups.items():
        order[group] = min(order.get(group, 1.0), place(seed, f"aside {key}"))
    taken: set[Hashable] = set()
    for tag in sorted({row.tag or "" for row in rows}):
        sizes = Counter(groups[key_of(row)] for row in rows if (row.tag or "") == tag)
        _hold_out(sizes, fraction, order, taken)
    sides: tuple[list[Ranking], list[Ranking]] = [], []
    for row in rows:
        sides[groups[key_of(row)] in taken].append(row)
    return sides


def fingerprint(rows: Iterable[HasJson]) -> str:
    """sha256 (hex) of the rows as canonical JSON lines: keys sorted, no spaces, UTF-8, in the given order."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
