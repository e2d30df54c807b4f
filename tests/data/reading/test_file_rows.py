"""Is a file known by its bytes, and is every row that cannot be read named by its line?"""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from reading_rows import CSV, ROW, only_problem, read, write

from data.reading import sources
from data.reading.limits import Limits
from data.schema import DataError


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (json.dumps(ROW), [1]),
        (f"{json.dumps(ROW)}\n", [1]),
        (f"\ufeff{json.dumps(ROW)}\r\n\r\n  \n{json.dumps(ROW)}\r\n", [1, 4]),
        (f"\n\n{json.dumps(ROW)}", [3]),
        (json.dumps([ROW, ROW], indent=1), [2, 6]),
        (f"\ufeff [\r\n{json.dumps(ROW)},\r\n{json.dumps(ROW)}]\r\n", [2, 3]),
        (json.dumps([ROW, ROW]), [1, 2]),
        ("prompt,completion\nSay hi,hi\n\nSay hi,hi", [2, 4]),
        ("\ufeffprompt,completion\r\nSay hi,hi\r\n", [2]),
        ('"prompt","completion"\n"Say hi","hi"\n', [2]),
    ],
    ids=[
        "bare",
        "newline",
        "bom-crlf-blank",
        "leading",
        "array",
        "array-bom",
        "compact",
        "csv",
        "csv-bom",
        "csv-quoted",
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows"])
def test_a_file_is_known_by_its_bytes_not_its_name(tmp_path, content, lines, packed, name):
    raw = content.encode()
    rows, problems = read(write(tmp_path, gzip.compress(raw) if packed else raw, name))
    assert problems == []
    assert rows == [(ROW, line) for line in lines]


def test_csv_cells_keep_quotes_commas_and_line_breaks_and_the_line_they_begin_on(tmp_path):
    rows, problems = read(write(tmp_path, CSV))
    assert problems == []
    assert rows == [
        ({"prompt": 'Say "hi", please', "completion": "two\nlines, yes"}, 2),
        ({"prompt": "A", "completion": "B"}, 4),
    ]


def test_any_unicode_is_read_as_it_is(tmp_path):
    text = "你好\u2028\u0085\U0001f98a\ufeff e\u0301 ملف"
    assert read(write(tmp_path, json.dumps({"t": text}, ensure_ascii=False)))[0] == [({"t": text}, 1)]
    assert read(write(tmp_path, json.dumps({"t": text})))[0] == [({"t": text}, 1)]


def test_parquet_rows_are_counted_from_one(tmp_path):
    path = tmp_path / "rows.csv"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, {"prompt": "B", "completion": None}]), path)
    assert read(str(path)) == ([(ROW, 1), ({"prompt": "B", "completion": None}, 2)], [])


def test_a_broken_parquet_file_is_one_problem(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "Parquet file is broken" in only_problem(str(path))[2]


def test_a_nan_in_parquet_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": 1.0}, {"a": float("nan")}]), path)
    rows, problems = read(str(path))
    assert [line for _, line in rows] == [1]
    assert problems[0][:2] == (2, "a")


@pytest.mark.parametrize(
    ("content", "line", "field", "says"),
    [
        (b"", None, "file", "it is empty"),
        (b"\xef\xbb\xbf \n\r\n", None, "file", "it is empty"),
        (b"[]", None, "file", "no rows"),
        (b"prompt,completion\n", None, "file", "no rows"),
        ("{}".encode("utf-16"), None, "file", "UTF-16"),
        ('{"prompt": "a"}'.encode("utf-16-le"), None, "file", "NUL bytes: UTF-16"),
        (b"\x1f\x8b\x08\x00broken", None, "file", "gzip"),
        (gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-12], None, "file", "gzip"),
        (b'{\n  "prompt": "a",\n  "completion": "b"\n}\n', 1, "line", "spread over several lines"),
        (b'{"prompt":\n"a"}\n{"prompt":\n"a"}', 1, "line", "spread over several lines"),
        (b'{"data": [{"prompt": "a"}]}', 1, "data", "wrapped in an object; write only the list (jq .data)"),
        (b'{"version": 1,\n "rows": [\n{"prompt": "a"}]}', 1, "rows", "wrapped in an object"),
        (b'[1,\n{"a": "b"}', None, None, None),
        (b'[\n{"a": 1}\n{"a": 2}]', 3, "line", "comma or ] is missing"),
        (b'[\n{"a": "b', 2, "line", "the JSON is cut off"),
        (b'[{"a": "b"}]\n[]', 2, "line", "something follows the end"),
        (b'[\n{"a": "\xff"}]', 2, "line", "byte 0xff is not UTF-8"),
        (b"prompt;completion\na;b\n", 1, "header", "semicolons"),
        (b"prompt\tcompletion\na\tb\n", 1, "header", "tabs"),
        (b"prompt,prompt\na,b\n", 1, "prompt", "same name"),
        (b"prompt,\na,b\n", 1, "header", "no name"),
        (b"pr\xffompt\na\n", 1, "line", "byte 0xff is not UTF-8"),
    ],
)
def test_what_spoils_a_whole_file(tmp_path, content, line, field, says):
    source = write(tmp_path, content)
    with pytest.raises(DataError):
        list(sources.read(source, []))
    if says is not None:
        problem = read(source)[1][-1]
        assert problem[:2] == (line, field)
        assert says in problem[2]
        assert problem[2].startswith(source if line is None else f"{source}:{line}: ")


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        (b'{"prompt": "a", "compl', "line", "the JSON is cut off"),
        (b'{"prompt": "a",', "line", "the JSON is cut off"),
        (b'{"prompt": "a"} x', "line", "not JSON at column 17"),
        (b'{"prompt": "a\xe9"}', "line", "byte 0xe9 is not UTF-8"),
        (b'["a", "b"]', "line", "the row is a list, not an object"),
        (b'"a"', "line", "the row is a text"),
        (b'{"prompt": "a", "prompt": "b"}', "prompt", "stands twice"),
        (b'{"a": {"b": 1, "b": 1}}', "b", "stands twice"),
        (b'{"ratings": [1, NaN]}', "ratings[1]", "not finite"),
        (b'{"a": {"b": -1e999}}', "a.b", "not finite"),
        (b'{"a": "\\ud800"}', "a", "half a surrogate"),
        (b'{"\\udfff": "a"}', "line", "a key is not text"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line", "more than 4300 digits"),
        (b'{"a": ' * 60000, "line", "nested more than 200 deep"),
    ],
    ids=range(14),
)
def test_a_bad_json_line_is_named_and_reading_goes_on(tmp_path, bad, field, says):
    good = json.dumps(ROW).encode()
    rows, problems = read(write(tmp_path, b"\n".join([good, b"", bad, good])))
    assert rows == [(ROW, 1), (ROW, 4)]
    assert len(problems) == 1
    assert problems[0][:2] == (3, field)
    assert says in problems[0][2]


def test_a_first_line_cut_off_does_not_hide_the_others(tmp_path):
    rows, problems = read(write(tmp_path, b'{"prompt": "a\n' + json.dumps(ROW).encode()))
    assert rows == [(ROW, 2)]
    assert [(line, field) for line, field, _ in problems] == [(1, "line")]


def test_bad_elements_of_an_array_are_named_and_reading_goes_on(tmp_path):
    rows, problems = read(write(tmp_path, b'[\n{"a": 1},\n3,\n{"a": NaN},\n{"a": 1, "a": 2},\n{"a": 2}\n]'))
    assert rows == [({"a": 1}, 2), ({"a": 2}, 6)]
    assert [(line, field) for line, field, _ in problems] == [(3, "line"), (4, "a"), (5, "a")]


@pytest.mark.parametrize(
    ("bad", "lines", "says", "next_line"),
    [
        (b"only one", [3], "1 cells under 2 columns", 4),
        (b"a,b,c", [3], "3 cells under 2 columns", 4),
        (b'"a"b,c', [3], "a quote that opens here closes on line 3 in the middle", 4),
        (b'x,"a\nb"c', [3], "a quote that opens here closes on line 4 in the middle", 5),
        (b'"x\ny","a\nb"c', [4], "a quote that opens here closes on line 5 in the middle", 6),
        (b'a,"[{""role"": ""user""}]"', [3], "the cell holds JSON", 4),
        (b'a,"{""b"": 1}"', [3], "the cell holds JSON", 4),
        (b"a,b\xff", [3], "byte 0xff is not UTF-8", 4),
        (b'a,"b\n\xff"', [4], "byte 0xff is not UTF-8", 5),
        (b"a\rb,c", [3], "not CSV", 4),
    ],
    ids=range(10),
)
def test_a_bad_csv_record_is_named_and_reading_goes_on(tmp_path, bad, lines, says, next_line):
    rows, problems = read(write(tmp_path, b"prompt,completion\nSay hi,hi\n" + bad + b"\nSay hi,hi\n"))
    assert rows == [(ROW, 2), (ROW, next_line)]
    assert [line for line, _, _ in problems] == lines
    assert says in problems[0][2]


@pytest.mark.parametrize(
    ("record", "line"),
    [(b'a,"b\nc,d\n', 3), (b'"a\nb","c""\n\nd,e', 4), (b'a,b\n"c', 4), (b'"', 3)],
)
def test_an_unclosed_csv_quote_is_named_by_the_line_that_opens_it(tmp_path, record, line):
    rows, problems = read(write(tmp_path, b"prompt,completion\nSay hi,hi\n" + record))
    assert (ROW, 2) in rows
    assert len(problems) == 1
    assert problems[0][0] == line
    assert "never closed" in problems[0][2]


def test_a_quote_that_is_open_for_long_does_not_take_the_memory(tmp_path):
    """The quote opens on line 3; after it comes more than a row may have."""
    path = write(tmp_path, 'prompt,completion\nSay hi,hi\na,"b\n' + "c,d\n" * 300_000)
    with pytest.raises(DataError) as caught:
        list(sources.read(path, [], limits=Limits(row_mb=1)))
    assert "a quote that opens here is never closed" in str(caught.value)
    assert caught.value.problems[0].line == 3


def test_a_long_cell_is_no_unclosed_quote(tmp_path):
    long = "x" * 200_000
    assert read(write(tmp_path, f"prompt\n{long}\n"))[0] == [({"prompt": long}, 2)]


def test_a_citation_in_a_csv_cell_is_text(tmp_path):
    rows, problems = read(write(tmp_path, "prompt\n[1]\n{not json}\n[]\n"))
    assert [row["prompt"] for row, _ in rows] == ["[1]", "{not json}", "[]"]
    assert problems == []
