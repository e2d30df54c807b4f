"""Are Argilla's nested records read as the flat ones are, and are options that are no field names mapped with care?"""

import pytest
from asked import EXAMPLES, GONE, Row, but, example, orders, problems_of, read, rows_of, write

from data.forms.options import meant

NAME = "argilla_nested"
ONE = rows_of(NAME)[0]
ORDER = ("responses", 0, "values", "order", "value")
AT = "responses[0].values.order"


def test_version_1() -> None:
    """n1: ann has the second, third, first; bob ties first and third. n2: bob discarded his. n3 is a draft."""
    loaded = read(example(NAME))
    assert [(row.id, row.annotator, row.prompt) for row in loaded.rows] == [
        ("n1-1", "ann", "Name a tree."),
        ("n1-2", "bob", "Name a tree."),
        ("n2", "ann", "Name a fish."),
    ]
    assert orders(loaded) == [
        [["reply_2"], ["reply_3"], ["reply_1"]],
        [["reply_2"], ["reply_1", "reply_3"]],
        [["reply_1"], ["reply_2"], ["reply_3"]],
    ]
    assert [one.text for one in loaded.rows[0].completions] == ["A stone.", "An oak.", "A bush."]
    assert loaded.account.left_out == {"nothing was submitted": 1} and loaded.problems == []


def test_version_2() -> None:
    """A means text_a, B text_b, the best first; v3 is pending and says not what was submitted."""
    loaded = read(EXAMPLES / "argilla_nested.v2.jsonl")
    assert orders(loaded) == [[["text_a"], ["text_b"]], [["text_b"], ["text_a"]]]
    assert [(row.prompt, row.annotator) for row in loaded.rows] == [("Name a tree.", "ann"), ("Name a fish.", "ann")]
    assert loaded.account.left_out == {"nothing was submitted": 1}


def test_a_status_of_an_answer_counts_before_that_of_the_record(tmp_path) -> None:
    rows = [but(row, "responses", "order", 0, "status", "submitted")
            for row in map(dict, rows_of("argilla_nested.v2"))]  # fmt: skip
    assert orders(read(write(tmp_path, rows)))[2] == [["text_b"], ["text_a"]]
    rows = [but(rows[0], "responses", "order", 0, "status", "draft"), *rows[1:]]
    assert [row.id for row in read(write(tmp_path, rows)).rows] == ["v2", "v3"]


@pytest.mark.parametrize("inside", [True, False])
def test_under_record(tmp_path, inside: bool) -> None:
    """`record` may hold the whole record, or its fields alone beside the responses."""
    rows = rows_of(NAME)
    made = [{"record": row} if inside else {"id": row["id"], "record": row["fields"], "responses": row["responses"]}
            for row in rows]  # fmt: skip
    plain, loaded = read(example(NAME)), read(write(tmp_path, made))
    assert [(row.id, row.prompt, row.ranking, row.annotator) for row in loaded.rows] == [
        (row.id, row.prompt, row.ranking, row.annotator) for row in plain.rows
    ]


FIELDS = ["reply_1", "reply_2"]


@pytest.mark.parametrize(
    ("options", "fields", "found"),
    [
        (["Reply 2", "Reply 1"], FIELDS, ["reply_2", "reply_1"]),
        (["2", "1"], FIELDS, ["reply_2", "reply_1"]),
        (["B", "A"], FIELDS, ["reply_2", "reply_1"]),
        (["option-1", "option-2"], ["answer b", "answer a"], ["answer a", "answer b"]),
        (["reply_2", "reply_1"], FIELDS, ["reply_2", "reply_1"]),
        (["1", "2"], ["reply_0", "reply_1"], None),
        (["1", "2"], ["reply_1", "reply_2", "reply_3"], None),
        (["1", "2"], [*FIELDS, "page_1", "page_2"], None),
        (["1", "2"], [*FIELDS, "page_a", "page_b"], None),
        (["good", "bad"], FIELDS, None),
        (["Reply 1", "reply-1"], FIELDS, None),
    ],
)
def test_what_options_mean(options: list[str], fields: list[str], found: list[str] | None) -> None:
    assert meant(options, fields) == (None if found is None else dict(zip(options, found, strict=True)))


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(ONE, *ORDER, 1, "value", "other"), "responses", "do not say which fields they mean"),
        (but(ONE, *ORDER, 1, "rank", 1.5), f"{AT}.value[1].rank", "1.5 is a score, not a rank"),
        (but(ONE, *ORDER, 1, "value", "reply-1"), f"{AT}.value[1]", "stands twice"),
        (but(ONE, "fields", "reply_2", " "), "fields.reply_2", "it is blank"),
        (but(ONE, "fields", "prompt", None), "fields.prompt", "it is null"),
        (but(ONE, "fields", "context", "A page."), "fields.context", "nothing reads it"),
        (but(ONE, "responses", 0, "status", "done"), "responses[0].status", '"done" is no status'),
        (but(ONE, "responses", 0, "status", GONE), "responses[0].status", "the key is missing"),
        (but(ONE, "responses", 0, "values", "reply-1"), "responses[0].values", "it is a text, not an object"),
        (but(ONE, "responses", "none"), "responses", "it is a text, not a list of answers"),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_record(tmp_path, bad: Row, field: str, says: str) -> None:
    line, where, problem = problems_of(tmp_path, [*rows_of(NAME), bad | {"id": "bad"}])[0]
    assert (line, where) == (4, field) and says in problem
