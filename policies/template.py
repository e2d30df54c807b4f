"""How do prompt and completion become tokens? The one place that renders them, for every stage.

A string prompt is plain text; a list of messages goes through the tokenizer's chat template (TRL's convention). A completion is
rendered apart from its prompt, so that the prompt's tokens are the same when a completion is learned, sampled and scored. It
ends with EOS everywhere, or, behind messages, with what the chat template ends a turn with.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from policies.chats import PLAIN_CHAT as PLAIN_CHAT
from policies.chats import Refused, render
from policies.framing import START, Place, around, decode, encode, place_of, plain, tokenized
from policies.untyped import Tokenizer

PromptText = str | list[dict[str, str]]


def plain_chat(tokenizer: Tokenizer) -> str:
    """PLAIN_CHAT, after whatever the tokenizer puts before every text."""
    begin = "".join(tokenizer.convert_ids_to_tokens(opening(tokenizer)))
    # a token is text: one with braces would be read as a program
    return (f"{{{{ {json.dumps(begin)} }}}}" if "{" in begin else begin) + PLAIN_CHAT


def encode_prompt(tokenizer: Tokenizer, prompt: PromptText) -> list[int]:
    """Token ids of a prompt, with whatever the tokenizer puts before a text (BOS), up to where the completion starts. That of an encoder–decoder
    also has what the tokenizer puts behind a text (EOS), and START (`policies.seq2seq`).

    Never none, as a completion needs something to follow: a text without tokens is BOS, or EOS where there is no BOS.
    Raises ValueError for messages when the tokenizer has no chat template, or one that refuses them.
    """
    ids = _prompt(tokenizer, prompt)
    if splits(tokenizer):
        end = ending(tokenizer)
        return [*ids, *(() if end and ids[-len(end) :] == end else end), START]
    return ids


def _prompt(tokenizer: Tokenizer, prompt: PromptText) -> list[int]:
    if isinstance(prompt, str):
        ids = opening(tokenizer) + plain(tokenizer, prompt)
        return ids or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    if not tokenizer.chat_template:
        raise ValueError(
            "the prompt is a list of messages, and the tokenizer has no chat template; give it one, or use text prompts"
        )
    try:
        text = render(tokenizer, tokenizer.chat_template, prompt, True)
    except Refused as error:
        raise ValueError(f"the tokenizer's chat template refuses the messages ({error}); change their roles") from error
    return plain(tokenizer, text)


def splits(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer is that of an encoder–decoder, which reads prompt and completion apart; `load_tokenizer` says so."""
    return bool(getattr(tokenizer, "encoder_decoder", False))


@lru_cache(maxsize=8)
def opening(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before every text: BOS for some, nothing for others."""
    return _around_text(tokenizer, tokenized(tokenizer, "a")["input_ids"])[0]


@lru_cache(maxsize=8)
def ending(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts behind every text: EOS for some, nothing for others."""
    return _around_text(tokenizer, tokenized(tokenizer, "a")["input_ids"])[1]


@lru_cache(maxsize=8)
def answering(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer of an encoder–decoder puts before what its decoder says, its label as transformers has it: BART's BOS, a language's
    code, nothing for T5."""
    return _around_text(tokenizer, tokenized(tokenizer, text_target="a")["input_ids"])[0]


def _around_text(tokenizer: Tokenizer, whole: Sequence[int]) -> tuple[list[int], list[int]]:
    """What of `whole`, the tokens of the text "a", stands before and behind it."""
    without = plain(tokenizer, "a")
    for start in range(len(whole) - len(without) + 1):
        if list(whole[start : start + len(without)]) == without:
            return list(whole[:start]), list(whole[start + len(without) :])
    return [], []


def closing(tokenizer: Tokenizer, prompt: PromptText) -> int:
    """The token that ends a completion of `prompt`: EOS, or behind messages what the chat template ends an answer with."""
    end = None if isinstance(prompt, str) else around(tokenizer).end
    return tokenizer.eos_token_id if end is None else end


def _place(tokenizer: Tokenizer, prompt: PromptText) -> Place:
    if splits(tokenizer):
        return "start"  # of what the decoder says
    return place_of(tokenizer, prompt) if isinstance(prompt, str) else around(tokenizer).place


def encode_completion(
    tokenizer: Tokenizer, prompt: PromptText, completion: str, max_tokens: int | None = None
) -> list[int]:
    """Token ids of a completion as it stands behind `prompt`, and of its end; cut to `max_tokens` if given (the end goes first, as
    it would in sampling).

    No space is put before it or taken away. Behind messages it has the white space that the chat template writes around an answer.
    """
    if not isinstance(prompt, str):
        frame = around(tokenizer)
        completion = frame.lead + completion + frame.tail
    ids = [*encode(tokenizer, _place(tokenizer, prompt), completion), closing(tokenizer, prompt)]
    return [*(answering(tokenizer) if splits(tokenizer) else ()), *ids][:max_tokens]


def decode_completion(tokenizer: Tokenizer, prompt: PromptText, ids: Sequence[int], ends: Collection[int]) -> str:
    """What a completion reads as behind `prompt`: special tokens left out, and the last token if it is one of `ends`.

    The inverse of `encode_completion`. Tokens that are part of a character only, as where a limit cut it, read as U+FFFD.
    """
    ended = len(ids) > 0 and ids[-1] in ends
    text = decode(tokenizer, _place(tokenizer, prompt), ids[:-1] if ended else ids)
    if isinstance(prompt, str):
        return text
    frame = around(tokenizer)
    text = text.removeprefix(frame.lead)
    return text.removesuffix(frame.tail) if ended else text


Turn = tuple[list[int], list[int]]
"""Token ids of what stands before an answer of the assistant, and of the answer with its EOS."""


def read_at_once(ids: Sequence[int]) -> int:
    """Tokens of a row, prompt and completion, that a model reads at once: all of them, or of an encoder–decoder the longer of its halves."""
    if START not in ids:
        return len(ids)
    at = list(ids).index(START)
    return max(at, len(ids) - at - 1)


def passage(tokenizer: Tokenizer, ids: Sequence[int]) -> Turn:
    """A plain text of two tokens or more as what is read and what is said: its first token and the others; of an encoder–decoder its first
    half and its second, as one that reads a single token has nothing to go by."""
    if splits(tokenizer):
        half = len(ids) // 2
        return [*ids[:half], *ending(tokenizer), START], [*answering(tokenizer), *ids[half:]]
    return list(ids[:1]), list(ids[1:])


def encode_turns(
    tokenizer: Tokenizer, prompt: PromptText, completion: str, which: str = "all", spared: Collection[int] = ()
) -> list[Turn]:
    """Every turn of the assistant in a demonstration, first to last, each as it would be asked for, but for the `spared` messages
    of the prompt; with `which` "last", or for a text prompt, the completion alone."""
    asked: list[tuple[PromptText, str]] = [(prompt, completion)]
    if which == "all" and not isinstance(prompt, str):
        said = [
            (prompt[:n], turn["content"])
            for n, turn in enumerate(prompt)
            if turn["role"] == "assistant" and n not in spared
        ]
        asked = [*said, *asked]
    return [(encode_prompt(tokenizer, p), encode_completion(tokenizer, p, text)) for p, text in asked]


@dataclass(frozen=True)
class Lesson:
    """Token ids of one training row, and which of them are learned (the others are only read)."""

    ids: list[int]
    learned: list[bool]

    def cut(self, length: int) -> "Lesson":
        return Lesson(self.ids[:length], self.learned[:length])


def joined(turns: Sequence[Turn]) -> list[Lesson]:
    """As few rows as teach exactly these turns: a turn that is, token by token, how a longer one begins needs no row of its own.

    With most chat templates that is one row a conversation. Templates that rewrite earlier turns, by taking their thinking out
    for instance, get a row for each way in which the conversation begins.
    """
    lessons: list[Lesson] = []
    for before, answer in reversed(turns):
        whole = before + answer
        lesson = next((one for one in lessons if one.ids[: len(whole)] == whole), None)
        if lesson is None:
            lesson = Lesson(whole, [False] * len(whole))
            lessons.append(lesson)
        lesson.learned[len(before) : len(whole)] = [True] * len(answer)
    return lessons[::-1]


def show_prompt(prompt: PromptText) -> str:
    """A prompt as text for people: messages as `role: content` lines."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def fingerprint(tokenizer: Tokenizer) -> str:
    """Hex sha256 over the tokenizer's vocabulary and rules, its chat template and its special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        rules = {key: state[key] for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")}
        known = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        if added := {token: i for token, i in tokenizer.get_added_vocab().items() if token not in known}:
            rules["added"] = added
    else:
        rules = tokenizer.get_vocab()
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    known = [rules, tokenizer.chat_template, special, *(["encoder-decoder"] if splits(tokenizer) else [])]
    whole = json.dumps(known, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()
