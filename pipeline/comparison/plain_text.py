"""What has the model unlearned? Text that has nothing to do with the task, for the perplexity that shows the alignment tax.

InstructGPT calls so what alignment costs elsewhere (Ouyang et al. 2022, arXiv 2203.02155, section 4.2). Without a file of
the user's, the text is Python's own documentation, which lies with every Python (and is that of its version).
"""

from pathlib import Path
from typing import Any

from data.reading.flaws import stop
from policies.framing import plain
from policies.template import Turn, passage

PASSAGES, TOKENS = 8, 128


def passages(path: str | None, tokenizer: Any, longest: int) -> list[Turn]:
    """Up to 8 passages of up to 128 tokens (or `longest`), spread evenly over the text, as what is read and what is said (`passage`).

    Each begins at a paragraph. Raises DataError for a file that is missing, is not UTF-8 or has no such passage.
    """
    text = _documentation() if path is None else _read(path)
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    places = sorted({number * len(paragraphs) // PASSAGES for number in range(PASSAGES)}) if paragraphs else []
    found = []
    for place in places:
        text = "\n\n".join(paragraphs[place : place + TOKENS])
        tokens = plain(tokenizer, text[: 20 * TOKENS])[: min(TOKENS, longest)]
        if len(tokens) > 1:
            found.append(passage(tokenizer, tokens))
    if not found:
        stop(str(path), None, "text", "there is nothing to read in it", "give a file with a few paragraphs")
    return found


def _documentation() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        stop(path, None, "text", f"it is not UTF-8 (byte {error.start})", "save it as UTF-8")
    except OSError:
        stop(path, None, "compare.plain_text", "it cannot be read", "give the path of a text file")
