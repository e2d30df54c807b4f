"""Is a log that a fault tore or changed read again with its whole rows alone, said once, and what was damaged kept beside it?"""

import json
from pathlib import Path

import pytest

from pipeline.artifacts.row_log import add_rows, whole_rows

ROWS = [{"step": 1, "text": "a\u2028b\x85c"}, {"step": 2, "text": "é\ud800"}]
TORN = [
    b"{",
    b'{"step": 3, "te',
    b'{"step": 3}',
    "{'é".encode()[:-1],
    b"\0" * 4096,
    b'{"step": 3\n',
    b"\n\n",
    b"3\n",
    b"\0\n",
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    add_rows(path, ROWS[:1], "this run")
    add_rows(path, ROWS[1:], "this run")
    return path


def test_whole_rows_are_read_as_they_were_added(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = log.read_bytes()
    assert whole_rows(log, "this run") == ROWS and log.read_bytes() == raw
    assert whole_rows(log.with_name("none")) == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("torn", [*TORN, b'{"step": 3}\n'], ids=repr)
def test_a_torn_end_is_cut_off_and_told_once(log: Path, capsys: pytest.CaptureFixture[str], torn: bytes) -> None:
    raw = log.read_bytes()
    log.write_bytes(raw + torn)
    assert whole_rows(log, "this run") == ROWS and log.read_bytes() == raw
    told = capsys.readouterr().err
    assert told == f"{log}: its last row was torn off by a fault; cut back to the 2 whole rows before it\n"
    assert whole_rows(log, "this run") == ROWS and capsys.readouterr().err == ""


def test_every_byte_that_may_be_the_last_one_on_the_disk(log: Path) -> None:
    raw = log.read_bytes()
    first = raw.index(b"\n") + 1
    for size in range(len(raw) + 1):
        log.write_bytes(raw[:size])
        assert whole_rows(log, "this run") == ROWS[: (size >= first) + (size == len(raw))]


def test_every_bit_that_flips_is_told_and_the_other_row_kept(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = log.read_bytes()
    for place in range(len(raw)):
        log.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        found = whole_rows(log, "this run")
        assert found == ROWS or all(row in ROWS for row in found), place
        assert (found == ROWS) == (capsys.readouterr().err == ""), place


def test_what_is_damaged_before_whole_rows_is_kept_beside_them(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = log.read_bytes()
    log.write_bytes(b'{"step": 0}\n' + raw)
    log.chmod(0o600)
    assert whole_rows(log, "this run") == ROWS and log.read_bytes() == raw
    assert log.with_name("samples.jsonl.broken").read_bytes() == b'{"step": 0}\n' + raw
    assert {path.stat().st_mode & 0o777 for path in log.parent.iterdir()} == {0o600}
    assert "row 1 is not as it was written" in capsys.readouterr().err
    assert sorted(path.name for path in log.parent.iterdir()) == ["samples.jsonl", "samples.jsonl.broken"]


def test_rows_of_another_run_are_not_taken(log: Path) -> None:
    assert whole_rows(log, "another run") == [] and log.read_bytes() == b""


def test_rows_without_a_hash_count_where_the_reader_says_so(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert whole_rows(log, unhashed=lambda row: row["step"] == 1) == ROWS[:1]


def test_what_is_no_file_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    assert whole_rows(tmp_path / "answers.jsonl") == [] and "cannot be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl.broken"]
