"""Is the verdict amber where sound rows would teach something else, and green where they would not?"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from data.schema import Completion, Demonstration, Ranking
from pipeline.data_check import doubts, page
from pipeline.data_check.figures import samples
from pipeline.rows.gather import in_chat
from pipeline.settings.data import Data

Check = Callable[..., dict[str, Any]]


def pairs(
    count: int, prompt: str = "Question {i}, and what {word} is?", longer: Callable[[int], bool] = lambda i: i % 2 == 0
) -> list[Any]:
    """Pairs on prompts of their own, in which the longer answer wins where `longer` says so."""
    words = ("river", "mountain", "colour", "tree", "city", "animal", "metal", "planet", "fruit", "instrument")
    rows = []
    for i in range(count):
        said = [f" {words[i % 10]} number {i} of those there are", f" no {i}"]
        good, bad = said if longer(i) else said[::-1]
        rows.append({"prompt": prompt.format(i=i * 7919, word=words[i // 3 % 10]), "chosen": good, "rejected": bad})
    return rows


def test_even_rows_raise_no_doubt(checked: Check) -> None:
    found = checked(pairs(40))
    assert found["sound"] and found["doubts"] == []
    assert 'class="verdict sound"' in page.html(found)


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (pairs(40, longer=lambda i: True), [], "The longer answer wins in 100.0% of pairs"),
        (pairs(40, longer=lambda i: False), [], "The shorter answer wins in 100.0% of pairs"),
        (pairs(40, "The only question"), [], "40 rows have 1 different prompts"),
        (pairs(40, "Please answer the following question as well as you can, thank you: {i}"), [], "prompts are nearly alike"),
        (pairs(40), ["max_length=50"], "answers lose their end at data.max_length 50"),
    ],
)  # fmt: skip
def test_what_would_teach_something_else_is_amber(
    checked: Check, rows: list[Any], settings: list[str], said: str
) -> None:
    found = checked(rows, *settings)
    assert found["sound"] and any(said in one for one in found["doubts"]), found["doubts"]
    assert 'class="verdict doubtful"' in page.html(found) and said in page.html(found)
    assert said in page.text(found) and "sound: nothing was rejected" not in page.text(found)


def test_half_of_the_rows_rejected_is_told(checked: Check) -> None:
    found = checked([*pairs(4), *[{"prompt": "p", "chosen": "a"}] * 4])
    assert any("4 of 8 rows are rejected" in one for one in found["doubts"]) and not found["sound"]


def test_answers_glued_to_prompts_of_a_model_for_chat() -> None:
    rows = [Demonstration(f"d{i}", f"number {i}.", "Sure!", f"f:{i}") for i in range(20)]
    spaced = [Demonstration(f"d{i}", f"number {i}.", " Sure!", f"f:{i}") for i in range(20)]
    chat, plain = SimpleNamespace(chat_template="{{ messages }}"), SimpleNamespace(chat_template=None)
    assert doubts.glued_share(rows, chat) == 1 and doubts.glued_share(spaced, chat) == 0
    assert doubts.glued_share(rows, plain) is None  # plain texts are what it is for
    assert doubts.glued_share(in_chat(rows, Data(chat=True)), chat) is None  # they go through the template
    chinese = [Demonstration(f"d{i}", f"第{i}个问题是什么？", "就是这个。", f"f:{i}") for i in range(20)]
    assert doubts.glued_share(chinese, chat) == 0  # no space is missing there
    assert "data.chat=true" in "".join(doubts._glued(1.0)) and list(doubts._glued(0.4)) == []


def test_data_chat_makes_text_prompts_messages_and_leaves_talk_alone() -> None:
    talk = [{"role": "user", "content": "Hi"}]
    rows = [Demonstration("a", "Hi", "Ho", "f:1"), Demonstration("b", talk, "Ho", "f:2")]
    assert [row.prompt for row in in_chat(rows, Data(chat=True))] == [talk, talk]
    assert in_chat(rows, Data()) == rows


def test_completions_are_called_what_they_are(tiny_tokenizer: Any) -> None:
    def told(tiers: int) -> list[str]:
        given = [Completion(str(i), f" {i}") for i in range(tiers)]
        row = Ranking("r", "Hi", given, [[str(i)] for i in range(tiers)], source="f:1")
        return [one["what"] for one in samples([row], tiny_tokenizer)[0]["texts"]]

    assert told(2) == ["chosen", "rejected"] and told(4) == ["best", "place 2 of 4", "place 3 of 4", "worst"]
