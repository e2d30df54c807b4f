"""Are summaries of Reddit posts ranked by `choice`, under the prompt that the paper used, for each worker apart?"""

import pytest
from asked import GONE, Row, account, but, example, orders, problems_of, read, rows_of, told, write

NAME = "tldr"
ROW = rows_of(NAME)[0]
EXPECTED = [[["c0"], ["c1"]], [["c1"], ["c0"]], [["c0"], ["c1"]]]
NEWS = {"a news article, not a post": 1}


def test_the_example() -> None:
    """Choices 0, 1, 0; the fourth row is about a news article."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind) == (NAME, "rankings")
    assert loaded.account.polarity == "choice 0: the first summary is better, 1: the second"
    assert account(loaded) == (4, 3, NEWS)
    assert orders(loaded) == EXPECTED
    assert loaded.rows[0].prompt == (
        "SUBREDDIT: r/cooking\n\nTITLE: My soup is too salty\n\nPOST: I put in salt twice. How do I save it?\n\nTL;DR:"
    )
    assert [(one.text, one.model) for one in loaded.rows[2].completions] == [
        (" Dog eats socks; what else could he chew?", "sup1"),
        (" My dog ate two socks.", "ref"),
    ]
    assert [row.annotator for row in loaded.rows] == ["w1", "w1", "w2"]


def test_parquet(tmp_path) -> None:
    loaded = read(write(tmp_path, rows_of(NAME), "parquet"))
    assert (loaded.format, account(loaded), orders(loaded)) == (NAME, (4, 3, NEWS), EXPECTED)


def test_two_workers_may_disagree_and_one_may_not(tmp_path) -> None:
    again = but(but(ROW, "choice", 1), "worker", "w9")
    assert len(read(write(tmp_path, [ROW, again])).rows) == 2
    assert [(line, field) for line, field, _ in problems_of(tmp_path, [ROW, but(ROW, "choice", 1)])] == [(2, "ranking")]


def test_a_subreddit_that_brings_its_r(tmp_path) -> None:
    loaded = read(write(tmp_path, [but(ROW, "info", "subreddit", "r/cooking")]))
    assert loaded.rows[0].prompt.startswith("SUBREDDIT: r/cooking\n")


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ROW, "choice", 2), "choice", "2 is none of 0, 1"),
        (but(ROW, "choice", -1), "choice", "-1 is none of 0, 1"),
        (but(ROW, "choice", None), "choice", "it is null, not a number"),
        (but(ROW, "choice", [0]), "choice", "it is a list, not a number"),
        (but(ROW, "info", None), "info", "it is null, not an object"),
        (but(ROW, "info", "post", None), "info.post", "it is null"),
        (but(ROW, "info", "title", " "), "info.title", "it is blank"),
        (but(ROW, "info", "subreddit", GONE), "info.subreddit", "the key is missing"),
        (but(ROW, "summaries", 1, "text", ""), "summaries[1].text", "it is blank"),
        (but(ROW, "summaries", 1, "text", 4), "summaries[1].text", "it is a number, not a text"),
        (but(ROW, "summaries", 0, " Salted."), "summaries[0]", "it is a text, not an object"),
        (but(ROW, "summaries", ROW["summaries"][:1]), "summaries", "there are fewer than 2"),
        (but(ROW, "summaries", ROW["summaries"] * 2), "summaries", "there are more than 2"),
        (but(ROW, "summaries", 1, "text", "Salted soup twice, want to save it."), "summaries[1]", "it equals"),
        (but(ROW, "worker", []), "worker", "it is a list, not a text"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    where, problem = told(tmp_path, NAME, bad)
    assert where == field
    assert says in problem
