"""How does a completion become tokens behind its prompt, and text again? Found by trial, for each tokenizer and chat template.

Tokenizers differ in what they do where a text begins: some put a space there (SentencePiece, Metaspace) and take it away
again in decoding. A completion is no beginning, so it is encoded and decoded behind a few tokens that stand for its prompt.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from policies.chats import Refused, render
from policies.errors import BackboneError
from policies.limited import stopped
from policies.untyped import Foreign, Tokenizer

START = 2**24
"""Where the completion of an encoder–decoder begins in a row (`policies/seq2seq.py`); above every vocabulary that `strangers.SIZES` lets through."""

Place = Literal["start", "special", "text"]
"""Where a completion stands: after no text at all, right behind a special token, or behind text."""

TRIALS = ("Great.", " great.", "  two", "\nA line\n", "one, two . 12", "«Ünïcode» ", "影评很好", "🎬 end")
ANCHORS = (
    "\n",
    "a",
    ":",
    "1",
    " ",
)  # what stands for a prompt: the first whose tokens do not merge with the completion
QUESTION, ANSWER = "Hello there", "Fine, thanks"


@dataclass(frozen=True)
class Way:
    """One way to encode and decode: behind which texts (the first that does not merge), and behind which tokens."""

    before: tuple[str, ...]
    behind: tuple[int, ...]


@dataclass(frozen=True)
class Around:
    """What a chat template writes around an answer of the assistant.

    `lead` and `tail` are white space before and after it, `end` is the token that closes the turn (None where the template writes none),
    `place` is where the answer stands. `differs` is what prompt and answer, rendered apart, lack of the template's own rendering.
    """

    lead: str = ""
    tail: str = ""
    end: int | None = None
    place: Place = "text"
    differs: str = ""


@contextmanager
def without_panic(tokenizer: Tokenizer, doing: str) -> Iterator[None]:
    """Within the block a panic of the tokenizers' library, which is no Exception, is a BackboneError that names the tokenizer."""
    try:
        yield
    except BaseException as error:
        if (why := stopped(error)) is None:
            raise
        name = tokenizer.name_or_path
        raise BackboneError(f"{name}: its tokenizer {why} where it is to {doing}; use another tokenizer") from None


def tokenized(tokenizer: Tokenizer, *texts: str, **how: Foreign) -> Foreign:
    """What the tokenizer makes of a text, or of two. Raises BackboneError where it panics, as where one of its expressions explodes."""
    with without_panic(tokenizer, f"read a text that begins {(texts or [how['text_target']])[0][:60]!r}"):
        return tokenizer(*texts, **how)


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text and nothing else."""
    return list(tokenized(tokenizer, text, add_special_tokens=False)["input_ids"])


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    with without_panic(tokenizer, "write its tokens as text"):
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def encode(tokenizer: Tokenizer, place: Place, text: str) -> list[int]:
    """Token ids of a text that stands at `place`."""
    return _encode(tokenizer, way(tokenizer, place), text)


def decode(tokenizer: Tokenizer, place: Place, ids: Sequence[int]) -> str:
    """What tokens at `place` read as, special tokens left out and spaces kept as they are."""
    return _decode(tokenizer, way(tokenizer, place), ids)


def _encode(tokenizer: Tokenizer, how: Way, text: str) -> list[int]:
    for before in how.before:
        whole, own = plain(tokenizer, before + text), plain(tokenizer, before) if before else []
        if whole[: len(own)] == own:
            return whole[len(own) :]
    return plain(tokenizer, text)


def _decode(tokenizer: Tokenizer, how: Way, ids: Sequence[int]) -> str:
    head, whole = _decoded(tokenizer, how.behind), _decoded(tokenizer, [*how.behind, *ids])
    return whole[len(head) :] if whole.startswith(head) else _decoded(tokenizer, ids)


@lru_cache(maxsize=16)
def way(tokenizer: Tokenizer, place: Place) -> Way:
    """The first way in which all trial texts at `place` come back as they are, else that in which the most do."""
    text = tuple(plain(tokenizer, "a"))
    apart, anchored = Way(("",), text), Way(ANCHORS, text)
    alone = Way(("",), ())
    special = tokenizer.eos_token or tokenizer.bos_token
    marked = Way((special,), (tokenizer.convert_tokens_to_ids(special),)) if special else alone
    ways = {"start": [alone, anchored], "special": [marked, apart, anchored], "text": [apart, anchored]}[place]

    def kept(how: Way) -> int:
        return sum(_decode(tokenizer, how, _encode(tokenizer, how, trial)) == trial for trial in TRIALS)

    return max(ways, key=kept)  # the first of equals


def lost(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """A text that does not come back from its tokens as it was, and what comes back; None where all come back.

    Characters that the vocabulary lacks do not count: only what the tokenizer changes though it knows it.
    """
    lacking = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(getattr(lacking, "unk_token", None) or "")}
    for text in TRIALS:
        ids = encode(tokenizer, "text", text)
        if (back := decode(tokenizer, "text", ids)) != text and not unknown & {*ids}:
            return text, back
    return None


def _marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Texts that stand for one token each, whatever is around them, longest first."""
    return _marks_of(tokenizer, len(tokenizer))


@lru_cache(maxsize=16)
def _marks_of(tokenizer: Tokenizer, size: int) -> tuple[str, ...]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    found = {*added, *tokenizer.all_special_tokens}
    return tuple(sorted((mark for mark in found if mark.strip()), key=len, reverse=True))


def place_of(tokenizer: Tokenizer, before: str) -> Place:
    """Where a completion stands that follows the text `before`."""
    if not before:
        return "start"
    return "special" if before.endswith(_marks(tokenizer)) else "text"


def around(tokenizer: Tokenizer, template: str | None = None) -> Around:
    """What the chat template, the tokenizer's own unless one is given, writes around an answer; an empty one where it refuses the trial."""
    return _around(tokenizer, template or tokenizer.chat_template)


def rendered(tokenizer: Tokenizer, template: str) -> tuple[str, str] | None:
    """A question as `template` asks it, and the same with its answer; None where it refuses them. Raises as `chats.render` does."""
    question = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER}
    try:
        return render(tokenizer, template, [question], True), render(tokenizer, template, [question, answer], False)
    except Refused:
        return None


@lru_cache(maxsize=16)
def _around(tokenizer: Tokenizer, template: str) -> Around:
    tried = rendered(tokenizer, template)
    if tried is None:
        return Around()
    prompt, whole = tried
    head, found, after = whole.rpartition(ANSWER)
    if not found:
        return Around(differs=f"its chat template does not write an answer of the assistant as it is ({whole!r})")
    lead, differs = "", ""
    if head.startswith(prompt):
        lead = head[len(prompt) :]
        if lead.strip():
            lead, differs = "", f"its chat template writes {lead!r} between its generation prompt and an answer"
    elif not _thought_closed(prompt, head):
        same = _agreeing(prompt, head)
        differs = f"its generation prompt ends in {prompt[same:]!r} where, before an answer, its chat template writes {head[same:]!r}"
    tail, end = _end(tokenizer, after)
    return Around(lead, tail, end, place_of(tokenizer, prompt), differs)


def _end(tokenizer: Tokenizer, after: str) -> tuple[str, int | None]:
    """White space, and the token that closes the turn, of what a template writes after an answer; ("", None) without such a token."""
    places = [(at, mark) for mark in _marks(tokenizer) if (at := after.find(mark)) >= 0]
    if not places:
        return "", None
    at = min(place for place, _ in places)
    mark = next(mark for place, mark in places if place == at)  # the longest of those that begin there
    if after[:at].strip():
        return "", None
    return after[:at], tokenizer.convert_tokens_to_ids(mark)


TAG = re.compile(r"(?P<open>[<\[◁])(?P<name>[^<>\[\]◁▷/|\s]+)(?P<shut>[>\]▷])(?P<space>\s*)$")


def closing_of(prompt: str, head: str) -> str:
    """What closes the thought that a generation prompt opens at its end; "" where it opens none.

    `head` is what the chat template writes before an answer that is there: a tag that stands at the end of `prompt` and not
    there, or is closed there at once, is one that the model is meant to fill before it answers.
    """
    found = TAG.search(prompt)
    if found is None:
        return ""
    closed = f"{found['open']}/{found['name']}{found['shut']}"
    if head.startswith(prompt):
        rest = head[len(prompt) :]
        return rest if rest.strip() == closed else ""
    return found["space"] + closed + "\n\n" if found.start() >= _agreeing(prompt, head) else ""


def _thought_closed(prompt: str, head: str) -> bool:
    """Whether all that a generation prompt has beyond `head` is a thought with nothing in it."""
    rest = prompt[len(head) :].strip()
    opened = TAG.search(rest.partition("/")[0][:-1].strip())
    closed = opened is not None and rest.endswith(f"{opened['open']}/{opened['name']}{opened['shut']}")
    return prompt.startswith(head) and (not rest or closed)


def _agreeing(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
