"""What is left in a text of the web page or the wrong decoding that it came through?"""

import re
import unicodedata
from functools import cache
from html import unescape
from html.entities import html5
from typing import Any

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85]")
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")

# "&copy=1" in an address is no entity, so one counts only with its semicolon and under its full name.
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
BREAKS = "blockquote br center dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p table tbody td tfoot th thead tr ul".split()
INLINE = "a abbr b big cite del em font i img ins mark q s small span strike strong sub sup tt u".split()
# An attribute has its "=", or "if a <b and c> d" would lose its middle.
TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>{'|'.join(sorted(BREAKS + INLINE, key=len, reverse=True))})"
    r"(?:\s+[a-z][a-z-]*\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=]+))*\s*/?>",
    re.IGNORECASE,
)
ALONE = {"br", "hr", "img"}
CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`|<pre\b.*?</pre\s*>|<code\b.*?</code\s*>)", re.DOTALL | re.IGNORECASE)
PAGE = re.compile(r"<!doctype\b|<html\b|<script\b|<style\b", re.IGNORECASE)
CLOSING = re.compile(r"</([a-z][a-z0-9]*)\s*>", re.IGNORECASE)


def nfc(text: str) -> str:
    """Unicode's composed form; another writing of the same characters."""
    return unicodedata.normalize("NFC", text)


def control_characters(text: str) -> str:
    r"""Every kind of line end as \n, and no control characters but \n and \t."""
    return CONTROLS.sub("", LINE_ENDS.sub("\n", text))


def mojibake(text: str) -> str:
    """Text that was decoded wrongly, put right by ftfy; quotes, ligatures and widths stay as they are."""
    import ftfy  # only for whoever switches this on

    return ftfy.fix_text(text, _only_encoding())


@cache
def _only_encoding() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )


def html(text: str) -> str:
    """No entities and no tags of running text; the tags that begin or end a line or a paragraph become a line end.

    Left alone: code between backticks or in <pre> and <code>, whole pages and scripts, comparisons (`a < b`), and an
    opening tag after a word, as in Map<b>, that is never closed.
    """
    if ("&" not in text and "<" not in text) or PAGE.search(text):
        return text
    pieces = CODE.split(text)
    pieces[::2] = [ENTITY.sub(_character, piece) for piece in pieces[::2]]
    closed = {name.lower() for piece in pieces[::2] for name in CLOSING.findall(piece)}
    last = len(pieces) - 1
    pieces[::2] = [_without_tags(pieces[n], closed, at_end=n == last) for n in range(0, last + 1, 2)]
    return "".join(pieces)


def _character(entity: re.Match[str]) -> str:
    written = entity.group()
    return unescape(written) if written[1] == "#" or written[1:] in html5 else written


def _without_tags(text: str, closed: set[str], at_end: bool) -> str:
    def instead(tag: re.Match[str]) -> str:
        name = tag["name"].lower()
        after_word = tag.start() > 0 and (text[tag.start() - 1].isalnum() or text[tag.start() - 1] == "_")
        if after_word and not tag["close"] and name not in closed | ALONE:
            return tag.group()
        ends_line = name in BREAKS and (tag["close"] or name in ALONE)
        return "\n" if ends_line and not (at_end and tag.end() == len(text)) else ""

    return TAG.sub(instead, text)
