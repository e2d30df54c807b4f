"""Is the text for the alignment tax there everywhere, the same every time, and a wrong file told?"""

from pathlib import Path
from typing import Any

import pytest

from data.schema import DataError
from pipeline.comparison.plain_text import passages


def letters(text: str, add_special_tokens: bool) -> dict[str, Any]:
    """A tokenizer of characters."""
    return {"input_ids": [ord(letter) for letter in text]}


def read(found: list[tuple[list[int], list[int]]]) -> list[str]:
    return ["".join(map(chr, first + rest)) for first, rest in found]


def test_python_s_documentation_is_always_there() -> None:
    found = passages(None, letters, 512)
    assert len(found) == 8 and all(len(first) == 1 and len(rest) == 127 for first, rest in found)
    assert len(set(read(found))) == 8 and found == passages(None, letters, 512)


def test_passages_begin_at_paragraphs_spread_over_the_file(tmp_path: Path) -> None:
    """16 paragraphs, 8 passages: every second one begins one."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {number:02}." for number in range(16)))
    assert [text[:13] for text in read(passages(str(path), letters, 20))] == [
        f"Paragraph {number:02}." for number in range(0, 16, 2)
    ]
    assert all(len(text) == 20 for text in read(passages(str(path), letters, 20))[:-1])


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"\xff", "not UTF-8"), (b" \n", "nothing to read")]
)
def test_a_wrong_file_is_told(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        passages(str(path), letters, 20)
