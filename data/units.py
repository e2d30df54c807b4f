"""What counts as a word, where a script may write no spaces between words?

Chinese, Japanese, Thai, Lao, Khmer and Burmese set no spaces between words (the classes ID and SA of Unicode's line breaking, UAX #14):
there each character counts, with the marks that stand on it. Korean, English and all other scripts have spaces, and what stands
between two of them is a word. "iPhone 很好用" has 1 + 3. A text without such characters is counted as `str.split` counts it.
"""

import re
import unicodedata
from collections.abc import Iterable

_IDEOGRAPHIC = (  # Han, kana, bopomofo; half-width kana; the planes of rarer Han
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00016fe3\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
# Thai and Lao, Myanmar, Khmer, Tai Le and New Tai Lue, Tai Tham, Myanmar extended, Tai Viet, Ahom
_SOUTH_EAST_ASIAN = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF)),
    *((0xA9E0, 0xA9FF), (0xAA60, 0xAADF), (0x11700, 0x1174F)),
)


def _of(kinds: tuple[str, ...]) -> str:
    """Those characters of the blocks of South-East Asia whose general category is one of `kinds`."""
    found = (chr(code) for first, last in _SOUTH_EAST_ASIAN for code in range(first, last + 1))
    return "".join(one for one in found if unicodedata.category(one) in kinds)


SPACELESS = _IDEOGRAPHIC + _of(("Lo", "Lm"))
"""What stands in a character class of `re`: letters of scripts that set no spaces between words."""
MARKS = "\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef" + _of(("Mn", "Mc"))
"""The same of the marks that stand on such a letter: vowels, tones, variants."""
_LETTER = re.compile(f"[{SPACELESS}]")
_PIECE = re.compile(f"[{SPACELESS}][{MARKS}]*|[^\\s{SPACELESS}]+")
# Punctuation that touches a spaceless letter belongs to it, as "good!" is one word.
_WORD = re.compile(f"[^\\w\\s]*[{SPACELESS}][^\\w\\s]*|[^\\s{SPACELESS}]+")
_BARE = re.compile(f"[{SPACELESS}][{MARKS}]*|[^\\W_{SPACELESS}]+")


def pieces(text: str) -> list[str]:
    """The text without its spaces: each spaceless letter with its marks, and whatever stands between those and spaces in one piece."""
    return _PIECE.findall(text)


def bare_words(text: str) -> list[str]:
    """Its words without punctuation."""
    return _BARE.findall(text)


def count_words(text: str) -> int:
    """How many words a text has; punctuation is none of its own where it touches one."""
    return len(_WORD.findall(text))


def spaceless_letters(text: str) -> int:
    """How many of its letters are of a script that sets no spaces."""
    return len(_LETTER.findall(text))


def is_spaceless(texts: Iterable[str]) -> bool:
    """Whether most words of the texts, all together, are single letters of such scripts."""
    letters = words = 0
    for text in texts:
        letters += spaceless_letters(text)
        words += count_words(text)
    return 2 * letters > words
