"""How does an encoder–decoder learn to fill what is missing? Spans of a document replaced by one token each, which the decoder has to say.

Raffel et al. 2020 (1910.10683), section 3.1.4 and figure 2, with the mean and share of section 3.3.4: 15% of the tokens are hidden, in spans of three on
average. The encoder reads "Thank you <X> to your party <Y> week <end>", the decoder says "<X> for inviting me <Y> last <Z> <end>". The model is
transformers' own T5. A row is one document, or a part of a long one: T5 has no positions by which documents that
lie end to end could be told apart, and what it reads later is one text, too. What is hidden of a document is drawn anew each time.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, T5Config

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Check, above, check
from pipeline.pretraining.causal import cross_entropy_by_counts
from pipeline.pretraining.objective import LONGER, HeldOut, Objective, Rows, check_learned
from pipeline.pretraining.tokenizer import END, PAD
from pipeline.pretraining.tokens import Tokens
from pipeline.pretraining.training import RowTrainer, sampled
from pipeline.settings.pretrain import SENTINELS, Pretrain
from pipeline.training.fine_tuning import row_losses
from pipeline.training.sharing import shared
from policies.backbone import load_causal
from policies.seq2seq import START
from policies.template import Turn

SHARE, MEAN = 0.15, 3.0  # of a row's tokens that is hidden, and tokens of a span on average
LEAST = 2  # tokens of a row: one is hidden, one is read
IGNORED = -100  # the label of what is not learned, as transformers has it
ASKED = 64  # held-out documents that are sampled for, by which is told whether what the model says ends
EXTRA = tuple(f"<extra_id_{number}>" for number in range(SENTINELS))
BITS = "hidden_bits_per_byte"


def new_config(section: Pretrain, tokenizer: Any) -> Any:
    """T5's first shape: relu, input and output embeddings one, as many layers in the decoder as in the encoder; no dropout."""
    shape: dict[str, Any] = {
        "vocab_size": section.vocab_size,
        "d_model": section.hidden_size,
        "d_kv": section.hidden_size // section.num_attention_heads,
        "d_ff": 4 * section.hidden_size,
        "num_layers": section.num_hidden_layers,
        "num_decoder_layers": section.num_hidden_layers,
        "num_heads": section.num_attention_heads,
        "dropout_rate": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    return T5Config(**shape)


def counts(length: int) -> tuple[int, int]:
    """(hidden tokens, spans) of a row of `length` tokens: at least one, and one token at least is read before each span."""
    hidden = min(max(round(length * SHARE), 1), length - 1)
    spans = min(max(round(hidden / MEAN), 1), hidden, length - hidden, SENTINELS - 1)
    return hidden, spans


def longest(section: Pretrain) -> int:
    """Tokens of a document of which the encoder then reads at most max_length, EOS included."""
    length = section.max_length - 1
    while _read(length + 1) <= section.max_length:
        length += 1
    return length


def _read(length: int) -> int:
    hidden, spans = counts(length)
    return length - hidden + spans + 1


def cut(length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The spans (start, end) that are hidden of a row of `length` tokens, each way to lay out such counts as likely as any other.

    A row begins with what is read, as with T5's random_spans_noise_mask (github.com/google-research/text-to-text-transfer-transformer); there it
    also ends with what is hidden, so that of a short text, which has one span, always the end would be.
    """
    hidden, spans = counts(length)
    gaps = _parts(length - hidden + 1, spans + 1, rng)  # the last is one more than is read behind the last span
    found, at = [], 0
    for gap, width in zip(gaps[:-1], _parts(hidden, spans, rng), strict=True):
        found.append((at + gap, at + gap + width))
        at += gap + width
    return found


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` whole numbers of at least 1 that add up to `total`, each such lot as likely as any other."""
    borders = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff([0, *borders.tolist(), total]).tolist()  # type: ignore[no-any-return]


def corrupted(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], sentinels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(what the encoder reads, what the decoder says), without EOS: each span replaced by a sentinel, in their order; each sentinel with the
    span behind it, and one more at the end."""
    read, said, at = list[int](), list[int](), 0
    for number, (start, end) in enumerate(spans):
        read += [*ids[at:start], sentinels[number]]
        said += [sentinels[number], *ids[start:end]]
        at = end
    return [*read, *ids[at:]], [*said, sentinels[len(spans)]]


def sentinels_of(tokenizer: Any) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(name) for name in EXTRA]


def parts_of(starts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """(start, end) of every row in the documents that begin at `starts`: a document, or as few equal parts of it as have at most `most` tokens."""
    found = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if end - begin < LEAST:
            continue
        count = -(-(end - begin) // most)
        borders = [begin + (end - begin) * n // count for n in range(count + 1)]
        found += list(zip(borders[:-1], borders[1:], strict=True))
    return found


def rows(tokens: Tokens, tokenizer: Any, section: Pretrain, seed: int) -> tuple[Sequence[int], Rows]:
    """Documents of at least two tokens, or parts of them; what is hidden hangs on the draw."""
    parts = parts_of(tokens.starts, longest(section))
    if not parts:
        raise ArtifactError(
            f"{section.stage}.source: no document of {section.source} has two tokens, so nothing can be hidden; give longer ones"
        )
    sentinels, end = sentinels_of(tokenizer), tokenizer.eos_token_id

    def row(number: int, draw: int) -> dict[str, Any]:
        ids = tokens.ids[slice(*parts[number])].tolist()
        read, said = corrupted(ids, cut(len(ids), np.random.default_rng([seed, draw])), sentinels)
        return {"input_ids": [*read, end], "labels": [*said, end]}

    return [end - begin for begin, end in parts], row


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """input_ids, attention_mask (B, E), labels (B, D) int64, padded on the right; what the decoder reads T5 makes of the labels."""
    lengths = torch.tensor([len(one["input_ids"]) for one in batch])
    ids = pad_sequence([torch.tensor(one["input_ids"]) for one in batch], True, 0)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).long(),
        "labels": pad_sequence([torch.tensor(one["labels"]) for one in batch], True, IGNORED),
        "use_cache": False,
    }


class SpanTrainer(RowTrainer):
    """Trains a T5 on the mean loss over all that its decoder says in an optimizer step, whatever micro-batches and processes that is dealt to:
    T5's own forward knows the mean of one batch alone."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that what is said in a step is counted

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        out = model(**inputs)
        here = (inputs["labels"] != IGNORED).sum()
        of_step = here if num_items_in_batch is None else num_items_in_batch
        loss = out.loss * here / of_step * self.accelerator.num_processes  # DDP takes the mean of its processes
        return (loss, out) if return_outputs else loss


def asked(tokenizer: Any, section: Pretrain, held_out: HeldOut) -> list[Turn]:
    """What is read and what is to be said of every part of every held-out document, the same whenever it is asked for: of each only what is hidden
    is said, so these are no bits of whole documents."""
    sentinels, end, found = sentinels_of(tokenizer), tokenizer.eos_token_id, []
    whole = [token for ids in held_out.documents for token in ids]
    starts = np.cumsum([0, *map(len, held_out.documents)])
    for number, (begin, stop) in enumerate(parts_of(starts, longest(section))):
        spans = cut(stop - begin, np.random.default_rng([0, number]))
        read, said = corrupted(whole[begin:stop], spans, sentinels)
        found.append(([*read, end, START], [*said, end]))
    return found


def hidden_bytes(tokenizer: Any, turns: Sequence[Turn]) -> int:
    """Bytes (UTF-8) of all that is hidden: a token of a byte-level vocabulary has as many as its name has characters."""
    marks = {tokenizer.eos_token_id, *sentinels_of(tokenizer)}
    told = Counter(token for _, said in turns for token in said if token not in marks)
    return sum(count * len(tokenizer.convert_ids_to_tokens(token)) for token, count in told.items())


def measured(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """`BITS`: bits that the decoder needs for what is hidden of the held-out documents, sentinels and ends included, a byte of it."""
    turns = asked(tokenizer, section, held_out)
    batch = section.per_device_train_batch_size * 2
    sums = shared(turns, lambda mine: row_losses(model, mine, tokenizer, batch))
    return {BITS: math.fsum(nats for nats, _ in sums) / math.log(2) / hidden_bytes(tokenizer, turns)}


def baselines(tokens: Tokens, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """`BITS`_unigram: the same of who knows only how often each token stands in training, each counted once more, and where spans begin and end:
    sentinels and EOS cost it nothing."""
    marks = {tokenizer.eos_token_id, *sentinels_of(tokenizer)}
    known = tokens.counts(section.vocab_size)
    turns = asked(tokenizer, section, held_out)
    told = Counter(token for _, said in turns for token in said if token not in marks)
    bits = cross_entropy_by_counts(known, told, section.vocab_size)
    return {f"{BITS}_unigram": bits / hidden_bytes(tokenizer, turns)}


def said(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> list[dict[str, Any]]:
    """What fills the gaps of the first held-out documents, at temperature 1 with the same noise whenever it is asked for."""
    turns = asked(tokenizer, section, held_out)[: section.samples]
    found = sampled(model, tokenizer, [read for read, _ in turns], section.max_new_tokens, seed)
    return [
        {
            "prompt": tokenizer.decode(read[:-2]),
            "completion": tokenizer.decode(ids),
            "hidden": tokenizer.decode(wanted[:-1]),
            "tokens": len(ids),
            "eos": ended,
        }
        for (read, wanted), (ids, ended) in zip(turns, found, strict=True)
    ]


def ended(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> dict[str, float]:
    """ "eos_rate": the share of held-out documents for which what the model says ends within max_length."""
    turns = asked(tokenizer, section, held_out)[:ASKED]
    found = sampled(model, tokenizer, [read for read, _ in turns], section.max_length, seed + 1)
    return {"eos_rate": sum(end for _, end in found) / len(found)}


def checks(figures: Mapping[str, float]) -> list[Check]:
    """`check_learned`; and what it says ends."""
    return [
        *check_learned("held-out bits a hidden byte", BITS, figures, why=LONGER),
        check("EOS rate", figures["eos_rate"], should=above(0.5), why=f"what it says does not end; {LONGER}"),
    ]


SPAN = Objective(
    special={"pad_token": PAD, "eos_token": END},
    around=((), ()),
    config=new_config,
    kind=AutoModelForSeq2SeqLM,
    load=load_causal,
    rows=rows,
    collate=collate,
    measured=measured,
    baselines=baselines,
    said=said,
    at_end=ended,
    checks=checks,
    shown=(f"{BITS}_before", f"{BITS}_after", f"{BITS}_unigram", "eos_rate"),
    card="Encoder–decoder made from nothing",
    extra=EXTRA,
    trainer=SpanTrainer,
)
