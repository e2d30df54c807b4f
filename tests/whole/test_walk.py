"""Does the whole walk hold: data to report with a tiny model, artifacts that load without our code, interruptions, lineage?"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import Stop, stopped_and_started
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import pipeline.stages.ppo
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256
from pipeline.artifacts.refusals import Refused
from pipeline.artifacts.run import Run
from pipeline.graph import WALK
from pipeline.report.exports import FILES as REPORT_FILES
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.training.context import base_model
from policies.backbone import load_causal
from policies.tokenizers import load_tokenizer
from reward.model import load_scorer

ROOT = Path(__file__).resolve().parents[2]
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",  # 32 rows to train on: two processes fill a last, smaller batch with rows seen before
    "sft.tuning=lora",
    "sft.max_steps=6",
    "sft.learning_rate=1e-2",
    "sft.save_steps=2",
    "sft.logging_steps=1",
    "reward.max_steps=6",
    "reward.save_steps=2",
    "reward.logging_steps=1",
    "reward.normalise_samples=16",
    "ppo.total_episodes=64",
    "ppo.batch_size=16",
    "ppo.micro_batch_tokens=120",
    "ppo.response_length=12",
    "ppo.save_steps=1",
    "ppo.kl_target=0.1",
    "compare.prompts=8",
    "compare.perplexity_rows=6",
]
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
MADE = {"README.md", "manifest.json", "metrics.jsonl"}
ADAPTER = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
FILES = {
    "sft": MODEL | MADE | ADAPTER,
    "reward": (MODEL - {"generation_config.json"})
    | MADE
    | ADAPTER
    | {"scoring.json", "evaluation.json", "report.html", "report.zh.html"},
    "ppo": MODEL | MADE | ADAPTER | {"critic/critic.safetensors", "samples.jsonl", "samples.md"},
    "compare": {"manifest.json", "metrics.jsonl", *REPORT_FILES},
}


def settings() -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", SHRUNK)


@pytest.fixture(scope="module", autouse=True)
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/whole with all five stages, made once; every test of this file runs beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("walk"))
        for stage in WALK:
            run_stage(stage, settings(), "whole")
        yield Path("runs/whole")


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def again(name: str, *stages: str) -> Path:
    """A run that has only the first stages of the whole one."""
    for stage in stages:
        shutil.copytree(Path("runs/whole") / stage, Path("runs") / name / stage)
    return Path("runs") / name


def test_a_second_time_everything_is_up_to_date(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:  # the index is written whenever a stage is asked for
        return {p: p.stat().st_mtime_ns for p in walk.rglob("*") if p.name != "index.html"}

    before = times()
    for stage in WALK:
        run_stage(stage, settings(), "whole")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(WALK) and all("is up to date" in line for line in lines)
    assert times() == before


def test_each_artifact_holds_exactly_its_files(walk: Path) -> None:
    assert {p.name for p in walk.iterdir()} == {*WALK, "index.html"}  # nothing partial is left
    for stage, expected in FILES.items():
        assert files(walk / stage) - {"chat_template.jinja"} == expected, stage
        listed = {item["path"] for item in json.loads((walk / stage / "manifest.json").read_text())["files"]}
        assert listed == files(walk / stage) - {"manifest.json"}
    data = {p.split(".")[0] for p in files(walk / "data")}
    assert data >= {"demonstrations", "rankings", "prompts", "manifest"}


def plain(loader: Any, folder: Path) -> Any:
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def rows(tokenizer: Any) -> torch.Tensor:
    return torch.tensor([tokenizer("When the new neighbour knocked, I smiled.")["input_ids"]])


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_policies_load_with_plain_transformers_and_peft(walk: Path, stage: str) -> None:
    """Plain from_pretrained gives our logits; the adapter on the model the stage began with gives the merged model's."""
    tokenizer = AutoTokenizer.from_pretrained(walk / stage)
    model, ids = plain(AutoModelForCausalLM, walk / stage), rows(tokenizer)
    parent = walk / "sft" if stage == "ppo" else Path(base_model(settings()))
    with torch.no_grad():
        ours = load_causal(walk / stage, load_tokenizer(walk / stage), torch.float32)(ids).logits
        found = model(ids).logits
        base = AutoModelForCausalLM.from_pretrained(parent).eval()
        without = base(ids).logits
        adapted: Any = PeftModel.from_pretrained(base, str(walk / stage / "adapter")).eval()
        with_adapter = adapted(ids).logits
    assert torch.equal(found, ours)
    torch.testing.assert_close(with_adapter, found, atol=1e-4, rtol=0)
    assert (without - found).abs().max() > 1e-2  # the adapter matters


def test_reward_model_loads_with_plain_transformers_and_peft(walk: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(walk / "reward")
    model = plain(AutoModelForSequenceClassification, walk / "reward")
    prompt, completion = "When the new neighbour knocked, I", " opened the door."
    ids = torch.tensor([tokenizer(prompt + completion)["input_ids"] + [tokenizer.eos_token_id]])
    base = AutoModelForSequenceClassification.from_pretrained(walk / "sft", num_labels=1)
    base.config.pad_token_id = tokenizer.pad_token_id
    adapted: Any = PeftModel.from_pretrained(base, str(walk / "reward" / "adapter")).eval()
    scorer = load_scorer(walk / "reward", torch.float32, torch.device("cpu"), 4)
    contract = json.loads((walk / "reward" / "scoring.json").read_text())
    with torch.no_grad():
        raw = model(ids).logits.item()
        assert adapted(ids).logits.item() == pytest.approx(raw, abs=1e-4)
    assert scorer.raw([prompt], [completion]).item() == pytest.approx(raw, abs=1e-5)
    normalised = (raw - contract["mean"]) / contract["std"]
    assert scorer([prompt], [completion]).item() == pytest.approx(normalised, abs=1e-4)


def test_ppo_kept_its_record(walk: Path) -> None:
    """Four iterations, in order; evaluations at 0, 2 and 4; the first KL is none."""
    figures = [json.loads(line) for line in (walk / "ppo" / "metrics.jsonl").read_text().splitlines()]
    assert [f["step"] for f in figures] == [1, 2, 3, 4]
    assert abs(figures[0]["objective/kl"]) < 1e-4 < abs(figures[-1]["objective/kl"])
    samples = [json.loads(line) for line in (walk / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert [sum(s["step"] == n for s in samples) for n in (0, 2, 4)] == [8, 8, 8] and len(samples) == 24


def test_report_has_its_shape(walk: Path) -> None:
    report = json.loads((walk / "compare" / "report.json").read_text())
    assert report["prompts"] == 8 and list(report["models"]) == ["base", "few_shot", "sft", "ppo"]
    for name, model in report["models"].items():
        assert {"reward", "judge", "length", "eos_rate", "distinct_2", "kl", "perplexity"} <= model.keys()
        assert (model["kl"] is None) == (name == "few_shot")
    assert {"ppo vs base", "ppo vs sft"} <= report["pairs"].keys()
    for pair in report["pairs"].values():
        for outcome in pair.values():
            assert {"wins", "ties", "losses", "win_rate", "low", "high"} <= outcome.keys()
            assert outcome["wins"] + outcome["ties"] + outcome["losses"] == 8
    assert len((walk / "compare" / "samples.jsonl").read_text().splitlines()) == 4 * 8
    assert [at["step"] for at in report["training"]["steps"]] == [0, 2, 4]  # the proxy over ppo's evaluations


def same_artifact(stage: str, run: Path) -> None:
    whole = Path("runs/whole") / stage
    for name in sorted(FILES[stage]):
        if name.endswith(".safetensors"):
            assert sha256(run / stage / name) == sha256(whole / name), name

    def logged(folder: Path) -> list[dict[str, Any]]:
        # seconds are never equal, and trl counts its tokens from the resumption on
        timed = ("time/", "train_runtime", "train_samples_per_second", "train_steps_per_second", "num_tokens")
        lines = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]

    assert logged(run) == logged(Path("runs/whole"))


@pytest.mark.parametrize(("stage", "parents"), [("sft", ("data",)), ("reward", ("data", "sft"))])
def test_interrupted_training_ends_with_the_same_bits(
    walk: Path, monkeypatch: pytest.MonkeyPatch, stage: str, parents: tuple[str, ...]
) -> None:
    """Stopped after step 3 of 6, with a checkpoint of step 2; then the same command again."""
    run = again(f"cut-{stage}", *parents)
    stopped_and_started(stage, settings(), run, monkeypatch)
    same_artifact(stage, run)


def test_interrupted_ppo_ends_with_the_same_bits(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = again("cut-ppo", "data", "sft", "reward")
    right = pipeline.stages.ppo.Watching.progress

    def stopping(self: Any, done: int) -> None:
        right(self, done)
        if done == 2:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.stages.ppo.Watching, "progress", stopping)
        with pytest.raises(Stop):
            run_stage("ppo", settings(), run.name)
    assert not (run / "ppo").exists()
    run_stage("ppo", settings(), run.name)
    same_artifact("ppo", run)
    samples = ("ppo/samples.jsonl", "ppo/samples.md")
    assert all((run / name).read_bytes() == (walk / name).read_bytes() for name in samples)


def test_a_changed_parent_is_refused(walk: Path) -> None:
    run = again("changed", "data", "sft")
    path = run / "sft" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError,
        match=r"sft/model\.safetensors: changed since it was published; .*remove runs/changed/sft and make its stage sft",
    ):
        run_stage("reward", settings(), run.name)
    assert not (run / "reward").exists() and not (run / "reward.partial").exists()


def test_a_missing_parent_names_its_command(walk: Path) -> None:
    again("alone", "data")
    with pytest.raises(ArtifactError, match=r"no finished sft in runs/alone; make its stage sft"):
        run_stage("reward", settings(), "alone")


def changed(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


@pytest.mark.parametrize(
    ("remade", "then", "names"),
    [
        (("sft",), "ppo", ("reward", "sft", "make its stage reward")),
        (("sft",), "compare", ("reward", "sft", "make its stages reward, ppo")),
        (("data",), "reward", ("sft", "data", "make its stage sft")),
        (("data",), "ppo", ("sft", "data", "make its stages sft, reward")),
        (("sft", "reward"), "compare", ("ppo", "sft", "reward", "make its stage ppo")),
        (("reward",), "compare", ("ppo", "reward", "make its stage ppo")),
    ],
)
def test_stages_that_do_not_belong_together_are_refused(
    walk: Path, remade: tuple[str, ...], then: str, names: tuple[str, ...]
) -> None:
    """The chain is named, and the remedy; also where a stage of another run was put in place of this one's."""
    name = f"strange-{'-'.join(remade)}-{then}"
    run = again(name, "data", "sft", "reward", *(["ppo"] if then == "compare" else []))
    before = {stage: Run(name).identity(stage) for stage in remade}
    for stage in remade:
        run_stage(stage, changed("sft.learning_rate=2e-2", "reward.learning_rate=4e-3", "seed=5"), name)
    config = settings() if remade == ("reward",) else changed("sft.learning_rate=2e-2", "seed=5")
    with pytest.raises(ArtifactError) as caught:
        run_stage(then, config, name)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{run / names[0]} was made from "), message
    assert all(part in message for part in names) and message.endswith(names[-1])
    now = Run(name).identity(remade[0])
    assert before[remade[0]][:12] in message and now[:12] in message
    assert not (run / f"{then}.partial").exists()
    with pytest.raises(ArtifactError, match="was made from"):
        run_stage(then, config.model_copy(update={"force": True}), name)  # force is for gates


def test_a_foreign_ppo_is_not_compared(walk: Path) -> None:
    """From a run whose sft was trained otherwise: its KL to this sft would be a number of nothing."""
    run = again("foreign", "data")
    for stage in ("sft", "reward"):
        run_stage(stage, changed("sft.learning_rate=2e-2"), "foreign")
    shutil.copytree(walk / "ppo", run / "ppo")
    with pytest.raises(
        ArtifactError,
        match=r"foreign/ppo was made from sft \w{12}, .*; .*foreign/ppo was made from reward .*make its stage ppo",
    ):
        run_stage("compare", changed("sft.learning_rate=2e-2"), "foreign")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_torn_log_is_cut_back_and_the_stage_goes_on(walk: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """A disk that was full when step 3 was logged; the same command ends with the same bits."""
    run = again(f"torn-{stage}", *WALK[: WALK.index(stage)])
    log = run / f"{stage}.partial" / "metrics.jsonl"
    write = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **kw: Any) -> Any:
        if path == log and mode == "a" and log.is_file() and log.read_bytes().count(b"\n") == 2:
            with write(path, "ab") as file:
                file.write(b'{"step": 3, "lo')
            raise OSError(28, "No space left on device")
        return write(path, mode, *more, **kw)

    with monkeypatch.context() as patch, pytest.raises(Refused, match="no space is left"):
        patch.setattr(Path, "open", full)
        run_stage(stage, settings(), run.name)
    assert not log.read_bytes().endswith(b"\n")
    run_stage(stage, settings(), run.name)
    same_artifact(stage, run)


@pytest.mark.parametrize(("tuning", "value"), [("full", "adapter"), ("full", "shared"), ("lora", "shared")])
def test_the_other_ways_to_hold_the_roles(walk: Path, tuning: str, value: str) -> None:
    """Full fine-tuning and a shared critic walk too, and publish weights that load; the critic of `adapter` starts from the reward model."""
    run = again(f"{tuning}-{value}", "data", "sft", "reward")
    config = load(
        ROOT / "recipes" / "smoke.yaml",
        [*SHRUNK, f"ppo.tuning={tuning}", f"ppo.value={value}", "ppo.total_episodes=32", "ppo.ptx_coef=0.1"],
    )
    run_stage("ppo", config, run.name)
    expected = FILES["ppo"] - (ADAPTER if tuning == "full" else set())
    assert files(run / "ppo") - {"chat_template.jinja"} == expected
    model, ids = plain(AutoModelForCausalLM, run / "ppo"), rows(AutoTokenizer.from_pretrained(run / "ppo"))
    before = AutoModelForCausalLM.from_pretrained(run / "sft").eval()
    with torch.no_grad():
        assert (model(ids).logits - before(ids).logits).abs().max() > 1e-3


def in_two_processes(stage: str, run: Path) -> None:
    """As a user starts them: one command with --nproc 2."""
    call = [sys.executable, "-m", "pipeline", stage, str(ROOT / "recipes" / "smoke.yaml"), *SHRUNK]
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN"}
    environment = {k: v for k, v in os.environ.items() if k not in single} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*call, "--run", run.name, "--nproc", "2"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(f"{stage}: runs/{run.name}/{stage}: ") == 1
    assert json.loads((run / stage / "manifest.json").read_text())["world_size"] == 2


def test_two_processes_make_the_same_models(walk: Path) -> None:
    """Sums are in another order, so the weights agree within float tolerance."""
    for stage, parents in (("sft", ("data",)), ("reward", ("data", "sft")), ("ppo", ("data", "sft", "reward"))):
        two = again(f"two-{stage}", *parents)
        in_two_processes(stage, two)
        one, other = (load_file(folder / stage / "model.safetensors") for folder in (walk, two))
        assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-4, stage


def test_two_processes_make_the_same_comparison(walk: Path) -> None:
    """The same answers, in the same order; figures within float tolerance. How it was made and when is another thing."""
    two = again("two-compare", *(stage for stage in WALK if stage != "compare"))
    in_two_processes("compare", two)
    said = [[json.loads(line) for line in (at / "compare" / "samples.jsonl").open()] for at in (walk, two)]
    texts = [[(row["prompt_id"], row["model"], row["completion"]) for row in rows] for rows in said]
    assert texts[0] == texts[1] and len(texts[0]) > 20

    def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict | list):
            for key, one in value.items() if isinstance(value, dict) else enumerate(value):
                yield from leaves(one, f"{name}/{key}")
        else:
            yield name, value

    reports = [dict(leaves(json.loads((at / "compare" / "report.json").read_text()))) for at in (walk, two)]
    one, other = ({k: v for k, v in found.items() if not k.startswith("/provenance")} for found in reports)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == (pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value), name
