"""Does SHP's label 1 stand for the first comment?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "shp"
ROW = rows_of(NAME)[0]
EXPECTED = [[["c0"], ["c1"]], [["c1"], ["c0"]], [["c0"], ["c1"]]]


def test_the_example() -> None:
    """Labels 1, 0, 1; the votes (40 to 8, 3 to 21, 12 to 4) say the same."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "labels 1: human_ref_A is better, 0: human_ref_B"
    assert account(loaded) == (3, 3, {})
    assert orders(loaded) == EXPECTED
    assert loaded.rows[1].prompt == "Can I freeze dough?"
    assert [one.text for one in loaded.rows[1].completions] == ["No idea.", "Yes, after the first rise, wrapped well."]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_other_containers(tmp_path, ending: str) -> None:
    loaded = read(write(tmp_path, rows_of(NAME), ending))
    assert (loaded.format, orders(loaded)) == (NAME, EXPECTED)


def test_a_tie_gap_does_nothing_to_labels() -> None:
    assert orders(read(example(NAME), tie_gap=5)) == EXPECTED


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "labels", 2), "labels", "2 is none of 0, 1"),
        (but(ROW, "labels", -1), "labels", "-1 is none of 0, 1"),
        (but(ROW, "labels", 0.5), "labels", "0.5 is none of 0, 1"),
        (but(ROW, "labels", True), "labels", "it is true or false, not a number"),
        (but(ROW, "labels", "A"), "labels", 'it is "A", not a number'),
        (but(ROW, "labels", GONE), "labels", "the key is missing"),
        (but(ROW, "history", ""), "history", "it is blank"),
        (but(ROW, "human_ref_A", None), "human_ref_A", "it is null"),
        (but(ROW, "human_ref_B", ["x"]), "human_ref_B", "it is a list, not a text"),
        (but(ROW, "human_ref_B", GONE), "human_ref_B", "the key is missing"),
        (but(ROW, "human_ref_B", ROW["human_ref_A"]), "human_ref_B", "it equals human_ref_A"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


def test_csv_cells_are_read_as_numbers_and_no_others(tmp_path) -> None:
    """A column of a spreadsheet may say 1.0; an empty cell says nothing."""
    rows = [but(row, "labels", label) for row, label in zip(rows_of(NAME), ["1.0", " 0 ", "+1"], strict=True)]
    assert orders(read(write(tmp_path, rows, "csv"))) == EXPECTED
    for cell in ("", "nan", "inf", "1_0", "0x1", "1e", "one", "١"):
        loaded = read(write(tmp_path, [*rows, rows[0] | {"labels": cell}], "csv"), skip_bad=True)
        assert [(one.line, one.field) for one in loaded.problems] == [(5, "labels")], cell
