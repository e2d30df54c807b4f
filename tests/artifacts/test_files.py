"""Is a log that a fault tore read again up to its last whole row, said once, and nothing else ever thrown away?"""

import json
from pathlib import Path

import pytest

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import keep_rows, recovered_rows

ROWS = [{"step": 1, "text": "a\u2028b\x85c"}, {"step": 2, "text": "é"}]  # str.splitlines would cut the first in three
WHOLE = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
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


def test_whole_rows_are_read_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    assert recovered_rows(path) == [] and not path.exists()
    path.write_bytes(WHOLE)
    assert recovered_rows(path) == ROWS and path.read_bytes() == WHOLE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("torn", TORN, ids=repr)
def test_a_torn_end_is_cut_off_and_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(WHOLE + torn)
    assert recovered_rows(path) == ROWS and path.read_bytes() == WHOLE
    told = capsys.readouterr().err
    assert told == f"{path}: its last row was torn off by a fault; cut back to the 2 whole rows before it\n"
    assert recovered_rows(path) == ROWS and capsys.readouterr().err == ""


def test_every_byte_that_may_be_the_last_one_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = WHOLE.index(b"\n") + 1
    for size in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:size])
        assert recovered_rows(path) == ROWS[: (size >= first) + (size == len(WHOLE))]


def test_rows_behind_a_damaged_one_are_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0\n' + WHOLE)
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl:1: not a whole row.*take that line out"):
        recovered_rows(path)
    assert path.read_bytes() == b'{"step": 0\n' + WHOLE


def test_rows_of_a_later_step_go_and_the_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    keep_rows(path, lambda row: False)
    assert not path.exists()
    path.write_bytes(WHOLE + b'{"st')
    keep_rows(path, lambda row: row["step"] <= 1)
    assert recovered_rows(path) == ROWS[:1] and [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]
