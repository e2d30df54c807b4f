"""Does what the user says about a source hold: columns, reverse, map, annotators?"""

import pytest
from loading_rows import PAIR, problems_of, scanned, write

from data.loading import scan, to_rows
from data.reading.options import Options


def test_columns_rename_and_problems_name_the_users_own(tmp_path):
    rows = [{"question": "q", "good": "a", "bad": "b", "prompt": "not this"}, {"question": " ", "good": "a", "bad": 3}]
    source = write(tmp_path, rows)
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert [problem[:2] for problem in problems_of(source, columns=columns)] == [(2, "question"), (2, "bad")]
    loaded = to_rows(source, Options(columns=columns, skip_bad=True))
    assert (loaded.format, loaded.rows[0].prompt) == ("preference", "q")
    assert loaded.rejects[0].row == rows[1]


def test_problems_found_between_rows_name_the_users_own_columns(tmp_path):
    """A tree's id is found to stand twice only when all its messages are there; so is an id of any other row."""
    rows = [
        {"key": "a", "parent_id": None, "body": "q", "role": "prompter"},
        {"key": "b", "parent_id": "a", "body": "one", "role": "assistant", "rank": 0},
        {"key": "b", "parent_id": "a", "body": "two", "role": "assistant", "rank": 1},
    ]
    columns = {"message_id": "key", "text": "body"}
    assert [one[:2] for one in problems_of(write(tmp_path, rows), columns=columns)] == [(3, "key")]
    pairs = [{"prompt": p, "chosen": "a", "rejected": "b", "key": "same"} for p in "xy"]
    assert [one[:2] for one in problems_of(write(tmp_path, pairs), columns={"id": "key"})] == [(2, "key")]


def test_a_place_that_was_spoken_of_is_not_used_again(tmp_path):
    """Rows share a place until one is bad or left out; the next row must not inherit what was said."""
    good = {"prompt": "p", "completion": "c"}
    rows = [good, good | {"completion": 3}, good, good | {"note": 1}, good]
    loaded = to_rows(write(tmp_path, rows), Options(format="prompt_completion", skip_bad=True))
    assert [row.source.rpartition(":")[2] for row in loaded.rows] == ["1", "3", "4", "5"]
    answers = {"question": "q", "answer_0": "a", "answer_1": "b"}
    scores = (0.5, 0.0, 0.5, 0.0, 0.0, 0.5)  # 0.0 is a tie
    rows = [answers | {"score_0": score, "score_1": -score} for score in scores]
    loaded = to_rows(write(tmp_path, rows))
    assert [row.source.rpartition(":")[2] for row in loaded.rows] == ["1", "3", "6"]
    assert sum(loaded.account.left_out.values()) == 3 and loaded.account.used == 3
    rated = [("5", "1"), ("N/A", "1"), ("2", "2"), ("4", "3")]
    rows = [
        {"instruction": "q", "completions": [{"response": str(n), "annotations": {"honesty": {"Rating": one}}}
            for n, one in enumerate(pair)]} for pair in rated
    ]  # fmt: skip
    loaded = to_rows(write(tmp_path, rows), Options(axis="honesty"))
    assert loaded.account.left_out == {"not rated": 1, "tie": 1} and len(loaded.rows) == 2


def test_reverse_turns_every_ranking_round(tmp_path):
    source = write(tmp_path, [{"prompt": "p", "completions": ["a", "b", "c"], "ranking": [[2], [0, 1]]}])
    plain, turned = (to_rows(source, Options(reverse=reverse)) for reverse in (False, True))
    assert plain.rows[0].ranking == (("c2",), ("c0", "c1"))
    assert turned.rows[0].ranking == (("c0", "c1"), ("c2",))
    assert turned.account.polarity == f"{plain.account.polarity} (reversed by request)"


@pytest.fixture
def maps(tmp_path, monkeypatch):
    code = """
def split(row):
    return [{"prompt": text} for text in row["texts"]]
def none(row):
    return None
def number(row):
    return 3
"""
    (tmp_path / "their_maps.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_map_makes_rows_or_leaves_them_out(tmp_path, maps):
    """Four source rows: two prompts, none, one, and one that is blank beside a sound one."""
    source = write(tmp_path, [{"texts": texts} for texts in (["a", "b"], [], ["c"], ["d", " "])])
    account, rows, _, rejects = scanned(source, map="their_maps:split")
    assert [row.prompt for row in rows.values()] == ["a", "b", "c"]
    assert (account.read, account.used, account.kept) == (4, 2, 3)
    assert account.left_out == {"left out by their_maps:split": 1}
    assert [(reject.line, reject.row) for reject in rejects] == [(4, {"texts": ["d", " "]})]


def test_a_map_that_leaves_everything_out_is_told(tmp_path, maps):
    source = write(tmp_path, [{"texts": ["a"]}])
    assert "leaves out the first 1 rows" in problems_of(source, map="their_maps:none")[0][2]
    account, _, _, _ = scanned(source, map="their_maps:none", format="prompt")
    assert (account.fatal, account.read, account.left_out.total()) == (False, 1, 1)


def test_a_map_that_is_none_or_gives_no_row_is_told(tmp_path, maps):
    source = write(tmp_path, [{"texts": ["a"]}])
    assert "their_maps has no function other" in problems_of(source, map="their_maps:other")[0][2]
    assert "names no function" in problems_of(source, map="their_maps")[0][2]
    with pytest.raises(TypeError, match="their_maps:number gave int for .*rows.jsonl:1, not a dict"):
        to_rows(source, Options(map="their_maps:number"))


def test_means_of_annotators_take_the_place_of_their_rankings(tmp_path):
    """Two people agree on the first item and cancel each other out on the second: one row is left of four."""
    rows = [{**PAIR, "annotator": "x"}, {**PAIR, "annotator": "y"}]
    other = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows += [{**other, "annotator": "x"}, {**other, "chosen": "b", "rejected": "a", "annotator": "y"}]
    loaded = to_rows(write(tmp_path, rows), Options(aggregate="mean"))
    assert [(row.prompt, row.annotator) for row in loaded.rows] == [(PAIR["prompt"], None)]
    assert loaded.account.left_out == {"annotators cancel out": 2}
    assert (loaded.read, loaded.account.kept) == (4, 1)


def test_what_watches_is_told_of_every_file(tmp_path):
    write(tmp_path, [PAIR], "a.jsonl")
    write(tmp_path, [PAIR, PAIR], "b.jsonl")
    seen = []
    scan(str(tmp_path), Options(), lambda number, row: None, watch=lambda file, size: seen.append((file.name, size)))
    assert seen == [(str(tmp_path / name), (tmp_path / name).stat().st_size) for name in ("a.jsonl", "b.jsonl")]
