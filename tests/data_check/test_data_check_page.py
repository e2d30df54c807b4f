"""Does data-check show strangers' texts as texts, on the page and in the terminal?"""

import html.parser
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.schema import Demonstration, Prompt
from pipeline.data_check import check as data_check
from pipeline.data_check import figures as data_check_figures
from pipeline.data_check import page as data_check_page
from pipeline.language import spoken

HOSTILE = [
    "<script>alert('x')</script><img src=x onerror=alert(1)>",
    "\u202egnisrever\u202c and \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "👩\u200d👩\u200d👧 family, \x1b[31mred\x1b[0m, \x07bell",
    "long " * 20_000,
    '{{ 7 * 7 }} {% raw %} &lt;b&gt; " onmouseover="x',
]


class Tags(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def hostile(checked: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Each text as prompt, completion and annotator of a sound row, and as role and content of a bad one."""
    sound = [
        {"prompt": text, "completions": [f"{text} yes", "no"], "ranking": [[0], [1]], "annotator": text[:50]}
        for text in HOSTILE
    ]
    bad = [
        {"prompt": [{"role": text[:5000], "content": text}], "completions": ["a", "b"], "ranking": [[0], [1]]}
        for text in HOSTILE
    ]
    return checked([*sound, *bad])


def test_hostile_texts_are_texts_on_the_page(hostile: dict[str, Any]) -> None:
    assert hostile["kept"] == len(HOSTILE) - 1 and len(hostile["errors"]) >= len(HOSTILE) + 1  # one leaves no room
    page = data_check_page.html(hostile)
    assert len(page.encode("utf-8", "replace")) < 1_000_000
    seen = Tags(page)
    assert not seen.tags.keys() & {"script", "img", "link", "iframe", "object", "b"}
    assert not {name for name in seen.attributes if name.startswith("on")} and "href" not in seen.attributes
    shown = "".join(seen.words)
    assert "<script>alert('x')</script>" in shown and "{{ 7 * 7 }}" in shown and "&lt;b&gt;" in shown
    assert "\x1b" not in shown and "\u202e" not in shown and "\\u202e" in shown
    assert "http" not in page.replace("http-equiv", "")


def test_hostile_texts_cannot_steer_the_terminal(hostile: dict[str, Any]) -> None:
    told = data_check_page.text(hostile)
    assert not [c for c in told if c != "\n" and not c.isprintable() and c not in "\u200d\u200c\u3000\xa0"]
    assert "\\u001b[31m" in told and "\\u202e" in told
    assert len(told) < 60_000


def test_what_is_written_is_json_and_utf8_whatever_comes(tmp_path: Path, tiny_folder: Path) -> None:
    found = data_check.configured("x", [])
    result = data_check.check(found, str(tiny_folder)) | {"source": "half a pair \ud800"}
    assert data_check_page.html(result).encode("utf-8", "replace")
    assert json.loads(data_check.to_json(result).encode("utf-8", "backslashreplace"))["source"] == "half a pair \ud800"
    assert "\\ud800" in data_check_page.text(result)


def test_a_text_too_long_to_show_keeps_both_ends() -> None:
    text = "a" * 5000 + "b" * 5000
    shown = data_check_figures.cut(text)
    assert shown.startswith("aaa") and shown.endswith("bbb") and "8,800 characters left out" in shown
    assert data_check_figures.cut("short") == "short"


def test_a_demonstration_and_a_prompt_are_shown_too(tiny_tokenizer: Any) -> None:
    shown = data_check_figures.samples(
        [Demonstration("d", "Hi", " there", "f:1"), Prompt("p", "Hi", "f:2")], tiny_tokenizer
    )
    assert [one["texts"] for one in shown] == [
        [{"what": "demonstration", "tokens": 9, "text": "Hi there<|end|>", "answer_at": 2}],
        [{"what": "prompt", "tokens": 2, "text": "Hi", "answer_at": None}],
    ]


def test_the_page_is_in_chinese_where_that_is_asked_for(checked: Callable[..., dict[str, Any]]) -> None:
    good = {"prompt": "What is two and two?", "chosen": "It is four.", "rejected": "It is five, or so I think."}
    found = checked([good, good, good | {"chosen": "  "}, good | {"rejected": 3}, {"prompt": "Why?"}])
    english = data_check_page.html(found)
    with spoken("zh"):
        page = data_check_page.html(found)
    for said in (
        "有误：4 个问题",
        "要继续：设 data.skip_bad=true，把 5 行中的这 3 行放到一边。",
        "chosen 优于 rejected",
        "它是空白",
        "rejected：它是数字，不是文本",
    ):
        assert said in page, said
    assert 'lang="zh-CN"' in page and data_check_page.TITLE in page and "It is five, or so I think." in page
    assert english == data_check_page.html(found) and "it is a number, not a text" in english
