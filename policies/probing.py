"""Does a tokenizer read any text, and in time? Tried in a fork with limits before it is loaded here: its expressions may explode, and its
library panics, which is no Exception and writes to the terminal."""

import string
from pathlib import Path

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from policies.errors import BackboneError
from policies.limited import Beyond, limited
from policies.strangers import check_folder, file_of, signature
from policies.untyped import Foreign, Tokenizer

SECONDS, MEMORY = 60.0, 4 * 2**30
LONG = 2000  # characters of a run: what takes n² steps of them takes a moment, what takes n⁴ or 2ⁿ takes for ever
MOST_TOKENS = 200_000
"""Tokens that no probe becomes: some hundred a character."""
WORDS = "the quick brown fox it's 1,234.50 jumps_over THE lazy-dog Ünïcode 影评很好 "
PROBES = (
    *(one * LONG for one in ("a", " ", "1", ".", "\n", "é", "影")),
    # an expression that ends in a letter is not tried at all on a text without that letter
    *(one * LONG + string.printable for one in ("a", "A", " ", "1", ".", "-", "_", "\n", "é", "影")),
    *(one * 100 + string.printable for one in string.punctuation + string.ascii_letters),
    *(pair * (LONG // 2) + "!" for pair in ("ab", "a ", "a\n", " \n", "a1", "aA", "a.", "'s", "<|", "--")),
    WORDS * 20,
    " ".join(["word"] * 200) + string.printable,
    "🎬 \u200b \u202e \U000e0aaa \ue000 \ufeff",
    "",
)


def check_reads(path: str | Path, revision: str | None = None) -> None:
    """Raise BackboneError where a tokenizer panics, or takes more time or memory than it may, while it is loaded or reads and writes PROBES.
    Folders are looked at once for as long as their files are the same."""
    check_folder(path, revision)
    known = (str(path), signature(path))
    if known in _READ:
        return
    file = None if known[1] else file_of(str(path), "tokenizer.json", revision)
    if not known[1] and file is None:
        return  # who loads it says so
    try:
        limited(lambda: _tried(path, file), SECONDS, MEMORY)
    except Beyond as error:
        raise BackboneError(f"{path}: its tokenizer {error}; use another tokenizer") from None
    _READ.add(known)


_READ: set[Foreign] = set()  # what was looked at, by the signature of its folder


def _tried(path: str | Path, file: str | None) -> None:
    """What the fork does. What no library panics at, such as a file that is not there, is told by who loads it."""
    try:
        tokenizer: Tokenizer = (
            AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
            if file is None
            else Backend.from_file(file)
        )
    except Exception:
        return
    for text in PROBES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] if file is None else tokenizer.encode(text).ids
        if len(ids) > MOST_TOKENS:
            raise ValueError(f"{len(text)} characters become {len(ids)} tokens")
        written = tokenizer.decode(ids)
        if len(written) > 100 * MOST_TOKENS:
            raise ValueError(f"{len(ids)} tokens become {len(written)} characters")
    for texts in (("a",), ("a", "b")) if file is None else ():
        ids = tokenizer(*texts)["input_ids"]
        if None in (told := tokenizer.convert_ids_to_tokens(ids)):
            raise ValueError(f"it puts token {ids[told.index(None)]} around texts, which it does not have")
