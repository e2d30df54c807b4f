"""Tiny functions with tests, for recipes/code.yaml: what a small model can sometimes write. Made here, the same at every call.

    data.source=recipes.examples.code:demonstrations

A kind of function stands on one side alone, so that held-out tasks ask for functions that no demonstration and no prompt of training asks for.
"""

import random
from collections.abc import Iterator

# name, arguments, what it returns in words, its expression, arguments that its tests try; {n} is a number of its own
Kind = tuple[str, str, str, str, tuple[str, ...]]
TRAINED: tuple[Kind, ...] = (
    ("add_{n}", "x", "x plus {n}", "x + {n}", ("0", "5", "-3")),
    ("times_{n}", "x", "x times {n}", "x * {n}", ("0", "4", "-2")),
    ("at_least_{n}", "x", "True if x is at least {n}, else False", "x >= {n}", ("0", "{n}", "99")),
    ("first_{n}", "text", "the first {n} letters of text", "text[:{n}]", ("'abcdefghijklmn'", "'a'", "''")),
    ("repeat_{n}", "text", "text repeated {n} times", "text * {n}", ("'ab'", "''")),
    ("drop_{n}", "items", "the list items without its first {n} elements", "items[{n}:]", ("list(range(20))", "[]")),
    ("power_{n}", "x", "x to the power of {n}", "x ** {n}", ("0", "2", "-1")),
    ("count_{n}", "items", "how often {n} is in the list items", "items.count({n})", ("[{n}, 1, {n}]", "[]", "[0]")),
    ("with_{n}", "items", "a new list: items with {n} added at the end", "items + [{n}]", ("[1, 2]", "[]")),
    ("divisible_by_{n}", "x", "True if x is divisible by {n}, else False", "x % {n} == 0", ("0", "{n}", "{n} * 7 + 1")),
)
HELD_OUT: tuple[Kind, ...] = (
    ("minus_{n}", "x", "x minus {n}", "x - {n}", ("0", "5", "-3")),
    ("last_{n}", "text", "the last {n} letters of text", "text[-{n}:]", ("'abcdefghijklmn'", "'ab'")),
    ("less_than_{n}", "x", "True if x is less than {n}, else False", "x < {n}", ("0", "{n}", "99")),
    ("remainder_{n}", "x", "the remainder of x divided by {n}", "x % {n}", ("0", "7", "100")),
    ("square_plus_{n}", "x", "the square of x plus {n}", "x * x + {n}", ("0", "3", "-4")),
)
NUMBERS = range(2, 12)


def demonstrations() -> Iterator[dict[str, object]]:
    """Tasks with a right answer in a fenced block."""
    return _rows(TRAINED)


def prompts() -> Iterator[dict[str, object]]:
    """What ppo is asked in training."""
    for row in _rows(TRAINED):
        yield {key: value for key, value in row.items() if key != "completion"}


def held_out() -> Iterator[dict[str, object]]:
    """What all models are compared on: other kinds of functions."""
    for row in _rows(HELD_OUT):
        yield {key: value for key, value in row.items() if key != "completion"}


def _rows(kinds: tuple[Kind, ...]) -> Iterator[dict[str, object]]:
    tasks = [(kind, n) for kind in kinds for n in NUMBERS]
    random.Random("code").shuffle(tasks)
    for (name, arguments, words, expression, tried), n in tasks:
        name, words, expression = (text.format(n=n) for text in (name, words, expression))
        code = f"def {name}({arguments}):\n    return {expression}\n"
        given = [one.format(n=n) for one in tried]
        right = f"(lambda {arguments}: {expression})"
        yield {
            "prompt": [
                {
                    "role": "user",
                    "content": f"Write a Python function {name}({arguments}) that returns {words}. Answer with the code alone.",
                }
            ],
            "completion": f"```python\n{code}```",
            "tests": [f"assert {name}({one}) == {eval(f'{right}({one})')!r}" for one in given],
        }
