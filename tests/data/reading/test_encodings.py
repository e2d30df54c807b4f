"""Is a file in a legacy encoding named as what it is, and read as that where the user says so?"""

import gzip
import json
from pathlib import Path

import pytest

from data.loading import scan, to_rows
from data.reading.options import Options

SAID = {
    "gb18030": "请你告诉我明天山里的天气会怎么样，我们打算一大早就出发去爬山，需要带雨伞吗？",
    "big5": "請你告訴我明天山裡的天氣會怎麼樣，我們打算一大早就出發去爬山，需要帶雨傘嗎？",
    "shift_jis": "明日の天気はどうですか。傘を持って行くべきでしょうか。",
    "euc_kr": "내일 날씨가 어떤지 알려 주세요. 우산을 가져가야 하나요?",
    "cp1252": "Où est le café près de l’école? Größe für Straßen, naïve Fragen.",
    "cp1251": "Какая завтра будет погода в горах? Брать ли нам с собой зонт?",
}


def written(folder: Path, encoding: str, text: str, rows: int = 3) -> Path:
    path = folder / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{text} {n}", "completion": text}, ensure_ascii=False) + "\n" for n in range(rows)]
    path.write_bytes("".join(lines).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", SAID)
def test_an_encoding_is_named_and_then_read(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, encoding, SAID[encoding])
    (problem, *_) = scan(str(path), Options(), lambda number, row: None).problems
    assert problem.line == 1 and f"data.encoding={encoding}," in problem.fix
    loaded = to_rows(str(path), Options(encoding=encoding))
    assert [row.completion for row in loaded.rows] == [SAID[encoding]] * 3
    assert [row.source.rpartition(":")[2] for row in loaded.rows] == ["1", "2", "3"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "UTF-8"])
def test_unicode_in_other_clothes_is_read(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, encoding, SAID["gb18030"])
    assert len(to_rows(str(path), Options(encoding=encoding)).rows) == 3


def test_csv_and_gzip_are_read_too(tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_bytes(f"prompt,completion\n{SAID['cp1251']},да\n".encode("cp1251"))
    assert to_rows(str(csv), Options(encoding="cp1251")).rows[0].prompt == SAID["cp1251"]
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(written(tmp_path, "big5", SAID["big5"]).read_bytes()))
    assert len(to_rows(str(packed), Options(encoding="big5")).rows) == 3


def test_a_wrong_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n' + '{"prompt": "é", "completion": "b"}\n'.encode("cp1252"))
    account = scan(str(path), Options(encoding="euc_kr"), lambda number, row: None)
    assert [(problem.line, problem.field) for problem in account.problems] == [(2, "line")]
    for name in ("no-such", "hex", "base64"):
        account = scan(str(path), Options(encoding=name), lambda number, row: None)
        assert [(problem.field, account.fatal) for problem in account.problems] == [("encoding", True)]
