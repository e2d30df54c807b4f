"""Where does a sentence end? Each text is written with its ends marked by |, which are then to be found again."""

import time

import pytest

from pipeline.pretraining.sentences import sentences, wide

MARKED = [
    "好。|走吧！",
    "他说：“好。|走吧。”|然后走了。",
    "很好!|不错?|哈",
    "唉。。。。|真的；|不错",
    "我……|不知道…|算了",
    "为什么？！|因为好！！！",
    "（很好。）|下次还来。",
    "宝宝一岁,不喜欢,颜色不够鲜艳.|而且对他而言,太简单了.",
    "1.外观漂亮.|2.便宜.|3.5元一个",
    "屏幕１．５寸。|好",
    "没有标点 就是这样",
    "标题\n|正文。\n|结尾",
    "第一行\r\n|第二行\u2028|第三行",
    "ｶﾅ｡|ひらがな。|終わり",
    "Mr. Smith came. |He left at 3.5 p.m. and then nothing.",
    '"What?" he said. |"No!" |They went.',
    "See e.g. Jones, or J. R. Smith vs. Dr. No. |It was fun.",
    "No. 5 is alive. |I said no. |He went to the fig. 3 shown.",
    "1. Good. |2. Bad. |(3) Worse.",
    "Wow! |that was. . . nice. |OK... |Then so",
    "Well… maybe. |Version 1.2.3 is out.Not this",
    "这是Intel.|好用。|OK!|很好 and fine. |再见",
    "Ende.  \n\n|Neu",
    "----\nHello. |World",
    "安녕하세요. |반갑습니다.",
]


@pytest.mark.parametrize("marked", MARKED)
def test_a_sentence_ends_where_it_is_marked(marked: str) -> None:
    assert sentences(marked.replace("|", "")) == marked.split("|")


def test_nothing_is_lost_and_no_sentence_is_without_a_word() -> None:
    text = "".join(one.replace("|", "") for one in MARKED) + " \n…。\n---"
    found = sentences(text)
    assert "".join(found) == text
    assert all(any(map(str.isalnum, one)) for one in found)
    assert sentences("") == [] and sentences("…。") == ["…。"]


def test_scripts_without_spaces_are_known() -> None:
    assert all(map(wide, "影か、！ก។"))
    assert not any(map(wide, "aé.1한Жא "))


@pytest.mark.parametrize("piece", ["---\n", ". ", "a. ", "。", "12. A", "\n", " ", "x"])
def test_long_texts_take_time_by_their_length(piece: str) -> None:
    started = time.process_time()
    sentences(piece * (200_000 // len(piece)) + ".")
    assert time.process_time() - started < 5
