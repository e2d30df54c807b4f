"""What happened at each token of a completion? The numbers that PPO would see, before it whitens them, and what else might have been said.

All of them come from the same calls as in `policies.measure` and `policies.ppo`, so their sums are the trainer's own.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pipeline.pages.visible import visible
from pipeline.settings.config import PPO
from policies import ppo
from policies.episodes import Episode
from policies.framing import decode
from policies.logprobs import Batch, logits, pack
from policies.roles import Roles

TOP = 5  # alternatives shown at each step
CHUNK = 64  # tokens whose logits, of policy and reference, are held at once


@torch.no_grad()
def tokens(
    roles: Roles, tokenizer: Any, episode: Episode, settings: PPO, kl_coef: float, critic: bool, top: int = TOP
) -> list[dict[str, Any]]:
    """One row a token of the completion, ready for JSON; `settings` is a recipe's ppo section, and nats are at its temperature.

    "logprob", "reference" of the token, "probability" and "reference_probability"; "kl" their difference (k1), "kl_whole" the KL of the two whole distributions, never
    negative; "entropy"; "reward" -kl_coef·kl, with the score on the last token; "value", "advantage", "return" (None without a
    `critic`); "rank" of the token, 1 for the likeliest; "alternatives" the `top` likeliest {"text", "probability", "reference"}.
    """
    device = next(roles.parameters()).device
    batch = pack([episode.prompt_ids], [episode.completion.tokens], tokenizer.pad_token_id, device)
    logprobs, entropy, hidden = roles.policy_logprobs(batch, settings.temperature)
    reference = roles.reference_logprobs(batch, settings.temperature)
    score = torch.tensor([episode.score], device=device)
    rewards = ppo.shape_rewards(score, logprobs, reference, batch.mask, kl_coef)
    columns: dict[str, Tensor] = {
        "logprob": logprobs,
        "reference": reference,
        "kl": ppo.kl_estimates(logprobs, reference)["k1"],
        "entropy": entropy,
        "reward": rewards,
    }
    if critic:
        values = roles.values(batch, hidden)
        advantages, returns = ppo.gae(rewards, values, batch.mask, settings.gamma, settings.lam)
        columns |= {"value": values, "advantage": advantages, "return": returns}
    numbers = {name: column[0].tolist() for name, column in columns.items()}
    rows = []
    for i, (token, step) in enumerate(
        zip(episode.completion.tokens, _steps(roles, batch, hidden, settings.temperature, top), strict=True)
    ):
        ids = step.pop("ids")
        row: dict[str, Any] = {"text": shown(tokenizer, token), "value": None, "advantage": None, "return": None}
        row |= {name: column[i] for name, column in numbers.items()} | step
        row |= {"probability": math.exp(row["logprob"]), "reference_probability": math.exp(row["reference"])}
        row["alternatives"] = [
            {"text": shown(tokenizer, other), "said": other == token, "probability": p, "reference": q}
            for other, p, q in zip(ids, row.pop("p"), row.pop("q"), strict=True)
        ]
        rows.append(row)
    return rows


def _steps(roles: Roles, batch: Batch, hidden: Tensor, temperature: float, top: int) -> list[dict[str, Any]]:
    """At each step: "kl_whole", "rank" of the token, and the `top` likeliest tokens: "ids", "p" by the policy, "q" by the reference."""
    before = roles.hidden("reference", batch.input_ids, batch.attention_mask)
    head = roles.causal if roles.lora else roles.reference
    out = []
    for start in range(0, batch.tokens.shape[1], CHUNK):
        at, said = batch.positions[0, start : start + CHUNK], batch.tokens[0, start : start + CHUNK]
        log_p = torch.log_softmax(logits(roles.causal, hidden[0, at]) / temperature, -1)
        log_q = torch.log_softmax(logits(head, before[0, at]) / temperature, -1)
        whole = (log_p.exp() * (log_p - log_q)).nan_to_num(0.0).sum(-1)  # where p is 0, so is the term
        rank = 1 + (log_p > log_p.gather(1, said[:, None])).sum(-1)
        best, ids = log_p.topk(min(top, log_p.shape[1]), -1)
        columns = (whole, rank, ids, best.exp(), log_q.gather(1, ids).exp())
        for kl, place, names, p, q in zip(*(column.tolist() for column in columns), strict=True):
            out.append({"kl_whole": kl, "rank": place, "ids": names, "p": p, "q": q})
    return out


def shown(tokenizer: Any, token: int) -> str:
    """A token as a person can see it: spaces and line ends as signs, of a token with a part of a character its bytes, such as ⟨E4⟩."""
    special = token in tokenizer.all_special_ids
    text = (
        tokenizer.decode([token], clean_up_tokenization_spaces=False) if special else decode(tokenizer, "text", [token])
    )
    if not text or "\ufffd" in text:
        text = _bytes(str(tokenizer.convert_ids_to_tokens(token)))
    return visible(text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥"))


def _bytes(spelt: str) -> str:
    """⟨E4 BD⟩ for a token of byte-level BPE, which spells each byte as a character of its own (GPT-2); any other as it is spelt."""
    known = {sign: number for number, sign in bytes_to_unicode().items()}
    if spelt.isascii() or not set(spelt) <= set(known):
        return spelt
    return f"⟨{' '.join(f'{known[sign]:02X}' for sign in spelt)}⟩"


def totals(rows: list[dict[str, Any]], score: float) -> dict[str, float | None]:
    """Sums over the completion, and the score that the last token's reward holds."""
    names = ("logprob", "reference", "kl", "kl_whole", "reward")
    return {name: sum(row[name] for row in rows) for name in names} | {"score": score, "value": rows[0]["value"]}
