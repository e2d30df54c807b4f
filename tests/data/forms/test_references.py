"""Are rows for GRPO, a prompt and what its answer is checked against, told how to be read, and read so?"""

import re
from typing import Any

import pytest
from asked import Row, read, write

from data.schema import DataError

TALK = [{"role": "user", "content": "How many legs has a spider?"}]


@pytest.mark.parametrize("name", ["solution", "answer", "ground_truth"])
@pytest.mark.parametrize("value", ["8", 8, "It has eight.", "Eight, as I counted.\n#### 8"])
@pytest.mark.parametrize(
    ("asked", "said", "columns"),
    [
        ("messages", TALK, {"prompt": "messages"}),
        ("prompt", TALK, {}),
        ("prompt", "How many of its 8 legs has a spider?", {}),
        ("question", "How many legs has a spider?", {"prompt": "question"}),
    ],
)
def test_what_is_checked_is_told_with_its_remedy(
    tmp_path, name: str, value: Any, asked: str, said: Any, columns: dict[str, str]
) -> None:
    rows: list[Row] = [{asked: said, name: value}] * 3
    path = write(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        read(path)
    fix = caught.value.problems[0].fix
    assert f"data.keep=[{name}]" in fix
    assert not columns or re.search(rf"data\.columns={{prompt: {asked}}} and data\.keep", fix)
    loaded = read(path, columns=columns, keep=(name,))
    assert loaded.kind == "prompts" and loaded.problems == []
    assert [(row.prompt, row.columns) for row in loaded.rows] == [(said, {name: value})] * 3


def test_questions_and_answers_may_be_demonstrations(tmp_path) -> None:
    rows = [{"question": "How many legs has a spider?", "answer": "Eight."}] * 3
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match=r"data\.columns=\{prompt: question, completion: answer\} if they are demonstr"):
        read(path)
    loaded = read(path, columns={"prompt": "question", "completion": "answer"})
    assert (loaded.kind, loaded.rows[0].completion) == ("demonstrations", "Eight.")
