"""Are parents that do not belong together told, whatever way they came to lie in one run, and is each mended by the command that is named?"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_stages import (
    GIVEN,
    ORDER,
    SMOKE,
    Plain,
    command,
    copied,
    looked_at,
    make,
    manifest,
    plain_stages,
    settings,
    two_runs,
)
from resealed import changed

from pipeline import running
from pipeline.artifacts import seeds
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished
from pipeline.artifacts.other_runs import open_models
from pipeline.artifacts.run import Run
from pipeline.comparison.leaks import seen_elsewhere
from pipeline.graph import BASELINES
from pipeline.running import due
from pipeline.settings.recipe import load

A, B = Path("runs/a"), Path("runs/b")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_runs(tmp_path_factory.mktemp("lineage"))


def made_again(stage: str) -> Callable[[], None]:
    """The stage is made again from the same parents, with other contents."""

    def again() -> None:
        shutil.rmtree(A / stage)
        Plain.salt = "again"
        make(stage)

    return again


def of_b(*stages: str) -> Callable[[], None]:
    return lambda: [copied(B / stage, A / stage) for stage in stages] and None


def as_another(stage: str, place: str) -> Callable[[], None]:
    return lambda: copied(A / stage, A / place)


def file_of_b(name: str) -> Callable[[], None]:
    return lambda: shutil.copy(B / name, A / name) and None


def kept_by_hand() -> None:
    """A former sft is moved back to its place by hand, under a reward model of the one that came after it."""
    made_again("sft")()
    for stage in ("reward", "ppo"):
        make(stage)
    copied(Path("former"), A / "sft")


def deep() -> None:
    """The very reward model that ppo was made of, with an origin of its own in another sft."""
    own = manifest(A / "reward")["parents"]
    changed(A / "reward", parents=[own[0], own[1] | {"sha256": manifest(B / "reward")["parents"][1]["sha256"]}])


# How runs are mixed -> the command that comes next, and what it says
MIXED: dict[str, tuple[Callable[[], None], str, str]] = {
    "sft made again, then ppo": (made_again("sft"), "ppo", "runs/a/reward was made from sft "),
    "sft made again, then dpo's comparison": (made_again("sft"), "compare", "and sft is now "),
    "data made again, then ppo": (made_again("data"), "ppo", "runs/a/sft was made from data "),
    "data made again, then reward": (made_again("data"), "reward", "runs/a/sft was made from data "),
    "reward made again, then compare": (made_again("reward"), "compare", "runs/a/ppo was made from reward "),
    "reward of b": (of_b("reward"), "ppo", "runs/a/reward was made from data "),
    "sft of b": (of_b("sft"), "reward", "runs/a/sft was made from data "),
    "data of b": (of_b("data"), "sft and ppo", "runs/a/reward was made from data "),
    "data and sft of b": (of_b("data", "sft"), "ppo", "runs/a/reward was made from data "),
    "data, sft and reward of b": (of_b("data", "sft", "reward"), "compare", "runs/a/ppo was made from data "),
    "sft and reward of b": (of_b("sft", "reward"), "rloo", "runs/a/sft was made from data "),
    "ppo of b": (of_b("ppo"), "compare", "runs/a/ppo was made from data "),
    **{f"{one} of b": (of_b(one), "compare", f"runs/a/{one} was made from data ") for one in BASELINES},
    "gold in the place of reward": (as_another("gold", "reward"), "ppo", "made by stage gold, and reward belongs there"),
    "dpo in the place of ppo": (as_another("dpo", "ppo"), "compare", "made by stage dpo, and ppo belongs there"),
    "data in the place of sft": (as_another("data", "sft"), "reward", "made by stage data, and sft belongs there"),
    "weights of b": (file_of_b("sft/model.safetensors"), "reward", "runs/a/sft/model.safetensors: changed"),
    "an adapter of b": (file_of_b("reward/adapter/adapter_model.safetensors"), "ppo", "adapter_model.safetensors: changed"),
    "a manifest of b": (file_of_b("sft/manifest.json"), "reward", "changed since it was published"),
    "a former sft by hand": (kept_by_hand, "compare", "runs/a/reward was made from sft "),
    "an origin behind an origin": (deep, "rloo", "runs/a/reward was made from sft "),
    "an origin behind an origin, in a comparison": (deep, "compare", "was made from reward "),
}  # fmt: skip


def fresh(whole: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    shutil.copytree(folder / A / "sft", folder / "former")
    return folder


def mixed(name: str) -> str:
    """Mix runs as `name` says: the stage that is not there now, and comes next."""
    mix, following, _ = MIXED[name]
    mix()
    *first, last = following.split(" and ")
    for stage in first:
        make(stage)
    Plain.salt = "after"
    for place in (A / last, A / ".kept"):
        shutil.rmtree(place, ignore_errors=True)
    return last


def test_what_does_not_belong_together_is_told(whole: Path, tmp_path: Path, tally: Any) -> None:
    """Before anything starts: the chain to what is another one, and a command."""
    with tally("lineage") as cases:
        for name, (_, _, says) in MIXED.items():
            with cases(name), plain_stages(fresh(whole, tmp_path / "x")):
                stage = mixed(name)
                with pytest.raises(ArtifactError) as refused:
                    looked_at(stage)
                    Plain(stage).run(settings(), Run("a"))  # what is damaged is found when it is opened
                told = str(refused.value)
                assert says in told and "\n" not in told and ("run: " in told or "make its stage" in told), told
                assert not (A / stage / "manifest.json").exists()


@pytest.mark.slow
def test_the_commands_that_are_named_mend_what_does_not_belong_together(
    whole: Path, tmp_path: Path, tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with tally("lineage") as cases:
        for name in MIXED:
            with cases(f"mended: {name}"), plain_stages(fresh(whole, tmp_path / "x")):
                stage = mixed(name)
                if (name.removesuffix(" of b") in BASELINES) or "deep" in name:
                    assert command(stage) == 0  # a comparison makes its baselines again itself
                    continue
                capsys.readouterr()
                assert command(stage) == 2
                told = capsys.readouterr().err
                assert told.startswith("error: ") and told.count("\n") == 1, told
                if "belong together" in told:
                    for one in told.partition("run: ")[2].strip().split(" && "):
                        assert command(one.split()[3]) == 0, (one, capsys.readouterr().err)
                    assert command(stage) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_all_makes_stale_stages_again(
    whole: Path, tmp_path: Path, tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was mixed by whole folders of the right stages: `all` ends with 0, and then everything belongs together."""
    names = [
        name
        for name in MIXED
        if " of b" in name and "weights" not in name and "adapter" not in name and "manifest" not in name
    ]
    with tally("lineage") as cases:
        for name in [*names, "a former sft by hand"]:
            with cases(f"all after: {name}"), plain_stages(fresh(whole, tmp_path / "x")):
                MIXED[name][0]()
                Plain.salt = "a"
                assert command("all") == 0, capsys.readouterr().err
                run = Run("a")
                for stage in ("sft", "reward", "gold", "ppo", "dpo", "kto", "rloo", "rft", "best_of_n", "compare"):
                    run.require(stage)


def test_what_stands_beside_is_left_out_and_told(whole: Path, tmp_path: Path, tally: Any) -> None:
    """Further seeds, the gold model and models of other runs that do not belong: never among what is compared."""
    with tally("lineage") as cases, plain_stages(fresh(whole, tmp_path / "x")):
        run, config = Run("a"), settings()
        assert [one.folder for one in seeds.further(run, config)] == ["ppo_seed_1"]
        with cases("a seed of b"):
            copied(B / "ppo_seed_1", A / "ppo_seed_1")
            assert not seeds.further(run, config) and seeds.strays(run, config) == ["ppo_seed_1"]
        with cases("one seed as another"):
            copied(whole / A / "ppo_seed_1", A / "ppo_seed_1")
            copied(A / "ppo_seed_1", A / "ppo_seed_2")
            assert seeds.strays(run, config) == ["ppo_seed_2"]
        with cases("gold of b"):
            copied(B / "gold", A / "gold")
            with pytest.raises(ArtifactError, match="runs/a/gold was made from data .*do not belong together"):
                run.require("gold", force=True)
        with cases("a damaged model of another run"):
            (B / "ppo" / "model.safetensors").write_text("other weights")
            with pytest.raises(ArtifactError, match=r"runs/b/ppo/model.safetensors: changed"):
                open_models(run, settings("compare.models=[sft,b/ppo]"))
        with cases("a model of another run whose data are gone"):
            shutil.rmtree(B / "data")
            assert "no longer in runs/b" in str(seen_elsewhere(run, "b/ppo", []))
        with cases("a kept result of another run"):
            shutil.rmtree(A / "sft")
            copied(B / "sft", A / ".kept" / "sft-0123456789ab")
            assert due("sft", config, run)
        with cases("a kept result under another stage's name"):
            shutil.rmtree(A / "dpo")
            copied(A / "kto", A / ".kept" / "dpo-0123456789ab")
            copied(whole / A / "sft", A / "sft")
            assert due("dpo", config, run)


def replaced(stage: str) -> Callable[[], None]:
    def again() -> None:
        copied(Path("other") / stage, A / stage)

    return again


def touched(name: str) -> Callable[[], None]:
    return lambda: Path(name).write_text("something else") and None


MEANWHILE: dict[str, tuple[str, Callable[[], None]]] = {
    **{f"data made again when sft {when}": (f"sft {when}", replaced("data")) for when in ("begins", "has read", "ends")},
    **{f"sft made again when reward {when}": (f"reward {when}", replaced("sft")) for when in ("begins", "has read", "ends")},
    "reward made again when ppo ends": ("ppo ends", replaced("reward")),
    "a file of sft changed when ppo ends": ("ppo ends", touched("runs/a/sft/model.safetensors")),
    "a file of data changed when kto has read": ("kto has read", touched("runs/a/data/rankings.train.jsonl")),
    "the base model changed when sft ends": ("sft ends", touched("runs/.cache/tiny-random/model.safetensors")),
    "rows changed when data ends": ("data ends", touched("rows.jsonl")),
    "a dpo of others when compare ends": ("compare ends", replaced("dpo")),
}  # fmt: skip


def test_what_changes_while_a_stage_is_made_is_never_what_it_was_made_from(
    whole: Path, tmp_path: Path, tally: Any
) -> None:
    with tally("lineage") as cases:
        for name, (when, change) in MEANWHILE.items():
            with cases(name), plain_stages(fresh(whole, tmp_path / "x")):
                stage = when.split()[0]
                shutil.copy(GIVEN[0].partition("=")[2], "rows.jsonl")
                Path("other").mkdir()
                for one in ("data", "sft", "reward", "dpo"):
                    copied(A / one, Path("other") / one)
                    changed(Path("other") / one, files=[*manifest(A / one)["files"][:-1]])
                    (Path("other") / one / manifest(A / one)["files"][-1]["path"]).unlink()
                shutil.rmtree(A / stage)
                Plain.during = staticmethod(
                    lambda place, run, when=when, change=change: change() if place == when else None
                )
                given = ("data.source=rows.jsonl", *GIVEN[1:]) if stage == "data" else GIVEN
                with pytest.raises(ArtifactError):
                    running.run_stage(stage, load(SMOKE, list(given)), "a", told=True)
                assert not (A / stage).exists()


@pytest.mark.slow
def test_contents_of_models_outside_the_run_count(whole: Path, tmp_path: Path, tally: Any) -> None:
    """Every file of them: one that changed makes those stages stale that read it, and no other."""

    def model(name: str) -> str:
        Path(name, "inner").mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "tokenizer.json", "inner/weights.bin"):
            Path(name, file).write_text(file)
        return name

    with tally("lineage") as cases, plain_stages(fresh(whole, tmp_path / "x")):
        given = [f"model={model('base')}", f"ppo.reward_funcs=[reward,{model('scorer')}]", f"compare.gold={model('judge')}", f"reward.model={model('ranker')}"]  # fmt: skip
        stages = {
            "base": ("data", "sft", "compare"),
            "scorer": ("ppo", "rloo", "rft", "best_of_n", "compare"),
            "judge": ("compare",),
            "ranker": ("reward",),
        }
        assert command("all", *given, run="c") == 0
        run, config = Run("c"), settings(*given)
        made = {stage: finished(run, stage, config) for stage in ("data", "sft", "reward", "ppo", "rloo", "rft", "best_of_n", "compare")}  # fmt: skip
        assert all(made.values())
        for folder, readers in stages.items():
            for file in [path for path in Path(folder).rglob("*") if path.is_file()]:
                with cases(f"{file} changed"):
                    was = file.read_text()
                    file.write_text(was[:-1] + "X")
                    stale = {stage for stage in made if finished(run, stage, config) is None}
                    file.write_text(was)
                    assert stale == set(readers)
            with cases(f"{folder}: a file more"):
                Path(folder, "generation_config.json").write_text("{}")
                stale = {stage for stage in made if finished(run, stage, config) is None}
                Path(folder, "generation_config.json").unlink()
                assert stale == set(readers)


def test_a_run_is_known_by_its_contents_whatever_it_is_called(whole: Path, tmp_path: Path, tally: Any) -> None:
    with tally("lineage") as cases, plain_stages(fresh(whole, tmp_path / "x")):
        for name in ("renamed", "with space", "другой"):
            with cases(f"mv runs/a runs/{name}"):
                shutil.copytree(A, Path("runs") / name)
                before = {path: path.read_bytes() for path in (Path("runs") / name).rglob("manifest.json")}
                shutil.rmtree(
                    "runs/.cache", ignore_errors=True
                )  # as on another machine; what is not there contradicts nothing
                assert not any(looked_at(stage, name) for stage in (*ORDER, "compare"))
                assert {path: path.read_bytes() for path in before} == before
