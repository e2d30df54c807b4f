"""Are repetition, endings, refusals and length drift what pencil and paper say?"""

import math
from typing import Any

import pytest

from pipeline.report.side_effects import is_refusal, length_drift, repeated_ngrams, runs_of, side_effects


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ("abcdabcd", 1 / 5),  # abcd bcda cdab dabc abcd: the last has been there
        ("aaaaaaa", 3 / 4),  # four times aaaa, three of them repeats
        ("abcdefgh", 0.0),
        ("abcd", 0.0),
        ("abc", 0.0),
        ("", 0.0),
    ],
)
def test_repeated_four_grams_by_hand(tokens: str, share: float) -> None:
    assert repeated_ngrams(list(tokens)) == pytest.approx(share)


def test_other_lengths_of_n_gram() -> None:
    """a b a b a has bigrams ab ba ab ba: 2 of 4 repeat; unigrams: 3 of 5."""
    assert repeated_ngrams(list("ababa"), 2) == 0.5
    assert repeated_ngrams(list("ababa"), 1) == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match="starts at 1"):
        repeated_ngrams([1, 2], 0)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that request.",
        "I’m sorry, but I can’t do that.",
        "Unfortunately, I am not able to share this.",
        "As an AI, I have no opinion.",
        "AS A LANGUAGE MODEL I would rather not",
        "抱歉，我无法回答这个问题。",
        "对不起，我不能这样做",
        "很遗憾，我不能提供这类信息。",
        "作为一个人工智能，我没有感情。",
        "抱歉, 我无法回答",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A great film with a weak end.",
        "as an air filter it works",
        "I can help you with that.",
        "I cannot recommend this film enough!",
        "抱歉，我之前的回答有误，正确答案是四。",
        "x" * 200 + " I cannot help with that",
    ],
)
def test_other_texts_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_chinese_repeats_itself_by_characters_whatever_the_tokenizer_made_of_them() -> None:
    """好看好看好看: of three runs of four characters the third has been there. Its tokens, three bytes each, would say another thing."""
    rows = [row("p", "x" * 18, text="好看好看好看"), row("q", "y", text="iPhone 很好用")]
    assert runs_of(rows, True) == [list("好看好看好看"), ["iPhone", *"很好用"]]
    assert side_effects(rows, by_characters=True)["repetition_4"]["mean"] == pytest.approx((1 / 3 + 0) / 2)
    assert side_effects(rows)["repetition_4"]["mean"] == pytest.approx((14 / 15 + 0) / 2)


def row(prompt: str, tokens: str, eos: bool = True, text: str = "fine", **more: Any) -> dict[str, Any]:
    return {"prompt_id": prompt, "tokens": list(tokens), "length": len(tokens), "eos": eos, "completion": text} | more


def test_side_effects_by_hand() -> None:
    """Prompt p: repetition 1/5 and 3/4, lengths 8 and 7; prompt q: 0 and length 4. Resamples pp, pq (twice), qq.

    A mean counts samples: repetition (0.2 + 0.75 + 0)/3; with ends qq = 0 and pp = 0.475, each with chance 1/4.
    """
    rows = [row("p", "abcdabcd"), row("p", "aaaaaaa", eos=False), row("q", "abcd", text="I cannot help with that")]
    found = side_effects(rows, draws=400)
    assert set(found) == {"repetition_4", "eos_rate", "refusals", "length"}
    assert found["repetition_4"] == pytest.approx({"mean": 0.95 / 3, "low": 0.0, "high": 0.475})
    assert found["eos_rate"] == pytest.approx({"mean": 2 / 3, "low": 0.5, "high": 1.0})
    assert found["refusals"] == pytest.approx({"mean": 1 / 3, "low": 0.0, "high": 1.0})
    assert found["length"] == pytest.approx({"mean": 19 / 3, "low": 4.0, "high": 7.5})


def test_entropy_is_measured_when_all_have_it() -> None:
    assert side_effects([row("p", "ab", entropy=1.0), row("q", "ab", entropy=0.0)], 50)["entropy"]["mean"] == 0.5
    with pytest.raises(ValueError, match="1 of 2 samples have no entropy"):
        side_effects([row("p", "ab", entropy=1.0), row("q", "ab", entropy=None)], 50)
    with pytest.raises(ValueError, match="no samples"):
        side_effects([])
    with pytest.raises(ValueError, match="not finite"):
        side_effects([row("p", "ab", entropy=math.nan)])


def test_length_drift_by_hand() -> None:
    """10 against 20 and 90 against 30: totals 100/50 = 2 (the mean of ratios would be 1.75). Resamples: 1/2, 2, 3."""
    found = length_drift([10, 90], [20, 30], ["p", "q"], draws=400)
    assert found == pytest.approx({"ratio": 2.0, "low": 0.5, "high": 3.0})


def test_length_drift_is_paired() -> None:
    """Twice as long on every prompt, though prompts differ tenfold: no doubt is left."""
    reference = [5.0, 50.0, 20.0, 8.0, 31.0]
    found = length_drift([2 * x for x in reference], reference, list("abcde"), draws=200)
    assert found == pytest.approx({"ratio": 2.0, "low": 2.0, "high": 2.0})


@pytest.mark.parametrize(
    ("length", "reference", "said"),
    [
        ([1.0], [1.0, 2.0], "a ratio needs pairs"),
        ([1.0, -1.0], [1.0, 2.0], "missing or negative"),
        ([1.0, 1.0], [1.0, math.nan], "missing or negative"),
        ([1.0, math.nan], [1.0, 1.0], "value 1 is not finite"),
        ([1.0, 1.0], [0.0, 0.0], "writes nothing"),
        ([1.0, 1.0], [0.0, 1.0], "nothing to divide by"),
        ([], [], "no samples"),
    ],
)
def test_unusable_lengths_are_refused(length: list[float], reference: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        length_drift(length, reference, list("pq")[: len(length)])
