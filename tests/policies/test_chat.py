"""Do conversations go the whole way: system prompts and several turns from data to report, with a chat template and without one?"""

import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import CHATML, REFUSING, STYLES, by_hand, dialogue, taught_by
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_tiny
from transformers import AutoTokenizer

from data.schema import Completion, DataError, Demonstration, Prompt, Ranking
from pipeline.artifacts.errors import ArtifactError
from pipeline.comparison import answers
from pipeline.graph import WALK
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.stages import reward as reward_model
from pipeline.stages import sft
from policies.backbone import load_causal
from policies.decoding import decode
from policies.template import PLAIN_CHAT, encode_turns, fingerprint, joined
from policies.tokenizers import load_tokenizer
from reward.rendering import ScoringError, render

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ["Be kind.", "You help out in a shop.", "Answer in few words."]
ASKED = """
where is the bread|how much are two apples|may my dog come in|do you sell stamps|when is lunch|who painted this wall
can I pay by card|is there a lift|why is it so cold here|have you seen my keys|which bus goes home|what rhymes with moon
shall we dance|did it rain last night|could you open a window|are those shoes new|whose umbrella was left|will the shop close
must I wait in line|does tea go with cake|should I call a doctor|was that thunder|how deep is the lake|may I borrow a pen
where do swans sleep|is honey good for a cough|what costs a haircut|who fixed my bike|can fish hear us|why do onions sting
"""
QUESTIONS = [question for line in ASKED.split("\n") for question in line.split("|") if question]
SHRUNK = [
    "data.max_length=256",
    "data.eval_fraction=0.3",
    "sft.max_steps=3",
    "sft.logging_steps=1",
    "reward.max_steps=3",
    "reward.normalise_samples=8",
    "ppo.total_episodes=32",
    "ppo.batch_size=16",
    "ppo.micro_batch_tokens=1024",
    "ppo.response_length=8",
    "ppo.eval_prompts=4",
    "ppo.value=shared",
    "compare.prompts=6",
    "compare.perplexity_rows=4",
    "compare.generation.max_new_tokens=8",
]


def rows() -> list[dict[str, Any]]:
    """Thirty rankings of two, each after a system prompt (but for every fifth) and an exchange before the question."""
    made = []
    for n, question in enumerate(QUESTIONS):
        first = QUESTIONS[(7 * n + 3) % len(QUESTIONS)]
        asked = dialogue(f"{first}?", "Gladly: yes.", f"And {question}?", system=SYSTEMS[n % 3] if n % 5 else None)
        made.append({"messages": asked, "completions": ["Go away.", "Let me see."], "ranking": [[1], [0]]})
    return made


def config(model: Path, source: Path, *more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [f"model={model}", f"data.source={source}", *SHRUNK, *more])


def models(folder: Path) -> tuple[Path, Path]:
    """The tiny model without a template, and the same with one."""
    plain = save_tiny(folder / "plain")
    settings_of = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(
        json.dumps(settings_of | {"max_position_embeddings": 1024})
    )  # few-shot prompts are long
    with_template = folder / "chatml"
    shutil.copytree(plain, with_template)
    tokenizer = AutoTokenizer.from_pretrained(with_template)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(with_template)
    return plain, with_template


@pytest.fixture(scope="module", params=["plain", "chatml"])
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder runs/chat with all five stages."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp(request.param)
        patch.chdir(folder)
        made = dict(zip(("plain", "chatml"), models(folder), strict=True))
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
        for stage in WALK:
            run_stage(stage, config(made[request.param], Path("rows.jsonl")), "chat")
        yield Path("runs/chat")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def whole(row: dict[str, Any]) -> list[dict[str, str]]:
    """A demonstration of the data stage as one conversation."""
    return [*row["prompt"], {"role": "assistant", "content": row["completion"]}]


def test_the_template_is_published_with_every_model(walk: Path) -> None:
    expected = PLAIN_CHAT if walk.resolve().parent.parent.name.startswith("plain") else CHATML
    manifests = {stage: json.loads((walk / stage / "manifest.json").read_text()) for stage in WALK}
    for stage in ("sft", "reward", "ppo"):
        found = AutoTokenizer.from_pretrained(walk / stage)  # with no code of ours
        assert found.chat_template == expected
        assert fingerprint(load_tokenizer(walk / stage)) == manifests[stage]["tokenizer"]
    assert len({manifest["tokenizer"] for manifest in manifests.values()}) == 1


def test_rows_keep_their_turns_and_systems(walk: Path) -> None:
    demonstrations = read(walk / "data" / "demonstrations.train.jsonl") + read(
        walk / "data" / "demonstrations.eval.jsonl"
    )
    expected = sorted(json.dumps([*row["messages"], {"role": "assistant", "content": "Let me see."}]) for row in rows())
    assert sorted(json.dumps(whole(row)) for row in demonstrations) == expected
    assert any(system in (walk / "data" / "samples.md").read_text() for system in SYSTEMS)


def test_sft_learns_what_the_assistant_says_and_nothing_else(walk: Path) -> None:
    """The loss of the first step, taken before any update, is the mean over exactly the answers of the first eight conversations
    (drawn by the seed's permutation) as each would be asked for by itself."""
    tokenizer, found = load_tokenizer(walk / "sft"), read(walk / "data" / "demonstrations.train.jsonl")
    drawn = np.random.default_rng([0, 0]).permutation(len(found))[:8]
    origin = next(path for path in (Path("plain"), Path("chatml")) if path.name in str(walk.resolve()))
    model = load_causal(origin, tokenizer, torch.float32)
    total, tokens = 0.0, 0
    for n in drawn:
        for (before, token), times in by_hand(tokenizer, whole(found[n]), "all").items():
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([before])).logits[0, -1]
            total -= times * torch.log_softmax(logits, -1)[token].item()
            tokens += times
    assert read(walk / "sft" / "metrics.jsonl")[0]["loss"] == pytest.approx(total / tokens, abs=2e-3)
    metrics = json.loads((walk / "sft" / "manifest.json").read_text())["metrics"]
    assert metrics["cut_rows"] == metrics["dropped_rows"] == 0
    # every conversation has two answers: "Gladly: yes." and "Let me see.", 12 and 11 characters, and their EOS
    assert metrics["learned_tokens"] == 3 * 8 * (13 + 12)


def test_a_reward_is_for_the_last_answer(walk: Path) -> None:
    """What is scored is the rendered conversation, the completion and EOS, at whose place the score stands."""
    tokenizer, row = load_tokenizer(walk / "reward"), read(walk / "data" / "rankings.train.jsonl")[0]
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    text = asked + "Go away." + tokenizer.eos_token
    assert (
        render(tokenizer, "completion", row["prompt"], "Go away.", 256).ids
        == tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    assert "Gladly: yes." in asked and (row["prompt"][0]["role"] != "system" or row["prompt"][0]["content"] in asked)


def test_ppo_and_report_show_conversations(walk: Path) -> None:
    table = (walk / "ppo" / "samples.md").read_text().splitlines()
    assert len(table) == 2 + 4 and all(line.startswith("|") and line.endswith("|") for line in table)
    assert all("user: " in line and "assistant: Gladly: yes." in line for line in table[2:])
    held_out = {row["id"]: row["prompt"] for row in read(walk / "data" / "prompts.eval.jsonl")}
    samples = read(walk / "compare" / "samples.jsonl")
    assert len(samples) == 4 * 6 and {row["model"] for row in samples} == {"base", "few_shot", "sft", "ppo"}
    for row in samples:
        lines = [f"{turn['role']}: {turn['content']}" for turn in held_out[row["prompt_id"]]]
        assert row["prompt"] == "\n".join(lines) and math.isfinite(row["scores"]["reward"])
    page = (walk / "compare" / "report.html").read_text()
    assert r"assistant: Gladly: yes.\nuser: And" in page  # as the page's JSON spells it


# Rows of the sft stage


@pytest.fixture(scope="module")
def tokenizers(tiny_folder: Path) -> dict[str, Any]:
    made = {}
    for style, template in STYLES.items():
        made[style] = load_tokenizer(tiny_folder)
        made[style].chat_template = template
    return made


@settings(max_examples=80, deadline=None)
@given(
    style=st.sampled_from(["chatml", "folded", "thinking"]),
    several=st.lists(
        st.lists(st.text("ab ", min_size=1, max_size=9), min_size=2, max_size=6).map(
            lambda turns: turns[: len(turns) // 2 * 2]
        ),
        min_size=1,
        max_size=3,
    ),
    which=st.sampled_from(["all", "last"]),
    limit=st.integers(1, 160),
)
def test_cutting_takes_the_end_and_leaves_no_empty_row(
    tokenizers: dict[str, Any], style: str, several: list[list[str]], which: str, limit: int
) -> None:
    """What is taught is what the conversations teach by hand within the limit; each row is counted as whole, cut or dropped."""
    made, conversations = tokenizers[style], [dialogue(*turns, system="s") for turns in several]
    lessons = [joined(encode_turns(made, c[:-1], c[-1]["content"], which)) for c in conversations]
    kept, counts = sft.fitted(lessons, limit)
    expected = sum((by_hand(made, c, which, limit) for c in conversations), by_hand(made, [], which))
    assert taught_by(kept) == expected
    assert all(any(row.learned) and len(row.ids) <= limit for row in kept)
    rows = [row for several in lessons for row in several]
    assert len(kept) + counts["dropped_rows"] == len(rows)
    assert len(kept) - counts["cut_rows"] == sum(len(row.ids) <= limit for row in rows)


def test_a_long_conversation_still_teaches_its_first_answer(tokenizers: dict[str, Any]) -> None:
    """ChatML at one token a character: <|im_start|>user, a, EOS, new lines and <|im_start|>assistant take 17 + 1 + 2 + 22 tokens, so
    with 44 the answer "b" and its EOS fit and the second question does not; with 42 nothing is left to learn."""
    long = [joined(encode_turns(tokenizers["chatml"], dialogue("a", "b", "c" * 99), "d"))]
    kept, counts = sft.fitted(long, 44)
    assert [sum(row.learned) for row in kept] == [2] and counts == {"cut_rows": 1, "dropped_rows": 0}
    assert sft.fitted(long, 42) == ([], {"cut_rows": 0, "dropped_rows": 1})


# What a template refuses


def test_a_refused_role_is_told_with_the_rows_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, _ = models(tmp_path)
    tokenizer = load_tokenizer(plain)
    tokenizer.chat_template = REFUSING
    tokenizer.save_pretrained(plain)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    with pytest.raises(DataError) as refused:
        run_stage("data", config(plain, Path("rows.jsonl")), "refused")
    told = str(refused.value).splitlines()
    assert "rows.jsonl:2: prompt: " in told[0] and "only user and assistant roles are supported" in told[0]
    assert "rows.jsonl:1:" not in str(refused.value)  # the first row has no system prompt
    asked = rows()[1]["messages"]
    settled = config(plain, Path("rows.jsonl"))
    with pytest.raises(ArtifactError, match=r"^rows\.jsonl:2: .*only user and assistant roles"):
        sft._turns(tokenizer, [Demonstration("a", asked, "Yes.", "rows.jsonl:2")], settled)
    pair = (Completion("c0", "Yes."), Completion("c1", "No."))
    with pytest.raises(ScoringError, match=r"^rows\.jsonl:2: .*only user and assistant roles"):
        reward_model._group(tokenizer, Ranking("a", asked, pair, (("c0",), ("c1",)), "rows.jsonl:2"), settled)


# The few-shot prompt

CHAT = Demonstration("c", dialogue("Hi", "Ho", "And?", system="Be kind."), "Yes.", "x:1")
TEXT = Demonstration("t", "The cat", " sat.", "x:2")


def test_examples_become_earlier_turns() -> None:
    """The prompt's own system message stays the only one; a text example is a question and its answer."""
    asked = dialogue("Now?", system="Be brief.")
    shown, separator = answers.few_shot(asked, [CHAT, TEXT])
    assert shown == dialogue("Hi", "Ho", "And?", "Yes.", "The cat", " sat.", "Now?", system="Be brief.")
    assert separator is None


def test_examples_of_a_text_prompt_are_text() -> None:
    assert answers.few_shot("A dog", [TEXT]) == ("The cat sat.\nA dog", "\n")
    shown, separator = answers.few_shot("A dog", [TEXT, CHAT])
    assert separator == "\n---\n"
    assert shown == (
        "The cat sat.\n---\nsystem: Be kind.\nuser: Hi\nassistant: Ho\nuser: And?\nassistant: Yes.\n---\nA dog"
    )


def test_text_and_conversations_side_by_side(tiny_folder: Path, tokenizers: dict[str, Any]) -> None:
    """A text prompt's answer ends where its examples end, at a new line; that must not end a turn of a conversation beside it."""
    tokenizer = tokenizers["chatml"]
    model = load_causal(tiny_folder, tokenizer, torch.float32)
    with torch.no_grad():  # new lines come often
        model.lm_head.weight[tokenizer("\n", add_special_tokens=False)["input_ids"][0]] *= 3
    texts = [Prompt(f"t{n}", question, "x") for n, question in enumerate(QUESTIONS[:6])]
    chats = [Prompt(f"c{n}", dialogue(question), "x") for n, question in enumerate(QUESTIONS[6:12])]
    mixed = [prompt for both in zip(texts, chats, strict=True) for prompt in both]
    settled = config(tiny_folder, Path("x"), "compare.generation.max_new_tokens=40")

    def sampled(prompts: list[Prompt]) -> dict[str, list[int]]:
        found = answers.sampled("few_shot", model, partial(decode, model), tokenizer, prompts, [TEXT], settled)
        assert [row["prompt_id"] for row in found] == [prompt.id for prompt in prompts]
        return {row["prompt_id"]: row["tokens"] for row in found}

    together = sampled(mixed)
    assert together == sampled(texts) | sampled(chats)
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    assert any(newline in together[prompt.id][:-1] for prompt in chats)
    assert not any(newline in together[prompt.id][:-1] for prompt in texts)
