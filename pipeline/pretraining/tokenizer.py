"""How does a corpus become tokens? A byte-level BPE vocabulary learned from the training documents alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.artifacts.errors import ArtifactError
from pipeline.settings.pretrain import Pretrain
from policies.tokenizers import load_tokenizer

LONGEST = 100  # signs of one part: to find the merges of a part costs the square of its length
RUNS = Regex(rf"\p{{L}}{{{LONGEST}}}|[^\s\p{{L}}\p{{N}}]{{{LONGEST}}}|\s{{{LONGEST}}}")
LEAST = 2  # how often two tokens must stand side by side to become one
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"


def learned(
    texts: Iterable[str], section: Pretrain, special: Mapping[str, str], extra: Sequence[str] = ()
) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, 1508.07909; over bytes as in GPT-2) of exactly `section.vocab_size` tokens: those of `special` and `extra`, which
    stand first, the 256 bytes, and merges of `texts`. Any text can be read, and comes back as it was.

    GPT-2's expression parts texts before anything is merged: words with the space before them, runs of other signs. A run of Chinese
    characters is one part, in which merges find words; after `LONGEST` signs of one kind a new part begins. Each digit stands alone, so that numbers are read place by place.
    Raises ArtifactError where the texts do not give so many merges.
    """
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(RUNS, "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    rules.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocab_size,
        min_frequency=LEAST,
        special_tokens=[*special.values(), *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(texts, trainer)
    found = rules.get_vocab_size()
    if found < section.vocab_size:
        raise ArtifactError(
            f"{section.stage}.vocab_size: {section.source} gives {found} tokens (pairs that stand there at least {LEAST} times), and "
            f"{section.vocab_size} are wanted; set {section.stage}.vocab_size={found} or fewer, or give more text"
        )
    return rules


def saved(
    rules: Tokenizer, special: Mapping[str, str], section: Pretrain, folder: Path, extra: Sequence[str] = ()
) -> Any:
    """The tokenizer in `folder` as transformers loads it; `special` are its roles, such as {"bos_token": "<|begin|>"}. BOS, where there is
    one, stands before every text, or else EOS behind it, as T5's does; [CLS] and [SEP] stand around a text, or two, as BERT's do."""
    if (begin := special.get("bos_token")) is not None:
        rules.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, rules.token_to_id(begin))]
        )
    elif (end := special.get("eos_token")) is not None:
        rules.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, rules.token_to_id(end))]
        )
    pairs = "cls_token" in special
    if pairs:
        (first, last), ids = (special["cls_token"], special["sep_token"]), rules.token_to_id
        rules.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(one, ids(one)) for one in (first, last)],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=rules,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        model_max_length=section.max_length,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(extra),
        **special,
    )
    made.save_pretrained(str(folder))
    tokenizer = opened(folder)  # as every stage loads it: its chat template is settled
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def opened(folder: Path) -> Any:
    """The tokenizer in `folder`; one without EOS, which no completion could end with, is an encoder's."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return load_tokenizer(folder, scores=config.get("eos_token") is None)


def encoder(tokenizer: Any) -> Tokenizer:
    """What turns documents into tokens: in them the name of a special token is text like any other."""
    rules = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    rules.encode_special_tokens = True
    return rules
