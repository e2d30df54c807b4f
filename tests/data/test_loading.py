"""Is every row of a source accounted for, and every problem told once, in order, and within bounds?"""

import json
import tracemalloc
from pathlib import Path

import pytest
from loading_rows import DEMO, PAIR, problems_of, scanned, write

from data import loading as reading
from data.forms.account import KEPT, OTHERS, Account, Reject
from data.forms.shapes import Format, has
from data.forms.table import FORMATS
from data.loading import scan, to_rows
from data.reading import sources
from data.reading.options import Options
from data.schema import EXAMPLES, SHOWN, Completion, DataError, Problem, Ranking

# What becomes of rows


def test_all_problems_come_together_in_the_order_of_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(PAIR)
    path.write_text(f'{good}\n{{"prompt": \n{{"prompt": "p", "chosen": "", "rejected": 1}}\n{good}\nNaN\n')
    assert [problem[:2] for problem in problems_of(str(path))] == [
        (2, "line"),
        (3, "chosen"),
        (3, "rejected"),
        (5, "line"),
    ]
    loaded = to_rows(str(path), Options(skip_bad=True))
    assert (loaded.read, len(loaded.rows)) == (5, 2)
    assert [problem.line for problem in loaded.problems] == [2, 3, 3, 5]
    assert [(reject.line, reject.row is None) for reject in loaded.rejects] == [(2, True), (3, False), (5, True)]


def test_the_account_names_what_became_of_every_row(tmp_path):
    """Seven rows: two used, one not JSON, one with two mistakes, one contrary to the first, two ties left out."""
    good = {"question": "q", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": -1}
    tie = {**good, "score_0": 0, "score_1": 0}
    contrary = {**good, "score_0": -1, "score_1": 1}
    source = write(tmp_path, [good, tie, {**good, "question": "", "answer_0": None}, tie, contrary, good])
    with open(source, "a") as file:
        file.write("{\n")
    account, rows, dropped, rejects = scanned(source)
    assert (account.format, account.kind, account.fatal) == ("webgpt", "rankings", False)
    assert (account.read, account.used, account.kept, list(rows)) == (7, 2, 2, [0, 2])
    assert account.left_out == {"tie": 2}
    assert account.rejected == {
        "question: it is blank": 1,
        "line: the JSON is cut off": 1,
        "ranking: two completions are ranked the other way round on line …": 1,
    }
    assert account.kinds.total() == 4 and account.kinds["answer_…: it is null"] == 1
    assert dropped == [(1, 5)]
    assert [(reject.line, reject.row is None) for reject in rejects] == [(3, False), (7, True)]
    assert [problem.line for problem in account.error().problems] == [3, 3, 5, 7]


def test_a_row_of_which_one_ranking_cannot_stand_counts_as_rejected_once(tmp_path, monkeypatch):
    """The second row makes three rankings; two of them turn round what the first row says."""

    def several(row, at):
        completions = (Completion("a", "x"), Completion("b", "y"))
        return [
            Ranking(f"{at.line}-{place}", prompt, completions, (("a",), ("b",))[:: 1 if way else -1], at.source)
            for place, (prompt, way) in enumerate(row["orders"])
        ]

    monkeypatch.setitem(FORMATS, "several", Format("rankings", has("orders"), several))
    rows = [{"orders": [["p", True], ["q", True]]}, {"orders": [["p", False], ["q", False], ["r", True]]}]
    account, kept, dropped, _ = scanned(write(tmp_path, rows), format="several")
    assert (account.read, account.used, account.kept, account.rejected.total()) == (2, 1, 3, 1)
    assert account.kinds.total() == 2
    assert dropped == [(2, 2), (3, 2)]
    assert [row.prompt for row in kept.values()] == ["p", "q", "r"]


def test_a_row_of_which_a_part_is_left_out_is_used(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sources.__dict__, "function_of", lambda name, source: lambda row: [row, {**row, "score_0": 0, "score_1": 0}]
    )
    good = {"question": "q", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": -1}
    account, rows, _, _ = scanned(write(tmp_path, [good]), map="any:thing")
    assert (account.used, account.left_out.total(), len(rows)) == (1, 0, 1)


def test_a_format_that_gives_nothing_and_says_nothing_is_its_authors_mistake(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "silent", Format("prompts", has("prompt"), lambda row, at: None))
    with pytest.raises(RuntimeError, match=r"silent gave nothing for .*rows.jsonl:1"):
        to_rows(write(tmp_path, [{"prompt": "p"}]), Options(format="silent"))


def test_rows_of_several_files_keep_their_own_lines(tmp_path):
    write(tmp_path, [{**PAIR, "id": 1}, {**PAIR, "id": 2, "prompt": "Else?"}], "a.jsonl")
    write(tmp_path, [{**PAIR, "id": 2}, {**PAIR, "chosen": "Three.", "rejected": "Two."}], "b.jsonl")
    problems = problems_of(str(tmp_path / "*.jsonl"))
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert [problem[2] for problem in problems] == [
        f'{b}:1: id: the id is also that of line 2 of "{a}"; give every row its own id',
        f'{b}:2: ranking: two completions are ranked the other way round on line 1 of "{a}"; keep one, or name annotators',
    ]
    assert to_rows(str(tmp_path), Options(skip_bad=True)).read == 4


def test_max_rows_ends_reading(tmp_path):
    source = write(tmp_path, [PAIR, PAIR, {**PAIR, "chosen": 1}])
    assert to_rows(source, Options(max_rows=2)).read == 2
    assert len(problems_of(source, max_rows=3)) == 1


def test_a_file_cut_off_is_refused_even_with_skip_bad_and_its_rows_are_checked_too(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,\nb,c\nd,"e\n')
    problems = problems_of(str(path), skip_bad=True)
    assert [problem[:2] for problem in problems] == [(2, "completion"), (4, "row")]


def test_nothing_usable_is_refused_even_with_skip_bad(tmp_path):
    with pytest.raises(DataError, match="it is blank"):
        to_rows(write(tmp_path, [{"prompt": "", "completion": ""}]), Options(skip_bad=True))


def test_rows_of_one_line_arrays_and_csv_are_told_apart(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([DEMO] * 3))
    loaded = to_rows(str(path))
    assert [row.id for row in loaded.rows] == [f"{path}:{number}" for number in (1, 2, 3)]
    assert loaded.read == 3
    path.write_text("prompt,chosen,rejected\np,a,b\nq,c,d\n")
    assert [row.source for row in to_rows(str(path)).rows] == [f"{path}:2", f"{path}:3"]


def test_the_smoke_data_is_sound():
    """48 rankings of three or four short answers, with ties and two scripts, the best at no favoured place."""
    loaded = to_rows(str(Path(__file__).parents[2] / "data" / "smoke.jsonl"))
    assert (loaded.format, loaded.kind, len(loaded.rows)) == ("ranking", "rankings", 48)
    assert len({ranking.prompt for ranking in loaded.rows}) == 48
    assert {len(ranking.completions) for ranking in loaded.rows} == {3, 4}
    assert sum(any(len(tier) > 1 for tier in ranking.ranking) for ranking in loaded.rows) >= 4
    assert sum(not ranking.prompt.isascii() for ranking in loaded.rows) >= 4
    best_first = sum(ranking.ranks()[0] == 0 for ranking in loaded.rows)
    assert 10 <= best_first <= 24


def test_memory_stays_the_same_however_long_the_file(tmp_path, monkeypatch):
    """Four times the file, not half a megabyte more at the peak; only the rows looked at first are kept."""
    monkeypatch.setattr(reading, "LOOKED_AT", 10)
    peaks = []
    for many in (400, 1600):
        source = write(
            tmp_path, [{"prompt": f"{n}", "chosen": f"{n} " * 900, "rejected": f"{n}." * 900} for n in range(many)]
        )
        tracemalloc.start()
        assert scan(source, Options(), lambda number, row: None).kept == many
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000


# Many problems


def test_problems_are_capped_and_counted(tmp_path):
    """Of 3000 rows 2500 are blank, 400 have no completion, 100 are sound: three of each are shown, 1000 and three kept, 2900 counted."""
    blank, absent = {"prompt": "p", "completion": ""}, {"prompt": "p", "other": 1}
    source = write(tmp_path, [DEMO] * 100 + [blank] * 2500 + [absent] * 400)
    account, rows, _, rejects = scanned(source)
    assert (account.read, len(rows), len(rejects), len(account.problems)) == (3000, 100, 2900, KEPT + EXAMPLES)
    assert account.rejected == {"completion: it is blank": 2500, "completion: the key is missing": 400}
    lines = str(account.error()).splitlines()
    assert lines[:3] == [
        f"{source}:{n}: completion: it is blank; write a text or take the row out" for n in range(101, 104)
    ]
    assert [line.split(": ")[:3] for line in lines[3:6]] == [
        [f"{source}:{n}", "completion", "the key is missing; give every row this key"] for n in range(2601, 2604)
    ]
    assert lines[6:] == [
        "and 2894 more:",
        "  2497 × completion: it is blank",
        "  397 × completion: the key is missing",
        "set data.skip_bad=true to set these 2,900 of 3,000 rows aside",
    ]
    with pytest.raises(DataError) as caught:
        to_rows(source)
    assert str(caught.value).splitlines() == lines
    loaded = to_rows(source, Options(skip_bad=True))
    assert (len(loaded.problems), len(loaded.rejects)) == (
        KEPT + EXAMPLES,
        2900,
    ) and loaded.account.kinds.total() == 2900


def test_kinds_are_capped_and_still_add_up(tmp_path):
    """Every row says one key twice, each another; a kind carries the key's name."""
    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(1500)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "p", "{name}": 1, "{name}": 2}}\n' for name in names) + '{"prompt": "p"}')
    account, rows, _, _ = scanned(str(path))
    assert (account.read, len(rows), len(account.kinds)) == (1501, 1, KEPT + 1)
    assert account.rejected.total() == account.kinds.total() == 1500
    assert account.rejected[OTHERS] == 500
    lines = str(account.error()).splitlines()
    assert lines[SHOWN] == "and 1480 more:"
    assert lines[SHOWN + 1] == f"  500 × {OTHERS}"
    assert lines[-2] == f"  {1480 - 500 - 19} × something else"
    assert len(lines) == 2 * SHOWN + 3


def test_an_account_adds_what_is_noted_to_what_is_shown():
    account = Account("f")
    for line in range(KEPT + 7):
        account.reject([Problem("f", line, "a", "is 1", "mend"), Problem("f", line, "b", 'is "x"', "mend")])
    assert account.rejected == {"a: is …": KEPT + 7}
    assert account.kinds == {"a: is …": KEPT + 7, "b: is …": KEPT + 7}
    error = account.error()
    assert len(error.problems) == KEPT and error.uncounted.total() == 2 * (KEPT + 7) - KEPT
    assert f"and {2 * (KEPT + 7) - 2 * EXAMPLES} more:" in str(error)


def test_what_is_repeated_of_the_users_own_is_short_and_steers_no_terminal(tmp_path):
    """A key with an escape sequence, half a surrogate pair, or a million letters must not reach a terminal as it is."""
    path = tmp_path / "rows.jsonl"
    keys = ["\\u001b[31m\\n", "\\ud800", "k" * 1_000_000]
    path.write_text('{"prompt": "p"}\n' + "".join(f'{{"prompt": "p", "{key}": 1, "{key}": 2}}\n' for key in keys))
    account, _, _, rejects = scanned(str(path))
    assert [problem.field[:12] for problem in account.problems] == ["\\x1b[31m\\n", "\\ud800", "k" * 12]
    assert str(account.error()).encode().decode().count("\n") == 3
    assert all(len(str(problem)) < 1000 for problem in account.problems)
    assert all(len(reject.reason) < 1000 and reject.reason.isprintable() for reject in rejects)


def test_a_reject_holds_what_no_json_line_can():
    assert Reject({"a": b"x"}, "f", 1, "r").to_json() == {"row": {"a": "b'x'"}, "file": "f", "line": 1, "reason": "r"}
