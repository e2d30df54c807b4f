"""How do prompt and completion become tokens? The one place that renders them, for every stage.

A string prompt is plain text; a list of messages goes through the tokenizer's chat template (TRL's convention). A completion is
rendered apart from its prompt, so that the prompt's tokens are the same when a completion is learned, sampled and scored, and it
ends with EOS everywhere.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import TemplateError

from policies.untyped import Tokenizer

PromptText = str | list[dict[str, str]]

PLAIN_CHAT = (
    "{% for message in messages %}"
    "{{ '' if loop.first else '\\n\\n' }}{{ message['role'] | capitalize }}:{{ '\\n' }}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif %}"
)
"""Chat template of a model that has none: `User:`, `Assistant:` and the like on lines of their own. What is sampled goes on to be
the beginning of the next turn's prompt, EOS included."""


def plain_chat(tokenizer: Tokenizer) -> str:
    """PLAIN_CHAT, after whatever the tokenizer puts before every text."""
    return "".join(tokenizer.convert_ids_to_tokens(opening(tokenizer))) + PLAIN_CHAT


def encode_prompt(tokenizer: Tokenizer, prompt: PromptText) -> list[int]:
    """Token ids of a prompt, with whatever the tokenizer puts before a text (BOS), up to where the completion starts.

    Never none, as a completion needs something to follow: a text without tokens is BOS, or EOS where there is no BOS.
    Raises ValueError for messages when the tokenizer has no chat template, or one that refuses them.
    """
    if isinstance(prompt, str):
        ids = opening(tokenizer) + list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return ids or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    if not tokenizer.chat_template:
        raise ValueError(
            "the prompt is a list of messages, and the tokenizer has no chat template; give it one, or use text prompts"
        )
    try:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise ValueError(f"the tokenizer's chat template refuses the messages ({error}); change their roles") from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=8)
def opening(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before every text: BOS for some, nothing for others."""
    with_special, without = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return list(with_special[:start])
    return []


def encode_completion(tokenizer: Tokenizer, completion: str, max_tokens: int | None = None) -> list[int]:
    """Token ids of a completion and the closing EOS; cut to `max_tokens` if given (EOS goes first, as it would in sampling)."""
    ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return ids[:max_tokens]


Turn = tuple[list[int], list[int]]
"""Token ids of what stands before an answer of the assistant, and of the answer with its EOS."""


def encode_turns(tokenizer: Tokenizer, prompt: PromptText, completion: str, which: str = "all") -> list[Turn]:
    """Every turn of the assistant in a demonstration, first to last, each as it would be asked for; with `which` "last", or
    for a text prompt, the completion alone."""
    turns = [(encode_prompt(tokenizer, prompt), encode_completion(tokenizer, completion))]
    if which == "last" or isinstance(prompt, str):
        return turns
    earlier = [(prompt[:n], turn["content"]) for n, turn in enumerate(prompt) if turn["role"] == "assistant"]
    return [(encode_prompt(tokenizer, p), encode_completion(tokenizer, said)) for p, said in earlier] + turns


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


def decode_completion(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of sampled tokens, special tokens left out, spaces kept as they are."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


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
    whole = json.dumps([rules, tokenizer.chat_template, special], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()
