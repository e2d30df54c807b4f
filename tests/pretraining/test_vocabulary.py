"""Is a vocabulary learned from the training documents alone, and does every text come back from its tokens?"""

import json
from pathlib import Path
from typing import Any

import pytest
from small_corpus import sentences
from transformers import AutoTokenizer

from pipeline.artifacts.errors import ArtifactError
from pipeline.pretraining.causal import CAUSAL
from pipeline.pretraining.tokenizer import encoder, learned, saved
from pipeline.pretraining.tokens import encoded, opened, written
from pipeline.settings.pretrain import Pretrain
from policies.framing import TRIALS, lost
from policies.probing import check_reads
from policies.template import decode_completion, encode_completion, encode_prompt, fingerprint
from policies.tokenizers import load_tokenizer


def made(folder: Path, texts: list[str], size: int = 300) -> Any:
    section = Pretrain(source="a.txt", vocab_size=size)
    return saved(learned(texts, section, CAUSAL.special), CAUSAL.special, section, folder)


def test_every_text_comes_back(tmp_path: Path) -> None:
    """Also what no training document had, and the names of special tokens, which in a document are text."""
    tokenizer = made(tmp_path, sentences(100))
    rules = encoder(tokenizer)
    for text in (*TRIALS, "龘𝔘🎬\u200d\x00\t\r\n", "<|end|><|begin|>", "12345 1.5", "\ufeff a  b "):
        ids = rules.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text and min(ids) >= len(CAUSAL.special)
    assert lost(tokenizer) is None
    check_reads(tmp_path, None)


def test_a_prompt_begins_as_a_document_does_and_a_completion_ends_as_one(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, sentences(100))
    whole = next(
        encoded(["the cat sees a river."], encoder(tokenizer), [tokenizer.bos_token_id], [tokenizer.eos_token_id])
    )
    prompt, rest = encode_prompt(tokenizer, "the cat"), encode_completion(tokenizer, "the cat", " sees a river.")
    assert (
        prompt + rest == whole
        and decode_completion(tokenizer, "the cat", rest, [tokenizer.eos_token_id]) == " sees a river."
    )
    messages = [{"role": "user", "content": "the cat"}]
    assert encode_prompt(tokenizer, messages)[0] == tokenizer.bos_token_id


def test_what_is_published_loads_alike_without_our_code(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, sentences(100))
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(tokenizer)
    plain = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert plain("the cat")["input_ids"] == encode_prompt(tokenizer, "the cat")
    assert [plain.pad_token, plain.bos_token, plain.eos_token] == ["<|pad|>", "<|begin|>", "<|end|>"]


def test_merges_are_of_the_training_documents_alone(tmp_path: Path) -> None:
    """A character that only held-out documents have is bytes; of the training documents, Chinese words are single tokens, and digits stay apart."""
    tokenizer = made(tmp_path, [*sentences(100), *["影评很好 2024"] * 60], 330)
    rules = encoder(tokenizer)
    assert len(rules.encode("猩", add_special_tokens=False).ids) == 3
    assert len(rules.encode("影评很好", add_special_tokens=False).ids) == 1
    assert len(rules.encode("2024", add_special_tokens=False).ids) == 4
    assert len(rules.encode(" likes", add_special_tokens=False).ids) == 1


def test_the_same_documents_give_the_same_vocabulary(tmp_path: Path) -> None:
    """A resumed attempt learns it anew."""
    first, second = (made(tmp_path / name, sentences(160), 340) for name in ("a", "b"))
    assert json.loads(first.backend_tokenizer.to_str()) == json.loads(second.backend_tokenizer.to_str())


def test_more_tokens_than_the_corpus_gives_are_refused() -> None:
    with pytest.raises(
        ArtifactError, match=r"pretrain\.vocab_size: a\.txt gives \d+ tokens .* set pretrain\.vocab_size=\d+"
    ):
        learned(["one or two words"] * 3, Pretrain(source="a.txt", vocab_size=5000), CAUSAL.special)


def test_documents_are_read_from_the_file_as_they_were_written(tmp_path: Path) -> None:
    rows = [[1, 5, 6, 2], [1, 2], [1, 70000, 2]]
    written(rows, tmp_path)
    found = opened(tmp_path)
    assert [found.document(n).tolist() for n in range(len(found))] == rows and len(found.ids) == 9
