"""Are the pairs that are found really alike, are nearly all of them found, and is it quick on any data?"""

import os
import random
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.refining.near import LONG, clusters, near_duplicates, similarity

ROOT = Path(__file__).resolve().parents[3]
VOCABULARY = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ling", "tion")]


def brute(texts: Sequence[str], threshold: float) -> tuple[dict[tuple[int, int], float], set[int]]:
    """(similarity of all pairs at or above the threshold, positions of copies), written again from the definition."""
    folded = [" ".join(unicodedata.normalize("NFC", text).casefold().split()) for text in texts]
    words = [re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+", text) for text in folded]

    def shingles(units: Sequence[str], width: int) -> frozenset[str]:
        if len(units) < width:
            return frozenset(["\0".join(units)])
        return frozenset("\0".join(units[start : start + width]) for start in range(len(units) - width + 1))

    by_words = [shingles(own, 3) for own in words]
    by_characters = [shingles(list(text), 5) for text in folded]
    out = {}
    for one, other in combinations(range(len(texts)), 2):
        sets = by_words if min(len(words[one]), len(words[other])) >= LONG else by_characters
        both = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if both >= threshold:
            out[one, other] = both
    return out, {place for place, text in enumerate(folded) if text in folded[:place]}


def perturbed(random_: random.Random, words: list[str], changes: int) -> list[str]:
    made = list(words)
    for _ in range(changes):
        place = random_.randrange(len(made))
        what = random_.random()
        if what < 0.4:
            made[place] = random_.choice(VOCABULARY)
        elif what < 0.7:
            made.insert(place, random_.choice(VOCABULARY))
        elif len(made) > 1:
            del made[place]
    return made


def families(seed: int, count: int, lengths: Sequence[int]) -> list[str]:
    """Texts in families of three: one at random and two that differ from it in a few words."""
    random_ = random.Random(seed)
    texts = []
    for _ in range(count // 3):
        words = random_.choices(VOCABULARY, k=random_.choice(lengths))
        texts.append(" ".join(words))
        for _ in range(2):
            texts.append(" ".join(perturbed(random_, words, random_.randint(0, max(1, len(words) // 12)))))
    random_.shuffle(texts)
    return texts


def test_similarity_by_hand() -> None:
    """abcdef has abcde and bcdef, abcdeg has abcde and bcdeg: one of three in common."""
    assert similarity("abcdef", "abcdeg") == pytest.approx(1 / 3)
    assert similarity("abcdef", "ABC DEF") == 0
    assert similarity("Straße  geht\n weit", "STRASSE geht weit") == 1
    assert similarity("e\u0301tude one", "étude one") == 1
    assert similarity("abc", "abcd") == 0
    assert similarity("", "") == 1 and similarity("", "a") == 0


def test_long_texts_are_compared_by_words() -> None:
    """60 different words have 58 runs of three; the last word changed changes one of them: 57 of 59."""
    words = [f"w{n}" for n in range(60)]
    assert similarity(" ".join(words), " ".join([*words[:-1], "other"])) == pytest.approx(57 / 59)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(
    "lengths", [(4, 8, 15, 25), (30, 38, 40, 45, 52), (60, 120, 250)], ids=["short", "border", "long"]
)
def test_what_is_found_is_alike_and_what_is_alike_is_found(threshold: float, lengths: Sequence[int]) -> None:
    """Against every pair compared by hand: nothing found that is not there, and of what is there at least 95% (the
    bands are chosen for 99.5% at the threshold)."""
    texts = families(7, 300, lengths)
    there, copies = brute(texts, threshold)
    found = near_duplicates(texts, threshold)
    assert found == sorted(set(found)) and all(one < other for one, other in found)
    assert set(found) <= there.keys()
    wanted = {pair for pair in there if not copies & set(pair)}
    assert len(wanted) > 15
    assert len(wanted & set(found)) >= 0.95 * len(wanted)
    assert {other for _, other in found} >= copies


@given(st.lists(st.text(alphabet="ab c\n中文é", max_size=12), max_size=8), st.sampled_from([0.3, 0.6, 0.8, 1.0]))
def test_no_pair_is_found_that_is_not_alike(texts: list[str], threshold: float) -> None:
    for one, other in near_duplicates(texts, threshold):
        assert one < other and similarity(texts[one], texts[other]) >= threshold


def test_chinese_is_compared_too() -> None:
    """Without spaces a text would be one word. 70 characters make 68 runs of three; the last changed changes one."""
    base = "".join(chr(0x4E00 + 7 * n) for n in range(70))
    changed, other = base[:-1] + "龘", "".join(chr(0x6E00 + 5 * n) for n in range(70))
    assert similarity(base, changed) == pytest.approx(67 / 69)
    assert near_duplicates([base, other, changed], 0.8) == [(0, 2)]
    short = "今天天气很好我们去公园吧"
    assert near_duplicates([short, "完全不同的另外一句话在这里", short + "。"], 0.8) == [(0, 2)]


def test_copies_are_paired_with_the_first_of_them() -> None:
    texts = ["One and the same text", "another", "one  AND the same text", "One and the same text\n"]
    assert near_duplicates(texts, 0.8) == [(0, 2), (0, 3)]
    assert near_duplicates(texts, 1.0) == [(0, 2), (0, 3)]
    assert clusters(texts, 0.8) == [0, 1, 0, 0]


def test_a_chain_is_one_cluster() -> None:
    """Windows of 50 words have 48 runs of three. Two that begin 4 words apart share 44 of 52, the ends 32 of 64."""
    words = [f"w{n}" for n in range(70)]
    texts = [" ".join(words[start : start + 50]) for start in (0, 4, 8, 12, 16)] + ["something else entirely"]
    there, _ = brute(texts, 0.8)
    assert (0, 1) in there and (0, 4) not in there
    assert clusters(texts, 0.8) == [0, 0, 0, 0, 0, 5]


def test_a_crowd_stays_one_cluster_and_few_pairs() -> None:
    """400 texts of one template differ in the last of 60 words, so any two share 57 of 59 runs: 79,800 pairs,
    of which a tenth is more than enough."""
    texts = [" ".join([*[f"w{n}" for n in range(59)], f"name{n}"]) for n in range(400)]
    assert set(clusters(texts, 0.8)) == {0}
    assert len(near_duplicates(texts, 0.8)) < 7_980


def test_nothing_has_no_near_duplicates() -> None:
    assert near_duplicates([]) == [] == clusters([])
    assert near_duplicates(["a"]) == [] and clusters(["a"]) == [0]
    assert near_duplicates(["", " \n", "x"]) == [(0, 1)]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        near_duplicates(["a", "b"], threshold)


def test_half_a_surrogate_pair_is_no_obstacle() -> None:
    assert near_duplicates(["bad \ud800 text here", "bad \ud800 text here!"], 0.7) == [(0, 1)]


def test_the_same_pairs_are_found_in_every_process() -> None:
    """Python's own hash of a string differs from process to process, and must not matter."""
    code = (
        "import sys; sys.path[:0] = ['tests/data/refining']\nfrom test_near import families\nfrom data.refining.near import near_duplicates\n"
        "print(near_duplicates(families(3, 300, (8, 30, 60)), 0.6))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and runs[0].count("(") > 30


@pytest.mark.slow
def test_twenty_thousand_texts_take_less_than_twenty_seconds() -> None:
    texts = families(11, 20_000, (10, 30, 60, 120, 250))
    begin = time.process_time()
    near_duplicates(texts)
    assert time.process_time() - begin < 20


@pytest.mark.slow
def test_a_template_used_twenty_thousand_times_takes_less_than_forty_seconds() -> None:
    """The worst case: all are alike, every band holds all of them."""
    texts = [" ".join([*[f"w{n}" for n in range(59)], f"name{n}"]) for n in range(20_000)]
    begin = time.process_time()
    near_duplicates(texts)
    assert time.process_time() - begin < 40
