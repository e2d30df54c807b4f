"""How is text from anywhere shown? With what cannot be seen spelt out, so that no page and no terminal is misled by it."""

import unicodedata
from typing import Any

JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """The text with control characters, marks of direction and half surrogates spelt out; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else _spelt(c) for c in text)


def visible_in(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible_in(key): visible_in(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [visible_in(inner) for inner in value]
    return visible(value) if isinstance(value, str) else value


def _spelt(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) in ("Zs", "Co", "Cn"):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
