"""Where do tokenizers come from, and with which special tokens? Padding, a chat template, and what ends a completion."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from policies.backbone import BackboneError, not_there
from policies.template import plain_chat
from policies.untyped import Tokenizer


def load_tokenizer(path: str | Path, revision: str | None = None, need_eos: bool = True) -> Tokenizer:
    """A tokenizer that pads on the right with a token that is not EOS, and has a chat template: a plain one if it came without.

    Where pad is missing or equal to EOS, the unknown token takes its place if it has no other role, else `<|pad|>` is added: a pad
    that equals EOS would hide the end of a completion from everything that counts non-pad tokens.
    Raises BackboneError when there is no tokenizer, or no EOS unless `need_eos` is false (an encoder that only scores).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision or "main")
    except (OSError, ValueError) as error:
        raise not_there(path, "tokenizer", error) from error
    if tokenizer.eos_token_id is None and need_eos:
        raise BackboneError(
            f"{path}: its tokenizer has no EOS token, so a completion could never end; set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.padding_side = "right"
    if not tokenizer.chat_template and tokenizer.eos_token_id is not None:
        tokenizer.chat_template = plain_chat(tokenizer)
    return tokenizer


def eos_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """Every token that ends a completion: those of the generation config, and the tokenizer's EOS."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = named if isinstance(named, list) else [named]
    return sorted({*(i for i in ids if i is not None), tokenizer.eos_token_id})
