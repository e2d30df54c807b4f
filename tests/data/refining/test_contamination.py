"""Is what training says of the evaluation found, word for word, and nothing else?"""

import pytest

from data.refining.contamination import COMMON, contaminated, words
from data.schema import Completion, Demonstration, Judgement, Prompt, Ranking

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
SHORT = "What is the capital of France?"


def demonstration(prompt, completion="x"):
    return Demonstration("d", prompt, completion, "f:1")


def ranking(prompt, *completions):
    made = tuple(Completion(str(n), text) for n, text in enumerate(completions))
    return Ranking("r", prompt, made, tuple((one.id,) for one in made), "f:1")


def user(text, system=None):
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def test_words_have_no_case_no_punctuation_and_single_chinese_characters():
    assert words("Don't STOP, snake_case 3.5!") == ["don", "t", "stop", "snake", "case", "3", "5"]
    assert words("我爱 Straße。カナ") == ["我", "爱", "strasse", "カ", "ナ"]
    assert words("ที่นี่ 한국어") == ["ที่", "นี่", "한국어"]


@pytest.mark.parametrize(
    ("asked", "said", "found"),
    [
        ("请写一段关于酒店早餐的评论", "请写一段关于酒店早餐的评论", True),
        ("请写一段关于酒店早餐的评论吧", "好的：请写一段关于酒店，早餐的评论。", True),
        ("请写一段关于酒店早餐的评论吧", "请写一段关于酒店晚餐的评论", False),
        ("บอกเกี่ยวกับอาหารเช้าหน่อย", "ช่วยบอกเกี่ยวกับอาหารเช้า", True),
    ],
)
def test_thirteen_characters_in_a_row_where_no_spaces_are_set(asked: str, said: str, found: bool) -> None:
    assert contaminated([demonstration("p", said)], [asked], 13) == ({0} if found else set())


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (demonstration(f"Well, {LONG.upper()}!"), True),
        (demonstration("p", f"so {LONG} and"), True),
        (demonstration(LONG[:27], LONG[27:]), True),
        (Judgement("j", "p", f"so {LONG} and", False, "f:1"), True),
        (Judgement("j", "p", LONG.removesuffix(" thirteen"), False, "f:1"), False),
        (demonstration("p", LONG.removesuffix(" thirteen")), False),
        (demonstration("p", LONG.replace("seven", "7")), False),
        (ranking("p", "x", f"y {LONG}"), True),
        (ranking("p", LONG[:27], LONG[27:]), False),
        (Prompt("p", user(LONG), "f:1"), True),
        (Prompt("p", user("other", system=LONG), "f:1"), False),
        (demonstration(SHORT), True),
        (demonstration(user("what is the CAPITAL of france", system="Be brief.")), True),
        (demonstration(f"{SHORT} Say it."), False),
        (demonstration("p", SHORT), False),
        (demonstration("", "x"), False),
        (demonstration("?!", "x"), False),
    ],
)
def test_thirteen_words_in_a_row_or_a_short_prompt_as_a_whole(row, found):
    """LONG has 13 words, cut after the sixth in the third case; two completions are never read on from one another."""
    assert contaminated([row], [LONG, user(SHORT, system="You are kind."), "", "..."], 13) == ({0} if found else set())


def test_a_system_message_of_the_evaluation_is_no_evaluation_prompt():
    rows = [demonstration("p", LONG)]
    assert contaminated(rows, [user("Hello there", system=LONG)], 13) == set()


def test_fewer_words_find_more():
    rows = [demonstration("p", "one two three"), demonstration("p", "one two four")]
    assert contaminated(rows, [LONG], 3) == {0}
    assert contaminated(rows, [LONG], 2) == {0, 1}
    assert contaminated(rows, [LONG], 1) == {0, 1}
    with pytest.raises(ValueError, match="size"):
        contaminated(rows, [LONG], 0)


def test_chinese_is_compared_by_characters():
    question = "请问今天北京的天气怎么样呢"  # 13 characters
    rows = [demonstration(f"你好，{question}？"), demonstration(f"你好，{question[1:]}？")]
    assert contaminated(rows, [question], 13) == {0}


def test_the_wording_that_many_prompts_share_is_no_copy():
    """A template of 13 words in 10 different prompts is told as a copy, in 11 it is how prompts are worded; rows with
    one and the same prompt count once. What a row shares beside it still counts."""
    few = [demonstration(f"{LONG} {n}") for n in range(COMMON)]
    assert contaminated(few, [f"{LONG} x"], 13) == set(range(10))
    many = [*few, demonstration(f"{LONG} more")]
    assert contaminated(many, [f"{LONG} x"], 13) == set()
    assert contaminated([few[0]] * 30, [f"{LONG} x"], 13) == set(range(30))
    other = "a b c d e f g h i j k l m"
    assert contaminated([*many, demonstration("p", other)], [f"{LONG} x", other], 13) == {11}


def test_nothing_is_found_where_nothing_is():
    assert contaminated([], [LONG], 13) == set()
    assert contaminated([demonstration(LONG)], [], 13) == set()
