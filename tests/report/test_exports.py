"""Are all files of a report written, read back and the same again, and none with a number that is not finite?"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from comparison import healthy, models, opinions, sample, summarise, written

from pipeline.report import exports, numbers

ROOT = Path(__file__).resolve().parents[2]


def test_all_files_are_written_and_read_back(tmp_path: Path) -> None:
    rows = healthy()
    folder = tmp_path / "new" / "compare"
    written(rows, folder)
    assert {path.name for path in folder.iterdir()} == set(exports.FILES)
    kept = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert kept == rows
    assert json.loads((folder / "report.json").read_text("utf-8")) == summarise(rows).to_json()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path: Path, bad: float) -> None:
    rows = healthy()
    good = summarise(rows)
    ppo = replace(good.models["ppo"], perplexity=bad)
    broken = replace(good, models=good.models | {"ppo": ppo})
    with pytest.raises(ValueError, match=r"report\.models\.ppo\.perplexity is "):
        exports.write(broken, rows, opinions(), tmp_path)
    with pytest.raises(ValueError, match=r"samples\[0\]\.scores\.vader is "):
        spoilt = [sample("base", 0, 0.0, scores={"reward": 0.0, "vader": bad}), *rows[1:]]
        exports.write(good, spoilt, opinions(), tmp_path)
    with pytest.raises(ValueError, match=r"report\.provenance\.loss\[1\] is "):
        numbers.summarise(rows, models(), opinions(), provenance={"loss": [1.0, bad]}, draws=10)
    assert list(tmp_path.iterdir()) == []


def test_the_same_input_gives_the_same_files_but_for_the_time(tmp_path: Path) -> None:
    """In another process too, where sets have another order."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\nfrom pathlib import Path\nimport comparison\n"
        "rows = [row | {'tag': row['prompt_id'][-1], 'source': 's'} for row in comparison.healthy()]\n"
        "comparison.written(rows, Path(sys.argv[1]), provenance={'made': sys.argv[2]})"
    )
    texts = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(folder), f"at {seed}"], check=True, env=environment, cwd=ROOT)
        texts.append({p.name: p.read_text("utf-8").replace(f"at {seed}", "at T") for p in sorted(folder.iterdir())})
    assert texts[0] == texts[1] and len(texts[0]) == len(exports.FILES)
