"""LaTeX to words and words to LaTeX, two tasks for recipes/latex.yaml. Made here, the same at every call.

    data.mixture=[{source: "recipes.examples.latex:read", tag: read}, {source: "recipes.examples.latex:write", tag: write}]

An expression is two letters or digits under one or two operations. No expression stands on both sides, in neither task.
"""

import random
from collections.abc import Iterator

DOCUMENTS, DEMONSTRATIONS, PROMPTS, ASKED = 30_000, 1_000, 3_000, 160
OPERATIONS = (
    ("{a}+{b}", "{a} plus {b}"),
    ("{a}-{b}", "{a} minus {b}"),
    (r"{a}\times {b}", "{a} times {b}"),
    (r"\frac{{{a}}}{{{b}}}", "{a} over {b}"),
    ("{a}^{{{b}}}", "{a} to the power of {b}"),
    ("{a}_{{{b}}}", "{a} sub {b}"),
    (r"{a}\leq {b}", "{a} is at most {b}"),
)
AROUND = (("{x}", "{x}"), (r"\sqrt{{{x}}}", "the root of {x}"), (r"\sin({x})", "the sine of {x}"))
NAMES = "abcdefghkmnpqrstuvwxyz23456789"


def corpus() -> Iterator[dict[str, str]]:
    """What a model reads before anything else: expressions both ways, a document each."""
    for place, (formula, words) in enumerate(_expressions("corpus", DOCUMENTS)):
        yield {"text": "".join(_asked(formula, words, ("read", "write")[place % 2]))}


def read() -> Iterator[dict[str, str]]:
    """Demonstrations of LaTeX in words."""
    return _rows("read", "demonstrations", DEMONSTRATIONS)


def write() -> Iterator[dict[str, str]]:
    """Demonstrations of words in LaTeX."""
    return _rows("write", "demonstrations", DEMONSTRATIONS)


def prompts() -> Iterator[dict[str, str]]:
    """What ppo is asked in training: both tasks, in turns."""
    return _both("prompts", PROMPTS, held_out=False)


def held_out() -> Iterator[dict[str, str]]:
    """What all models are compared on."""
    return _both("held out", ASKED, held_out=True)


def _asked(formula: str, words: str, task: str) -> tuple[str, str]:
    return (f"say ${formula}$:", f" {words}") if task == "read" else (f"write {words}:", f" ${formula}$")


def _rows(task: str, name: str, count: int) -> Iterator[dict[str, str]]:
    for formula, words in _expressions(f"{task} {name}", count):
        prompt, completion = _asked(formula, words, task)
        yield {"prompt": prompt, "completion": completion, "answer": completion.strip(), "tag": task}


def _both(name: str, count: int, held_out: bool) -> Iterator[dict[str, str]]:
    for formula, words in dict.fromkeys(_expressions(name, count, held_out)):
        for task in ("read", "write"):
            prompt, completion = _asked(formula, words, task)
            yield {"prompt": prompt, "answer": completion.strip(), "tag": task}


def _expressions(name: str, count: int, held_out: bool = False) -> Iterator[tuple[str, str]]:
    drawn = random.Random(name)
    while count:
        a, b = drawn.choice(NAMES), drawn.choice(NAMES)
        inner, outer = drawn.choice(OPERATIONS), drawn.choice(AROUND)
        formula, words = (around.format(x=of.format(a=a, b=b)) for around, of in zip(outer, inner, strict=True))
        if (random.Random(formula).random() < 0.1) == held_out:
            count -= 1
            yield formula, words
