"""Are answers that a conversation says not to learn read and not learned?"""

from typing import Any

import pytest
from asked import Row, problems_of, read, write

from data.schema import Demonstration
from policies.template import encode_turns

SYSTEM = {"role": "system", "content": "Be brief."}


def talk(*weights: Any, key: str = "weight") -> list[Row]:
    """A conversation with as many answers, each with its weight."""
    turns = []
    for place, weight in enumerate(weights):
        answer = {"role": "assistant", "content": f"Answer {place}."}
        turns += [
            {"role": "user", "content": f"Question {place}?"},
            answer if weight is None else answer | {key: weight},
        ]
    return turns


def shown(folder: Any, turns: list[Row], **more: Any) -> Demonstration:
    (row,) = read(write(folder, [{"messages": turns, **more}])).rows
    return row


@pytest.mark.parametrize("key", ["weight", "train", "trainable"])
@pytest.mark.parametrize(("no", "yes"), [(0, 1), (False, True), ("0", "1"), (0.0, 1.0), (0, None)])
def test_an_answer_in_the_middle_is_spared(tmp_path, tiny_tokenizer: Any, key: str, no: Any, yes: Any) -> None:
    row = shown(tmp_path, talk(yes, no, yes, key=key))
    assert (row.spared, row.completion, len(row.prompt)) == ((3,), "Answer 2.", 5)
    turns = encode_turns(tiny_tokenizer, row.prompt, row.completion, "all", row.spared)
    said = [tiny_tokenizer.decode(answer) for _, answer in turns]
    assert len(said) == 2 and "Answer 0." in said[0] and "Answer 2." in said[1]
    assert Demonstration.from_json(row.to_json()) == row


def test_what_follows_the_last_learned_answer_goes(tmp_path) -> None:
    row = shown(tmp_path, talk(0, 1, 0))
    assert (row.spared, row.completion, len(row.prompt)) == ((1,), "Answer 1.", 3)


def test_a_system_text_moves_the_places(tmp_path) -> None:
    assert shown(tmp_path, talk(0, 1), system="Be brief.").spared == (2,)
    talks = [{"from": "human" if n % 2 == 0 else "gpt", "value": f"{n}", "weight": n // 2} for n in range(4)]
    (row,) = read(write(tmp_path, [{"conversations": talks, "system": "Be brief."}])).rows
    assert (row.spared, [turn["content"] for turn in row.prompt]) == ((2,), ["Be brief.", "0", "1", "2"])


def test_a_conversation_of_which_nothing_is_learned_is_left_out(tmp_path) -> None:
    loaded = read(write(tmp_path, [{"messages": talk(0, 0)}, {"messages": talk(1)}]))
    assert (len(loaded.rows), loaded.account.left_out) == (1, {"no answer is to be learned": 1})


def test_a_weight_in_between_is_told(tmp_path) -> None:
    assert [problem[1] for problem in problems_of(tmp_path, [{"messages": talk(1, 0.5)}])] == ["messages[3].weight"]
