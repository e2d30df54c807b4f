"""Does cleaning remove what it says, count what it removes, and touch nothing else?"""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.clean import clean, equal_after_truncation, normalise
from data.schema import Completion, Demonstration, Prompt, Ranking


def demonstration(name, prompt, completion):
    return Demonstration(name, prompt, completion, f"f:{name}")


def ranking(name, texts, tiers, prompt="p", annotator=None):
    completions = tuple(Completion(f"c{place}", text) for place, text in enumerate(texts))
    tiers = tuple(tuple(f"c{place}" for place in tier) for tier in tiers)
    return Ranking(name, prompt, completions, tiers, f"f:{name}", annotator)


def counted(counts):
    """The counts that are not zero, without read and kept, after checking that they add up."""
    assert counts["read"] == counts["kept"] + counts["duplicates"] + counts["empty"] + counts["too_few_ranks"]
    return {name: count for name, count in counts.items() if count and name not in ("read", "kept")}


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("Cafe\u0301", "Caf\u00e9"),
        ("a\x00b\x07c\x7fd\x9f", "abcd"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc\x0bd\x0ce\x85f", "a\nb\nc\nd\ne\nf"),
        ("  kept  spaces ", "  kept  spaces "),
        ("e\x00\u0301", "\u00e9"),
        ("\U0001f469\u200d\U0001f680 你好 \ufb01", "\U0001f469\u200d\U0001f680 你好 \ufb01"),
    ],
)
def test_normalise(text, better):
    """U+00E9 is the composed form of e + U+0301 (Unicode NFC); joiners and ligatures are text and stay."""
    assert normalise(text) == better


@hypothesis_settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_normalise_is_done_once(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)


def test_demonstrations_are_cleaned_and_counted():
    """Of six: b repeats a once normalised, c and d say nothing, e is changed and f stays: three are left."""
    rows = [
        demonstration("a", "Caf\u00e9", "x"),
        demonstration("b", "Cafe\u0301", "x"),
        demonstration("c", "p", " \x00\n"),
        demonstration("d", "\u00a0", "x"),
        demonstration("e", "p", "x\r\ny"),
        demonstration("f", "p", "x\n y"),
    ]
    kept, counts = clean(rows)
    assert kept == [rows[0], demonstration("e", "p", "x\ny"), rows[5]]
    assert counted(counts) == {"normalised": 3, "duplicates": 1, "empty": 2}


def test_messages_are_cleaned_in_every_turn():
    turns = [{"role": "system", "content": "Be\x00 kind."}, {"role": "user", "content": "Hi"}]
    silent = [{"role": "user", "content": "\x01"}]
    kept, counts = clean([Prompt("a", turns, "f:1"), Prompt("b", silent, "f:2"), Prompt("c", turns, "f:3")])
    assert [row.prompt[0]["content"] for row in kept] == ["Be kind."]
    assert counted(counts) == {"normalised": 3, "empty": 1, "duplicates": 1}


def test_empty_completions_leave_a_ranking_and_the_ranking_goes_when_too_little_is_left():
    """x > "" > y keeps x > y; "" > x and (x, y) > "" have one rank left."""
    kept, counts = clean(
        [
            ranking("a", ["y", "\x00", "x"], [[2], [1], [0]]),
            ranking("b", [" ", "x"], [[0], [1]]),
            ranking("c", ["x", "y", ""], [[0, 1], [2]]),
        ]
    )
    assert [(row.id, [one.text for one in row.completions], row.ranking) for row in kept] == [
        ("a", ["y", "x"], (("c2",), ("c0",)))
    ]
    assert kept[0].ranks() == [1, 0]
    assert counted(counts) == {"normalised": 1, "empty_completions": 3, "too_few_ranks": 2}


def test_equal_completions_stay_once_in_one_rank_and_go_where_ranks_differ():
    """(x, x) > y keeps one x; x > y > x says nothing about x and leaves y alone; x > x > y > z keeps y > z."""
    kept, counts = clean(
        [
            ranking("a", ["x", "x", "y"], [[0, 1], [2]]),
            ranking("b", ["x", "y", "x"], [[0], [1], [2]]),
            ranking("c", ["x", "x", "y", "z"], [[0], [1], [2], [3]]),
        ]
    )
    assert [(row.id, row.ranking) for row in kept] == [("a", (("c0",), ("c2",))), ("c", (("c2",), ("c3",)))]
    assert counted(counts) == {"duplicate_completions": 1, "contradicting_completions": 4, "too_few_ranks": 1}


def test_the_same_judgement_is_a_duplicate_whatever_its_order_and_ids_but_not_by_another_person():
    rows = [
        ranking("a", ["x", "y", "z"], [[0], [1, 2]]),
        ranking("b", ["z", "y", "x"], [[2], [1, 0]]),
        ranking("c", ["x", "y", "z"], [[0], [1, 2]], annotator="me"),
        ranking("d", ["x", "y", "z"], [[0], [1], [2]]),
        ranking("e", ["x", "y", "z"], [[0], [1, 2]], prompt="q"),
    ]
    kept, counts = clean(rows)
    assert [row.id for row in kept] == ["a", "c", "d", "e"]
    assert counted(counts) == {"duplicates": 1}


def test_clean_rows_stay_as_they_are():
    rows = [ranking("a", ["x", "y"], [[0], [1]]), ranking("b", ["x", "w"], [[1], [0]])]
    kept, counts = clean(rows)
    assert kept == rows
    assert counted(counts) == {}
    assert clean(kept) == (kept, counts)
    assert clean([]) == ([], dict.fromkeys(counts, 0))


def letters(prompt, completion):
    """One token a character."""
    return [ord(char) for char in prompt + completion]


def test_completions_alike_within_max_length_are_removed():
    """After "p" and two letters, abX = abY. In a they differ in rank, in b they are tied, in c only they are ranked."""
    rankings = [
        ranking("a", ["abX", "abY", "b", "c"], [[0], [1], [2], [3]]),
        ranking("b", ["abX", "abY", "b"], [[0, 1], [2]]),
        ranking("c", ["abX", "abY"], [[0], [1]]),
        ranking("d", ["aX", "aY"], [[0], [1]]),
    ]
    kept, removed = equal_after_truncation(rankings, letters, 3)
    assert [(row.id, row.ranking) for row in kept] == [
        ("a", (("c2",), ("c3",))),
        ("b", (("c0",), ("c2",))),
        ("d", (("c0",), ("c1",))),
    ]
    assert removed == 2 + 1 + 2
    assert equal_after_truncation(rankings, letters, 4) == (rankings, 0)
    assert equal_after_truncation(rankings, letters, 1) == ([], 4 + 3 + 2 + 2)


def test_truncation_to_nothing_is_a_programmers_mistake():
    with pytest.raises(ValueError, match="max_length"):
        equal_after_truncation([], letters, 0)
