"""Sums for recipes/arithmetic.yaml: with the steps written out, and bare. Made here, the same at every call.

    data.mixture=[{source: "recipes.examples.arithmetic:chain", tag: chain}, …]

No pair of numbers stands on both sides, in neither order: `_held_out` says which side it is on. Every sum of `longer` has more digits than
any that is learned from.
"""

import random
from collections.abc import Iterator

DIGITS = 2  # of the numbers that are learned from, at most
DOCUMENTS, DEMONSTRATIONS, PROMPTS, ASKED, LONGER = 60_000, 1_000, 4_000, 150, 50


def corpus() -> Iterator[dict[str, str]]:
    """What a model reads before anything else: sums of both kinds, a document each."""
    for a, b in _pairs("corpus", DOCUMENTS):
        prompt, completion = _written(a, b, steps=a * 7 + b & 1 == 1)
        yield {"text": f"{prompt}{completion}"}


def chain() -> Iterator[dict[str, str]]:
    """Demonstrations with the steps written out."""
    return _rows(_pairs("chain", DEMONSTRATIONS), "chain")


def bare() -> Iterator[dict[str, str]]:
    """Demonstrations of the answer alone."""
    return _rows(_pairs("bare", DEMONSTRATIONS), "bare")


def prompts() -> Iterator[dict[str, str]]:
    """What ppo is asked in training: both kinds, in turns."""
    for a, b in _pairs("prompts", PROMPTS):
        for tag, steps in (("chain", True), ("bare", False)):
            yield {"prompt": _written(a, b, steps)[0], "answer": str(a + b), "tag": tag}


def held_out() -> Iterator[dict[str, str]]:
    """What all models are compared on: the same sums of both kinds, and sums of more digits under tags of their own."""
    some = list(dict.fromkeys(_pairs("held out", 20 * ASKED, held_out=True)))[:ASKED]
    more = [(a, b) for a, b in _pairs("longer", LONGER, digits=DIGITS + 1)]
    for pairs, ending in ((some, ""), (more, ", more digits")):
        for a, b in pairs:
            for tag, steps in (("chain", True), ("bare", False)):
                yield {"prompt": _written(a, b, steps)[0], "answer": str(a + b), "tag": tag + ending}


def _written(a: int, b: int, steps: bool) -> tuple[str, str]:
    """A sum as prompt and completion. The steps go from the last digit to the first, each with the carry of the one before it."""
    if not steps:
        return f"{a}+{b}=", str(a + b)
    said, carry = [], 0
    left, right = str(a)[::-1], str(b)[::-1]
    for place in range(max(len(left), len(right))):
        parts = [int(number[place]) for number in (left, right) if place < len(number)] + ([carry] if carry else [])
        said.append(f"{'+'.join(map(str, parts))}={sum(parts)}")
        carry = sum(parts) // 10
    return f"steps {a}+{b}:", f" {' '.join(said)} so {a + b}"


def _rows(pairs: Iterator[tuple[int, int]], tag: str) -> Iterator[dict[str, str]]:
    for a, b in pairs:
        prompt, completion = _written(a, b, steps=tag == "chain")
        yield {"prompt": prompt, "completion": completion, "answer": str(a + b), "tag": tag}


def _pairs(name: str, count: int, held_out: bool = False, digits: int | None = None) -> Iterator[tuple[int, int]]:
    """Pairs of one side: of exactly `digits` digits, or of DIGITS at most."""
    drawn = random.Random(name)
    low, high = (1, 10**DIGITS) if digits is None else (10 ** (digits - 1), 10**digits)
    while count:
        a, b = drawn.randrange(low, high), drawn.randrange(low, high)
        if digits is not None or _held_out(a, b) == held_out:
            count -= 1
            yield a, b


def _held_out(a: int, b: int) -> bool:
    return random.Random(f"{min(a, b)} {max(a, b)}").random() < 0.1
