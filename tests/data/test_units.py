"""Are words counted as each script writes them: between spaces, or by characters where it sets none?"""

import re
import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from data import units

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Myanmar", "Khmer"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Ahom"),
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("iPhone 很好用", 4),
        ("我喜欢 Python3.11，真的。", 6),
        ("（很好）！！", 2),
        ("价格¥1,299，很值", 5),
        ("東京タワーに行きました。", 11),
        ("สวัสดีครับ", 7),  # seven consonants and spacing vowels; three marks stand on them
        ("ที่นี่ดี", 3),
        ("ສະບາຍດີ", 6),
        ("한국어는 띄어쓰기가 있다.", 3),
        ("good -- really 👍", 4),
        ("很好👍🏽", 2),
        ("👨‍👩‍👧 family", 2),
        ("Привет, мир!", 2),
        ("人々が𠮷野家に", 7),
        ("か\u3099く", 2),  # a voiced kana, written as two code points
        (" \n", 0),
    ],
)
def test_words_are_counted_as_the_script_writes_them(text: str, count: int) -> None:
    assert units.count_words(text) == count


@given(st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from(" \n\u3000\x1c—’“👍한글")))
def test_a_text_with_spaces_is_counted_as_split_counts_it(text: str) -> None:
    assert units.count_words(text) == len(text.split())
    assert units.pieces(text) == text.split()


@given(st.text(st.sampled_from("ab1 .，。很好ที่か\u3099ガ\n")))
def test_pieces_are_the_text_without_its_spaces(text: str) -> None:
    assert "".join(units.pieces(text)) == "".join(text.split())


def test_the_letters_are_those_of_unicode_s_scripts() -> None:
    """Held against another implementation's tables: every letter of these scripts, and of no other."""
    wanted = regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in SCRIPTS) + "]")
    letter = re.compile(f"[{units.SPACELESS}]")
    odd = []
    for code in range(0x110000):
        one = chr(code)
        assigned = unicodedata.category(one) not in ("Cn", "Cs")
        if assigned and bool(letter.match(one)) != bool(wanted.match(one) and regex.match(r"[\p{Lo}\p{Lm}]", one)):
            odd.append(one)
    # signs that two scripts share, such as the long vowel of kana, and the numbers of Han
    assert len(odd) < 40 and "ー" in odd and "〇" in odd
    assert all(letter.match(one) and regex.match(r"[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}]", one) for one in odd)


def test_the_pages_name_the_same_scripts() -> None:
    for path in ("pipeline/web/static/order.js", "pipeline/pages/templates/report.js.j2"):
        named = re.search(r"\[([^\]]*)\]\.map\(\(name\) => `\\\\p\{scx=", (ROOT / path).read_text(encoding="utf-8"))
        assert named and tuple(re.findall(r'"(\w+)"', named[1])) == SCRIPTS


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["房间很干净，iPhone 也能充电"], True),
        (["The word 好 means good"], False),
        (["한국어는 띄어쓰기가 있다"], False),
        (["ดีมาก"], True),
        ([], False),
        (["", "..."], False),
    ],
)
def test_whether_texts_are_counted_by_characters(texts: list[str], expected: bool) -> None:
    assert units.is_spaceless(texts) is expected
