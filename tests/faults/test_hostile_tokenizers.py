"""Does a stranger's tokenizer explode, panic, hang or end in a traceback? Each is loaded, and reads and writes a text."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strangers import forked, refused, rewritten
from tiny import save_tiny
from tokenizers import Regex, pre_tokenizers

from policies import probing
from policies.errors import BackboneError
from policies.probing import PROBES
from policies.template import decode_completion, encode_completion, encode_prompt
from policies.tokenizers import load_tokenizer

RULES, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SECONDS = 3.0  # in place of probing.SECONDS
EXPLODES, STOPS, NONE = "too many steps", "stops its library", "no tokenizer to be had"
Change = Callable[[Path], object]


def rules(**values: Any) -> Change:
    return lambda folder: rewritten(folder / RULES, **values)


def settings(**values: Any) -> Change:
    return lambda folder: rewritten(folder / SETTINGS, **values)


def split(expression: str) -> Change:
    return rules(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    )


def replacing(pattern: dict[str, str], by: str, times: int = 1) -> Any:
    return {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": pattern, "content": by}] * times}


def token(number: Any, content: str) -> dict[str, Any]:
    return {"id": number, "content": content, "special": True, "normalized": False} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip"), False
    )


def around(ids: list[Any], special: bool = True) -> Any:
    """A post-processor that puts tokens before a text."""
    one = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    known = {"[X]": {"id": "[X]", "ids": ids, "tokens": ["[X]"] * len(ids)}} if special else {}
    return {"type": "TemplateProcessing", "single": one, "pair": pair, "special_tokens": known}


def decoders(*parts: Any) -> Change:
    return rules(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}, *parts]})


LETTERS = {chr(code): code - 32 for code in range(32, 127)} | {"<u>": 95}


def bpe(merges: Any, **more: Any) -> Change:
    flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    named = dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    return rules(
        model={"type": "BPE", "vocab": LETTERS, "merges": merges, "unk_token": "<u>", **flags, **named, **more}
    )


def words(vocabulary: dict[str, int], unknown: str) -> Change:
    return rules(model={"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown})


STRIP = {"type": "Strip", "content": "a", "start": 5, "stop": 5}
REPLACE = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 10}
TOKENIZERS: dict[str, tuple[Change, str]] = {
    "an expression in itself": (split("(a+)+b"), EXPLODES),
    "two ways at every letter": (split("(a|aa)+$"), EXPLODES),
    "words of words": (split(r"(\w+\s?)+\d$"), EXPLODES),
    "twelve stars": (split("(.*a){12}b"), EXPLODES),
    "digits in digits": (split(r"(\d+)+x"), EXPLODES),
    "spaces in spaces": (split(r"(\s+)+x"), EXPLODES),
    "letters in letters": (split("([a-z]+)*[0-9]!"), EXPLODES),
    "five stars": (split("a*a*a*a*a*b"), "tokenizer"),
    "an expression that is none": (split("("), NONE),
    "a normalizer's expression": (rules(normalizer=replacing({"Regex": "(a+)+b"}, "x")), EXPLODES),
    "a normalizer that multiplies": (rules(normalizer=replacing({"Regex": "."}, "x" * 10, 7)), "tokenizer"),
    "a normalizer that begins with megabytes": (
        rules(normalizer={"type": "Prepend", "prepend": "x" * 10_000_000}),
        "tokenizer",
    ),
    "a table of characters that is none": (
        rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        STOPS,
    ),
    "a table of characters that takes all memory": (
        rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        "MiB",
    ),
    "pieces without a length": (rules(pre_tokenizer={"type": "FixedLength", "length": 0}), STOPS),
    "a pre-tokenizer in a hundred": (
        lambda d: rules(pre_tokenizer=nested({"type": "Whitespace"}, 100))(d),
        "recursion limit",
    ),
    "a decoder that strips too much": (decoders(STRIP), STOPS),
    "a decoder's expression": (decoders({"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "x"}), EXPLODES),
    "a decoder that multiplies": (decoders(*[REPLACE] * 7), "tokenizer"),
    "special tokens that nobody knows": (rules(post_processor=around([], special=False)), STOPS),
    "special tokens that are not there": (rules(post_processor=around([2**32 - 1])), "4294967295"),
    "a text a hundred thousand times": (
        rules(post_processor=around([1]) | {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 100_000}),
        "tokenizer",
    ),
    "merges of unknown pieces": (bpe([["q", "zz"]]), NONE),
    "merges into unknown pieces": (bpe([["a", "b"]]), NONE),
    "merges that are a text": (bpe("x"), NONE),
    "half of all merges left out": (bpe([], dropout=1.5), NONE),
    "an unknown token that is unknown": (bpe([], unk_token="<none>"), "not found in the vocabulary"),
    "words without an unknown token": (words({"a": 0}, "<none>"), "Missing [UNK]"),
    "no words at all": (rules(model={"type": "Unigram", "unk_id": 5, "vocab": []}), NONE),
    "an unknown word of ten digits": (rules(model={"type": "Unigram", "unk_id": 10**9, "vocab": [["a", -1.0]]}), NONE),
    "a word's number below zero": (words({"a": -1}, "a"), NONE),
    "a word's number of four billion": (words({"a": 2**32 - 1, "<u>": 0}, "<u>"), "no embedding"),
    "a kind of model that is none": (rules(model={"type": "Evil"}), NONE),
    "no model": (rules(model=None), NONE),
    "a token's number below zero": (rules(added_tokens=[token(-1, "<x>")]), NONE),
    "a token's number that is none": (rules(added_tokens=[token(1.5, "<x>")]), NONE),
    "tokens that are no objects": (settings(added_tokens_decoder={"x": 5}), NONE),
    "an end beyond the model": (settings(eos_token="<unknown thing>"), "no embedding"),
    "an end that is a number": (settings(eos_token=3), NONE),
    "a length below zero": (settings(model_max_length=-5), "model_max_length is -5"),
    "a length of nothing": (settings(model_max_length=0), "model_max_length is 0"),
    "a length that is a text": (settings(model_max_length="x"), "model_max_length is 'x'"),
    "a length without end": (settings(model_max_length=float("inf")), "model_max_length is inf"),
    "a side that is none": (settings(padding_side="evil"), NONE),
    "a class that is a number": (settings(tokenizer_class=5), NONE),
    "a map of code that is a number": (settings(auto_map=5), NONE),
    "names that are a number": (settings(model_input_names=5), NONE),
    "files elsewhere": (
        settings(vocab_file="/etc/passwd", merges_file="/etc/passwd", tokenizer_class="GPT2Tokenizer"),
        "no embedding",
    ),
    "rules that are cut": (lambda d: (d / RULES).write_text("{"), NONE),
    "rules without end": (lambda d: (d / RULES).write_text("[" * 200_000), NONE),
    "rules of other bytes": (lambda d: (d / RULES).write_bytes(b"\xff" * 1000), NONE),
    "rules that are nothing": (lambda d: (d / RULES).write_text("null"), NONE),
    "rules of another version": (rules(version="9.9"), NONE),
    "a map of tokens that is a list": (lambda d: (d / "special_tokens_map.json").write_text("[1]"), NONE),
}
QUICK = (  # one of each way in which a tokenizer is refused; `make faults` tries all
    *("an expression in itself", "digits in digits", "a normalizer's expression", "a decoder that strips too much"),
    *("special tokens that nobody knows", "special tokens that are not there", "merges of unknown pieces"),
    *("a word's number of four billion", "a length below zero", "rules without end"),
)
SOUND: dict[str, Change] = {  # odd, and of no harm
    "a length of 10^40": settings(model_max_length=10**40),
    "padding to a trillion": rules(
        padding={
            "strategy": {"Fixed": 10**12},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    ),
    "a token of four billion": rules(added_tokens=[token(2**32 - 1, "<x>")]),
    "a token's number of a trillion": settings(added_tokens_decoder={"1000000000000": token(0, "<z>")}),
    "a class that is a path": settings(tokenizer_class="../../evil"),
    "rules elsewhere": settings(tokenizer_file="/etc/passwd"),
}


def nested(inner: Any, times: int) -> Any:
    for _ in range(times):
        inner = {"type": "Sequence", "pretokenizers": [inner]}
    return inner


def read(folder: Path) -> Callable[[], object]:
    def work() -> object:
        tokenizer = load_tokenizer(folder)
        encode_prompt(tokenizer, [{"role": "user", "content": "hello"}])
        ids = encode_completion(tokenizer, "hi", " there!")
        return decode_completion(tokenizer, "hi", ids, [tokenizer.eos_token_id])

    return work


def tried(cases: Any, names: Any, base: Path, place: Path) -> None:
    for number, name in enumerate(names):
        change, told = TOKENIZERS[name]
        with cases(name):
            folder = place / str(number)
            shutil.copytree(base, folder)
            change(folder)
            refused(forked(read(folder), 30), told, folder.name)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SECONDS", SECONDS)


@pytest.mark.usefixtures("soon")
def test_no_tokenizer_does_harm(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, QUICK, tiny_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
def test_nor_does_any_other(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, [name for name in TOKENIZERS if name not in QUICK], tiny_folder, tmp_path)
        for name, change in SOUND.items():
            with cases(name):
                shutil.copytree(tiny_folder, tmp_path / name)
                change(tmp_path / name)
                ended = forked(read(tmp_path / name), 30)
                assert ended.code == 0, ended.said


def test_what_only_a_row_meets_is_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An expression that explodes on a text that no probe is like: its library panics where the row is read, and the run ends in a sentence."""
    tokenizer = load_tokenizer(save_tiny(tmp_path))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(ab|a|b)+z"), "isolated")
    with pytest.raises(BackboneError, match="too many steps where it is to read a text that begins 'ababab"):
        encode_prompt(tokenizer, "ab" * 40 + "yz")
    capfd.readouterr()


def test_every_probe_is_read_by_a_sound_tokenizer(tiny_folder: Path) -> None:
    """Whatever is tried is what a tokenizer must read; an empty text and runs of every printable character are among it."""
    tokenizer = load_tokenizer(tiny_folder)
    assert "" in PROBES and all(isinstance(tokenizer(text)["input_ids"], list) for text in PROBES)
