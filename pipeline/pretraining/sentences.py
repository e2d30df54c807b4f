"""Where does a sentence end? In Chinese and English text, and in both in one line.

Chinese: after 。 ！ ？ ； … and their runs, with the quotes that they close. English: after . ! ? and a space, but not after an
abbreviation, an initial, the number of a list, or within a decimal. The end of a line always ends a sentence.
"""

import re
import unicodedata
from collections.abc import Iterator

_FULL = frozenset("。｡！？；")  # always ends a sentence
_RUN = re.compile(r"[。｡！？；…．.!?]+(?:[ ]*[.!?…](?=[ ]*[.!?…]|\s|$))*")
_CLOSERS = "\"'”’」』）)】》〉]｣"
_LINE = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")
_FOLLOWING = re.compile(r"\s*(\S?)")
_ACRONYM = re.compile(r"(?:[a-z]\.)+[a-z]")
_NUMBERED = re.compile(r"(?:.*[.!?]\s)?\s*\(?\d{1,3}", re.DOTALL)  # 1. of a list
# Words whose dot ends no sentence; those of the second row may stand last in one, so theirs goes on only before a number.
_TITLES = frozenset(
    "mr mrs ms dr prof rev hon st sr jr gen col capt lt sgt mt vs etc cf al eds ed approx dept est".split()
)
_BEFORE_NUMBERS = frozenset("no nos p pp fig eq vol ch sec jan feb mar apr jun jul aug sep sept oct nov dec".split())
_SEEN = 40  # characters before a dot that decide what it is
# scripts without spaces between words that are not wide: Thai and Lao, Burmese, Khmer
_NARROW = (("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"))


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order. Joined they are `text` again: white space stays with the sentence before it.

    A piece without a letter or a digit, such as a line of dashes, is no sentence; it stays with what stands before it, or the text begins
    with it.
    """
    starts, said, start = [0], False, 0
    for end in (*_ends_of(text), len(text)):
        while end < len(text) and text[end].isspace():
            end += 1
        if end <= start:
            continue
        says = any(map(str.isalnum, text[start:end]))
        if says and said:
            starts.append(start)
        said, start = said or says, end
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True) if b > a]


def _ends_of(text: str) -> Iterator[int]:
    """The places after which a sentence ends, in order."""
    line = 0
    for found in _LINE.finditer(text + "\n"):
        yield from _within(text, line, min(found.start(), len(text)))
        line = found.end()
        yield min(line, len(text))


def _within(text: str, line: int, stop: int) -> Iterator[int]:
    for run in _RUN.finditer(text, line, stop):
        end = run.end()
        while end < stop and text[end] in _CLOSERS:
            end += 1
        if _ends(text, line, run.start(), run.end(), end, stop):
            yield end


def _ends(text: str, line: int, first: int, last: int, end: int, stop: int) -> bool:
    """Whether the marks text[first:last], with what they close up to `end`, end a sentence of the line text[line:stop]."""
    marks = text[first:last]
    if end >= stop or not _FULL.isdisjoint(marks):
        return True
    dot, before, after = marks in (".", "．"), text[first - 1] if first > line else "", text[end]
    if wide(after) or (wide(before) and not after.isspace()):
        return not (dot and before.isdigit())
    if not after.isspace():
        return False
    found = _FOLLOWING.match(text, end, stop)
    following = found[1] if found else ""
    if following.islower():
        return marks[-1] in "!?" and end == last
    return not dot or wide(before) or not _goes_on(text[max(line, first - _SEEN) : first], following)


def _goes_on(said: str, following: str) -> bool:
    """Whether a dot after `said` ends a word and no sentence."""
    word = re.split(r"[\s(\[\"'“‘/]", said)[-1].lower()
    if word in _TITLES or _ACRONYM.fullmatch(word) or (len(word) == 1 and word.isalpha() and word != "i"):
        return True
    if word in _BEFORE_NUMBERS:
        return following.isdigit()
    return _NUMBERED.fullmatch(said) is not None


def wide(character: str) -> bool:
    """Whether a character is of a script that writes no space between words, or of its punctuation: Chinese, Japanese, Thai."""
    if any(first <= character <= last for first, last in _NARROW):
        return True
    hangul = "\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7ff"
    return character > "\u1100" and not hangul and unicodedata.east_asian_width(character) in "WF"
