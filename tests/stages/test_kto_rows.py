"""Which rows does KTO learn from: tokens, draws, what estimates the KL, weights, and the gap that it is judged by?"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tiny import EOS

from data.schema import Completion, Judgement, Ranking
from pipeline.settings.baselines import KTO
from pipeline.stages.kto import Example, drawn, gap, of_judgement, of_ranking, rows_of, weights_of
from policies.template import encode_completion, encode_prompt


def ranking(texts: Sequence[str], tiers: Sequence[Sequence[int]], prompt: Any = "To be") -> Ranking:
    completions = tuple(Completion(str(i), text) for i, text in enumerate(texts))
    return Ranking("r", prompt, completions, tuple(tuple(map(str, tier)) for tier in tiers), "f:1")


def test_tokens_are_those_of_everywhere_else(tiny_tokenizer: Any) -> None:
    """A judgement's completion is cut at max_length; of the pairs of 1 > {0, 2} the better are 1, 1 and the worse 0, 2."""
    chat = [{"role": "user", "content": "To be?"}]
    for prompt in ("To be", chat):
        made = of_judgement(tiny_tokenizer, Judgement("j", prompt, " or not", False, "f:1"), 64)
        assert made.prompt == encode_prompt(tiny_tokenizer, prompt) and not made.liked
        assert (
            made.completions == [encode_completion(tiny_tokenizer, prompt, " or not")]
            and made.completions[0][-1] == EOS
        )
    assert len(of_judgement(tiny_tokenizer, Judgement("j", "To be", " or not", True, "f:1"), 8).completions[0]) == 3
    ids = [encode_completion(tiny_tokenizer, "To be", text) for text in (" a", " b", " c")]
    liked, disliked = of_ranking(tiny_tokenizer, ranking([" a", " b", " c"], [[1], [0, 2]]), 64)
    assert (liked.liked, disliked.liked) == (True, False) and liked.prompt == disliked.prompt
    assert liked.completions == [ids[1], ids[1]] and sorted(disliked.completions) == sorted([ids[0], ids[2]])
    assert of_ranking(tiny_tokenizer, ranking([" a", " b"], [[0, 1]]), 64) == []


def test_the_kl_is_estimated_from_the_step_under_other_prompts() -> None:
    """Two examples a prompt side by side: shifted by one, every second would meet its own prompt, by two none does."""
    examples = [
        Example(str(i), [i], [[10 * i + side, EOS], [10 * i + side + 5, EOS]], side == 0)
        for i in range(1, 5)
        for side in (0, 1)
    ]
    rows = rows_of(examples, list(range(8)) * 2, batch_size=8, seed=0)
    for step in (rows[:8], rows[8:]):
        own, other = ([tuple(row[name]) for row in step] for name in ("completion_ids", "KL_completion_ids"))
        assert Counter(own) == Counter(other)
        assert all(ids[0] // 10 != row["prompt_ids"][0] for ids, row in zip(other, step, strict=True))
    for first, second in zip(rows[:8], rows[8:], strict=True):  # over two passes each completion once
        assert abs(first["completion_ids"][0] - second["completion_ids"][0]) == 5
    assert [row["label"] for row in rows[:4]] == [True, False, True, False]


def test_the_rarer_kind_weighs_more_unless_weights_are_set() -> None:
    assert weights_of(KTO(), 30, 10) == (1.0, 3.0) and weights_of(KTO(), 10, 40) == (4.0, 1.0)
    assert weights_of(KTO(undesirable_weight=2.0), 30, 10) == (1.0, 2.0)
    assert weights_of(KTO(desirable_weight=0.5, undesirable_weight=1.5), 1, 9) == (0.5, 1.5)


def test_the_gap_is_that_of_the_means(tiny_tokenizer: Any) -> None:
    """Liked 1, 3 and the mean of 4 and 6; disliked 0 and 1: 3 - 0.5."""
    made = [Example(str(i), [1], [[2]], i < 3) for i in range(5)]
    found = gap(made, [[1.0], [3.0], [4.0, 6.0], [0.0], [1.0]])
    assert found["gap"] == 2.5 and (found["eval_liked"], found["eval_disliked"]) == (3, 2)
    assert 0 <= found["gap_low"] < 2.5 < found["gap_high"] <= 5
    paired = [Example(str(i // 2), [1], [[2]], i % 2 == 0) for i in range(12)]
    found = gap(paired, [[10.0 * (i // 2) + (i % 2 == 0)] for i in range(12)])
    assert (found["gap_low"], found["gap"], found["gap_high"]) == pytest.approx((1, 1, 1))  # within each prompt


def test_held_out_rows_are_drawn_whatever_their_order() -> None:
    """Of 90 liked rows before 10 disliked ones, drawn with the seed; the one of a kind among many comes too."""
    rows = [[Example(str(i), [1], [[2]], i < 90)] for i in range(100)]
    found = drawn(rows, 40, seed=0)
    places = [int(one.key) for one in found]
    assert len(set(places)) == 40 and places == sorted(places) and max(places[:-5]) > 40
    assert {one.liked for one in found} == {True, False} and found == drawn(rows, 40, seed=0) != drawn(rows, 40, seed=1)
    for seed in range(20):
        assert [one.liked for one in drawn(rows[:91], 2, seed)] == [True, False]
    assert drawn(rows, 100, seed=3) == drawn(rows, 512, seed=4) == [one for row in rows for one in row]
    pairs = [[Example(str(i), [1], [[2]], side) for side in (True, False)] for i in range(9)]
    assert [one.liked for one in drawn(pairs, 3, seed=0)] == [True, False] * 3
