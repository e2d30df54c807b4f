"""Does one row that holds a whole tree give all the rankings in it?"""

import pytest
from asked import GONE, Row, but, example, orders, problems_of, read, rows_of, write

POLARITY = "rank 0 is best; of ranking events the first id"
NAME = "openassistant_tree"
ROWS = rows_of(NAME)
TREE = ROWS[0]


def test_every_message_with_ranked_replies_gives_a_ranking() -> None:
    """Tree a: a0 before a1 (a2 is deleted), and two turns down a002, a003, a001. Tree b has one reply, tree c two."""
    loaded = read(example(NAME))
    assert (loaded.format, loaded.kind, loaded.account.polarity) == (NAME, "rankings", POLARITY)
    assert [row.id for row in loaded.rows] == ["a", "a00", "c"]
    assert orders(loaded) == [[["a0"], ["a1"]], [["a002"], ["a003"], ["a001"]], [["c0"], ["c1"]]]
    assert loaded.rows[1].prompt == [
        {"role": "user", "content": "How old is the Moon?"},
        {"role": "assistant", "content": "About four and a half billion years."},
        {"role": "user", "content": "How do we know?"},
    ]
    assert [row.source for row in loaded.rows] == [f"{example(NAME)}:{line}" for line in (1, 1, 3)]
    assert (loaded.read, loaded.account.used, loaded.account.left_out) == (3, 2, {"only one ranked reply": 1})


def test_it_says_the_same_as_flat_rows(tmp_path) -> None:
    """The tree taken apart into rows that name their parent must give what the tree gives."""
    flat: list[Row] = []

    def take(node: Row, parent: str | None) -> None:
        flat.append({"parent_id": parent, **{key: value for key, value in node.items() if key != "replies"}})
        for reply in node["replies"]:
            take(reply, node["message_id"])

    for row in ROWS:
        take(row["prompt"], None)
    loaded, trees = read(write(tmp_path, flat)), read(example(NAME))
    assert loaded.format == "openassistant"
    assert [(row.id, row.prompt, row.ranking) for row in loaded.rows] == [
        (row.id, row.prompt, row.ranking) for row in trees.rows
    ]


def test_trees_without_an_order_are_left_out(tmp_path) -> None:
    tie = but(ROWS[2], "prompt", "replies", 1, "rank", 0)
    bare = but(ROWS[2], "prompt", "replies", [])
    deleted = but(ROWS[1], "prompt", "deleted", True)
    unranked = but(ROWS[1], "prompt", "replies", 0, "rank", GONE)
    loaded = read(write(tmp_path, [TREE, tie, bare, deleted, unranked]))
    assert account_of(loaded) == {"tie": 1, "no ranked replies": 1, "deleted": 1, "not ranked": 1}


def account_of(loaded) -> dict[str, int]:
    assert loaded.problems == [] and loaded.read == loaded.account.used + loaded.account.left_out.total()
    return dict(loaded.account.left_out)


def test_parquet(tmp_path) -> None:
    """Parquet gives every message all keys, and null for those it has not; nesting has to end somewhere."""
    rows = [
        but(row, "prompt", "replies", [{**one, "replies": None} for one in row["prompt"]["replies"]]) for row in ROWS
    ]
    loaded = read(write(tmp_path, rows, "parquet"))
    assert loaded.format == NAME and [row.id for row in loaded.rows] == ["a", "c"]


def test_ids_that_stand_in_two_trees_are_told(tmp_path) -> None:
    """Both rankings of the first tree come again in the second."""
    found = problems_of(tmp_path, [TREE, ROWS[2], TREE])
    assert {(line, field) for line, field, _ in found} == {(3, "id")}


DEEP = ("prompt", "replies", 0, "replies", 0, "replies")


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (but(TREE, *DEEP, 1, "text", ""), "prompt.replies[0].replies[0].replies[1].text", "it is blank"),
        (but(TREE, *DEEP, 1, "rank", "first"), "prompt.replies[0].replies[0].replies[1].rank", "not a number"),
        (but(TREE, *DEEP, 1, "rank", 1.5), "prompt.replies[0].replies[0].replies[1].rank", "is a score, not a rank"),
        (but(TREE, *DEEP, 0, "message_id", "a1"), "prompt.replies[1].message_id", '"a1" stands twice in the tree'),
        (but(TREE, *DEEP, 0, "role", "prompter"), "prompt.replies[0].replies[0].replies[0].role", "the same role"),
        (but(TREE, *DEEP, "none"), "prompt.replies[0].replies[0].replies", "it is a text, not a list"),
        (but(TREE, *DEEP, 2, "reply"), "prompt.replies[0].replies[0].replies[2]", "it is a text, not an object"),
        (but(TREE, "prompt", "role", "assistant"), "prompt.role", "a tree does not begin with the assistant"),
        (but(TREE, "prompt", "role", "user"), "prompt.role", '"user" is no role'),
        (but(TREE, "prompt", "message_id", GONE), "prompt.message_id", "the key is missing"),
    ],
)
def test_a_mistake_is_told(tmp_path, bad: Row, field: str, says: str) -> None:
    rows = [*ROWS, bad]
    line, where, problem = problems_of(tmp_path, rows)[0]
    assert (line, where) == (4, field) and says in problem
    kept = read(tmp_path / "rows.jsonl", skip_bad=True)
    assert orders(kept) == orders(read(example(NAME))) and [reject.line for reject in kept.rejects] == [4]
