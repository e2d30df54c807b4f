"""Which number does a text name last? For `verifiers.number`, by rules that are told and not guessed.

- Digits of any script, full width too; signs as -, − or +, not after a digit: the hyphen of "3-4" is none.
- Thousands by comma, apostrophe or space, in groups of three (1,234 · 1 234 · 1'234), in India's way (12,34,567), or by more than one
  point (1.234.567). One point is a decimal point (1.234 is less than two); one comma is a decimal comma unless three digits follow it
  and a number from 1 to 999 precedes it (3,5 · 0,125, and 1,234 is a thousand). Where both stand, the later one is the decimal mark.
- Fractions (3/4, 1 3/4, ½, \\frac{3}{4}), powers of ten (1.5e3, 1.5 × 10^3, 1.5 × 10³), percent (by the sign).
- What stands in the last \\boxed{…} counts alone. Currency signs and units are passed over, and digits that a letter or ^ precedes are
  none (CO2, m^2). Number words and Han numerals are no digits.
- A range, a clock time, a date or a sum without its result (3-4, 3 – 4, 10:30, 3 + 4) names no single number, and ends as none.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS, MOST_EXPONENT = 1000, 1000
TOLERANCE = Fraction(1, 10**6)  # of the right number, where one of both is written with decimals
_SAME = str.maketrans({**dict.fromkeys("−‐‑–—﹣", "-"), "’": "'", "⁄": "/", "٫": ".", "٬": ",", "×": "*", "·": "*"})
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")
_NUMBER = re.compile(
    r"(?<![A-Za-z_^\d])(?<!\^\{)(?<!sqrt\{)(?<!√)(?<!\d[.,'])(?P<sign>[-+])?(?(sign)[$€£¥]?)"
    r"(?P<digits>[1-9]\d{0,2}(?: \d{3})+(?!\d)(?:[.,]\d+)?|\d[\d.,']*|\.\d+)"
    r"(?:[eE](?P<e>[-+]?\d+)(?!\w)|\s?(?:\*|x|\\times|\\cdot)\s?10\s?\^\s?\{?(?P<ten>[-+]?\d+)\}?)?"
    r"(?:(?: (?P<of>\d+))?\s?/\s?(?P<below>\d+)(?!\s?/))?(?P<percent>\s?%)?"
)
_GROUPS = re.compile(
    r"\d+|[1-9]\d{0,2}(?:(?P<mark>[,'])\d{3}(?:(?P=mark)\d{3})*|(?:\.\d{3}){2,})|[1-9]\d?(?:,\d{2})+,\d{3}"
)
_HEAD = re.compile(r"[1-9]\d{0,2}(?P<mark>[,.'])\d{3}(?:(?P=mark)\d{3})*|[1-9]\d?(?:,\d{2})+,\d{3}")
_DECIMALS = re.compile(r"(?P<head>[\d.,']*)(?P<mark>[.,])(?P<tail>\d+)")
_JOINED = re.compile(r"[\d%](?:[ \t]*[-+*/][ \t]*[$€£¥]?|:)$")


@dataclass(frozen=True)
class Amount:
    """A number as written, whether with a percent sign, and whether as an integer."""

    value: Fraction
    percent: bool = False
    whole: bool = True


def last(text: str) -> Amount | None:
    """The last number that the text names; None where it ends in none or names none."""
    text = _plain(boxed(text))
    found = max(_NUMBER.finditer(text), key=re.Match.start, default=None)
    if found is None or _JOINED.search(text, max(0, found.start() - 8), found.start()):
        return None
    if re.match(r":\d|\s?/\s?\d|-\d|\^|\\sqrt|\\pi", text[found.end() : found.end() + 6]):
        return None
    return _amount(found)


def _amount(found: re.Match[str]) -> Amount | None:
    digits = _digits(found["digits"].rstrip(".,'").replace(" ", ""))
    written = found["e"] or found["ten"] or "0"
    power = int(written) if len(written) < 8 else MOST_EXPONENT + 1
    if digits is None or abs(power) > MOST_EXPONENT:
        return None
    value = Fraction(digits)
    whole = value.denominator == 1 and not power
    if found["below"] is not None:
        below = int(found["below"][:MOST_DIGITS])
        if not below:
            return None
        above = found["of"]
        value = value / below if above is None else value + Fraction(int(above[:MOST_DIGITS]), below)
        whole = False
    value *= Fraction(10) ** power
    return Amount(-value if found["sign"] == "-" else value, found["percent"] is not None, whole)


def _digits(text: str) -> str | None:
    """Digits with their marks as Python reads them; the last of several numbers that commas part. None for what is no number, such as 1.2.3."""
    if not text or len(text) > MOST_DIGITS:
        return None
    if _GROUPS.fullmatch(text):
        return re.sub("[,.']", "", text)
    if (found := _DECIMALS.fullmatch(text)) is not None:
        head = found["head"]
        if head.isdigit() or not head or _HEAD.fullmatch(head) and found["mark"] not in head:
            return re.sub("[,.']", "", head or "0") + "." + found["tail"]
    last = re.split("[,']", text)[-1]
    return None if last == text or last.count(".") > 1 else last


def of_value(value: object) -> Amount | None:
    """The number that a row's answer is: a number of JSON, or the last one of a text. None for anything else, NaN and infinity too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Amount(Fraction(value))
    if isinstance(value, float):
        return last(repr(value)) if value - value == 0 else None
    return last(value) if isinstance(value, str) else None


def same(said: Amount, right: Amount, tolerance: Fraction | None = None) -> bool:
    """Whether both are one number: integers exactly, else within a millionth of the right one, or within the absolute `tolerance`. A
    percent sign that only one of them has may count or not: 50% is 50 and 0.5."""
    pairs = [(said.value, right.value)]
    if said.percent != right.percent:
        pairs.append((said.value / (100 if said.percent else 1), right.value / (100 if right.percent else 1)))
    exact = said.whole and right.whole and said.percent == right.percent

    def near(a: Fraction, b: Fraction) -> bool:
        within = (Fraction(0) if exact else TOLERANCE * abs(b)) if tolerance is None else tolerance
        return abs(a - b) <= within

    return any(near(a, b) for a, b in pairs)


def boxed(text: str) -> str:
    """What stands in the last \\boxed{…} of a text, to the end where it is not closed; the text itself where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    inside, depth = start + len("\\boxed{"), 1
    for place in range(inside, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[inside:place]
    return text[inside:]


def _plain(text: str) -> str:
    """One way of writing for digits, signs, spaces and fractions."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda one: "^" + one[0].translate(_RAISED), text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅟↉]|\\[dt]?frac)", " ", text)  # 3½ is 3 1/2; a sign stays where it is
    text = unicodedata.normalize("NFKC", text).translate(_SAME)
    text = _FRAC.sub(r"\1/\2", text).replace("{,}", ",")
    return re.sub(r"\\([,!;: ]|[%$])", lambda one: one[1] if one[1] in "%$" else "", text)
