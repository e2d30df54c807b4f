"""Is every row of a file either yielded or complained about, whatever its bytes are?"""

from hypothesis import given, settings
from hypothesis import strategies as st
from reading_rows import read, write

PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\n",
        b"\r\n",
        b"\\",
        b"\0",
        b"\xff",
        b"a",
        b"1",
        b"NaN",
        b"\xef\xbb\xbf",
    ]
    + [
        b'{"a": "b"}\n',
        b'{"a": "b"}',
        b"\xe4\xbd\xa0",
        b"\xff\xfe",
        b"\x1f\x8b",
        b"PAR1",
        b"a,b\n",
        b'"a\n',
        b" ",
        b"\x85",
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=14).map(b"".join)))
def test_no_bytes_lead_to_another_error(tmp_path_factory, content):
    """A file of any bytes gives rows, problems or both; only DataError is ever raised."""
    rows, problems = read(write(tmp_path_factory.getbasetemp(), content))
    assert rows or problems


LINES = st.one_of(
    st.just(b'{"a": "b"}'),
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\0", b"")),
    st.lists(PIECES, max_size=5).map(lambda parts: b"".join(parts).replace(b"\n", b"").replace(b"\0", b"")),
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(LINES, max_size=8))
def test_every_json_line_is_a_row_or_a_problem(tmp_path_factory, lines):
    """After a sound first line, the lines that are not blank are those of the rows and those of the problems."""
    content = b"\n".join([b'{"a": "b"}', *lines])
    rows, problems = read(write(tmp_path_factory.getbasetemp(), content))
    written = {number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()}
    named = [line for _, line in rows] + [line for line, _, _ in problems]
    assert sorted(named) == sorted(written)


CELL = st.text(alphabet='ab,"\n\r 你\t', max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6))
def test_csv_gives_back_what_was_quoted(tmp_path_factory, cells):
    """Whatever stands in two quoted cells is read again, every record on the line where it begins."""
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in pair) for pair in cells]
    rows, problems = read(write(tmp_path_factory.getbasetemp(), "p,c\n" + "\n".join(quoted)))
    assert problems == []
    assert [(row["p"], row["c"]) for row, _ in rows] == cells
    starts = [2 + sum(text.count("\n") + 1 for text in quoted[:number]) for number in range(len(quoted))]
    assert [line for _, line in rows] == starts
