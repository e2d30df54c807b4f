"""Is the right answer the better one in every published set that is read by a form of another name?"""

from typing import Any

import pytest
from asked import EXAMPLES, problems_of, read, write

from data.schema import DataError

TREES = ["An oak.", "A pike.", "A gull."]
SETS: dict[str, tuple[list[str], dict[str, int]]] = {
    "side_by_side.arena-55k.csv": (
        ['An oak, "the" tree.', "A pike."],
        {"tie": 1, "the answers part before the last turn": 1},
    ),
    "side_by_side.helpsteer2-preference.jsonl": (["An oak.", "A pike.", "Vega."], {"tie": 1}),
    "side_by_side.preference-collection.jsonl": (TREES, {}),
    "preference.orpo-dpo-mix.jsonl": (TREES, {}),
    "preference.tulu-3.jsonl": (TREES, {}),
    "preference_implicit.skywork-reward.jsonl": (TREES, {}),
    "preference.axolotl.jsonl": (TREES, {}),
    "preference.axolotl-input.jsonl": (TREES, {}),
    "preference.ms-swift.jsonl": (TREES, {}),
    "graded.feedback-collection.jsonl": (["An oak."], {"only one response": 1, "tie": 2}),
    "json_min.jsonl": (["An oak.", "A bush.", "A pike."], {}),
    "json_min.pairwise.jsonl": (TREES, {}),
    "graded.jsonl": (["An oak.", "A stone."], {"only one response": 1}),
}
"""By file: the better answers, what is left out."""


@pytest.mark.parametrize("name", SETS)
def test_the_better_answer_comes_first(name: str) -> None:
    loaded = read(EXAMPLES / name)
    best, left_out = SETS[name]
    found = [{one.id: one.text for one in row.completions}[row.ranking[0][0]] for row in loaded.rows]
    assert (found, dict(loaded.account.left_out)) == (best, left_out)
    assert loaded.problems == [] and loaded.account.rejected == {}


def test_judgements_of_conversations() -> None:
    loaded = read(EXAMPLES / "unpaired.ms-swift.jsonl")
    assert [(row.completion, row.liked) for row in loaded.rows] == [
        ("An oak.", True),
        ("A cow.", False),
        ("A gull.", True),
    ]


def prompts(name: str) -> list[list[str]]:
    return [
        [row.prompt] if isinstance(row.prompt, str) else [f"{turn['role']}: {turn['content']}" for turn in row.prompt]
        for row in read(EXAMPLES / name).rows
    ]


def test_what_was_asked_is_whole() -> None:
    talk = ["user: Hi", "assistant: Hello!"]
    assert prompts("side_by_side.helpsteer2-preference.jsonl")[2] == [*talk, "user: Name a star."]
    assert prompts("side_by_side.arena-55k.csv")[1] == [*talk, "user: Name a fish."]
    assert prompts("preference.orpo-dpo-mix.jsonl")[1] == [*talk, "user: Name a fish."]
    assert prompts("preference.axolotl.jsonl")[2] == [*talk, "user: Name a bird."]
    assert prompts("preference.axolotl-input.jsonl")[0] == ["system: Be brief.", "user: Name a tree."]
    assert prompts("preference.ms-swift.jsonl")[1] == ["system: Be brief.", *talk, "user: Name a fish."]
    assert prompts("preference.tulu-3.jsonl")[0] == ["user: Name a tree."]


@pytest.mark.parametrize(("who", "said"), [("from", "value"), ("sender", "text"), ("speaker", "message")])
def test_messages_may_have_other_keys(tmp_path, who: str, said: str) -> None:
    """axolotl's message_property_mappings and field_messages, field_chosen, field_rejected."""
    row: dict[str, Any] = {
        "dialogue": [{who: "human", said: "Name a tree."}],
        "win": {who: "gpt", said: "An oak."},
        "loss": {who: "gpt", said: "A stone."},
    }
    names = {"prompt": "dialogue", "chosen": "win", "rejected": "loss"}
    (made,) = read(write(tmp_path, [row]), columns=names).rows
    assert made.prompt == [{"role": "user", "content": "Name a tree."}]
    assert ([one.text for one in made.completions], made.ranking) == (["An oak.", "A stone."], (("c0",), ("c1",)))
    talk = {"messages": [*row["dialogue"], row["win"]]}
    (shown,) = read(write(tmp_path, [talk])).rows
    assert (shown.prompt, shown.completion) == (made.prompt, "An oak.")


def test_messages_that_end_with_the_user_are_prompts_where_that_is_said(tmp_path) -> None:
    """ms-swift's rows for GRPO."""
    row = {"messages": [{"role": "user", "content": "Name a tree."}]}
    with pytest.raises(DataError, match=r"set data\.columns=\{prompt: messages\} if these are prompts"):
        read(write(tmp_path, [row]))
    loaded = read(write(tmp_path, [row]), columns={"prompt": "messages"})
    assert (loaded.kind, [one.prompt for one in loaded.rows]) == ("prompts", [row["messages"]])


def test_a_grade_of_two_things_is_not_compared(tmp_path) -> None:
    graded = {"instruction": "Name a tree.", "output": "An oak.", "rating": "4"}
    other = {**graded, "output": "A stone.", "rating": "2"}
    (made,) = read(write(tmp_path, [graded, other])).rows
    assert (made.prompt, made.ranking) == ("Name a tree.", (("c0",), ("c1",)))
    apart = [graded | {"rubric": "Is it one?"}, other | {"rubric": "Is it short?"}]
    found = problems_of(tmp_path, apart)
    assert [(line, field) for line, field, _ in found] == [(1, "rating"), (2, "rating")]
    assert "no question has two answers" in found[0][2]
    (spoken,) = read(write(tmp_path, [graded | {"system": "Be brief."}, other | {"system": "Be brief."}])).rows
    assert spoken.prompt[0] == {"role": "system", "content": "Be brief."}
    assert [problem[:2] for problem in problems_of(tmp_path, [graded, other, other | {"rating": "good"}])] == [
        (3, "rating")
    ]


def test_the_same_answer_graded_twice_has_the_mean(tmp_path) -> None:
    """3 and 5 against 4.5."""
    rows = [{"question": "Name a tree.", "answer": text, "grade": grade} for text, grade in
            [("An oak.", 3), ("An oak.", 5), ("A pine.", 4.5)]]  # fmt: skip
    (made,) = read(write(tmp_path, rows)).rows
    assert [(one.text, one.ratings) for one in made.completions] == [("An oak.", (3.0, 5.0)), ("A pine.", (4.5,))]
    assert made.ranking == (("c1",), ("c0",))
