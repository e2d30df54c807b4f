"""Is a negative preference of HelpSteer3 one for the first response?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "helpsteer3"
ROW = rows_of(NAME)[0]
FIRST, SECOND = [["c0"], ["c1"]], [["c1"], ["c0"]]


def test_the_example() -> None:
    """Preferences -3, 2, 0, -1."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity.startswith("overall_preference below 0: response1 is better")
    assert account(loaded) == (4, 3, {"tie": 1})
    assert orders(loaded) == [FIRST, SECOND, FIRST]
    assert [turn["role"] for turn in loaded.rows[1].prompt] == ["system", "user", "assistant", "user"]
    assert [one.text for one in loaded.rows[1].completions] == ["I do not know.", "N'Djamena."]


@pytest.mark.parametrize(("gap", "expected"), [(1, [FIRST, SECOND, FIRST]), (2, [FIRST, SECOND]), (2.5, [FIRST])])
def test_the_tie_gap_is_a_preference_too_weak(gap: float, expected: list) -> None:
    assert orders(read(example(NAME), tie_gap=gap)) == expected


def test_parquet_and_csv(tmp_path) -> None:
    """In CSV the context is one text and the preference digits; what each judge said is nested and cannot be there."""
    loaded = read(write(tmp_path, rows_of(NAME), "parquet"))
    assert (loaded.format, orders(loaded)) == (NAME, [FIRST, SECOND, FIRST])
    keys = ("response1", "response2", "overall_preference")
    flat = [{"context": row["context"][-1]["content"]} | {key: row[key] for key in keys} for row in rows_of(NAME)]
    loaded = read(write(tmp_path, flat, "csv"))
    assert (loaded.format, orders(loaded)) == (NAME, [FIRST, SECOND, FIRST])
    assert loaded.rows[1].prompt == "And of Chad?"


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "overall_preference", -4), "overall_preference", "-4 is not from -3 to 3"),
        (but(ROW, "overall_preference", "first"), "overall_preference", 'it is "first", not a number'),
        (but(ROW, "overall_preference", None), "overall_preference", "it is null, not a number"),
        (but(ROW, "overall_preference", GONE), "overall_preference", "the key is missing"),
        (but(ROW, "context", []), "context", "the list of messages is empty"),
        (but(ROW, "context", 0, "role", "tool"), "context[0].role", '"tool" is no role'),
        (but(ROW, "context", rows_of(NAME)[1]["context"][:3]), "context", "the last turn is not the user's"),
        (but(ROW, "response1", None), "response1", "it is null"),
        (but(ROW, "response2", " "), "response2", "it is blank"),
        (but(ROW, "response2", GONE), "response2", "the key is missing"),
        (but(ROW, "response2", ROW["response1"]), "response2", "it equals response1"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
