"""Is what is read fast always what is read with care, and is most of what people write read fast?"""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.reading.json_rows import careful_row
from data.reading.quick import quick_row

ROW = {"prompt": 'Say "hi": now\n', "chosen": "Hi \U0001f98a", "rejected": ":)", "meta": [{"a": 1, "b": [0.5, None]}]}


def careful(raw):
    problems = []
    row = careful_row(raw, "f", 1, problems)
    return None if problems else row


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_people_write_is_read_fast(ascii, separators):
    row = {**ROW, "rejected": "no colon first"}
    raw = json.dumps(row, ensure_ascii=ascii, separators=separators).encode() + b"\r\n"
    assert quick_row(raw) == row == careful(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 2}',
        b'{"a" : 1, "a": 2}',
        b'{"a"\t:1,"a":2}',
        b'{"a": 1, "a"\r: 2}',
        b'{"a": ":", "a": ":"}',
        b'{"a": "\\":", "a": 1}',
        b'{"a": "\\":", "a": "\\":"}',
        b'{"a\\\\": 1, "a\\\\": 2}',
        b'{"a\\\\": 1, "b": 1, "b": 2}',
        b'{"a": "x\\\\", "b": 1, "b": 2}',
        b'{"a\\\\": "x\\\\", "b": 1, "b": 2}',
        b'{"a": [{"b": 1, "b": 1}]}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": NaN}',
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[]",
        b"1",
        b"",
        b"{} {}",
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_what_is_wrong_is_never_read_fast(raw):
    assert quick_row(raw) is None


@pytest.mark.parametrize(
    "number", [b"18446744073709551616", b"-9223372036854775809", b"9" * 400, b"-0", b"1e19", b"12345678901234567890.5"]
)
def test_a_number_is_what_is_written(number):
    raw = b'{"a": [' + number + b"]}"
    row = quick_row(raw)
    assert row is None or repr(row) == repr(careful(raw))


SPACE = st.sampled_from(["", "", "", " ", "  ", "\t", "\r", " \t"])
TEXT = st.text(alphabet='ab":\\ \t\n{}[],é\U0001f98a\ud800', max_size=6).map(
    lambda text: text.encode("utf-8", "replace").decode()
)
NUMBER = st.one_of(
    st.integers(-3, 3).map(str),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(
        [
            "-0",
            "-0.0",
            "0.0",
            "0e1",
            "1E400",
            "1e-400",
            "NaN",
            "Infinity",
            "-Infinity",
            "1.0",
            "1e2",
            "01",
            "1.",
            "18446744073709551615",
        ]
    ),
    st.integers(2**62, 2**66).map(str),
)


@st.composite
def value(draw, depth=0):
    """The text of a JSON value, loosely written and now and then wrong."""
    kind = draw(st.integers(0, 5 if depth < 3 else 3))
    if kind == 0:
        return json.dumps(draw(TEXT), ensure_ascii=draw(st.booleans()))
    if kind == 1:
        return draw(NUMBER)
    if kind == 2:
        return draw(
            st.sampled_from(
                ["true", "false", "null", '""', '":"', '"\\\\"', '"\\u0061"', '"\\ud83d\\ude00"', '"\\ud83d"']
            )
        )
    if kind == 3:
        return json.dumps(draw(TEXT))
    if kind == 4:
        inside = [draw(value(depth + 1)) for _ in range(draw(st.integers(0, 3)))]
        return "[" + draw(SPACE) + f"{draw(SPACE)},{draw(SPACE)}".join(inside) + draw(SPACE) + "]"
    return draw(row(depth + 1))


@st.composite
def row(draw, depth=0):
    pairs = []
    for _ in range(draw(st.integers(0, 4))):
        key = draw(st.sampled_from(['"a"', '"b"', '"c"', '"\\u0061"', '"a\\\\"', '"\\""', '":"', '""', '"é"']))
        pairs.append(f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{draw(value(depth))}{draw(SPACE)}")
    return "{" + ",".join(pairs) + draw(SPACE) + "}"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(row())
def test_fast_and_careful_agree(text):
    """`repr` tells 1 from 1.0 and True, and -0.0 from 0.0."""
    raw = text.encode()
    fast = quick_row(raw)
    if fast is not None:
        assert repr(fast) == repr(careful(raw))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_fraction_is_read_to_the_last_bit(number):
    fast = quick_row(f'{{"a": {number!r}}}'.encode())
    assert fast is None or (fast["a"] == number and math.copysign(1, fast["a"]) == math.copysign(1, number))
