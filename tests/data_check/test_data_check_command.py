"""Does the command data-check leave with the right code, and write what it found whatever it found?"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checking import KEYS, PAIRS, lines

import pipeline.__main__ as cli
from pipeline.data_check import check as data_check
from pipeline.data_check import page as data_check_page

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.app(["data-check", *arguments])
    return int(left.value.code or 0)


def test_sound_data_leave_with_0_and_are_written(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl", "--model", str(tiny_folder), "--json", "out/a.json", "--page", "out/a.html") == 0
    told = capsys.readouterr()
    assert told.err == ""
    for part in ("preference (rankings)", "chosen is better", "4 read", "<|end|>", "token counts by", "out/a.html"):
        assert part in told.out
    written = json.loads(Path("out/a.json").read_text())
    assert written["kept"] == 4 and written.keys() >= KEYS


def test_bad_rows_leave_with_2_and_everything_is_written_all_the_same(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 rows without an answer: three sentences, then one line with the count of the rest; skip_bad sets them aside."""
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", [*PAIRS, *[{"prompt": "x", "chosen": "y", "rejected": ""}] * 30])
    asked = ("--model", str(tiny_folder), "--json", "a.json", "--page", "a.html")
    assert call("mine.jsonl", "skip_bad=true", *asked) == 0
    assert "sound in form, 30 rows set aside, as asked" in capsys.readouterr().out
    assert call("mine.jsonl", *asked) == 2
    told = capsys.readouterr().out
    assert "not sound: see above\nset data.skip_bad=true to set these 30 of 34 rows aside\n" in told
    assert told.count("mine.jsonl:") == 3 + 3 and "27 × rejected: it is blank" in told
    (line,) = (line for line in told.splitlines() if line.startswith("to look at the others, run: "))
    assert call(*shlex.split(line.partition("data-check")[2])) == 0
    capsys.readouterr()
    assert "mine.jsonl:5: rejected: it is blank; " in told
    written = json.loads(Path("a.json").read_text())
    assert written["rejected"] == {"rejected: it is blank": 30} and len(written["errors"]) == 30
    assert written["errors"][0] == {
        "file": "mine.jsonl",
        "line": 5,
        "field": "rejected",
        "problem": "it is blank",
        "fix": "write a text or take the row out",
    }
    assert "it is blank" in Path("a.html").read_text()


def test_without_a_file_it_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import app\n"
        "try: app(['data-check', 'nowhere.jsonl', '--json', 'a.json', '--page', 'a.html'])\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.endswith("2 False\n"), done.stderr
    assert "nowhere.jsonl: file: there is no such file" in done.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["read"], written["kept"], written["format"]) == (0, 0, "") and len(written["errors"]) == 1
    assert "no such file" in (tmp_path / "a.html").read_text()


def test_a_model_without_a_tokenizer_is_told_beside_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl", "--model", "./nowhere", "--page", "a.html") == 2
    told = capsys.readouterr().out
    assert "./nowhere: no tokenizer to be had there" in told and "1 of 4 rows say what a row before says" in told
    assert "no tokenizer" in Path("a.html").read_text()


def test_without_the_embedded_model_the_tokenizer_is_the_tiny_one_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl") == 0
    told = capsys.readouterr().out
    assert "token counts by tiny-random" in told and "is not in runs/.cache" in told


EXAMPLES = sorted((ROOT / "tests/data/forms/examples").glob("*.json*"))
NEEDED = {"pku_saferlhf": ["axis=safer"]}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_formats_example_is_understood(example: Path, tiny_folder: Path) -> None:
    """Right format, polarity and counts: every row is rejected (none), left out by design, or used."""
    found = data_check.check(data_check.configured(str(example), NEEDED.get(example.stem, [])), str(tiny_folder))
    assert found["format"] == example.name.split(".")[0] and found["kept"] > 0
    assert found["sound"] == (example.stem != "prompt"), "prompts alone say of nothing whether it is good"
    assert found["read"] == found["used"] + sum(found["left_out"].values())
    assert found["polarity"] or found["kind"] != "rankings"
    assert bool(found["k"]) == (found["kind"] == "rankings")
    assert sum(found["k"].values()) == (found["kept"] if found["k"] else 0)
    assert data_check_page.text(found) and data_check_page.html(found)
