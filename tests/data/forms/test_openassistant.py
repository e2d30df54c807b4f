"""Do OpenAssistant's messages become rankings of siblings, and is every message accounted for?"""

import gzip

import pytest
from asked import GONE, Row, but, example, orders, problems_of, read, rows_of, write

POLARITY = "rank 0 is best; of ranking events the first id"
NAME = "openassistant"
ROWS = rows_of(NAME)
AT = {row["message_id"]: place for place, row in enumerate(ROWS)}


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def changed(**changes: tuple[str, object]) -> list[Row]:
    """The example with one field of some messages changed."""
    rows = list(ROWS)
    for name, (key, value) in changes.items():
        rows[AT[name]] = but(rows[AT[name]], key, value)
    return rows


def test_siblings_are_ranked_below_the_path_that_leads_to_them() -> None:
    """m1 has the replies m3 (0), m2 (1) and m4, which is deleted; m5 has m6 (0), m7 (1) and m8 without a rank; n1 has
    one reply. m9 stands below the deleted m4."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (NAME, "rankings", POLARITY)
    assert [(row.id, row.source) for row in loaded.rows] == [("m1", f"{example(NAME)}:2"), ("m5", f"{example(NAME)}:6")]
    assert orders(loaded) == [[["m3"], ["m2"]], [["m6"], ["m7"]]]
    first, second = loaded.rows
    assert first.prompt == [user("Which bird builds its nest under roofs?")]
    assert second.prompt == [*first.prompt, assistant("The swallow often does."), user("And in winter?")]
    assert [one.text for one in second.completions] == ["It flies to Africa.", "It sleeps."]
    account = loaded.account
    assert (account.read, account.used, account.kept) == (11, 6, 2)
    assert account.left_out == {
        "deleted": 1,
        "below a deleted message": 1,
        "not ranked": 1,
        "only one ranked reply": 1,
        "no ranked replies": 1,
    }


def test_an_unranked_reply_is_used_where_a_ranking_follows_it(tmp_path) -> None:
    """m3 leads to m5's ranking whether it has a rank or not; m2 is then the only ranked reply to m1."""
    loaded = read(write(tmp_path, changed(m3=("rank", None))))
    assert [row.id for row in loaded.rows] == ["m5"]
    assert loaded.account.left_out["only one ranked reply"] == 2 and loaded.account.left_out["not ranked"] == 1


def test_equal_ranks_tie(tmp_path) -> None:
    third = {**ROWS[AT["m2"]], "message_id": "m2b", "text": "The stork."}
    loaded = read(write(tmp_path, [*changed(m6=("rank", 1)), third]))
    assert orders(loaded) == [[["m3"], ["m2", "m2b"]]]
    assert loaded.account.left_out["tie"] == 2


def test_a_reply_said_twice_counts_once(tmp_path) -> None:
    again = {**ROWS[AT["m2"]], "message_id": "m2b", "text": " The swallow often does."}
    loaded = read(write(tmp_path, [*ROWS, again]))
    assert orders(loaded) == orders(read(example(NAME)))
    assert loaded.account.left_out["same text as another reply"] == 1


def test_as_it_is_published(tmp_path) -> None:
    """JSON lines in gzip, where keys without a value are left out; and the Hub's Parquet."""
    path = tmp_path / "oasst.messages.jsonl.gz"
    bare = [{key: value for key, value in row.items() if value is not None} for row in ROWS]
    path.write_bytes(gzip.compress(write(tmp_path, bare).read_bytes()))
    plain = read(example(NAME))
    for loaded in (read(path), read(write(tmp_path, ROWS, "parquet")), read(write(tmp_path, ROWS, "csv"))):
        assert loaded.format == NAME
        assert [(row.id, row.prompt, row.ranking) for row in loaded.rows] == [
            (row.id, row.prompt, row.ranking) for row in plain.rows
        ]
        assert loaded.account.left_out == plain.account.left_out


@pytest.mark.parametrize(
    ("rows", "line", "field", "says"),
    [
        (changed(m8=("message_id", "m7")), 8, "message_id", "the id is also that of line 7"),
        (changed(m5=("parent_id", "m99")), 6, "parent_id", "no sound message has this id"),
        (changed(m5=("role", "bot")), 6, "role", '"bot" is no role'),
        (changed(n1=("role", "assistant"), n2=("role", "prompter")), 10, "role", "a tree does not begin"),
        (changed(m5=("role", "assistant"), m6=("role", "prompter"), m7=("role", "prompter"), m8=("role", "prompter")),
         6, "role", "it answers a message of the same role"),
        (changed(m2=("rank", 0.5)), 3, "rank", "0.5 is a score, not a rank"),
        (changed(m2=("rank", -1)), 3, "rank", "-1 is not from 0"),
        (changed(m2=("rank", "best")), 3, "rank", 'it is "best", not a number'),
        (changed(m2=("text", " ")), 3, "text", "it is blank"),
        (changed(m2=("text", GONE)), 3, "text", "the key is missing"),
        (changed(m2=("deleted", "perhaps")), 3, "deleted", "it is a text, not true or false"),
        (changed(m2=("message_id", 7)), 3, "message_id", "it is a number, not a text"),
        (changed(m2=("parent_id", 1)), 3, "parent_id", "it is a number, not a text"),
    ],
)  # fmt: skip
def test_a_mistake_is_told(tmp_path, rows: list[Row], line: int, field: str, says: str) -> None:
    found = problems_of(tmp_path, rows)
    # What hangs on a message that could not be read has no sound parent, and says so too.
    (problem,) = [problem for where, key, problem in found if (where, key) == (line, field)]
    assert says in problem
    assert {key for where, key, _ in found if where != line} <= {"parent_id"}
    kept = read(tmp_path / "rows.jsonl", skip_bad=True).account
    assert kept.rejected.total() >= 1
    assert kept.read == 11 == kept.used + kept.left_out.total() + kept.rejected.total()


def test_a_cycle_is_told_of_all_its_messages_and_none_else(tmp_path) -> None:
    """m1 answers m5: m1, m3 and m5 go round. What hangs on them is left out, not blamed; the other tree is whole."""
    third = {**ROWS[AT["n2"]], "message_id": "n3", "text": "Two fish are in a bowl.", "rank": 1}
    rows = [*changed(m1=("parent_id", "m5")), third]
    found = problems_of(tmp_path, rows)
    assert [line for line, _, _ in found] == [2, 4, 6]
    assert {(field, problem) for _, field, problem in found} == {
        ("parent_id", "the message answers itself, by way of others")
    }
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert [row.id for row in kept.rows] == ["n1"]
    account = kept.account
    assert account.left_out == {"below a refused message": 4, "deleted": 1, "below a deleted message": 1}
    assert account.read == 12 == account.used + account.left_out.total() + account.rejected.total()


def test_a_message_that_answers_itself(tmp_path) -> None:
    assert [where[:2] for where in problems_of(tmp_path, changed(n1=("parent_id", "n1")))] == [(10, "parent_id")]


def test_a_long_thread_is_walked_in_time(tmp_path) -> None:
    """5,000 turns below one another, each walked once and none by recursion."""
    rows = []
    for place in range(5_000):
        role = "assistant" if place % 2 else "prompter"
        rows.append(
            {"message_id": f"x{place}", "parent_id": f"x{place - 1}" if place else None, "role": role, "text": "t"}
        )
    loaded = read(write(tmp_path, [*ROWS, *rows[::-1]]))
    assert len(loaded.rows) == 2
    assert loaded.account.left_out["not ranked"] == 2_501
