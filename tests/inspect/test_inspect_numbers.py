"""Does the page from the inside show the trainer's own numbers, token by token?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import EOS, PROMPTS, asked, loop_of, make_roles, randomise, said, settings
from transformers import AutoModelForCausalLM
from zoo.tokenizers import gpt2

from pipeline.inspect.tokens import shown, tokens, totals
from policies import ppo
from policies.advantages import with_advantages
from policies.drawing import Completion
from policies.episodes import Episode
from policies.figures import Sums
from policies.measure import measured
from policies.micro_batch import known
from policies.template import encode_prompt
from policies.trainer import EVAL_STEP

BETA, GAMMA, LAM = 0.3, 0.9, 0.8


def episodes(four: Any, tokenizer: Any, section: Any) -> list[Episode]:
    return said(four, tokenizer, asked(tokenizer, PROMPTS[:6]), section, step=EVAL_STEP, seed=3)


@pytest.mark.parametrize(("tuning", "value"), [("lora", "adapter"), ("lora", "shared"), ("full", "adapter")])
def test_sums_are_those_of_the_trainer(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, tuning: str, value: str
) -> None:
    """`measured`, which the trainer calls, on the same episodes: its KL in sum, its log-probabilities, values, and ppo.gae on them."""
    section = settings(gamma=GAMMA, lam=LAM, temperature=0.8, batch_size=6, total_episodes=6, micro_batch_tokens=120)
    four = make_roles(tiny_folder, tiny_tokenizer, tuning, value)
    if tuning == "lora":
        randomise(four, "policy", "value")
    else:
        with torch.no_grad():
            for parameter in four.policy.parameters():
                parameter.mul_(1.1)
    four.eval()
    told = episodes(four, tiny_tokenizer, section)
    sums = Sums()
    loop = loop_of(four, tiny_tokenizer, section, tmp_path)
    (micros,) = with_advantages(loop, measured(loop, told, 1, sums, {}), BETA, {})
    pages = [tokens(four, tiny_tokenizer, e, section, BETA, critic=True) for e in told]
    assert sum(row["kl"] for rows in pages for row in rows) == pytest.approx(sums.on_device["kl"].item(), abs=1e-4)
    assert abs(sums.on_device["kl"].item()) > 0.1
    assert sum(row["entropy"] for rows in pages for row in rows) == pytest.approx(
        sums.on_device["entropy"].item(), abs=1e-3
    )
    seen = 0
    for micro in micros:
        mask = micro.batch.mask
        rewards = ppo.shape_rewards(micro.scores, micro.logprobs, micro.reference, mask, BETA)
        advantages, returns = ppo.gae(rewards, known(micro.values), mask, GAMMA, LAM)
        for line in range(len(mask)):
            own = next(
                rows
                for rows, e in zip(pages, told, strict=True)
                if e.completion.tokens == micro.batch.tokens[line][mask[line]].tolist()
                and e.score == pytest.approx(micro.scores[line].item())
                and rows[0]["logprob"] == pytest.approx(micro.logprobs[line, 0].item(), abs=1e-4)
            )
            for name, column in (
                ("reward", rewards),
                ("value", known(micro.values)),
                ("advantage", advantages),
                ("return", returns),
            ):
                expected = column[line][mask[line]].tolist()
                assert [row[name] for row in own] == pytest.approx(expected, abs=1e-4), name
            seen += 1
    assert seen == len(told)


def test_each_number_by_hand(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """One completion, from the logits of plain forwards of the merged policy and the base, and the sums written out.

    With d_t = log π - log π_ref: reward -β d_t, and the score on the last; whole KL Σ_v π (log π - log π_ref);
    A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V_{t+1} - V_t, with V = 0 after the end.
    """
    section = settings(gamma=GAMMA, lam=LAM)
    four = make_roles(tiny_folder, tiny_tokenizer)
    randomise(four, "policy", "value")
    four.eval()
    prompt, said = encode_prompt(tiny_tokenizer, "To be"), tiny_tokenizer("x y\n")["input_ids"] + [EOS]
    episode = Episode("p", "To be", prompt, "x y\n", Completion(said, [0.0] * len(said), True), 2.5, 2.5)
    rows = tokens(four, tiny_tokenizer, episode, section, BETA, critic=True, top=99)
    with torch.no_grad():
        ids = torch.tensor([prompt + said])
        at = slice(len(prompt) - 1, -1)
        log_p = four.sampler()(input_ids=ids).logits[0, at].double().log_softmax(-1)
        base = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
        log_q = base(input_ids=ids).logits[0, at].double().log_softmax(-1)
    following, next_value = 0.0, 0.0
    for t in reversed(range(len(said))):
        row, token = rows[t], said[t]
        d = (log_p[t, token] - log_q[t, token]).item()
        assert row["kl"] == pytest.approx(d, abs=1e-4) and row["probability"] == pytest.approx(
            log_p[t, token].exp().item(), abs=1e-5
        )
        assert row["reference_probability"] == pytest.approx(log_q[t, token].exp().item(), abs=1e-5)
        whole = sum(p.exp().item() * (p - q).item() for p, q in zip(log_p[t], log_q[t], strict=True))
        assert row["kl_whole"] == pytest.approx(whole, abs=1e-4) and whole > 0
        assert row["rank"] == 1 + sum(p > log_p[t, token] for p in log_p[t])
        reward = -BETA * d + (2.5 if t == len(said) - 1 else 0.0)
        following = reward + GAMMA * next_value - row["value"] + GAMMA * LAM * following
        next_value = row["value"]
        assert row["reward"] == pytest.approx(reward, abs=1e-4) and row["advantage"] == pytest.approx(
            following, abs=1e-4
        )
        assert row["return"] == pytest.approx(following + row["value"], abs=1e-4)
        likeliest = row["alternatives"]
        assert sum(a["probability"] for a in likeliest) == pytest.approx(1, abs=1e-4)
        assert sum(a["reference"] for a in likeliest) == pytest.approx(1, abs=1e-4)
        assert likeliest == sorted(likeliest, key=lambda a: -a["probability"])
        assert [a["said"] for a in likeliest].index(True) == row["rank"] - 1
    assert [row["text"] for row in rows] == ["x", "␣", "y", "↵", "<|end|>"]
    summed = totals(rows, 2.5)
    assert summed["reward"] == pytest.approx(2.5 - BETA * sum(row["kl"] for row in rows), abs=1e-5)
    without = tokens(four, tiny_tokenizer, episode, section, BETA, critic=False)
    assert {row[name] for row in without for name in ("value", "advantage", "return")} == {None}


def test_long_completions_go_through_in_parts(
    tiny_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, four = settings(), make_roles(tiny_folder, tiny_tokenizer).eval()
    randomise(four, "policy")
    told = episodes(four, tiny_tokenizer, section)[0]
    whole = tokens(four, tiny_tokenizer, told, section, BETA, critic=True)
    monkeypatch.setattr("pipeline.inspect.tokens.CHUNK", 2)
    parts = tokens(four, tiny_tokenizer, told, section, BETA, critic=True)
    expected = pytest.approx([row["kl_whole"] for row in whole], rel=1e-4)  # 2 and 7 rows round differently
    assert len(whole) > 2 and [row["kl_whole"] for row in parts] == expected


def test_parts_of_characters_are_spelt(tiny_tokenizer: Any) -> None:
    bytewise = gpt2()
    half = bytewise("你", add_special_tokens=False)["input_ids"][0]
    assert shown(bytewise, half) == "⟨E4⟩"  # the first of the character's three bytes, where byte-level BPE writes ä
    assert shown(tiny_tokenizer, tiny_tokenizer(" ")["input_ids"][0]) == "␣"
