"""Does data-check say how many completions were liked and how many disliked?"""

import json
from pathlib import Path

import pytest

from pipeline.data_check import check as data_check
from pipeline.data_check import page

ROWS = [
    {
        "prompt": f"What is {n} and {n}?",
        "completion": f"It is {2 * n if n % 3 else 'unknown to me'}.",
        "label": n % 3 > 0,
    }
    for n in range(1, 9)
]


def test_both_kinds_are_counted_and_shown(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of eight are liked; a row whose id stood before is rejected, and counts for neither."""
    monkeypatch.chdir(tmp_path)
    rows = [row | {"id": n} for n, row in enumerate(ROWS)] + [ROWS[2] | {"id": 1}]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = data_check.check(data_check.configured("mine.jsonl", []), str(tiny_folder))
    assert (result["format"], result["kind"], result["kept"]) == ("unpaired", "judgements", 8)
    assert result["labels"] == {"liked": 6, "disliked": 2} and result["ties"] is None
    assert "judgements         6 liked, 2 disliked" in page.text(result)
    assert "6 liked, 2 disliked" in page.html(result)
    told = [one["what"] for sample in result["samples"] for one in sample["texts"]]
    assert told == ["liked", "liked", "disliked"]
    assert sum(result["languages"]["completions"].values()) == 6  # only what was liked is learnt by imitation


def test_other_kinds_have_no_such_line(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    result = data_check.check(data_check.configured("mine.jsonl", []), str(tiny_folder))
    assert result["labels"] is None and "liked" not in page.text(result)


def test_they_may_stand_where_demonstrations_are_asked_for(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"prompt": "Hi", "chosen": "Ho", "rejected": "No"}\n')
    Path("thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    named = [f"{setting}=thumbs.jsonl" for setting in ("demonstrations", "prompts")]
    sound, wrong = (data_check.check(data_check.configured("mine.jsonl", [one]), str(tiny_folder)) for one in named)
    assert sound["sound"] and not wrong["sound"]
    assert "data.prompts: it holds judgements" in page.text(wrong)
