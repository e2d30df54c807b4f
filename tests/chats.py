"""Chat templates in the styles that models come with, written for the tests, and what a conversation teaches, by hand."""

from collections import Counter
from typing import Any

Message = dict[str, str]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# BOS first, and the white space around every message is taken away.
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\\n\\n' + m.content | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n\\n' }}{% endif %}"
)
REFUSING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('only user and assistant roles are supported') }}"
    "{% elif m.role == 'user' %}{{ '[inst]' + m.content + '[/inst]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
# An answer stands behind a space that the generation prompt does not have.
SPACED = REFUSING.replace("{{ m.content + eos_token }}", "{{ ' ' + m.content + eos_token }}")
# The system message stands in the last turn of the user, so that it moves on with every turn.
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set before = messages[0].content + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set before = '' %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '[inst]' + (before if loop.last else '') + m.content + '[/inst]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
# Of earlier answers only what follows the thinking is left.
THINKING = (
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1] if m.role == 'assistant' else m.content %}"
    "{{ '<|' + m.role + '|>' + said + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# An answer that begins with n merges with the a before it when the conversation is rendered as one text.
MERGING = "{% for m in messages %}{{ m.role + 'a' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}assistanta{% endif %}"

STYLES = {
    "chatml": CHATML,
    "trimmed": TRIMMED,
    "refusing": REFUSING,
    "spaced": SPACED,
    "folded": FOLDED,
    "thinking": THINKING,
    "merging": MERGING,
}
WITHOUT_SYSTEM = ("refusing", "spaced")

Taught = Counter[tuple[tuple[int, ...], int]]
"""How often a token is learned after these tokens."""


def by_hand(tokenizer: Any, messages: list[Message], which: str, max_length: int | None = None) -> Taught:
    """What a whole conversation teaches: every answer asked for by itself, token after token, as far as `max_length` goes."""
    taught: Taught = Counter()
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or (which == "last" and place < len(messages) - 1):
            continue
        asked = tokenizer.apply_chat_template(messages[:place], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
        said = (" " if tokenizer.chat_template == SPACED else "") + message["content"]
        answer = tokenizer(said, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for token in answer:
            if max_length is None or len(ids) < max_length:
                taught[tuple(ids), token] += 1
            ids = [*ids, token]
    return taught


def taught_by(rows: list[Any]) -> Taught:
    """What training rows (`ids`, `learned`) teach."""
    return Counter(
        (tuple(row.ids[:place]), token)
        for row in rows
        for place, (token, learned) in enumerate(zip(row.ids, row.learned, strict=True))
        if learned
    )


def dialogue(*turns: str, system: str | None = None) -> list[Message]:
    """Messages of user and assistant in turn."""
    said = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    return said if system is None else [{"role": "system", "content": system}, *said]
