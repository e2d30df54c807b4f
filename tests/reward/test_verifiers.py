"""Do the verifiers pass what an examiner would, and nothing else, and is a row that cannot be checked told?"""

import json
import time
from typing import Any

import pytest

from reward.functions import RewardError, call_checked, combine
from reward.verifiers import choice, code_of, exact, json_schema, number, python_tests, verifies, wrong

CITIES = ["London", "Paris", "Rome", "New York"]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Hé  llo \n", "Hé llo", True),
        ("é", "e\u0301", True),
        ("yes", "Yes", False),
        ("yes.", "yes", False),
        ("x", ["y", "x"], True),
        ("5", 5, True),
        ("true", True, True),
        ("５", "5", False),
        ("so yes", "yes", False),
    ],
)
def test_exact(text: str, answer: Any, right: bool) -> None:
    assert exact(["p"], [text], [answer]) == [float(right)]


def test_number_takes_any_accepted_answer_and_a_rows_tolerance() -> None:
    assert number(["p"] * 4, ["It is 1,234.", "7 or 8", "3", "none"], [1234, [7, 8.0], "a 4", 0]) == [1, 1, 0, 0]
    assert number(["p"] * 2, ["3.1", "3.1"], [3.14159, 3.14159], [0.05, None]) == [1, 0]
    assert number(["p"] * 3, ["3.3", "1.2", "3.301"], [3.0, 1.5, 3.0], [0.3] * 3) == [1, 1, 0]  # its edge belongs to it


@pytest.mark.parametrize(
    ("text", "answer", "choices", "right"),
    [
        *[(text, "B", None, True) for text in ("B", "(B)", "B.", "b", "(b) Paris", "**B**", "Ｂ", "[B]", "B) Paris", "I think B")],
        *[(text, "B", None, True) for text in ("answer: B", "The answer is B because A is wrong", "Option A is wrong. The answer is (b).")],
        *[(text, "B", None, True) for text in ("选B", "答案是 B。", "答案：B", "正确答案为B", r"\boxed{B}", r"\boxed{\text{B}} not A", "A cat says B")],
        *[(text, "B", None, False) for text in ("A or B", "The answer is A or B", "B\nA", "Bananas", "", "AB", "Final answer: B, not A", "C")],
        ("C", ["B", "C"], None, True),
        ("Paris", 1, CITIES, True),
        ("The capital is paris.", 1, CITIES, True),
        ("B. Paris", "Paris", CITIES, True),
        ("Paris or Rome", 1, CITIES, False),
        ("York", 3, CITIES, False),
        ("It is New York", 3, CITIES, True),
        ("E", 3, CITIES, False),
        ("2", "2", {"label": ["1", "2"], "text": ["x", "y"]}, True),
        ("y", "2", {"1": "x", "2": "y"}, True),
        ("I do not know.", "no", ["yes", "no"], False),
        ("Perhaps now", "no", ["yes", "no"], False),
        ("No, never.", "no", ["yes", "no"], True),
        ("It is 13", "3", ["3", "4"], False),
        ("2", 2, {"label": ["1", "2", "3"], "text": ["x", "y", "z"]}, True),
        *[(text, "A", None, False) for text in ("The answer is C. Option A is wrong.", "The answer is C, not option A.", "选C不选A")],
        ("The answer is C. Option A is wrong.", "C", None, True),
        *[(text, "B", None, False) for text in ("The answer is not B", "The answer isn't B", "答案不是B")],
    ],
)  # fmt: skip
def test_choice(text: str, answer: Any, choices: Any, right: bool) -> None:
    assert choice(["p"], [text], [answer], None if choices is None else [choices]) == [float(right)]


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"a": 1}', True),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', True),
        ('```\n{"a": "x"}\n```\n```json\n{"a": 1}', True),
        ('{"a": "1"}', False),
        ('{"a": 1, "b": 2}', False),
        ('{"a": 1, "a": 2}', False),
        ('{"a": NaN}', False),
        ('It is {"a": 1}', False),
        ("{'a': 1}", False),
        ("", False),
        ("[" * 100_000, False),
        ('{"a": ' + "1" * 5000 + "}", False),
    ],
)
def test_json_schema(text: str, right: bool) -> None:
    assert json_schema(["p"], [text], [SCHEMA]) == [float(right)] == json_schema(["p"], [text], [json.dumps(SCHEMA)])


def test_the_draft_is_that_of_the_schema() -> None:
    """`dependencies` is a keyword of draft 7, and none of 2020-12: what the standard's documents say."""
    rule = {"dependencies": {"a": ["b"]}}
    seventh = rule | {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert json_schema(["p"] * 2, ['{"a": 1}'] * 2, [rule, seventh]) == [1, 0]


def test_a_pattern_that_takes_for_ever_fails_in_seconds_and_the_next_text_is_read() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    start = time.monotonic()
    assert json_schema(["p"] * 3, ['"aaa"', f'"{"a" * 60}!"', '"aa"'], [schema] * 3) == [1, 0, 1]
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("prompt", "completion", "code"),
    [
        ("p", "Sure:\n```python\nx = 1\n```\nIt prints:\n```\n1\n```\n", "x = 1\n"),
        ("p", "```py\nx = 1\n```\nand\n```Python\ny = 2\n```", "x = 1\n\ny = 2\n"),
        ("p", "```\nx = 1\n```", "x = 1\n"),
        ("p", "```python\nx = 1\n", "x = 1\n"),
        ("p", "x = 1", "x = 1"),
        ("def f():\n", "    return 1", "def f():\n    return 1"),
        ([{"role": "user", "content": "p"}], "    x = 1", "    x = 1"),
    ],
)
def test_the_code_of_a_completion(prompt: Any, completion: str, code: str) -> None:
    assert code_of(prompt, completion) == code


def test_python_tests() -> None:
    said = ["```python\ndef f(x): return x + 1\n```", "def f(x): return 2", "I cannot."]
    assert python_tests(["p"] * 3, said, [["assert f(1) == 2", "assert f(5) == 6"]] * 3) == [1, 0, 0]
    humaneval = "def check(candidate):\n    assert candidate(1) == 2\n"
    assert python_tests(["def g(x):\n"], ["    return x + 1\n"], [humaneval], ["g"]) == [1]
    with pytest.raises(RewardError, match="the row of prompt 'p' cannot be checked: tests: they call nothing"):
        python_tests(["p"], ["x = 1"], ["assert True"])


@pytest.mark.parametrize(
    ("function", "row", "said"),
    [
        (exact, {}, r"it has no answer; name the column in data.keep=\[answer\]"),
        (exact, {"answer": " "}, "answer: it is blank"),
        (exact, {"answer": []}, "answer: the list is empty"),
        (exact, {"answer": {"a": 1}}, "is no text"),
        (number, {"answer": "forty"}, "answer: 'forty' names no number"),
        (number, {"answer": float("nan")}, "answer: nan names no number"),
        (number, {"answer": True}, "answer: True names no number"),
        (number, {"answer": 1, "tolerance": -1}, "tolerance: -1 is no number from 0 on"),
        (choice, {"answer": "Paris"}, "is no letter, and the row has no choices"),
        (choice, {"answer": 7, "choices": CITIES}, "7 is none of A, B, C, D"),
        (choice, {"answer": "A", "choices": 5}, "choices: write a list of texts"),
        (json_schema, {"schema": "{"}, "schema: it is no JSON"),
        (json_schema, {"schema": {"type": "strin"}}, "schema: 'strin' is not valid"),
        (json_schema, {"schema": {"pattern": "("}}, "is not a 'regex'"),
        (choice, {"answer": "A", "choices": "yes,no"}, "choices: write a list of texts"),
        (json_schema, {"schema": {"$ref": "http://x.y/z"}}, "leads nowhere in it, and nothing is fetched"),
        (json_schema, {"schema": {"properties": {"a": {"$ref": "#/nope"}}}}, "leads nowhere"),
        (json_schema, {"schema": {"$ref": "#"}}, "refers to itself without end"),
        (json_schema, {"schema": {"$schema": "http://x.y/draft"}}, "names no draft that is known"),
        (json_schema, {"schema": {"$ref": "#/$defs/no"}}, "leads nowhere"),
        (json_schema, {"schema": [1]}, "it is a list, and a schema is an object"),
        (python_tests, {"tests": ""}, "tests: they are empty"),
        (python_tests, {"tests": ["assert f("]}, "tests: they are no Python"),
        (python_tests, {"tests": "import numpy.linalg"}, "they import numpy.linalg, and only Python's own"),
        (python_tests, {"tests": [1]}, "a list is no Python"),
        (
            python_tests,
            {"tests": "def check(candidate): pass"},
            "define check.candidate., and the row has no entry_point",
        ),
        (python_tests, {"tests": "assert f(1)", "entry_point": 5}, "entry_point: 5 is no name of a function"),
    ],
)
def test_a_row_that_cannot_be_checked_is_told(function: Any, row: dict[str, Any], said: str) -> None:
    import re

    assert verifies(function) and re.search(said, str(wrong(function, row)))
    if row:
        with pytest.raises(RewardError, match=said):
            call_checked(function, "v", ["p"], ["text"], {key: [value] for key, value in row.items()})


def test_sound_rows_are_sound_and_other_functions_are_no_verifiers() -> None:
    assert wrong(number, {"answer": "5", "other": 1}) is None and wrong(python_tests, {"tests": "import math"}) is None
    assert wrong(json_schema, {"schema": {"$defs": {"p": {"type": "string"}}, "$ref": "#/$defs/p"}}) is None
    assert not verifies(len) and wrong(len, {}) is None
    assert wrong(json_schema, {"schema": {"const": {"$ref": "http://x.y/z"}}}) is None  # a value, and no reference
    assert json_schema(["p"], ["1e400"], [{"multipleOf": 0.5}]) == [0]


def test_as_a_reward_function_it_is_given_the_rows_columns() -> None:
    score = combine({"reward.verifiers:number": number}, [2.0], lambda prompts: {"answer": [5, None][: len(prompts)]})
    assert score(["2+3="], ["5"]).tolist() == [2.0]
    with pytest.raises(RewardError, match="the row of prompt 'why' cannot be checked: it has no answer"):
        score(["2+3=", "why"], ["5", "6"])
