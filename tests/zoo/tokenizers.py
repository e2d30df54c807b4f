"""Which kinds of tokenizer are there? A tiny one of each kind that differs in padding, spaces, ends, templates or separators.

    folder = save("llama2", tmp_path)     # the tokenizer and a random model of two layers on it

Made as the models whose names they have make theirs: the same parts of the tokenizers library, the same special tokens, and the
lines of their chat templates that matter here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = [
    *("The film was great.", "A funny film, and a good one.", "don't walk out", "walking and talking", "1 2 3 12 345"),
    *("Hello there", "Fine, thanks", "so be it", "影评很好，我喜欢这部电影。", "这部电影不好", "Ünïcode «text»"),
] * 3

QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content %}{% set thought = '' %}"
    "{% if '</think>' in said %}{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}{% if loop.last or thought %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' + said.lstrip('\\n') }}"
    "{% else %}{{ '<|im_start|>assistant\\n' + said }}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{% set said = m.content %}{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + said + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = LLAMA2.replace("' ' + m.content.strip() + ' ' + eos_token", "' ' + m.content.strip() + eos_token")


def _trained(rules: Tokenizer, trainer: Any, special: list[str]) -> Tokenizer:
    rules.train_from_iterator(CORPUS, trainer(special))
    return rules


def _byte_level(*special: str, add_prefix_space: bool = False) -> Tokenizer:
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    rules.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        rules,
        lambda s: trainers.BpeTrainer(vocab_size=400, special_tokens=s, initial_alphabet=alphabet, show_progress=False),  # type: ignore[arg-type]
        list(special),
    )


def _sentencepiece(*special: str, prepend: str) -> Tokenizer:
    """BPE with a token for every byte. `prepend`: a space is put before every section ("legacy"), before a text ("first"), or not."""
    letters = sorted({c for text in CORPUS for c in text if c.isascii() and c != " "})
    pieces = ["▁", *letters, *(f"▁{c}" for c in letters), "▁g", "re", "at", "▁gre", "▁great", "gre", "great"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [(f"▁{c}"[0], c) for c in letters] + [
        ("r", "e"),
        ("a", "t"),
        ("▁g", "re"),
        ("▁gre", "at"),
        ("g", "re"),
        ("gre", "at"),
    ]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    rules = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    last: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend == "legacy":
        rules.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        last.append(decoders.Strip(" ", 1, 0))
    elif prepend == "first":
        rules.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        last.append(decoders.Strip(" ", 1, 0))
    else:
        rules.normalizer = normalizers.Replace(" ", "▁")
    rules.decoder = decoders.Sequence(last)
    return rules


def _opened(rules: Tokenizer, bos: str, pair: str | None = None) -> Tokenizer:
    """With `bos` before every text, or the separators of `pair` around two."""
    rules.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=pair, special_tokens=[(bos, rules.token_to_id(bos))]
    )
    return rules


def gpt2() -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level("<|endoftext|>"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def llama2() -> Any:
    rules = _opened(_sentencepiece("<unk>", "<s>", "</s>", prepend="legacy"), "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        chat_template=LLAMA2,
    )


def mistral() -> Any:
    rules = _opened(_sentencepiece("<unk>", "<s>", "</s>", prepend="first"), "<s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=MISTRAL
    )


def gemma() -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_opened(_sentencepiece(*special, prepend=""), "<bos>"),
        **{"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
        additional_special_tokens=special[4:],
        chat_template=GEMMA,
    )


def llama3() -> Any:
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=_opened(_byte_level(*special), special[0]),
        **{"bos_token": special[0], "eos_token": special[1]},
        additional_special_tokens=special[2:],
        chat_template=LLAMA3,
    )


def deepseek() -> Any:
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=_opened(_byte_level(*special), special[0]),
        **{"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]},
        chat_template=DEEPSEEK,
    )
    made.add_tokens(["<think>", "</think>"])
    return made


def qwen3() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(*special),
        **{"eos_token": special[2], "pad_token": special[0]},
        additional_special_tokens=special[1:2],
        chat_template=QWEN3,
    )
    made.add_tokens(["<think>", "</think>"])
    return made


def prefixed() -> Any:
    """Byte-level with a space before every text, as RoBERTa's cousins among the decoders."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level("<s>", "</s>", "<pad>", add_prefix_space=True),
        **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    )


def t5() -> Any:
    rules = Tokenizer(models.Unigram())
    rules.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    rules.pre_tokenizer, rules.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    _trained(
        rules,
        lambda s: trainers.UnigramTrainer(vocab_size=160, special_tokens=s, unk_token="<unk>", show_progress=False),
        special,
    )
    rules.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def bert() -> Any:
    rules = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    rules.normalizer, rules.pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    rules.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _trained(rules, lambda s: trainers.WordPieceTrainer(vocab_size=200, special_tokens=s, show_progress=False), special)  # type: ignore[arg-type]
    rules.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **named
    )


def roberta() -> Any:
    """`<s>` is 0 and `<pad>` 1, by which RoBERTa counts positions."""
    rules = _byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    rules.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=60, **names
    )


POLICIES: dict[str, Callable[[], Any]] = {
    one.__name__: one for one in (gpt2, llama2, mistral, gemma, llama3, deepseek, qwen3, prefixed, t5)
}
LOSSY = ("t5",)  # what is between two words becomes one space
ENDS = {"gemma": ["<eos>", "<end_of_turn>"], "llama3": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]}
KWARGS: dict[str, dict[str, Any]] = {"qwen3": {"enable_thinking": False}}


def save(name: str, folder: Path, rows: int = 0) -> Path:
    """A tokenizer among POLICIES and a random Llama of two layers with as many rows in its vocabulary, and `rows` more."""
    tokenizer = POLICIES[name]()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + rows, initializer_range=0.2, **sizes, **ids))
    ends = tokenizer.convert_tokens_to_ids(ENDS.get(name, [tokenizer.eos_token]))
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def template_of(folder: Path) -> str:
    """The chat template that a folder publishes."""
    file = folder / "chat_template.jinja"
    return (
        file.read_text()
        if file.is_file()
        else json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    )
