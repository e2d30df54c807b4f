"""Is a file that is nearly of a known form read with its judgements intact, or told? Never silently as something else."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from corpus.mutations import Mutant, mutants

from data.forms.account import Account
from data.loading import scan
from data.reading.options import Options
from data.schema import AnyRow, Demonstration, Judgement, Ranking

EXAMPLES = sorted((Path(__file__).parent / "forms" / "examples").glob("*.jsonl"))
DEEP = 60
"""Changes somewhere inside a row, for each form."""
Said = Counter[tuple[Any, ...]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(content: bytes, path: Path, axis: str | None) -> tuple[Account, Said]:
    path.write_bytes(content)
    rows: dict[int, AnyRow] = {}
    account = scan(str(path), Options(axis=axis), rows.__setitem__, lambda number, problem: rows.pop(number))
    return account, sum((said(row) for row in rows.values()), Counter())


def folded(text: str) -> str:
    return " ".join(text.split())


def said(row: AnyRow) -> Said:
    """What a row says, whatever its ids: each pair of a better and a worse answer, what was shown, liked, or asked."""
    turns = (
        [("user", row.prompt)]
        if isinstance(row.prompt, str)
        else [(turn["role"], turn["content"]) for turn in row.prompt]
    )
    prompt = tuple((role, folded(text)) for role, text in turns)
    if isinstance(row, Ranking):
        ranked = list(zip(row.ranks(), row.completions, strict=True))
        pairs = [(folded(a.text), folded(b.text)) for rank, a in ranked for other, b in ranked if rank < other]
        return Counter({(prompt, *pair) for pair in pairs})
    if isinstance(row, Demonstration):
        return Counter([(prompt, folded(row.completion))])
    return Counter([(prompt, folded(row.completion), row.liked)] if isinstance(row, Judgement) else [(prompt,)])


def silently_other(mutant: Mutant, account: Account, found: Said, truth: Said, plain: Account) -> str:
    """What is wrong with how the file was read; empty where it was read with its judgements intact, or told."""
    if account.fatal:
        return "" if account.problems else "it stops and says nothing"
    told = bool(account.problems) or account.left_out != plain.left_out
    named = told or any(key in account.unread for key in mutant.touched)
    # In a record of Argilla's any text may be an answer that another record ranks: there it is named alone.
    if mutant.must_be_told and not account.problems and not (account.format == "argilla" and named):
        return "nothing is told"
    if not named and found != truth:
        return "it says something else, and nothing is told"
    if found and account.kind != plain.kind and not account.problems and not named:
        return f"{plain.kind} became {account.kind}"
    more = found - truth
    return f"it says what nobody said: {list(more)[0]}" if more and not account.problems else ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_mutant_of_an_example_is_silently_something_else(tmp_path: Path, path: Path) -> None:
    axis = "better" if path.stem == "pku_saferlhf" else None
    rows = read_rows(path)
    file = tmp_path / "rows.jsonl"
    plain, truth = read(path.read_bytes(), file, axis)
    assert truth and not plain.problems
    wrong = []
    for mutant in mutants(rows, len(path.stem), DEEP):
        account, found = read(mutant.content, file, axis)
        if why := silently_other(mutant, account, found, truth, plain):
            wrong.append(f"{mutant.what}: {why}")
    assert wrong == []


def test_there_are_two_thousand_mutants_and_more() -> None:
    made = [mutant for path in EXAMPLES for mutant in mutants(read_rows(path), len(path.stem), DEEP)]
    assert len({mutant.content for mutant in made}) >= 2000 and sum(mutant.must_be_told for mutant in made) >= 200
