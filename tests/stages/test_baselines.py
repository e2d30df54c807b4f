"""Are the baselines fair to what they stand for: the same artifacts, tokens, score and rules as ppo, sampled once, resumed exactly?"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from interruption import Stop, stopped_and_started
from safetensors.torch import load_file
from tiny import EOS, PROMPTS, STOP, lora, vowels
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, RLOOConfig

from data.schema import Completion, Prompt, Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows, sha256
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.settings.sections import Decoding
from pipeline.stages import best_of_n, rft, rloo
from pipeline.stages.dpo import as_tokens, drawn_pairs
from pipeline.stages.rloo import rewarded
from pipeline.training.samples import Sample, best_of_block, kl_bound, read, sample_scored
from pipeline.training.trl_trainers import PairTrainer, PromptTrainer
from policies.backbone import load_causal
from policies.template import Lesson, encode_completion, encode_prompt

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ("dpo", "rloo", "rft")
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",  # 32 rows to train on: two processes fill a last, smaller batch with rows seen before
    "sft.max_steps=6",
    "reward.max_steps=6",
    "reward.normalise_samples=16",
    "ppo.total_episodes=48",
    "ppo.batch_size=16",
    "ppo.response_length=12",
    "ppo.eval_prompts=6",
    *(f"{stage}.{name}" for stage in TRAINED for name in ("save_steps=2", "logging_steps=1", "learning_rate=1e-2")),
    "dpo.max_steps=6",
    "rloo.batch_size=8",
    "rloo.per_device_train_batch_size=4",
    "rft.tuning=lora",
    "rft.max_steps=6",
    "best_of_n.n=8",
    "best_of_n.prompts=5",
    "compare.prompts=8",
    "compare.perplexity_rows=6",
]
MADE = {"README.md", "manifest.json", "metrics.jsonl"}
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ADAPTER = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


def again(name: str) -> Path:
    """A run that has what the baselines are made from."""
    for stage in ("data", "sft", "reward"):
        shutil.copytree(Path("runs/whole") / stage, Path("runs") / name / stage)
    return Path("runs") / name


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


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

    def tuned(stage: str, section: Any, model: Any, tokenizer: Any, lessons: Sequence[Lesson], *rest: Any) -> Any:
        told["lessons"] = list(lessons)
        return right_tuning(stage, section, model, tokenizer, lessons, *rest)

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


# Pairs


def ranking(texts: Sequence[str], tiers: Sequence[Sequence[int]], prompt: Any = "To be") -> Ranking:
    completions = tuple(Completion(str(i), text) for i, text in enumerate(texts))
    return Ranking("r", prompt, completions, tuple(tuple(map(str, tier)) for tier in tiers), "f:1")


def test_pairs_are_those_of_the_order_and_ties_are_none(tiny_tokenizer: Any) -> None:
    """Of four completions ranked 3 > {0, 2} > 1 the pairs are 3>0, 3>2, 3>1, 0>1, 2>1: all six but the tie."""
    group = as_tokens(tiny_tokenizer, ranking([" a", " b", " c", " d"], [[3], [0, 2], [1]]), 64)
    assert sorted(group.pairs) == [(0, 1), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert as_tokens(tiny_tokenizer, ranking([" a", " b"], [[0, 1]]), 64).pairs == []


def test_pairs_are_rendered_as_everywhere_else(tiny_tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "To be?"}]
    for prompt in ("To be", chat):
        group = as_tokens(tiny_tokenizer, ranking([" or", " not"], [[1], [0]], prompt), 64)
        assert group.prompt == encode_prompt(tiny_tokenizer, prompt)
        assert group.completions == [encode_completion(tiny_tokenizer, text) for text in (" or", " not")]
        assert all(ids[-1] == EOS for ids in group.completions)


def test_what_the_limit_makes_equal_is_no_pair(tiny_tokenizer: Any) -> None:
    """One token a character: "To be" and six more are 11; the first six of " not so" and " not you" are equal, " not" is not."""
    texts = [" not so", " not you", " not"]
    group = as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 10)
    assert [len(ids) for ids in group.completions] == [5, 5, 5] and group.pairs == [(0, 2), (1, 2)]
    assert len(as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 64).pairs) == 3
    assert as_tokens(tiny_tokenizer, ranking(texts, [[0], [1], [2]]), 5).pairs == []  # no room at all


def test_a_ranking_weighs_the_same_however_many_completions_it_has(tiny_tokenizer: Any) -> None:
    """Twelve passes over a ranking of four (6 pairs) and one of two (1 pair): 12 draws each, every pair of the four twice."""
    groups = [
        as_tokens(tiny_tokenizer, ranking([" a", " b", " c", " d"], [[0], [1], [2], [3]]), 64),
        as_tokens(tiny_tokenizer, ranking([" a", " b"], [[1], [0]]), 64),
    ]
    order = [0, 1] * 12
    drawn = drawn_pairs(groups, order, seed=3)
    of_four, of_two = drawn[::2], drawn[1::2]
    assert set(Counter(of_four).values()) == {2} and len(set(of_four)) == 6
    assert set(of_four[:6]) == set(of_four[6:]) == set(groups[0].pairs)
    assert of_two == [(1, 0)] * 12
    assert of_four[:6] != groups[0].pairs or of_four[6:] != groups[0].pairs  # in a random order
    assert drawn_pairs(groups, order[:9], seed=3) == drawn[:9]


# trl's trainers


def trainer_arguments(folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder), "report_to": [], "bf16": False, "use_cpu": True, "remove_unused_columns": False}


def test_dpo_trains_on_our_tokens(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """trl would render "What?" and " yes" in one go and cut at the common prefix. What goes into the model here is prompt + completion
    + EOS, with the mask on the completion; and before any step the loss is log 2, as π = π_ref (Rafailov et al. 2023, eq. 7)."""
    group = as_tokens(tiny_tokenizer, ranking([" yes", " no"], [[0], [1]], "What?"), 64)
    row = {"prompt_ids": group.prompt, "chosen_ids": group.completions[0], "rejected_ids": group.completions[1]}
    trainer = PairTrainer(
        model=load_causal(tiny_folder, tiny_tokenizer, torch.float32),
        args=DPOConfig(**trainer_arguments(tmp_path), per_device_train_batch_size=1, max_length=None),
        train_dataset=Dataset.from_list([row]),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    width = len(group.prompt) + len(" yes") + 1
    rejected = [*group.prompt, *group.completions[1]]
    pad = [tiny_tokenizer.pad_token_id] * (width - len(rejected))
    assert batch["input_ids"].tolist() == [[*group.prompt, *group.completions[0]], [*rejected, *pad]]
    assert batch["completion_mask"].tolist() == [[0] * 5 + [1] * 5, [0] * 5 + [1] * 4 + [0]]
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_rloo_renders_prompts_as_everywhere_else(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Texts and messages side by side, which trl cannot hold in one data set."""
    prompts: list[Any] = ["To be", [{"role": "user", "content": "To be?"}], ""]
    rows = [{"prompt": json.dumps(prompt)} for prompt in prompts]
    trainer = PromptTrainer(
        model=load_causal(tiny_folder, tiny_tokenizer, torch.float32),
        reward_funcs=lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids],
        args=RLOOConfig(**trainer_arguments(tmp_path), per_device_train_batch_size=2, max_completion_length=3),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(2)])
    mask = batch["prompt_mask"].bool()
    given = [ids[own].tolist() for ids, own in zip(batch["prompt_ids"], mask, strict=True)]
    assert given[::2] == given[1::2] == [encode_prompt(tiny_tokenizer, prompt) for prompt in prompts]
    assert batch["completion_ids"].shape[1] <= 3


@pytest.mark.parametrize(
    ("rule", "unfinished"),
    [
        ({"missing_eos_score": -1.0}, -1.0),
        ({"missing_eos_score": None}, 0.8),
        ({"missing_eos_score": None, "missing_eos_penalty": 0.5}, 0.3),
    ],
)
def test_rloo_is_rewarded_as_ppo_is(tiny_tokenizer: Any, rule: dict[str, Any], unfinished: float) -> None:
    """`vowels` gives "ae" 2 - 0.2 and "b" -0.1; "oxi…" without an end gets 2 - 1.2 = .8 or what the rule says. Both ends count."""
    heard: list[Any] = []

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> torch.Tensor:
        heard.extend(zip(prompts, completions, strict=True))
        return vowels(prompts, completions)

    reward = rewarded(tiny_tokenizer, score, [EOS, STOP], Config(ppo=PPO(**rule)))
    ids = [tiny_tokenizer(text)["input_ids"] for text in ("ae", "b", "oxi         ")]
    chat = [{"role": "user", "content": "x"}]
    asked = [json.dumps(prompt) for prompt in ("p", chat, "q")]
    values = reward(
        prompts=asked, completion_ids=[[*ids[0], EOS], [*ids[1], STOP], ids[2]], completions=[], trainer=None
    )
    assert values == pytest.approx([1.8, -0.1, unfinished])
    assert heard == [("p", "ae"), (chat, "b"), ("q", "oxi         ")]


# Best of n


def samples(rewards: Sequence[float]) -> list[Sample]:
    return [Sample([7] * (i + 1), f"text {i}", True, reward + 10, reward) for i, reward in enumerate(rewards)]


def test_the_best_of_a_block_is_the_best_by_reward() -> None:
    own = samples([1, 3, 2, 0, 5, 5])
    assert [best_of_block(own, 2, block)[1] for block in range(3)] == [1, 2, 4]
    assert best_of_block(own, 6, 0)[0].text == "text 4"  # the first of equals
    assert best_of_block(own, 1, 3)[1] == 3


def test_estimates_are_means_over_blocks() -> None:
    """Rewards 1 3 2 0 of one prompt and 4 0 0 0 of another, scores 10 more. best_of_1: (6/4 + 4/4)/2 + 10 = 11.25; best_of_2:
    blocks 3, 2 and 4, 0: 2.25 + 10; best_of_4: (3 + 4)/2 + 10; best_of_3 reads one block, 3 and 4. Lengths are 1 to 4."""
    asked = [Prompt("a", "a", "f:1"), Prompt("b", "b", "f:2")]
    found = {"a": samples([1, 3, 2, 0]), "b": samples([4, 0, 0, 0])}
    made = {n: best_of_n.estimates(asked, found, n, seed=0) for n in (1, 2, 3, 4)}
    assert [made[n]["score"] for n in (1, 2, 3, 4)] == pytest.approx([11.25, 12.25, 13.5, 13.5])
    assert [made[n]["tokens_per_answer"] for n in (1, 2, 3, 4)] == pytest.approx([2.5, 5, 6, 10])
    assert made[2]["length"] == pytest.approx((2 + 3 + 1 + 3) / 4)  # of equal rewards the first
    assert made[4]["score_low"] <= made[4]["score"] <= made[4]["score_high"]


def test_the_bound_of_the_kl_holds_and_is_near() -> None:
    """Best-of-n of 1,000 equally likely answers, all of different worth: the i-th worst is chosen with (i/1000)^n - ((i-1)/1000)^n,
    so the KL is known exactly."""
    assert [kl_bound(n) for n in (1, 4, 16, 64)] == pytest.approx([0, 0.636294, 1.835089, 3.174508], abs=1e-6)
    steps = np.arange(1001) / 1000
    for n in (1, 4, 16, 64):
        p = np.diff(steps**n)
        p = p[p > 0]
        kl = float((p * np.log(p * 1000)).sum())
        assert kl <= kl_bound(n) + 1e-9 and kl == pytest.approx(kl_bound(n), abs=0.01)
    tied = np.array([0.5**4, 1 - 0.5**4])  # two kinds of answers: ties take from the KL
    assert float((tied * np.log(tied / 0.5)).sum()) < kl_bound(4)


def asked_of(count: int) -> list[Prompt]:
    return [Prompt(row["id"], row["prompt"], "f:1") for row in PROMPTS[:count]]


def draw(
    path: Path, model: Any, tokenizer: Any, count: int, n: int, score: Any = vowels, **how: Any
) -> dict[str, list[Sample]]:
    done: list[int] = []
    sample_scored(
        path,
        read(path),
        model,
        tokenizer,
        asked_of(count),
        score,
        PPO(missing_eos_score=-9.0),
        n=n,
        how=Decoding(**how).settled(temperature=1.0, response_length=6),
        seed=3,
        stream="test",
        batch_size=8,
        progress=done.append,
    )
    assert sum(done) == count * n
    return read(path)


def test_samples_belong_to_their_prompt_and_number(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is sampled with them, and interrupted in the middle of a line or not."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    whole = draw(tmp_path / "whole", model, tiny_tokenizer, 5, 8)
    assert list(whole) == [p.id for p in asked_of(5)] and {len(own) for own in whole.values()} == {8}
    fewer = draw(tmp_path / "fewer", model, tiny_tokenizer, 2, 3)
    assert all(whole[name][:3] == own for name, own in fewer.items())
    texts = {one.text for own in whole.values() for one in own}
    assert len(texts) > 30  # 40 samples of a random model
    for own in whole.values():
        for one in own:
            assert one.finished == (one.tokens[-1] in (EOS, STOP))
            assert one.reward == (pytest.approx(one.score) if one.finished else -9.0)
            assert one.score == pytest.approx(vowels([""], [one.text]).item(), abs=1e-6)

    monkeypatch.setattr("pipeline.training.samples.AT_ONCE", 16)  # two prompts at a time
    calls: list[int] = []

    def failing(prompts: Sequence[Any], completions: Sequence[str]) -> torch.Tensor:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise Stop
        return vowels(prompts, completions)

    path = tmp_path / "cut"
    with pytest.raises(Stop):
        draw(path, model, tiny_tokenizer, 5, 8, failing)
    assert len(read(path)) == 2
    with path.open("ab") as file:
        file.write(b'{"prompt_id": "p2", "samp')
    assert draw(path, model, tiny_tokenizer, 5, 8, failing) == whole
    assert calls == [16, 16, 16, 8]


def test_samples_are_decoded_as_they_are_asked_for(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """From the likeliest token alone, all samples of a prompt are one; from two, at most two begin them."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    one, two = (draw(tmp_path / str(k), model, tiny_tokenizer, 3, 8, top_k=k) for k in (1, 2))
    assert all(len({tuple(sample.tokens) for sample in own}) == 1 for own in one.values())
    assert max(len({sample.tokens[0] for sample in own}) for own in two.values()) == 2


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
    (line,) = gate["checks"]
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
    with pytest.raises(ArtifactError, match=r"runs/ties/data: rankings\.train has no pair .*leave out dpo"):
        run_stage("dpo", settings(), run.name)


def test_rloo_refuses_several_processes(walk: Path) -> None:
    call = [sys.executable, "-m", "pipeline", "rloo", str(ROOT / "recipes" / "smoke.yaml"), "--nproc", "2"]
    done = subprocess.run(
        call, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "PIPELINE_RUN": "whole"}
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "error: rloo is the work of one process, and 2 were asked for"
    )


# What is set


def test_settings_that_do_not_go_together_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"dpo\.beta: ppo\.kl_coef is 0"):
        settings("ppo.kl_coef=0").check_stage("dpo", 1)
    settings("ppo.kl_coef=0", "dpo.beta=0.1").check_stage("dpo", 1)
    assert (settings().dpo_beta(), settings("dpo.beta=0.3").dpo_beta()) == (0.05, 0.3)
    with pytest.raises(ConfigError, match=r"rloo\.batch_size: ppo\.total_episodes 48 is no multiple of 20"):
        settings("rloo.batch_size=20").check_stage("rloo", 1)
    with pytest.raises(ConfigError, match="no multiple of num_generations 4"):
        settings("rloo.batch_size=6")
    with pytest.raises(ConfigError, match=r"rft\.batch_size: 8 rows cannot be shared by 3 process"):
        settings().check_stage("rft", 3)
    assert settings().rft_prompts() == 12 and settings("rft.prompts=5").rft_prompts() == 5


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
        (["compare.models=[sft, ppo]"], r'no finished ppo in runs/less: run "make ppo RUN=less"'),
        (["compare.models=[sft, best_of_2]", "compare.generation.temperature=0.5"], r"best_of_n: it was decoded otherwise \(sampling, temperature 1\.0, at most 12 tokens\) than this comparison \(sampling, temperature 0\.5, .*best-of-n RUN"),
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
    with pytest.raises(ArtifactError, match=r"best_of_n was made from sft .*; run .make best-of-n RUN=other"):
        Run("other").require("best_of_n", force=True)


def test_make_names_the_models(tmp_path: Path) -> None:
    call = ["make", "-n", "-C", str(ROOT), "compare", "RUN=r", "MODELS=base  best_of_16 org/name"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert " 'compare.models=[base,best_of_16,org/name]'\n" in done.stdout
    done = subprocess.run([*call[:-1], "MODELS="], capture_output=True, text=True, check=True)
    assert "compare.models" not in done.stdout
