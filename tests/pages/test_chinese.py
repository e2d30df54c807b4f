"""Has every fixed text its Chinese, with the same figures and tags, written as Chinese is written? And does English stay what it is?"""

import ast
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import graph
from pipeline.language import (
    DATA,
    PHRASES,
    STORED,
    fixed,
    in_language,
    named,
    phrase,
    recognised,
    retold,
    spoken,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "pipeline").rglob("*.py"))
PAGES = sorted([*(ROOT / "pipeline").rglob("*.j2"), *(ROOT / "pipeline/web/static").glob("*.js")])
FILES = {path.name: path for path in PAGES}
TABLE = table()
ENTRIES = [(section, english, chinese) for section, own in TABLE.items() for english, chinese in own.items()]
# Words that stay: names of models, stages, files, settings, measures, keys and what a program is told.
STAYS = set(
    """sft ppo base KL EOS LLM ID id RUN STAGE Hub JSON JavaScript UTC nat Wilson bootstrap AlpacaEval kappa tau Kendall Krippendorff Bradley
    Terry json csv md html jsonl docs report samples data evaluation config gate gates gold vader token Esc Enter Ctrl Shift manifest make
    rank ppo rankings check transformers log lt kl coef logit softmax PCA SNE COMPLETION CHAT MODEL PROMPTS max new tokens temperature top do sample min seed rejects inspect demo step vs pass Chen""".split()
)


def literals(node: ast.expr) -> Iterator[str]:
    """The texts that an argument may be: a literal, or the branches of a choice between literals."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.Tuple | ast.List):
        for one in node.elts:
            yield from literals(one)


def said(source: str) -> set[str]:
    """Every literal that a source gives to phrase, phrases or fixed, by map too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name, given = node.func.id, list(node.args)
        if name == "map" and isinstance(given[0], ast.Name) and given[0].id in ("fixed", "phrase"):
            name, given = given[0].id, given[1:]
        if name in ("phrase", "fixed"):
            found |= set(literals(given[0]))
        elif name == "phrases":
            found |= {text for one in given for text in literals(one)}
    return found


def in_templates(source: str) -> set[str]:
    """Every literal that a template gives to phrase, in a choice too."""
    found: set[str] = set()
    for call in re.findall(r"phrase\(((?:[^()\"]|\"[^\"]*\"|\([^()]*\))*)\)", source):
        chosen = re.sub(r"(==|\bin\b) *(\"[^\"]*\"|\([^)]*\))|\w+=|\"\w+\": ?", "", call)
        found |= {text for text in re.findall(r'"([^"]*)"', chosen) if text not in ("_", " ")}
    return found


SAID = {text for path in SOURCES for text in said(path.read_text(encoding="utf-8"))}
SAID |= {text for path in PAGES if path.suffix == ".j2" for text in in_templates(path.read_text(encoding="utf-8"))}
SAID |= {stage.help for stage in graph.STAGES.values()} | set(graph.NOTES.values())


def placeholders(text: str) -> Counter[tuple[str, str]]:
    return Counter((name, form) for _, name, form, _ in string.Formatter().parse(text) if name)


def gates() -> set[str]:
    """Names of checks and what helps, as the stages write them into manifests: literals, and constants by their names."""
    found: set[str] = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple | ast.IfExp):
                target, texts = node.targets[0], list(literals(node.value))
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                for place, name in enumerate(names):
                    if isinstance(name, ast.Name) and texts:
                        constants.setdefault(name.id, set()).update(
                            texts if len(names) == 1 else texts[place : place + 1]
                        )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id.startswith("check")
                and node.args
            ):
                if node.func.id not in ("check", "check_interval", "check_gain", "check_learned"):
                    continue
                for one in (node.args[0], *(key.value for key in node.keywords if key.arg == "why")):
                    found |= constants.get(one.id, set()) if isinstance(one, ast.Name) else set(literals(one))
    return {text for text in found if " " in text or text[:1].isupper()} - {""}


def test_literals_are_found_at_all() -> None:
    assert {"Yes", "better", "{number} prompts", "chosen", "high", "is worse than {others}"} <= SAID
    assert {"scores higher", "all are ties", "gate failed", "people prefer"} <= SAID and "_" not in SAID
    assert {"held-out loss", "add rows", "halted by a limit"} <= gates() and len(SAID) > 300


def test_every_phrase_has_its_chinese() -> None:
    assert sorted(text for text in SAID if text.strip() and text not in TABLE[PHRASES]) == []


def test_every_gate_has_its_chinese() -> None:
    with spoken("zh"):
        assert sorted(text for text in gates() if recognised(text) == text and not text.isupper()) == []


def test_the_table_holds_nothing_that_is_not_said() -> None:
    """What was reworded in English would else stay English, and its Chinese a dead letter."""
    assert sorted(set(TABLE[PHRASES]) - SAID - DYNAMIC) == []
    for section in set(TABLE) - {PHRASES, STORED, DATA}:
        source = FILES[section].read_text(encoding="utf-8")
        lost = [key for key in TABLE[section] if not re.search(r"\s+".join(map(re.escape, key.split())), source)]
        assert lost == [], f"{section} says this no longer"


def test_what_is_said_of_data_is_said_by_the_code() -> None:
    sources = [*SOURCES, *(ROOT / "data").rglob("*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    said = "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    pieces = {piece.strip(" ,;()") for key in TABLE[DATA] for piece in re.split(r"\{\w+\}", key)}
    assert sorted(piece for piece in pieces if piece not in said) == []


# Given to `phrase` by a name that is read off data: keys of the provenance, of what judging cost, of the report's labels.
DYNAMIC = set(
    """run made data seed decoding libraries hardware models votes annotators pairs calls failures inconsistent texts cut base rankings
    tokens characters human gold LLM independent optimised""".split()
) | {
    "score that was optimised",
    "git commit",
    "training seeds",
    "models of other runs",
    "not asked",
    "votes on other answers",
}


def test_the_same_figures_stand_on_both_sides() -> None:
    for english, chinese in TABLE[PHRASES].items():
        assert set(placeholders(english)) == set(placeholders(chinese)), english
    for english, chinese in [*TABLE[STORED].items(), *TABLE[DATA].items()]:
        if "the loss before" not in english:
            assert set(placeholders(english)) == set(placeholders(chinese)), english


def code(text: str) -> Counter[str]:
    """What of a template's or script's piece is no text: tags, expressions, without the literals in them."""
    text = re.sub(r'\{\{ "" if [^}]* == 1 else "s" \}\}', "", text)  # a plural, which Chinese has not
    text = re.sub(r' ?(aria-label|title)="(?:[^"{}]|\{[^}]*\})*"', " ", text)
    text = re.sub(r'join\("[^"]*"\)', "join", text)
    parts = re.findall(r"</?\w+[^>]*>|\{\{.*?\}\}|\{%.*?%\}|\$\{[^{}`]*\}", text)
    return Counter(re.sub(r"\s+", " ", re.sub(r'"[^"]*"', '""', part)) for part in parts)


@pytest.mark.parametrize("section", sorted(set(TABLE) - {PHRASES, STORED, DATA}))
def test_the_same_tags_and_expressions_stand_on_both_sides(section: str) -> None:
    for english, chinese in TABLE[section].items():
        if "toLocaleString" not in english:
            assert code(english) == code(chinese), english


HAN = "\u4e00-\u9fff"


def test_chinese_is_written_as_chinese_is() -> None:
    """A space between Chinese and Latin letters or digits, none at full-width punctuation, which is what Chinese has."""
    for section, english, chinese in ENTRIES:
        text = re.sub(r"<[^>]+>", "", chinese) if "<" in chinese else chinese
        where = f"{section}: {english}"
        if section in (PHRASES, STORED, DATA):
            assert not re.search(rf"[{HAN}][A-Za-z0-9]|[A-Za-z0-9][{HAN}]", text), where
            assert not re.search(rf"[{HAN}][,;:?!()]|[,;:?!(][{HAN}]", text), where
        assert not re.search(
            r" [，。；：、（）！？]|[，。；：、（）！？] (?![·|])", re.sub(r"\{[{%].*?[%}]\}", "x", text)
        ), where
        assert (
            re.search(rf"[{HAN}，。；：、（）…]", chinese)
            or english in SAME
            or english.strip(" .") == ""
            or " / " in chinese
        ), where


SAME = {"distinct-2", "LLM", "KL", "EOS", "nats", "{own:.1f} {unit}", " ", "tokens", "none of the", "{rate:.1%} of the"}
SAME |= {"token", "new Date(last.at).toLocaleString()", "{sft:.2f} to {own:.2f} nats"}


def visible(source: str) -> Iterator[str]:
    """What a template shows: its texts and the labels of its elements, without code."""
    source = re.sub(r"\{% macro figure_style.*?endmacro %\}", " ", source, flags=re.DOTALL)
    source = re.sub(
        r"\{#.*?#\}|<style>.*?</style>|<script.*?</script>|<code.*?</code>|<kbd>.*?</kbd>|<option value=\"\w*\">\w*_\w*<",
        " ",
        source,
        flags=re.DOTALL,
    )
    source = re.sub(r"\{%[^%]*%\}|\{\{.*?\}\}", " ", source, flags=re.DOTALL)
    yield from re.findall(r'(?:aria-label|title|placeholder)="([^"]*)"', source)
    yield re.sub(r"<[^>]*>", " ", source, flags=re.DOTALL)


@pytest.mark.parametrize(
    "path",
    [one for one in PAGES if one.suffix == ".j2" and ".css" not in one.name and ".js." not in one.name],
    ids=lambda path: path.name,
)
def test_a_template_shows_no_english_in_chinese(path: Path) -> None:
    with spoken("zh"):
        source = in_language(path.name, path.read_text(encoding="utf-8"))
    left = [word for text in visible(source) for word in re.findall(r"[A-Za-z]{2,}", text) if word not in STAYS]
    assert left == []


@pytest.mark.parametrize(
    "path", [one for one in PAGES if one.suffix == ".js" or ".js." in one.name], ids=lambda path: path.name
)
def test_a_script_says_no_english_sentence_in_chinese(path: Path) -> None:
    with spoken("zh"):
        source = in_language(path.name, path.read_text(encoding="utf-8"))
    source = re.sub(r"^\s*(//|/\*\*).*$|\s// .*$", "", source, flags=re.MULTILINE)
    source = re.sub(r"class: [^,{}]*(?:\$\{[^}]*\}[^,{}]*)*[,}]", "", source)
    source = re.sub(
        r'(class|querySelector(All)?|className|setAttribute|closest|matches)\W{1,4}["`][^"`]*["`]', "", source
    )
    texts = [one or other for one, other in re.findall(r'"([^"\n]*)"|`([^`\n]*)`', source)]
    bare = [re.sub(r"\$\{[^}]*\}?", " ", text) for text in texts]
    left = [text for text in bare if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}|^[A-Z][a-z]{2,}$", text)]
    assert [text for text in left if not re.search(CODE, text)] == []


CODE = r"^(use strict|make [a-z]+ *|Arrow\w+|Home|End|Enter|Escape|Backspace|Content-Type|POST|GET|same-origin|input, .*|button, a|.*\[.*\].*|AbortError|Han|Hiragana|Katakana|Bopomofo|Thai|Lao|Myanmar|Khmer|Ahom|[\w ]+stroke.*|INPUT|SELECT|TEXTAREA|Infinity|color-mix.*|this one|text prompt|held-out reward|.*：make .*)$"


def test_english_is_what_is_written() -> None:
    for path in PAGES:
        source = path.read_text(encoding="utf-8")
        assert in_language(path.name, source) == source
    assert phrase("{share:.1%} of {name}", share=0.5, name="x") == "50.0% of x" and recognised("add rows") == "add rows"
    assert named("report.html") == "report.html"


def test_a_sentence_is_told_again_in_another_language_with_all_that_is_in_it() -> None:
    first = phrase(
        "Only {prompts}: too few to tell it from {other}.", prompts=phrase("{number} prompts", number=3), other="sft"
    )
    assert first == "Only 3 prompts: too few to tell it from sft."
    with spoken("zh"):
        assert retold(first) == "只有 3 个提示：太少，无法与 sft 区分。"
        assert phrase("no such text {x}", x=1) == "no such text 1"  # what is not in the table stays English
        assert named("report.html") == "report.zh.html" and fixed("Yes") == "Yes" and phrase("Yes") == "是"
    assert retold("as it is") == "as it is" and retold(first) == first


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("at least 1, better 100", "不低于 1，最好 100"),
        ("below 0.6931, the loss before", "低于训练前的损失 0.6931"),
        ("interval 0.612 to 0.700: its upper end at least 0.55, better its lower end above 0.5", "区间 0.612 至 0.700：上端不低于 0.55，下端最好高于 0.5"),
        ("-0.001 to 0.001", "-0.001 至 0.001"),
        ("a sentence of somebody's own, 4", "a sentence of somebody's own, 4"),
    ],
)  # fmt: skip
def test_what_lies_in_a_manifest_is_recognised(english: str, chinese: str) -> None:
    with spoken("zh"):
        assert recognised(english) == chinese
