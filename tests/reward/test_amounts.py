"""Is the last number of a text the one that an examiner reads, however people write numbers?"""

import time
from fractions import Fraction

import pytest

from reward.amounts import last, of_value, same

READ = {
    "42": "42", "It is 42.": "42", "is: 42,": "42", "**42**": "42", "#### 1,000": "1000", "x=-5": "-5", "+7": "7",
    "1,234": "1234", "1 234": "1234", "1\u202f234": "1234", "1'234": "1234", "1’234.5": "1234.5", "12,34,567": "1234567",
    "1.234,5": "1234.5", "1,234.5": "1234.5", "1.234.567": "1234567", "1.234": "1.234", "3,5": "3.5", "0,125": "0.125", "7 000,5": "7000.5",
    ".5": "0.5", "0.50": "0.5", "-5": "-5", "−5": "-5", "-$5": "-5", "$-5": "-5", "$1,234.50": "1234.50", "100 €": "100",
    "3/4": "3/4", "-1/2": "-1/2", "1 3/4": "7/4", "3½": "7/2", "½": "1/2", r"\boxed{\frac{3}{4}}": "3/4", r"so \boxed{42} of 50": "42", r"\boxed{7": "7",
    "1.5e3": "1500", "2E-2": "1/50", "1.5 × 10^3": "1500", "1.5 × 10³": "1500", r"2 \times 10^{3}": "2000", "2x10^3": "2000",
    "４２": "42", "٤٢": "42", "答案是42个": "42", r"1\,000": "1000", "1{,}000": "1000", r"42\%": "42", "50 %": "50",
    "5 m^2": "5", "5 m²": "5", "5kg": "5", "3 km/h": "3", "CO2 is 7": "7", "1,2,3": "3", "1, 2, 3": "3", "in 2024, 100 people": "100",
    r"-\frac{1}{2}": "-1/2", "-½": "-1/2", r"2\frac{1}{2}": "5/2", r"1.5 \cdot 10^{3}": "1500", "3+4=7": "7", "Step 2: 42": "42", "7 - 4 = 3": "3", "12 345 678": "12345678", "5'": "5",
}  # fmt: skip
NONE = ["", "none", "nan", "inf", "-inf", "NaN", "3-4", "3–4", "3 – 4", "10:30", "3 + 4", "2024-05-03", "1.2.3", "1/2/3", "3/0", "10^5", "5²", "2^{10}", "x^{2}", r"2\sqrt{3}", "√2", r"\sqrt{2}", "1e9999999", "9" * 1001, "forty-two", "四十二"]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_the_last_number_is_read(text: str) -> None:
    found = last(text)
    assert found is not None and found.value == Fraction(READ[text])


@pytest.mark.parametrize("text", NONE)
def test_what_names_no_single_number_names_none(text: str) -> None:
    assert last(text) is None


@pytest.mark.parametrize(
    ("said", "right", "equal"),
    [
        ("10000001", "10000000", False),
        ("5001", "5000.0", False),
        ("0.333333", "1/3", True),
        ("0.3333", "1/3", False),
        ("0.30000000000000004", "0.3", True),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("0.5", "50%", True),
        ("51%", "50", False),
        ("51%", "50%", False),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("42 km", "42", True),
        ("1/2", r"-\frac{1}{2}", False),
        ("12345690", "12345678.0", False),
    ],
)
def test_two_numbers_are_the_same(said: str, right: str, equal: bool) -> None:
    a, b = last(said), last(right)
    assert a is not None and b is not None and same(a, b) is equal


def test_a_tolerance_is_absolute_and_ends_where_it_says() -> None:
    a, b, c = last("3.14"), last("3.15"), last("3.1416")
    assert a is not None and b is not None and c is not None
    assert same(a, c, Fraction("0.002")) and not same(b, c, Fraction("0.002")) and not same(a, c, Fraction(0))


@pytest.mark.parametrize("value", [True, False, None, float("nan"), float("inf"), [], {}, "no number", "3-4"])
def test_what_is_no_number_is_no_answer(value: object) -> None:
    assert of_value(value) is None


def test_answers_are_numbers_or_texts() -> None:
    found = [of_value(value) for value in (5, 0.1, 1e16, "A: 5 apples", 10**30)]
    assert [one and one.value for one in found] == [5, Fraction("0.1"), 10**16, 5, 10**30]


@pytest.mark.parametrize(
    "part", ["1,", "1 ", "1 234 ", "1 000", "-", "1/", "1.5e", "1'", "9", "\\boxed{", "½", "²", "10^"]
)
def test_no_text_takes_long(part: str) -> None:
    start = time.process_time()
    last(part * 50_000)
    assert time.process_time() - start < 2
