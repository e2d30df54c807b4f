"""Are the baselines fair to what they stand for: the same artifacts, score and rules as ppo, resumed exactly, compared as they were made?"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import stopped_and_started
from resealed import refilled
from safetensors.torch import load_file
from small_walk import SHRUNK, TRAINED, again, manifest, settings
from tiny import EOS, STOP
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows, sha256
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import ConfigError
from pipeline.stages import rft, rloo
from policies.template import Lesson

ROOT = Path(__file__).resolve().parents[2]


MADE = {"README.md", "manifest.json", "metrics.jsonl"}
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ADAPTER = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What passed between the stages of the walk: rloo's rewards, the lessons of rft."""
    return {"rewarded": [], "lessons": []}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any]) -> Iterator[Path]:
    """runs/whole with data, sft, reward and every baseline."""
    right_reward, right_tuning, right_trainer = rloo.rewarded, rft.fine_tune, rloo.PromptTrainer

    def spied(*args: Any) -> Any:
        inner = right_reward(*args)

        def reward(prompts: list[str], completion_ids: list[list[int]], **more: Any) -> list[float | None]:
            values = inner(prompts, completion_ids, **more)
            told["rewarded"] += list(zip(prompts, completion_ids, values, strict=True))
            return values

        return reward

    def tuned(section: Any, model: Any, tokenizer: Any, lessons: Sequence[Lesson], *rest: Any) -> Any:
        told["lessons"] = list(lessons)
        return right_tuning(section, model, tokenizer, lessons, *rest)

    def built(**arguments: Any) -> Any:
        told["rloo"] = right_trainer(**arguments)
        return told["rloo"]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("baselines"))
        for stage in ("data", "sft", "reward"):
            run_stage(stage, settings(), "whole")
        patch.setattr(rloo, "rewarded", spied)
        patch.setattr(rloo, "PromptTrainer", built)
        patch.setattr(rft, "fine_tune", tuned)
        for stage in (*TRAINED, "best_of_n"):
            run_stage(stage, settings(), "whole")
        for name, inner in (("rewarded", right_reward), ("PromptTrainer", right_trainer)):
            patch.setattr(rloo, name, inner)
        patch.setattr(rft, "fine_tune", right_tuning)
        yield Path("runs/whole")


# The walk


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"chat_template.jinja"}


def test_each_baseline_publishes_exactly_its_files(walk: Path) -> None:
    assert files(walk / "dpo") == files(walk / "rloo") == MODEL | MADE | ADAPTER
    assert files(walk / "rft") == MODEL | MADE | ADAPTER | {"samples.jsonl"}
    assert files(walk / "best_of_n") == {"manifest.json", "metrics.jsonl", "samples.jsonl"}
    assert not list(walk.glob("*.partial"))
    for stage in (*TRAINED, "best_of_n"):
        roles = [parent["role"] for parent in manifest(walk / stage)["parents"]]
        assert roles == (["data", "sft"] if stage == "dpo" else ["data", "sft", "reward"])


def test_a_second_time_they_are_up_to_date(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in (*TRAINED, "best_of_n"):
        run_stage(stage, settings(), "whole")
    assert capsys.readouterr().out.count("is up to date") == 4


@pytest.mark.parametrize("stage", TRAINED)
def test_policies_load_with_plain_transformers_and_differ_from_sft(walk: Path, stage: str) -> None:
    ids = torch.tensor([AutoTokenizer.from_pretrained(walk / stage)("When the new neighbour knocked")["input_ids"]])
    model, info = AutoModelForCausalLM.from_pretrained(walk / stage, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before = AutoModelForCausalLM.from_pretrained(walk / "sft")
    with torch.no_grad():
        assert (model.eval()(ids).logits - before.eval()(ids).logits).abs().max() > 1e-3


def test_the_gate_of_dpo_is_the_accuracy_of_its_implicit_rewards(walk: Path) -> None:
    """Once more from the published weights with nothing but transformers: log π of every held-out completion and its EOS under dpo
    and sft, token by token, without batches or padding."""
    tokenizer = AutoTokenizer.from_pretrained(walk / "dpo")
    models = [AutoModelForCausalLM.from_pretrained(walk / stage).eval() for stage in ("dpo", "sft")]
    margins: list[float] = []
    for row in read_rows(walk / "data" / "rankings.eval.jsonl"):
        prompt = tokenizer(row["prompt"])["input_ids"]
        rewards = {}
        for completion in row["completions"]:
            ids = prompt + tokenizer(completion["text"])["input_ids"] + [tokenizer.eos_token_id]
            sums = []
            for model in models:
                with torch.no_grad():
                    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
                sums.append(sum(logprobs[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))))
            rewards[completion["id"]] = settings().ppo.kl_coef * (sums[0] - sums[1])
        tiers = row["ranking"]
        for better in range(len(tiers)):
            for worse in range(better + 1, len(tiers)):
                margins += [rewards[a] - rewards[b] for a in tiers[better] for b in tiers[worse]]
    right = [float(margin > 0) for margin in margins]
    figures, gate = manifest(walk / "dpo")["metrics"], manifest(walk / "dpo")["gate"]
    assert figures["eval_pairs"] == len(right) > 30
    assert figures["pairwise_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert figures["margin"] == pytest.approx(np.mean(margins), abs=1e-4) and abs(figures["margin"]) > 1e-3
    assert figures["sampled_tokens"] == 0
    line = gate["checks"][0]
    assert (line["result"] == "fail") == (line["figure"] <= 0.5) and line["figure"] == figures["pairwise_accuracy"]
    assert manifest(walk / "dpo")["model"]["beta"] == settings().ppo.kl_coef == 0.05


def test_rloo_has_ppos_score_budget_and_rules(walk: Path, told: dict[str, Any]) -> None:
    config, heard = settings(), told["rewarded"]
    arguments = told["rloo"].args
    assert (arguments.beta, arguments.temperature) == (config.ppo.kl_coef, config.ppo.temperature)
    assert (arguments.top_k, arguments.top_p, arguments.num_iterations) == (0, 1.0, 1)
    assert len(heard) == config.ppo.total_episodes == 48
    groups = [heard[i : i + 4] for i in range(0, 48, 4)]
    assert all(len({prompt for prompt, _, _ in group}) == 1 for group in groups)
    assert len({group[0][0] for group in groups}) == 12  # prompts once each, while there are enough
    lengths = [len(ids) for _, ids, _ in heard]
    assert max(lengths) == config.ppo.response_length
    eos = AutoTokenizer.from_pretrained(walk / "sft").eos_token_id
    unfinished = [value for _, ids, value in heard if ids[-1] != eos]
    assert unfinished and set(unfinished) == {-1.0}
    assert manifest(walk / "rloo")["metrics"]["sampled_tokens"] == sum(lengths)
    lines = [json.loads(line) for line in (walk / "rloo" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_rft_learns_the_best_of_what_was_sampled(walk: Path, told: dict[str, Any]) -> None:
    rows = read_rows(walk / "rft" / "samples.jsonl")
    config = settings()
    assert len(rows) == config.ppo.total_episodes == 48 and config.rft.n == 4
    tokenizer = AutoTokenizer.from_pretrained(walk / "sft")
    wanted = []
    for i in range(0, 48, 4):
        group = rows[i : i + 4]
        assert len({row["prompt_id"] for row in group}) == 1
        (kept,) = (row for row in group if row["kept"])
        assert kept["reward"] == max(row["reward"] for row in group)
        prompt = tokenizer(group[0]["prompt"])["input_ids"]
        ends = kept["tokens"][-1] == tokenizer.eos_token_id
        assert ends == kept["eos"] and kept["tokens"].count(tokenizer.eos_token_id) == ends
        wanted.append((prompt + kept["tokens"], [False] * len(prompt) + [True] * len(kept["tokens"])))
    assert [(lesson.ids, lesson.learned) for lesson in told["lessons"]] == wanted
    figures = manifest(walk / "rft")["metrics"]
    assert figures["sampled_tokens"] == sum(row["length"] for row in rows)
    assert figures["best/scores"] > figures["sampled/scores"]


def test_best_of_n_is_of_the_first_held_out_prompts(walk: Path) -> None:
    rows = read_rows(walk / "best_of_n" / "samples.jsonl")
    first = [row["id"] for row in read_rows(walk / "data" / "prompts.eval.jsonl")[:5]]
    assert [row["prompt_id"] for row in rows] == [name for name in first for _ in range(8)]
    assert [row["sample"] for row in rows] == list(range(8)) * 5
    figures = manifest(walk / "best_of_n")["metrics"]
    best = [max(rows[i : i + 8], key=lambda row: row["reward"])["score"] for i in range(0, 40, 8)]
    assert figures["best_of_8/score"] == pytest.approx(np.mean(best))
    assert figures["best_of_1/score"] == pytest.approx(np.mean([row["score"] for row in rows]))
    assert figures["best_of_4/kl_bound"] == pytest.approx(math.log(4) - 0.75)
    assert "best_of_16/score" not in figures


@pytest.mark.parametrize("stage", TRAINED)
def test_interrupted_they_end_with_the_same_bits(walk: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Stopped after step 3 of 6, with a checkpoint of step 2; then the same command again."""
    run = again(f"cut-{stage}")
    stopped_and_started(stage, settings(), run, monkeypatch)
    assert sha256(run / stage / "model.safetensors") == sha256(walk / stage / "model.safetensors")
    assert manifest(run / stage)["metrics"]["sampled_tokens"] == manifest(walk / stage)["metrics"]["sampled_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "rft"])
def test_two_processes_make_the_same_model(walk: Path, stage: str) -> None:
    """Sums are in another order, so the weights agree within float tolerance."""
    two = again(f"two-{stage}")
    call = [sys.executable, "-m", "pipeline", stage, str(ROOT / "recipes" / "smoke.yaml"), *SHRUNK]
    single = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "PIPELINE_NPROC", "PIPELINE_RUN"}
    environment = {k: v for k, v in os.environ.items() if k not in single} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*call, "--run", two.name, "--nproc", "2"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (load_file(folder / stage / "model.safetensors") for folder in (walk, two))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-4


@pytest.mark.parametrize("stage", ["dpo", "rloo"])
def test_all_weights_can_be_trained(walk: Path, stage: str) -> None:
    run = again(f"full-{stage}")
    run_stage(stage, settings(f"{stage}.tuning=full", "ppo.total_episodes=16", "dpo.max_steps=2"), run.name)
    assert files(run / stage) == MODEL | MADE
    assert sha256(run / stage / "model.safetensors") != sha256(run / "sft" / "model.safetensors")


def test_rankings_that_are_all_ties_leave_nothing_for_dpo(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = again("ties")
    monkeypatch.setattr(Run, "require", lambda *args, **more: None)
    path = run / "data" / "rankings.train.jsonl"
    rows = [row | {"ranking": [[c["id"] for c in row["completions"]]]} for row in read_rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refilled(path.parent)
    monkeypatch.setattr("pipeline.artifacts.lineage.check", lambda *args, **more: None)
    with pytest.raises(ArtifactError, match=r"runs/ties/data: rankings\.train has no pair .*leave out dpo"):
        run_stage("dpo", settings(), run.name)


# The comparison


@pytest.fixture(scope="module")
def compared(walk: Path, tiny_folder: Path) -> Path:
    """runs/many/compare with every baseline, a copy of sft as a folder, and a model with another tokenizer; without ppo."""
    folder = Path("runs/many")
    shutil.copytree(walk, folder)
    shutil.copytree(walk / "sft", Path("copy_of_sft"))
    shutil.copytree(tiny_folder, Path("theirs"))
    models = "base, sft, best_of_1, best_of_4, dpo, rloo, rft, copy_of_sft, theirs"
    run_stage("compare", settings(f"compare.models=[{models}]", "compare.samples_per_prompt=2"), "many")
    return folder


def test_all_models_say_something_to_the_same_prompts(compared: Path) -> None:
    """best_of_n has five of the eight held-out prompts, so all models keep to those, in the report's own words too."""
    rows = read_rows(compared / "compare" / "samples.jsonl")
    keys: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        keys.setdefault(row["model"], []).append((row["prompt_id"], row["seed"]))
    first = [row["id"] for row in read_rows(compared / "data" / "prompts.eval.jsonl")[:5]]
    assert len(keys) == 9 and all(sorted(own) == sorted((p, n) for p in first for n in (0, 1)) for own in keys.values())
    report = json.loads((compared / "compare" / "report.json").read_text())
    assert report["provenance"]["prompts"].startswith("all models on 5 of 8 held-out prompts")
    roles = [parent["role"] for parent in manifest(compared / "compare")["parents"]]
    assert roles == ["data", "sft", "reward", "dpo", "rloo", "rft", "best_of_n"]


def test_best_of_reads_the_stage_and_samples_nothing(compared: Path) -> None:
    """Sample number s of best_of_4 is the best of the stage's samples 4s to 4s + 3, word for word; best_of_1 is sample s."""
    own = read_rows(compared / "best_of_n" / "samples.jsonl")
    by = {(row["prompt_id"], row["sample"]): row for row in own}
    rows = read_rows(compared / "compare" / "samples.jsonl")
    seen = 0
    for row in rows:
        if row["model"] in ("best_of_1", "best_of_4"):
            n = int(row["model"].removeprefix("best_of_"))
            block = [by[row["prompt_id"], n * row["seed"] + i] for i in range(n)]
            best = max(block, key=lambda one: one["reward"])
            assert (row["completion"], row["tokens"], row["eos"]) == (best["completion"], best["tokens"], best["eos"])
            assert row["kl"] is None and row["scores"]["reward"] == pytest.approx(best["score"], abs=1e-4)
            seen += 1
    assert seen == 20
    models = json.loads((compared / "compare" / "report.json").read_text())["provenance"]["models"]
    spent = sum(row["length"] for row in own) / 5 / 2  # two blocks of four are all eight samples
    assert models["best_of_4"]["tokens_per_answer"] == pytest.approx(spent)
    assert models["best_of_4"]["kl_bound"] == pytest.approx(math.log(4) - 0.75) and models["best_of_1"]["kl_bound"] == 0


def test_a_folder_of_our_kind_is_measured_as_a_stage_is(compared: Path) -> None:
    """The sft model by its path says what sft says, at no KL; the same prompts, noise and decoding make it so."""
    rows = read_rows(compared / "compare" / "samples.jsonl")
    said = {name: [row for row in rows if row["model"] == name] for name in ("sft", "copy_of_sft")}
    for a, b in zip(said["sft"], said["copy_of_sft"], strict=True):
        assert a["completion"] == b["completion"] and b["kl"] == pytest.approx(0, abs=1e-4)
    models = json.loads((compared / "compare" / "report.json").read_text())["provenance"]["models"]
    assert models["copy_of_sft"]["perplexity"] == pytest.approx(models["sft"]["perplexity"])
    assert len(models["copy_of_sft"]["sha256"]) == 64


def test_a_foreign_model_speaks_through_its_own_tokenizer(compared: Path, tiny_tokenizer: Any) -> None:
    """One token a character: its completions have as many tokens as characters, beside its ends, and no KL or perplexity, which
    would be of other tokens."""
    rows = [row for row in read_rows(compared / "compare" / "samples.jsonl") if row["model"] == "theirs"]
    for row in rows:
        assert row["kl"] is None and row["length"] == len(row["tokens"]) <= 12
        assert row["completion"] == tiny_tokenizer.decode(row["tokens"], skip_special_tokens=True)
        assert row["eos"] == (row["tokens"][-1] in (EOS, STOP))
    report = json.loads((compared / "compare" / "report.json").read_text())
    assert report["provenance"]["models"]["theirs"]["tokenizer"] == "its own"
    assert report["provenance"]["models"]["theirs"]["perplexity"] is None and report["models"]["theirs"]["kl"] is None
    assert report["provenance"]["models"]["dpo"]["tokenizer"] == "the sft model's"


def test_what_training_sampled_is_told(compared: Path) -> None:
    models = json.loads((compared / "compare" / "report.json").read_text())["provenance"]["models"]
    counted = {name: about["training_tokens_sampled"] for name, about in models.items()}
    assert counted["sft"] == counted["dpo"] == counted["best_of_4"] == 0
    for name in ("rloo", "rft"):
        assert counted[name] == manifest(compared / name)["metrics"]["sampled_tokens"] > 100
    assert counted["base"] is counted["theirs"] is None  # nobody knows


def test_a_greedy_comparison_says_what_transformers_says(walk: Path) -> None:
    """Both models' likeliest words, by generate alone and without padding; and the report, in all its forms, says how."""
    shutil.copytree(walk, "runs/greedy")
    run_stage("compare", settings("compare.models=[sft, dpo]", "compare.generation.do_sample=false"), "greedy")
    made = Path("runs/greedy/compare")
    rows = read_rows(made / "samples.jsonl")
    assert len(rows) == 16
    for row in rows:
        tokenizer = AutoTokenizer.from_pretrained(walk / row["model"])
        model = AutoModelForCausalLM.from_pretrained(walk / row["model"])
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        expected = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        assert row["tokens"] == expected and 0 < row["entropy"] <= math.log(len(tokenizer))
        assert (row["kl"] == 0) == (row["model"] == "sft")
    report = json.loads((made / "report.json").read_text())["provenance"]["decoding"]
    assert report == {
        "in words": "greedy, at most 12 tokens",
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": 12,
        "sampled by": "transformers",
        "KL and entropy": "of the whole distribution at temperature 1.0, at the tokens that were said",
    }
    assert all("greedy, at most 12 tokens" in (made / f"report.{form}").read_text() for form in ("html", "md"))


def test_best_of_n_of_one_answer_is_refused(walk: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"compare\.generation\.do_sample: false, and the samples of a prompt are the same"
    ):
        run_stage("best_of_n", settings("compare.models=[sft]", "compare.generation.do_sample=false"), "whole")


@pytest.mark.parametrize(
    ("change", "told_so"),
    [
        (["compare.models=[sft, ppo]"], r'no finished ppo in runs/less; make its stage ppo'),
        (["compare.models=[sft, best_of_2]", "compare.generation.temperature=0.5"], r"best_of_n: it was decoded otherwise \(sampling, temperature 1\.0, at most 12 tokens\) than this comparison \(sampling, temperature 0\.5, .*make its stage best_of_n"),
        (["compare.models=[sft, best_of_2]", "compare.generation.max_new_tokens=5"], r"than this comparison \(sampling, temperature 1\.0, at most 5 tokens\)"),
        (["compare.models=[sft, best_of_2]", "compare.generation.top_p=0.9"], r"decoded otherwise .* than this .*top_p 0\.9"),
        (["compare.models=[sft, best_of_16]", "best_of_n.n=16"], r"fewer than the 16 samples of a prompt"),
    ],
)  # fmt: skip
def test_what_a_comparison_lacks_is_told_with_its_remedy(walk: Path, change: list[str], told_so: str) -> None:
    if not Path("runs/less").exists():
        shutil.copytree(walk, "runs/less")
    with pytest.raises(ArtifactError, match=told_so):
        run_stage("compare", settings(*change), "less")


def test_samples_of_another_sft_model_are_refused(walk: Path) -> None:
    run = again("other")
    shutil.copytree(walk / "best_of_n", run / "best_of_n")
    run_stage("sft", settings("sft.max_steps=3"), "other")
    with pytest.raises(ArtifactError, match=r"best_of_n was made from sft .*; make its stages reward, best_of_n"):
        Run("other").require("best_of_n", force=True)
