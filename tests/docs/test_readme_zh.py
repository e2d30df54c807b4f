"""Does README.zh.md say what README.md says: the same sections, commands, links, tables and figures, in Chinese?"""

import re

import pytest
from promises import ROOT, problems

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
OTHER = {"README.md", "README.zh.md"}  # each may name the other


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def commands(text: str) -> list[str]:
    """Commands in their order, without what is said of them; from blocks, and from the prose."""
    blocks = re.findall(r"^```(?:python)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    found = [
        line for line in lines if re.match(r"make |python |from |say = |print\(|\w+: runs/|compare: warning", line)
    ]
    return found + sorted(re.findall(r"`((?:make|python) [^`]+)`", prose(text)))


def links(text: str) -> list[str]:
    """Pages and pictures, in their order."""
    return [one for one in re.findall(r"\]\(([^)]+)\)", text) if one not in OTHER]


def codes(text: str) -> list[str]:
    """Files, folders and rows that stand as code."""
    return sorted({one for one in re.findall(r"`([^`\n]+)`", prose(text)) if re.search(r"[/.{]", one)})


def numbers(text: str) -> list[str]:
    """The figures of tables, which no translation may change."""
    return [
        cell for line in text.splitlines() if line.startswith("| ") for cell in re.findall(r"\| ([\d.]+) (?=\|)", line)
    ]


@pytest.mark.parametrize("what", [headings, commands, links, codes, numbers])
def test_the_chinese_readme_is_in_step(what) -> None:
    assert what(CHINESE) == what(ENGLISH) != []


def test_its_tables_have_the_same_rows() -> None:
    rows = [[line.count("|") for line in text.splitlines() if line.startswith("|")] for text in (CHINESE, ENGLISH)]
    assert rows[0] == rows[1]


def test_it_names_only_what_is_there() -> None:
    assert problems(CHINESE) == []


def test_it_is_as_short_and_chinese() -> None:
    assert CHINESE.count("\n") <= 132
    for line in prose(CHINESE).splitlines():
        if len(line) > 40 and not line.startswith("| `{") and "Chicago" not in line:
            assert re.search("[\u4e00-\u9fff]", re.sub(r"`[^`]*`|\([^)]*\)", "", line)), line


def test_it_is_written_as_chinese_is() -> None:
    text = re.sub(r"`[^`\n]*`", "x", re.sub(r"!?\[([^\]]*)\]\([^)]*\)|\*\*", r"\1", prose(CHINESE)))
    assert re.findall("[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]", text) == []
    assert (
        re.findall("[\u4e00-\u9fff][,;:?!()]|[,;?!(][\u4e00-\u9fff]| [，。；：、（）]|[，。；：、（）] (?!\\|)", text)
        == []
    )


def test_each_leads_to_the_other() -> None:
    assert "](README.md)" in CHINESE
