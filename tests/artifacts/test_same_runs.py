"""Do equal runs report the same, and does a model that did not change come out as no better? The real stages, on the tiny model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resealed import rewritten

from pipeline.artifacts.files import sha256
from pipeline.commands import Call
from pipeline.graph import WALK
from pipeline.running import run_stage
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "smoke.yaml"
SHRUNK = [
    "data.source=smoke.jsonl",
    "data.eval_fraction=0.5",  # 20 held-out prompts or more: below, no verdict is allowed anyhow
    "sft.max_steps=2",
    "reward.max_steps=2",
    "reward.normalise_samples=8",
    "ppo.total_episodes=32",
    "ppo.batch_size=16",
    "ppo.response_length=8",
    "ppo.eval_steps=1",
    "compare.models=[base,sft,ppo]",
    "compare.perplexity_rows=4",
]
TIMES = [("provenance", "made")]  # all that may differ between equal runs


def walk(root: Path) -> None:
    """All stages of runs/same below `root`, as the command line makes them there."""
    root.mkdir()
    shutil.copy(ROOT / "data" / "smoke.jsonl", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for stage in WALK:
            run_stage(stage, load(RECIPE, SHRUNK), "same", Call.of(RECIPE, "same", SHRUNK))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("roots")
    both = folder / "one", folder / "another-and-longer"
    for root in both:
        walk(root)
    yield both


def report(root: Path, name: str = "same") -> dict[str, Any]:
    return json.loads((root / "runs" / name / "compare" / "report.json").read_text(encoding="utf-8"))


def test_two_runs_with_one_seed_report_the_same_but_for_times(roots: tuple[Path, Path]) -> None:
    one, other = map(report, roots)
    assert one["prompts"] >= 20 and len(one["training"]["steps"]) == 3
    for section, name in TIMES:
        assert one[section].pop(name) and other[section].pop(name)
    assert json.dumps(one) == json.dumps(other)  # the order, too
    names = ("samples.jsonl", "report.csv", "comparator.json")
    for name in names:
        first, second = (root / "runs" / "same" / "compare" / name for root in roots)
        assert first.read_bytes() == second.read_bytes(), name


def test_the_report_names_no_place_of_this_machine_and_how_it_was_made(roots: tuple[Path, Path]) -> None:
    """The recipe lies in the project and not below the working directory; brackets are nothing for a shell to see."""
    found = report(roots[0])
    assert str(roots[0]) not in json.dumps(found) and str(ROOT) not in json.dumps(found)
    samples = (roots[0] / "runs" / "same" / "compare" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in samples} == {"smoke.jsonl"}  # of lines, each prompt would be a slice
    told = " ".join(f"'{text}'" if "[" in text else text for text in SHRUNK[1:])
    assert found["provenance"]["command"] == (
        f'make data sft reward ppo compare RECIPE=recipes/smoke.yaml RUN=same DATA=smoke.jsonl SET="{told}"'
    )


def test_the_sft_model_published_as_ppo_is_no_better(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """sft's weights in ppo's folder: the same noise gives the same completions, so every pair is a tie and the rate is exactly
    ½; what may be said is bounded by Wilson's interval over the prompts, with ½ in it. KL 0, length 1.00."""
    monkeypatch.chdir(roots[0])
    whole, run = Path("runs/same"), Path("runs/unchanged")
    for stage in WALK[:-1]:
        shutil.copytree(whole / stage, run / stage)
    weights = run / "ppo" / "model.safetensors"
    shutil.copy(whole / "sft" / "model.safetensors", weights)
    manifest = json.loads((run / "ppo" / "manifest.json").read_text())
    for item in manifest["files"]:
        if item["path"] == weights.name:
            item |= {"size": weights.stat().st_size, "sha256": sha256(weights)}
    rewritten(run / "ppo" / "manifest.json", manifest)
    run_stage("compare", load(RECIPE, SHRUNK), run.name)
    found = report(roots[0], run.name)
    prompts = found["prompts"]
    for outcome in found["pairs"]["ppo vs sft"].values():
        assert (outcome["wins"], outcome["ties"], outcome["losses"]) == (0, prompts, 0)
        assert outcome["win_rate"] == 0.5 and outcome["wilson"]["low"] < 0.5 < outcome["wilson"]["high"]
        assert outcome["low"] <= 0.5 <= outcome["high"] and outcome["length_controlled"] is None
    assert abs(found["models"]["ppo"]["kl"]) < 1e-4 and found["models"]["ppo"]["length_drift"]["ratio"] == 1.0
    said = found["verdict"]
    assert "shows no difference from" in said and "sft (50.0%" in said.replace("sft (win rate ", "sft (")
    assert "Every completion of ppo is identical to that of sft, so each comparison with it is a tie." in said
    assert "is better than sft" not in said and "and sft (" not in said.partition("shows no difference")[0]
    assert any(warning.startswith("ppo and sft gave the same completions") for warning in found["warnings"])
    page = (run / "compare" / "report.html").read_text(encoding="utf-8")
    assert "all are ties" in page and "all went one way" not in page
    assert found["identical"]["sft"] == 1.0 and report(roots[0])["identical"]["sft"] < 1.0  # ppo itself did change


def test_a_comparison_with_a_name_takes_a_model_of_another_run(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real stage: ppo of a copied run says what ppo says, is measured against the same sft, and its lineage is recorded."""
    monkeypatch.chdir(roots[0])
    before = (Path("runs/same/compare/manifest.json")).read_bytes()
    shutil.copytree("runs/same/ppo", "runs/twin/ppo")  # what it was made of is not there
    more = [*SHRUNK, "compare.models=[sft,ppo,twin/ppo]", "compare.name=twins", "compare.prompts=6"]
    run_stage("compare", load(RECIPE, more), "same", Call.of(RECIPE, "same", more))
    found = json.loads(Path("runs/same/compare-twins/report.json").read_text(encoding="utf-8"))
    ours, twin = found["models"]["ppo"], found["models"]["twin/ppo"]
    assert found["provenance"]["models"]["twin/ppo"]["path"] == "runs/twin/ppo"
    assert twin["kl"] == ours["kl"] != 0 and twin["perplexity"] == ours["perplexity"]
    assert twin["training_tokens_sampled"] == ours["training_tokens_sampled"] > 0
    assert found["provenance"]["models of other runs"].startswith("twin/ppo, made 20")
    assert "compare.name=twins" in found["provenance"]["command"]
    assert not any("held-out prompts, which" in warning for warning in found["warnings"])
    manifest = json.loads(Path("runs/same/compare-twins/manifest.json").read_text(encoding="utf-8"))
    assert "twin/ppo" in {parent["role"] for parent in manifest["parents"]}
    assert Path("runs/same/compare/manifest.json").read_bytes() == before
