"""Does `make runs` say what lies in runs/, whatever state it is in, and does `make prune` remove what is kept and nothing else?"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_stage import BAD, GOOD, make, refused

import pipeline.__main__ as cli
from pipeline.artifacts import kept, overview
from pipeline.artifacts.ownership import held
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.commands import Call
from pipeline.settings.config import PPO, Compare, Config


def coefficient(value: float) -> Config:
    return Config(ppo=PPO(kl_coef=value))


def walk(run: Run, config: Config) -> None:
    for stage in ("data", "sft", "reward", "ppo", "compare"):
        make(
            run,
            stage,
            config,
            text=f"{stage} {config.ppo.kl_coef * (stage in ('ppo', 'compare'))}\n",
            gate=BAD if stage == "ppo" else GOOD,
        )


def listed(**more: Any) -> list[str]:
    return list(overview.listing(**more))


def line(lines: list[str], name: str) -> str:
    (found,) = [one for one in lines if one.split()[:1] == [name]]
    return found


def test_no_runs(run: Run) -> None:
    assert listed() == ["no runs in runs yet; run: python -m pipeline all recipes/film_reviews.yaml --run demo"]
    Path("runs/cache/deep").mkdir(parents=True)  # of somebody else
    Path("runs/gpu-check.json").write_text("{}")
    assert listed() == ["no runs in runs yet; run: python -m pipeline all recipes/film_reviews.yaml --run demo"]
    refused(lambda: listed(only="demo"), "no run demo in runs; there is none yet")


def test_stages_gates_times_and_what_is_kept(run: Run) -> None:
    walk(run, coefficient(0.1))
    walk(run, coefficient(0.05))
    config, seeded = with_seed("ppo", coefficient(0.05), run, 1)
    make(seeded, "ppo", config)
    config, beside = with_seed("compare", coefficient(0.05).model_copy(update={"compare": Compare(name="greedy")}), run)
    make(beside, "compare", config)
    lines = listed()
    assert lines[0].startswith("runs/demo  ") and [one.split()[0] for one in lines[1:8]] == [
        "data", "sft", "reward", "ppo", "ppo_seed_1", "compare", "compare-greedy",
    ]  # fmt: skip
    assert "gate fail" in line(lines, "ppo") and "gate pass  20" in line(lines, "data")
    (ppo,) = [one for one in lines if ".kept/ppo-" in one]
    assert ppo.endswith("ppo.kl_coef=0.1") and "gate fail" in ppo and " kB " in ppo
    (comparison,) = [one for one in lines if ".kept/compare-" in one]
    assert comparison.endswith("made of another ppo")
    assert not any(one.startswith("settings that differ") for one in lines)


def test_settings_that_are_not_the_recipes_and_those_that_differ_between_runs(run: Run) -> None:
    Path("mine.yaml").write_text("seed: 3\nppo:\n  kl_coef: 0.2\n")
    for name, value in (("demo", 0.1), ("a2", 0.2)):
        one = Run(name, call=Call("mine.yaml", name, ("ppo.kl_coef=0.1",)))
        for stage in ("data", "sft", "reward", "ppo"):
            make(one, stage, coefficient(value).model_copy(update={"seed": 3}))
    lines = listed()
    assert lines[0].startswith("runs/a2  ") and lines[0].endswith("  mine.yaml")
    assert "runs/demo" in lines[5] and line(lines[5:], "ppo").endswith("ppo.kl_coef=0.1")
    assert not line(lines[:5], "ppo").endswith("kl_coef=0.2")
    assert lines[-2:] == ["settings that differ:", "  ppo.kl_coef  a2 0.2  demo 0.1"]
    assert [one for one in listed(only="a2") if "demo" in one or "differ" in one] == []


def test_a_recipe_that_is_gone_leaves_what_was_given(run: Run) -> None:
    make(Run("demo", call=Call("gone.yaml", "demo", ("seed=4", "ppo.kl_coef=0.1"))))
    assert line(listed(), "data").endswith("seed=4 ppo.kl_coef=0.1")


def test_half_a_run_and_one_that_is_at_work(run: Run) -> None:
    (working_folder(run, "data", Config()) / "state").write_text("step 5")
    assert "not finished" in line(listed(), "data.partial")
    with held(run.partial("data"), "runs/demo/data"):
        assert "being made" in line(listed(), "data.partial") and f"process {os.getpid()} on " in line(
            listed(), "data.partial"
        )
    (run.partial("data") / "lock").write_text("of one that died")
    assert "not finished" in line(listed(), "data.partial")


def test_a_stage_that_no_longer_fits_its_parents_says_so(run: Run) -> None:
    make(run)
    make(run, "sft")
    make(run, config=Config(seed=1), text="others\n")
    assert line(listed(), "sft").endswith("made of another data than is there")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"contract": 99}', "\udcff", '{"contract": 1, "stage": 3}'])
def test_a_manifest_that_cannot_be_read_is_told_and_the_rest_listed(run: Run, text: str) -> None:
    make(run, config=Config(seed=1))
    make(run)
    make(run, "sft")
    make(Run("other"))
    (former,) = kept.contents(run).kept["data"]
    for path in (Path("runs/demo/data"), former):
        (path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    lines = listed()
    assert "cannot be read" in line(lines[:2], "data")
    assert any(f".kept/{former.name}" in one and "can" in one for one in lines)
    assert "made of another data than is there" in line(lines, "sft") and any("runs/other" in one for one in lines)


def test_a_manifest_whose_fields_are_of_other_kinds_is_told(run: Run) -> None:
    make(run)
    path = Path("runs/demo/data/manifest.json")
    whole = json.loads(path.read_text())
    for field in whole:
        for value in (None, 3, "x", [], [3], {}, {"x": 1}):
            path.write_text(json.dumps(whole | {field: value}))
            assert any(one.split()[0] == "data" for one in listed()), (field, value)


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.app(list(arguments))
    assert left.value.code == 0


def test_prune_says_what_it_frees_and_removes_nothing_without_a_yes(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("demo", "other"):
        for seed in range(3):
            make(Run(name), config=Config(seed=seed), text="x" * 3000)
    Path("runs/demo/.kept/notes").mkdir()
    with pytest.raises(SystemExit) as left:
        cli.app(["prune"])
    out, told = capsys.readouterr()
    assert left.value.code == 2 and out.count("runs/demo/.kept/data-") == 2 and out.count("runs/other/.kept/data-") == 2
    assert told.splitlines()[0].startswith("runs/demo/.kept/notes: ") and "4 former results, " in told
    assert told.splitlines()[1].startswith("error: ") and told.endswith("; run: python -m pipeline prune --yes\n")
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda asked: "n" if "remove 2 former results, " in asked else 1 / 0)
    call("prune", "--run", "demo")
    assert capsys.readouterr().out.endswith("prune: nothing was removed\n")
    assert len(kept.contents(run).kept["data"]) == 2
    monkeypatch.setattr("builtins.input", lambda asked: "y")
    call("prune", "--run", "demo")
    assert " kB are free" in capsys.readouterr().out
    assert kept.contents(run).kept == {} and Path("runs/demo/.kept/notes").is_dir() and run.require("data")
    assert len(kept.contents(Run("other")).kept["data"]) == 2
    call("prune", "--yes")
    assert not Path("runs/other/.kept").exists() and Run("other").require("data")
    call("prune")
    assert capsys.readouterr().out.endswith("prune: nothing is kept\n")


def test_prune_removes_what_a_kill_left_of_one_that_was_removed(run: Run) -> None:
    make(run)
    half = Path("runs/demo/.kept/data-0123456789ab.gone")
    half.mkdir(parents=True)
    (half / "weights").write_text("x")
    call("prune", "--yes")
    assert not half.exists() and not Path("runs/demo/.kept").exists()


def test_a_run_that_is_not_there_is_told_with_those_that_are(run: Run) -> None:
    make(run)
    for command in ("runs", "prune"):
        with pytest.raises(SystemExit) as left:
            cli.app([command, "--run", "dmeo"])
        assert left.value.code == 2
    refused(lambda: overview.prune_asked("dmeo", True), "no run dmeo in runs; there are demo")
