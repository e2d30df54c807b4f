"""Is the format of rows found, and is what fits none or two told with what to write?"""

import pytest
from loading_rows import BLUE, DEMO, PAIR, USER, problems_of, write

from data.loading import to_rows
from data.reading.options import Options
from data.schema import DataError


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p", "completon": "c"}, 'did you mean "completion" where it says "completon"?'),
        ({"propmt": "p", "chosen": "a", "rejected": "b"}, 'did you mean "prompt" where it says "propmt"?'),
        ({"Prompt": "p"}, 'did you mean "prompt" where it says "Prompt"?'),
        ({" prompt": "p"}, 'did you mean "prompt" where it says " prompt"?'),
        ({"question": "q"}, "no format is known with the keys question; name the columns"),
        ({"text": "q", "label": 1}, "no format is known with the keys text, label"),
    ],
)
def test_rows_of_no_format_are_told_the_nearest_key(tmp_path, row, says):
    """A misspelt key must not turn demonstrations into prompts or leave a prompt out."""
    problems = problems_of(write(tmp_path, [row, row]))
    assert [(line, field) for line, field, _ in problems] == [(1, "keys")]
    assert says in problems[0][2]


def test_a_misspelt_key_in_one_row_is_no_other_format(tmp_path):
    rows = [{"chosen": "What is it? Two.", "rejected": "What is it? Three."}] * 2
    problems = problems_of(write(tmp_path, [*rows, {"propmt": "p", "chosen": "a b", "rejected": "a c"}]))
    assert [(line, field) for line, field, _ in problems] == [(3, "keys")]
    assert 'did you mean "prompt" where it says "propmt"?' in problems[0][2]


def test_keys_that_go_with_no_format_are_named(tmp_path):
    problems = problems_of(write(tmp_path, [{"prompt": "p"}, {"prompt": "q"}, {"prompt": "r", "chosen": "a"}]))
    assert [(line, field) for line, field, _ in problems] == [(3, "keys")]
    assert "fits no format, with the keys prompt, chosen, among rows of the format prompt" in problems[0][2]


def test_rows_that_fit_two_formats_name_both(tmp_path):
    source = write(
        tmp_path, [{**DEMO, "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}]
    )
    problems = problems_of(source)
    assert "fits two formats, prompt_completion and messages" in problems[0][2]
    assert 'format: "prompt_completion" or format: "messages"' in problems[0][2]
    assert to_rows(source, Options(format="prompt_completion")).format == "prompt_completion"
    assert to_rows(source, Options(format="messages")).format == "messages"


def test_a_row_of_another_format_among_many_is_named(tmp_path):
    problems = problems_of(write(tmp_path, [{"prompt": "p"}, {"prompt": "q"}, DEMO]))
    assert [(line, field) for line, field, _ in problems] == [(3, "keys")]
    assert "looks like prompt_completion among rows of the format prompt" in problems[0][2]
    problems = problems_of(write(tmp_path, [DEMO, DEMO, {**DEMO, "messages": [USER, BLUE]}]))
    assert "fits two formats" in problems[0][2]


def test_an_unknown_format_suggests_the_nearest(tmp_path):
    source = write(tmp_path, [{"prompt": "p"}])
    with pytest.raises(DataError, match='there is no format "preferences"; did you mean "preference"'):
        to_rows(source, Options(format="preferences"))


def test_an_axis_is_asked_for_named_or_refused(tmp_path):
    """PKU-SafeRLHF's rows hold two judgements, which may differ."""
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    source = write(tmp_path, [row])
    assert "holds several judgements; choose with axis: better or axis: safer" in problems_of(source)[0][2]
    assert 'there is no axis "best"' in problems_of(source, axis="best")[0][2]
    assert "holds one judgement; leave axis out" in problems_of(write(tmp_path, [PAIR], "pairs.jsonl"), axis="x")[0][2]
    orders = {axis: to_rows(source, Options(axis=axis)).rows[0].ranking for axis in ("better", "safer")}
    assert orders == {"better": (("c0",), ("c1",)), "safer": (("c1",), ("c0",))}
