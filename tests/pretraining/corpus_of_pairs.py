"""A corpus so small that a test can count it, and a byte-level tokenizer with the special tokens of BERT."""

import random
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
ANIMALS = ["cat", "dog", "cow", "hen", "fox", "owl", "bee", "ant"]


def tokenizer_of(texts: list[str], vocab_size: int = 400) -> Any:
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    rules.train_from_iterator(texts, learner)
    cls, sep = (("[CLS]", 1), ("[SEP]", 2))
    rules.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[cls, sep]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def stories(count: int = 160, start: int = 0) -> list[str]:
    """English and Chinese by turns: a continuation is of the animal or the meal that the text begins with, which alone tells it from others."""
    meals = ["米饭", "面条", "水果", "牛奶"]
    found = []
    for i in range(start, start + count):
        animal, meal, number = ANIMALS[i % 8], meals[i % 4], i % 97
        found.append(
            f"The {animal} came {number} times. We like the {animal} here."
            if i % 2
            else f"早饭吃了{number}次{meal}。大家喜欢{meal}的味道。"
        )
    return found


def topics(count: int, seed: int) -> list[str]:
    """Two sentences of one of two topics: what follows can be told from three other continuations of four."""
    rng, words = random.Random(seed), (["cat", "dog", "cow", "hen"], ["米饭", "面条", "水果", "牛奶"])
    return ["".join(f"{' '.join(rng.choices(words[i % 2], k=3))}。" for _ in range(2)) for i in range(count)]
