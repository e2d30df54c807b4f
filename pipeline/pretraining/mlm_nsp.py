"""How does a model learn to read, rather than to go on? BERT's two tasks: masked words, and whether one sentence follows another."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForPreTraining, BertConfig, BertForPreTraining

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.gate import Check, above, at_least, below, check, check_interval
from pipeline.pretraining.masked import FOLLOWS, IGNORED, SPECIALS, Drawn, MaskedCollator, Vocabulary, held_out_rows
from pipeline.pretraining.masked_model import MaskedTrainer, always, figures, guesses
from pipeline.pretraining.next_sentence import TOKEN, Passages, marked, of_texts, passages_of
from pipeline.pretraining.objective import LONGER, HeldOut, Objective, Rows
from pipeline.pretraining.tokenizer import encoder
from pipeline.pretraining.tokens import Tokens
from pipeline.settings.pretrain import Pretrain
from pipeline.training.sharing import shared

SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
SEED = 0  # of the held-out pairs and masks: the same for models of other seeds, so that they can be compared


def new_config(section: Pretrain, tokenizer: Any) -> BertConfig:
    """BERT's shape. No dropout: a corpus that is read a few times is underfitted."""
    return BertConfig(
        vocab_size=section.vocab_size,
        hidden_size=section.hidden_size,
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
        intermediate_size=4 * section.hidden_size,
        max_position_embeddings=section.max_length,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def load(path: Any, tokenizer: Any, how: Any) -> BertForPreTraining:
    """The model in eval mode, held as `how` says."""
    model: BertForPreTraining = BertForPreTraining.from_pretrained(
        str(path), dtype=how.dtype, attn_implementation=how.attention, trust_remote_code=False
    )
    return model.eval()


def encoded(texts: Any, tokenizer: Any) -> Any:
    """Documents as tokens, in which is marked where words and sentences begin."""
    return marked(texts, encoder(tokenizer))


def rows(tokens: Tokens, tokenizer: Any, section: Pretrain, seed: int) -> tuple[list[int], Rows]:
    """One passage a row: a pair where it has two sentences, else alone, for its words. Raises ArtifactError where no two documents make pairs."""
    passages = passages_of(tokens.ids, tokens.starts, section.max_length - SPECIALS)
    if len(set(passages.documents[passages.pairable()].tolist())) < 2:
        raise ArtifactError(
            f"{section.stage}.source: of the {len(tokens)} training documents of {section.source} fewer than two have two sentences within "
            f"{section.stage}.max_length {section.max_length}, so that no sentence follows another or one of another document; give longer texts, or "
            f"say in {section.stage}.sample_by what a document is"
        )
    lengths = (passages.lengths() + SPECIALS).tolist()
    return lengths, Drawn(passages, Vocabulary.of(tokenizer), section.max_length, seed)


def _asked(tokenizer: Any, section: Pretrain, held_out: HeldOut) -> tuple[Passages, list[dict[str, Any]]]:
    """Held-out passages, and the rows that a model is asked. Raises ArtifactError where none is a pair."""
    passages = of_texts(held_out.texts, encoder(tokenizer), section.max_length - SPECIALS)
    asked = held_out_rows(passages, Vocabulary.of(tokenizer), section.max_length, SEED)
    labels = {row["next_sentence_label"] for row in asked}
    if not {FOLLOWS, 1 - FOLLOWS} <= labels:
        raise ArtifactError(
            f"{section.stage}.eval_fraction: of the {len(held_out.texts)} held-out documents of {section.source} fewer than four have two sentences, so "
            f"what follows what cannot be asked; raise it or {section.stage}.eval_rows, or give more documents"
        )
    return passages, asked


def measured(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """`masked_model.figures` on held-out documents. What is guessed reads [MASK], all of it."""
    passages, asked = _asked(tokenizer, section, held_out)
    batch = section.per_device_train_batch_size * 2
    said = shared(asked, lambda mine: guesses(model, mine, tokenizer.pad_token_id, batch))
    return figures(said, asked, passages.documents.tolist())


def baselines(tokens: Tokens, tokenizer: Any, section: Pretrain, held_out: HeldOut) -> dict[str, float]:
    """ "masked_accuracy_unigram": of who always says the token that stands most often in training, of several that with the least id; the
    counts of what is asked; and "next_sentence_true", the share of true pairs, which is what always saying yes would be right."""
    counts = np.bincount(np.asarray(tokens.ids) & np.uint32(TOKEN), minlength=section.vocab_size)
    _, asked = _asked(tokenizer, section, held_out)
    pairs = Counter(row["next_sentence_label"] for row in asked)
    return {
        "masked_accuracy_unigram": always(int(counts.argmax()), asked),
        "masked_tokens": float(sum(label != IGNORED for row in asked for label in row["labels"])),
        "next_sentence_pairs": float(pairs[FOLLOWS] + pairs[1 - FOLLOWS]),
        "next_sentence_true": pairs[FOLLOWS] / (pairs[FOLLOWS] + pairs[1 - FOLLOWS]),
    }


def said(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> list[dict[str, Any]]:
    """Held-out passages as they are asked, and as the model fills them in."""
    passages = of_texts(held_out.texts[: section.samples], encoder(tokenizer), section.max_length - SPECIALS)
    asked = held_out_rows(passages, Vocabulary.of(tokenizer), section.max_length, SEED)[: section.samples]
    collate = MaskedCollator(tokenizer.pad_token_id)

    def filled(mine: Any) -> list[dict[str, Any]]:
        found = []
        for row in mine:
            batch = collate([row])
            read = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "token_type_ids")}
            best = model(**read).prediction_logits[0].argmax(-1).tolist()
            ids = [
                new if label != IGNORED else old
                for old, new, label in zip(row["input_ids"], best, row["labels"], strict=True)
            ]
            found.append(
                {"prompt": tokenizer.decode(row["input_ids"]), "completion": tokenizer.decode(ids), "tokens": len(ids)}
            )
        return found

    with torch.no_grad():
        return shared(asked, filled)


def nothing_more(model: Any, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int) -> dict[str, float]:
    return {}


def checks(told: Mapping[str, float]) -> list[Check]:
    """What has learned knows words better than one that always says the most frequent, and next sentences better than a coin."""
    unigram, before = told["masked_accuracy_unigram"], told["masked_loss_before"]
    words, pairs = (
        [told[f"{name}_{end}_after"] for end in ("accuracy", "low", "high")] for name in ("masked", "next_sentence")
    )
    return [
        check("held-out masked loss", told["masked_loss_after"], must=below(before, "before training"), why=LONGER),
        check_interval(
            f"held-out masked-word accuracy ({unigram:.3f} by the most frequent token alone)",
            *words,
            upper_must=at_least(unigram),
            lower_should=above(unigram),
            why=LONGER,
        ),
        check_interval(
            "held-out next-sentence accuracy", *pairs, upper_must=at_least(0.5), lower_should=above(0.5), why=LONGER
        ),
    ]


MLM_NSP = Objective(
    special=SPECIAL,
    around=((), ()),
    config=new_config,
    kind=AutoModelForPreTraining,
    load=load,
    rows=rows,
    collate=MaskedCollator(0),
    measured=measured,
    baselines=baselines,
    said=said,
    at_end=nothing_more,
    checks=checks,
    shown=(
        *("masked_accuracy_before", "masked_accuracy_after", "masked_accuracy_unigram"),
        *(
            "next_sentence_accuracy_before",
            "next_sentence_accuracy_after",
            "next_sentence_low_after",
            "next_sentence_high_after",
        ),
    ),
    card="Encoder made from nothing",
    encoded=encoded,
    trainer=MaskedTrainer,
)
