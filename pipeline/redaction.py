"""What in a text is a secret, and how is it kept out of all that is written? The one place for sentences, manifests, pages, cards, logs, trackers.

A secret is the value of an environment variable that is called like one (HF_TOKEN, OPENAI_API_KEY, …), a key that was used (`keep`), the
user and password of an address and what its query gives to such a name, and what has the shape of a well-known service's key. A known
value is found as it stands, wrapped over lines, and as addresses, JSON, HTML and base64 write it. No secret may be a setting (`reason`):
then none can come into what a stage hands on.
"""

import base64
import os
import re
import sys
from functools import lru_cache
from html import unescape
from typing import Any, TextIO
from urllib.parse import unquote

HIDDEN = "[secret]"
SHORTEST = 8
"""Characters from which on the value of a variable is taken for a secret; a key that was used is one at half of that."""
LONG_PART = 12
"""Characters of a part of a secret that is one itself."""
VARIABLES = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|SECRET_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_ID)?$", re.I
)
SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|(?:AKIA|ASIA)[0-9A-Z]{12,}|AIza[\w-]{30,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|glpat-[\w-]{16,}|npm_[A-Za-z0-9]{30,}|r8_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{16,}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|xai-[A-Za-z0-9]{16,}|nvapi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?i:bearer)[ \t]+(?=\S*\d|\S{20})[\w.~+/=-]{8,}|(?i:basic)[ \t]+(?=\S*\d|\S{20})[\w.~+/=-]{12,}"
    r")|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
SK = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}")
"""What OpenAI's keys begin with, and many words that are joined with hyphens; `_is_key` tells them apart."""
NAMES = r"[\w.%-]*(?:key|token|secret|password|passwd|pwd|auth|sig|signature|credentials?)"
"""What in a query names a secret."""
ADDRESSES = re.compile(rf"(?i)(?P<user>(?<=://)[^\s/@\"'<>?#]+@)|(?P<query>[?&;]{NAMES}=)[^\s&;#\"'<>]+")

_kept: set[str] = set()


def keep(secret: str) -> None:
    """From now on this is a secret, whatever it looks like."""
    if len(secret) >= SHORTEST // 2:
        _kept.add(secret)


def redacted(text: str) -> str:
    """The text with HIDDEN in the place of every secret."""
    if known := _known():
        flat = _flat(text)
        for secret in known:
            if secret.inside(flat):
                text = secret.hidden(text)
    text = SHAPES.sub(HIDDEN, text)
    if "sk-" in text:
        text = SK.sub(lambda found: HIDDEN if _is_key(found[0]) else found[0], text)
    if "://" in text or "=" in text:
        text = ADDRESSES.sub(lambda found: f"{HIDDEN}@" if found["user"] else f"{found['query']}{HIDDEN}", text)
    return text


def redacted_in(value: Any) -> Any:
    """The same for all texts in a JSON value, the names in it too."""
    if isinstance(value, dict):
        return {redacted_in(name): redacted_in(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_in(inner) for inner in value]
    return redacted(value) if isinstance(value, str) else value


def reason(text: str) -> str | None:
    """Why a text must not be a setting or a name: what secret it holds, in words that do not repeat it; None: it holds none."""
    for name, value in os.environ.items():
        if _is_secret(name, value) and _Known(value).inside(_flat(text)):
            return f"the value of the environment variable {redacted(name)}"
    if redacted(text) == text:
        return None
    return "a user, a password or a key in an address" if ADDRESSES.search(text) else "what looks like a key"


def watch_terminal() -> None:
    """From now on nothing that this process writes to its terminal holds a secret, tracebacks included."""
    sys.stdout, sys.stderr = _Watched.around(sys.stdout), _Watched.around(sys.stderr)


def show(text: str) -> None:
    """A line on the terminal as it stands: for a secret of this process's own, which is made to be read there."""
    stream = sys.stdout._stream if isinstance(sys.stdout, _Watched) else sys.stdout
    print(text, file=stream, flush=True)


class _Watched:
    """A stream of text that is written with secrets taken out, and otherwise the one that it stands before."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    @staticmethod
    def around(stream: Any) -> Any:
        return stream if stream is None or isinstance(stream, _Watched) else _Watched(stream)

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


ESCAPED = re.compile(
    r"\\u([0-9A-Fa-f]{4})|((?:\\x[0-9A-Fa-f]{2})+)|\\[nrt]|&(?:\#[xX]?[0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos);|(?:%[0-9A-Fa-f]{2})+"
)
"""A character, or a run of them, as JSON, Python, HTML or an address may write it."""


def _meant(found: re.Match[str]) -> str:
    """What an escaped character stands for; a line's end stands for nothing here."""
    if found[1]:
        return chr(int(found[1], 16))
    if found[2]:
        raw = bytes.fromhex(found[2].replace("\\x", ""))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")
    return unescape(found[0]) if found[0][0] == "&" else unquote(found[0]) if found[0][0] == "%" else ""


def _bare(text: str) -> str:
    """Without what wrapping and escaping put between characters, and with one alphabet for both kinds of base64."""
    return "".join(text.split()).replace("\\", "").replace("+", "").replace("-", "").replace("_", "/")


def _flat(text: str) -> str:
    return _bare(ESCAPED.sub(_meant, text) if any(mark in text for mark in "\\&%") else text)


class _Known:
    """A secret that is known, and how it is found in a text that may write it in many ways."""

    def __init__(self, value: str):
        raw = value.encode("utf-8", "surrogateescape")
        # of its base64 what is the same whatever stands around it, behind nothing, one or two other bytes
        coded = [_aligned(raw, before) for before in range(3)] if len(raw) >= SHORTEST else []
        # a part of it that a command line takes for an option's or a setting's name gives it away too
        parts = [part for part in value.split("=") if len(part) >= LONG_PART]
        ways = [*map(_flat, [value, *parts]), _bare(value), *map(_bare, coded), raw.hex()]
        self.ways = sorted({way for way in ways if len(way) >= SHORTEST // 2}, key=len, reverse=True)

    def inside(self, flat: str) -> bool:
        return any(way in flat for way in self.ways)

    def hidden(self, text: str) -> str:
        """The text, in which it is, without it."""
        flat, places = _placed(text)
        spans = []
        for way in self.ways:
            at = flat.find(way)
            while at >= 0:
                spans.append((places[at][0], places[at + len(way) - 1][1]))
                at = flat.find(way, at + len(way))
        made, end = [], 0
        for begin, stop in sorted(spans):
            if begin >= end:
                made += [text[end:begin], HIDDEN]
            end = max(end, stop)
        return "".join([*made, text[end:]])


def _placed(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`_flat` of a text, and for each of its characters the part of the text that it is from."""
    flat: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    for found in [*ESCAPED.finditer(text), None]:
        begin, end = found.span() if found else (len(text), len(text))
        pieces = [(text[n], n, n + 1) for n in range(at, begin)] + ([(_meant(found), begin, end)] if found else [])
        for piece, first, last in pieces:
            bare = _bare(piece)
            flat.append(bare)
            places += [(first, last)] * len(bare)
        at = end
    return "".join(flat), places


def _aligned(raw: bytes, before: int) -> str:
    whole = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
    return whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


def _known() -> tuple[_Known, ...]:
    values = {value for name, value in os.environ.items() if _is_secret(name, value)} | _kept
    return _as_known(frozenset(values))


@lru_cache(maxsize=8)
def _as_known(values: frozenset[str]) -> tuple[_Known, ...]:
    return tuple(_Known(value) for value in sorted(values, key=len, reverse=True))  # a longer one may hold another


def _is_secret(name: str, value: str) -> bool:
    return len(value.strip()) >= SHORTEST and VARIABLES.search(name) is not None


def _is_key(text: str) -> bool:
    """Whether what begins with sk- is a key: words joined by hyphens, such as a folder of runs has, are none."""
    body = text[3:]
    mixed = re.search(r"[A-Z]", body) and re.search(r"[a-z]", body) and re.search(r"\d", body)
    return bool(mixed or re.search(r"\d{6}", body) or any(len(one) >= 16 for one in re.split("[-_]", body)))
