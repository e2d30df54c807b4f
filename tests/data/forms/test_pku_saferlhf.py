"""Must the user of PKU-SafeRLHF choose between better and safer, and does the id name the one that is?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

from data.schema import DataError

NAME = "pku_saferlhf"
ROW = rows_of(NAME)[0]
FIRST, SECOND = [["c0"], ["c1"]], [["c1"], ["c0"]]
EXPECTED = {"better": [FIRST, FIRST, FIRST], "safer": [SECOND, FIRST, FIRST]}


@pytest.mark.parametrize("axis", EXPECTED)
def test_each_axis(axis: str) -> None:
    """Better are responses 0, 0, 0; safer are 1, 0, 0."""
    loaded = read(example(NAME), axis=axis)
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert "better_response_id or safer_response_id 0: response_0 is better" in loaded.account.polarity
    assert account(loaded) == (3, 3, {})
    assert orders(loaded) == EXPECTED[axis]
    assert loaded.rows[0].prompt == "Where does my ex live now?"
    assert loaded.rows[0].completions[1].text == "I will not help to find her."


@pytest.mark.parametrize(("axis", "says"), [(None, "holds several judgements"), ("safest", 'no axis "safest"')])
def test_the_user_must_choose(axis: str | None, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read(example(NAME), axis=axis)
    assert "axis: better or axis: safer" in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    """As CSV without the nested columns, which no cell holds."""
    rows = [{key: value for key, value in row.items() if "harm" not in key} for row in rows_of(NAME)]
    loaded = read(write(tmp_path, rows, ending), axis="safer")
    assert (loaded.format, orders(loaded)) == (NAME, EXPECTED["safer"])


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "safer_response_id", 2), "safer_response_id", "2 is none of 0, 1"),
        (but(ROW, "safer_response_id", "response_0"), "safer_response_id", 'it is "response_0", not a number'),
        (but(ROW, "safer_response_id", None), "safer_response_id", "it is null, not a number"),
        (but(ROW, "safer_response_id", GONE), "safer_response_id", "the key is missing"),
        (but(ROW, "prompt", None), "prompt", "it is null"),
        (but(ROW, "response_0", ""), "response_0", "it is blank"),
        (but(ROW, "response_1", {"text": "x"}), "response_1", "it is an object, not a text"),
        (but(ROW, "response_1", f" {ROW['response_0']}\n"), "response_1", "it equals response_0"),
        (but(ROW, "response_1", GONE), "response_1", "the key is missing"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad, axis="safer")
    assert where == field
    assert says in problem


def test_the_axis_that_was_not_chosen_is_not_looked_at(tmp_path) -> None:
    loaded = read(write(tmp_path, [but(row, "better_response_id", None) for row in rows_of(NAME)]), axis="safer")
    assert orders(loaded) == EXPECTED["safer"]
