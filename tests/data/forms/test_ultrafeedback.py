"""Is UltraFeedback ranked by the rating the user chose, and what does "N/A" do?"""

import pytest
from asked import GONE, Row, account, but, example, orders, read, rows_of, told, write

NAME = "ultrafeedback"
ROW = rows_of(NAME)[0]
TIED = {"tie": 1}
UNRATED = {"not rated": 1}


@pytest.mark.parametrize(
    ("axis", "expected", "left_out"),
    [
        # 8, 2, 7.5, 8; then 3, 9; then 6, 6.
        (None, [[["c0", "c3"], ["c2"], ["c1"]], [["c1"], ["c0"]]], TIED),
        ("overall_score", [[["c0", "c3"], ["c2"], ["c1"]], [["c1"], ["c0"]]], TIED),
        # 4.5, 1.75, 4, 4.75; then 2, 5; then 3, 3.5.
        ("fine-grained_score", [[["c3"], ["c0"], ["c2"], ["c1"]], [["c1"], ["c0"]], [["c1"], ["c0"]]], {}),
        # 5, 1, 3, 4; then 4, 5; then 4, 5.
        ("instruction_following", [[["c0"], ["c3"], ["c2"], ["c1"]], [["c1"], ["c0"]], [["c1"], ["c0"]]], {}),
        # 4, 3, 4, 5; then N/A, 5; then 5, 4.
        ("honesty", [[["c3"], ["c0", "c2"], ["c1"]], [["c0"], ["c1"]]], UNRATED),
        # 5, N/A, 5, 5; then 1, 5; then 5, 5.
        ("truthfulness", [[["c1"], ["c0"]]], {"tie": 2}),
        # 4, 2, 4, 5; then 2, 5; then 3, 4.
        ("helpfulness", [[["c3"], ["c0", "c2"], ["c1"]], [["c1"], ["c0"]], [["c1"], ["c0"]]], {}),
    ],
)
def test_each_axis_ranks_by_its_rating(axis: str | None, expected: list, left_out: dict[str, int]) -> None:
    """The ratings of the three rows stand above each case, in the order of the completions."""
    loaded = read(example(NAME), axis=axis)
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert "higher" in loaded.account.polarity
    assert account(loaded) == (3, len(expected), left_out)
    assert orders(loaded) == expected


def test_ratings_models_and_prompt_are_kept() -> None:
    ranking = read(example(NAME)).rows[0]
    assert ranking.prompt == "Name three trees."
    assert [(one.text, one.model, one.ratings) for one in ranking.completions][:2] == [
        ("Oak, ash, elm.", "small", (8.0,)),
        ("Trees are tall.", "large", (2.0,)),
    ]
    assert read(example(NAME), axis="honesty").rows[0].completions[3].ratings == (5.0,)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (0.5, [[["c0", "c3"], ["c2"], ["c1"]], [["c1"], ["c0"]]]),  # 7.5 is not nearer than 0.5 to 8
        (0.6, [[["c0", "c2", "c3"], ["c1"]], [["c1"], ["c0"]]]),
        (6.0, [[["c0", "c2", "c3"], ["c1"]], [["c1"], ["c0"]]]),  # nor 2 nearer than 6, nor 3 to 9
        (6.01, []),
    ],
)
def test_the_tie_gap(gap: float, expected: list) -> None:
    """The scores are 8, 2, 7.5, 8; then 3, 9; then 6, 6."""
    assert orders(read(example(NAME), tie_gap=gap)) == expected


def test_an_unrated_completion_is_left_out_and_the_others_keep_their_names(tmp_path) -> None:
    """Truthfulness 3, N/A, 5, 5: the second is not in the ranking, the third and fourth are tied above the first."""
    row = but(ROW, "completions", 0, "annotations", "truthfulness", "Rating", "3")
    loaded = read(write(tmp_path, [row]), axis="truthfulness")
    assert [one.id for one in loaded.rows[0].completions] == ["c0", "c2", "c3"]
    assert orders(loaded) == [[["c2", "c3"], ["c0"]]]


@pytest.mark.parametrize("completions", [[], ROW["completions"][:1]])
def test_fewer_than_two_completions_say_nothing(tmp_path, completions: list) -> None:
    """The published set has such rows; a list without elements has no keys to be recognised by."""
    loaded = read(write(tmp_path, [*rows_of(NAME), but(ROW, "completions", completions)]))
    assert account(loaded) == (4, 2, {"tie": 1, "not rated": 1})


def test_parquet(tmp_path) -> None:
    """As it lies on the Hub: structs instead of objects."""
    loaded = read(write(tmp_path, rows_of(NAME), "parquet"), axis="honesty")
    assert (loaded.format, orders(loaded)) == (NAME, [[["c3"], ["c0", "c2"], ["c1"]], [["c0"], ["c1"]]])


OVERALL = [
    (but(ROW, "instruction", " "), "instruction", "it is blank"),
    (but(ROW, "completions", 2, "response", None), "completions[2].response", "it is null"),
    (but(ROW, "completions", 2, "response", GONE), "completions[2].response", "the key is missing"),
    (but(ROW, "completions", 1, "overall_score", "good"), "completions[1].overall_score", 'it is "good", not a number'),
    (but(ROW, "completions", 1, "overall_score", True), "completions[1].overall_score", "it is true or false"),
    (but(ROW, "completions", 1, "overall_score", None), "completions[1].overall_score", "it is null, not a number"),
    (but(ROW, "completions", 1, "overall_score", float("nan")), "completions[1].overall_score", "not finite"),
    (but(ROW, "completions", 0, "Oak."), "completions[0]", "it is a text, not an object"),
    (but(ROW, "completions", {"response": "Oak."}), "completions", "it is an object, not a list"),
    (but(ROW, "completions", 1, "response", "Oak, ash, elm."), "completions", "the same text stands in two ranks"),
    (but(ROW, "completions", 1, "model", 1.5), "completions[1].model", "it is a number, not a text"),
]
HONESTY = [
    (("annotations", "honesty", "Rating", "6"), "annotations.honesty.Rating", "6 is not from 1 to 5"),
    (("annotations", "honesty", "Rating", "n/a"), "annotations.honesty.Rating", 'it is "n/a", not a number'),
    (("annotations", "honesty", "Rating", GONE), "annotations.honesty.Rating", "the key is missing"),
    (("annotations", "honesty", GONE), "annotations.honesty", "the key is missing"),
    (("annotations", "honesty", None), "annotations.honesty", "it is null, not an object"),
    (("annotations", GONE), "annotations", "the key is missing"),
]


@pytest.mark.parametrize(("bad", "field", "says"), OVERALL)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem


@pytest.mark.parametrize(("change", "field", "says"), HONESTY)
def test_a_mistake_in_an_aspect_is_told(tmp_path, change: tuple, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, but(ROW, "completions", 3, *change), axis="honesty")
    assert where == f"completions[3].{field}"
    assert says in problem
