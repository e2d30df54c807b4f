"""Encoder–decoders so small that a test can check all of them: a T5 and a BART of two random layers, one token a character."""

from pathlib import Path
from typing import Any

import torch
from tiny import CHARACTERS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

PAD, EOS, BOS, UNK = 0, 1, 2, 3
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
KINDS = ("t5", "bart")


def tokenizer_of(kind: str) -> Any:
    """T5 ends a text with EOS; BART puts it between BOS and EOS."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    rules.decoder = decoders.Fuse()
    if kind == "t5":
        rules.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", EOS)])
        return PreTrainedTokenizerFast(tokenizer_object=rules, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    both = [("<s>", BOS), ("</s>", EOS)]
    rules.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", both)
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=rules, **names)


def build_pair(kind: str, **changes: Any) -> Any:
    """The model, float32, in eval mode: logits of a standard deviation about 1, dropout on in training as in those that are published."""
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(CHARACTERS),
        "d_model": 32,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
    }
    if kind == "t5":
        t5 = {
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": PAD,
            "initializer_factor": 1.0,
        }
        model: Any = T5ForConditionalGeneration(T5Config(**(size | t5 | changes)))
    else:
        layers = {
            f"{side}_{name}": n
            for side in ("encoder", "decoder")
            for name, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
        }
        bart = {
            "bos_token_id": BOS,
            "decoder_start_token_id": EOS,
            "max_position_embeddings": 128,
            "init_std": 0.3,
            "forced_eos_token_id": None,
        }
        model = BartForConditionalGeneration(BartConfig(**(size | layers | bart | changes)))
        torch.nn.init.normal_(model.final_logits_bias, std=0.5)  # a part of the output layer that is no product
    return model.eval()


def save_pair(kind: str, folder: Path, **changes: Any) -> Path:
    """A folder with the model and its tokenizer."""
    build_pair(kind, **changes).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return folder
