"""How does a model learn which token comes next? Packed sequences, bits per byte of held-out documents, samples.

A row is max_length tokens of the documents laid end to end, <|begin|> document <|end|> <|begin|> …, so that nothing is padding. Positions
begin again with every document, by which transformers keeps attention from crossing into the one before. Without that a short text would be
learned mostly behind unrelated ones, and generation, which begins at position 0 behind <|begin|>, would be what was seldom trained. It
costs nothing that could be measured at these lengths (docs/measured.md). A document that does not fit goes on in the next row, from
position 0 and without what came before.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Check, above, check
from pipeline.pretraining.objective import LONGER, HeldOut, Objective, Rows, check_learned
from pipeline.pretraining.tokenizer import BEGIN, END, PAD
from pipeline.pretraining.tokens import Tokens
from pipeline.pretraining.training import sampled
from pipeline.settings.pretrain import Pretrain
from pipeline.training.fine_tuning import row_losses
from pipeline.training.sharing import shared
from policies.backbone import load_causal
from policies.template import Turn

ENDED = 64  # samples from nothing, by which is told whether what the model says ends
FROM_NOTHING = 3  # every so manieth sample has no prompt
OPENING = 4  # a prompt is so manieth part of a document
BITS = "bits_per_byte"


def new_config(section: Pretrain, tokenizer: Any) -> Any:
    """GPT-2's shape, or Llama's with as many weights in its three projections as GPT-2 has in two. No dropout; input and output embeddings are one."""
    roles = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if section.built() == "gpt2":
        return GPT2Config(
            vocab_size=section.vocab_size,
            n_positions=section.max_length,
            n_embd=section.hidden_size,
            n_layer=section.num_hidden_layers,
            n_head=section.num_attention_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=True,
            **roles,
        )
    return LlamaConfig(
        vocab_size=section.vocab_size,
        max_position_embeddings=section.max_length,
        hidden_size=section.hidden_size,
        intermediate_size=max(16, round(section.hidden_size * 8 / 3 / 16) * 16),
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
        tie_word_embeddings=True,
        **roles,
    )


def rows(tokens: Tokens, tokenizer: Any, section: Pretrain, seed: int) -> tuple[list[int], Rows]:
    """Whole sequences of max_length tokens; those at the end of the corpus that make none are left out."""
    length, begin = section.max_length, tokenizer.bos_token_id
    count = len(tokens.ids) // length
    if not count:
        raise ArtifactError(
            f"{section.stage}.max_length: all documents of {section.source} together have {len(tokens.ids)} tokens, fewer than one sequence of {length}; "
            f"give more text, or set {section.stage}.max_length={max(16, len(tokens.ids) // 4)}"
        )

    def row(number: int, draw: int) -> dict[str, Any]:
        ids = np.asarray(tokens.ids[number * length : (number + 1) * length], dtype=np.int64)
        return {"input_ids": ids, "position_ids": positions(ids, begin), "labels": np.where(ids == begin, -100, ids)}

    return [length] * count, row


def positions(ids: Any, begin: int) -> Any:
    """(T,) int64: the place of each token behind the last `begin`, or behind the row's start."""
    places = np.arange(len(ids))
    return places - np.maximum.accumulate(np.where(ids == begin, places, 0))


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: torch.from_numpy(np.stack([one[name] for one in batch])) for name in batch[0]} | {"use_cache": False}


def windows(ids: list[int], length: int) -> list[Turn]:
    """(what is read, what is measured) of a document of which a model reads `length` tokens: every token but the first is measured once, each
    behind as much as fits, and behind at least half of `length` where the document has so much before it."""
    found, at = [], 1
    while at < len(ids):
        start = 0 if at == 1 else at - length // 2
        end = min(len(ids), start + length)
        found.append((ids[start:at], ids[at:end]))
        at = end
    return found


def measured(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """`BITS`: bits that the model needs to write the held-out documents one after another, ends included, a byte of their text. It does not
    depend on the vocabulary, as nats a token would."""
    parts = [window for ids in held_out.documents for window in windows(ids, section.max_length)]
    batch = section.per_device_train_batch_size * 2
    sums = shared(parts, lambda mine: row_losses(model, mine, tokenizer, batch))
    return {BITS: math.fsum(nats for nats, _ in sums) / math.log(2) / held_out.bytes}


def baselines(tokens: Tokens, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """`BITS`_unigram: the same of who knows only how often each token stands in training, each counted once more (add-one). That is less than by
    the frequency of bytes, as merges know the words. A document's begin is given, as it is to the model."""
    begin = held_out.documents[0][0]
    known = tokens.counts(section.vocab_size)
    known[begin] = 0
    asked = Counter(token for ids in held_out.documents for token in ids[1:])
    return {f"{BITS}_unigram": cross_entropy_by_counts(known, asked, section.vocab_size) / held_out.bytes}


def cross_entropy_by_counts(known: Any, asked: Mapping[int, int], size: int) -> float:
    """Bits of all that is `asked` by the counts `known` of `size` symbols, each counted once more."""
    total = float(known.sum()) + size
    return -math.fsum(count * math.log2((known[symbol] + 1) / total) for symbol, count in asked.items())


def said(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> list[dict[str, Any]]:
    """Samples at temperature 1 with noise of their own, the same whenever they are asked for: every third from nothing, the others behind the
    beginning of a held-out document."""
    most = min(section.max_new_tokens, section.max_length // 2)
    prompts = []
    for number in range(section.samples):
        ids = held_out.documents[number % len(held_out.documents)]
        part = 1 if number % FROM_NOTHING == 0 else 1 + max(1, (len(ids) - 2) // OPENING)
        prompts.append(ids[: min(part, section.max_length - most)])
    return [
        {"prompt": tokenizer.decode(prompt[1:]), "completion": tokenizer.decode(ids), "tokens": len(ids), "eos": ended}
        for prompt, (ids, ended) in zip(prompts, sampled(model, tokenizer, prompts, most, seed), strict=True)
    ]


def ended(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> dict[str, float]:
    """ "eos_rate": the share of samples from nothing that end within max_length; "fits_rate": the share of held-out documents that do."""
    samples = sampled(model, tokenizer, [held_out.documents[0][:1]] * ENDED, section.max_length - 1, seed + 1)
    fits = sum(len(ids) <= section.max_length for ids in held_out.documents) / len(held_out.documents)
    return {"eos_rate": sum(end for _, end in samples) / ENDED, "fits_rate": fits}


def checks(figures: Mapping[str, float]) -> list[Check]:
    """`check_learned`; and it says <|end|> where documents are short enough for it to be seen."""
    found = check_learned("held-out bits per byte", BITS, figures, why=LONGER)
    if figures["fits_rate"] > 0:
        why = "what it says does not end; train longer, or raise max_length to what documents have"
        found.append(check("EOS rate", figures["eos_rate"], should=above(figures["fits_rate"] / 2), why=why))
    return found


CAUSAL = Objective(
    special={"pad_token": PAD, "bos_token": BEGIN, "eos_token": END},
    around=(("bos_token",), ("eos_token",)),
    config=new_config,
    kind=AutoModelForCausalLM,
    load=load_causal,
    rows=rows,
    collate=collate,
    measured=measured,
    baselines=baselines,
    said=said,
    at_end=ended,
    checks=checks,
    shown=(f"{BITS}_before", f"{BITS}_after", f"{BITS}_unigram", "eos_rate"),
    card="Language model made from nothing",
)
