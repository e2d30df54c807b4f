"""Is every file of the corpus, and any other, accepted rightly or refused where it is wrong, with no row lost?"""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corpus import Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from data.forms.account import Account
from data.forms.table import FORMATS
from data.loading import scan, to_rows
from data.reading import json_rows, sources
from data.reading.json_rows import careful_row
from data.reading.options import Options
from data.reading.quick import quick_row
from data.schema import DataError

CASES = cases()
EXAMPLES = sorted((Path(__file__).parent / "forms" / "examples").iterdir())


def scanned(path: Path, **options: Any) -> tuple[Account, dict[int, Any]]:
    """The account, and the rows that stood to the end."""
    rows: dict[int, Any] = {}
    account = scan(str(path), Options(**options), rows.__setitem__, lambda number, problem: rows.pop(number))
    return account, rows


def complete(account: Account, rows: dict[int, Any]) -> None:
    """Every row was used, left out by design or rejected for something that was told."""
    assert account.kept == len(rows)
    assert account.kinds.total() >= account.rejected.total()
    assert bool(account.problems) == bool(account.kinds)
    if not account.fatal:
        assert account.read == account.used + account.left_out.total() + account.rejected.total()


def test_the_corpus_is_large_and_has_every_kind_of_bad_input() -> None:
    """The kinds are numbered from 1 to 20 in the plan's list of bad input."""
    assert len(CASES) >= 200
    assert {case.kind for case in CASES} == set(range(21))
    assert sum(not case.wrong for case in CASES) >= 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_accepted_rightly_or_refused_where_it_is_wrong(folder: Path, case: Case) -> None:
    path = folder / case.name
    path.write_bytes(case.content)
    account, rows = scanned(path)
    complete(account, rows)
    assert {problem.file for problem in account.problems} <= {str(path)}
    told = [(problem.line, problem.field, f"{problem.problem}; {problem.fix}") for problem in account.problems]
    missing = [w for w in case.wrong if not any(w[:2] == one[:2] and w.says in one[2] for one in told)]
    assert not missing and len(told) == len(case.wrong), told
    assert account.fatal == (case.rows is None)
    if case.rows is not None:
        assert (account.read, account.used, account.left_out.total()) == (case.rows, case.used, case.left_out)
        assert account.format == case.format
        assert len(rows) == (case.used if case.kept is None else case.kept)
    if not case.wrong:
        assert len(to_rows(str(path)).rows) == len(rows)
        return
    with pytest.raises(DataError) as caught:
        to_rows(str(path), Options(skip_bad=case.rows is None or not case.used))
    place = f"{path}: " if case.wrong[0].line is None else f"{path}:{case.wrong[0].line}: "
    assert place in str(caught.value)
    if case.rows is not None and case.used:
        loaded = to_rows(str(path), Options(skip_bad=True))
        assert len(loaded.rows) == len(rows) and len(loaded.rejects) == account.rejected.total()
        assert json.dumps([reject.to_json() for reject in loaded.rejects], allow_nan=False)


def test_what_is_read_fast_is_what_is_read_with_care() -> None:
    """Line by line over the corpus; `repr` tells 1 from 1.0 and True, and -0.0 from 0.0."""
    sure = 0
    for case in CASES:
        for raw in case.content.split(b"\n"):
            row, problems = quick_row(raw), []
            if row is not None:
                careful = careful_row(raw, "f", 1, problems)
                assert problems == [] and repr(row) == repr(careful), (case.name, raw[:200])
                sure += 1
    assert sure > 800


def test_an_array_is_read_the_same_in_whatever_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array of the corpus that is not long, whole and then a byte or five at a time."""
    path = folder / "pieces.json"
    arrays = [case for case in CASES if case.content.lstrip()[:1] == b"[" and len(case.content) < 5000]
    assert len(arrays) > 100
    for case in arrays:
        path.write_bytes(case.content)
        monkeypatch.setattr(json_rows, "CHUNK", 1 << 20)
        whole, rows = scanned(path)
        for size in (1, 5):
            monkeypatch.setattr(json_rows, "CHUNK", size)
            assert scanned(path) == (whole, rows), case.name


SEEDS = [path.read_bytes() for path in EXAMPLES] + [case.content for case in CASES if len(case.content) < 20_000]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file of the corpus or an example with bytes turned over, cut out, doubled, or spliced into another."""
    raw = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 40)))
        how = draw(st.integers(0, 4))
        if how == 0 and start < len(raw):
            raw[start] = draw(st.integers(0, 255))
        elif how == 1:
            del raw[start:end]
        elif how == 2:
            raw[start:start] = raw[start:end]
        elif how == 3:
            raw[start:end] = draw(
                st.sampled_from([b'"', b"\n", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\xff"])
            )
        else:
            other = draw(st.sampled_from(SEEDS))
            raw[start:] = other[draw(st.integers(0, len(other))) :]
    return bytes(raw)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.binary(max_size=80), mutated()), st.sampled_from([None, None, *FORMATS]))
def test_no_bytes_lead_to_a_traceback_or_a_silent_drop(tmp_path_factory, content: bytes, format: str | None) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes"
    path.write_bytes(content)
    account, rows = scanned(path, format=format)
    complete(account, rows)
    assert account.fatal <= bool(account.problems)
    assert rows or account.problems or account.left_out
    try:
        loaded = to_rows(str(path), Options(format=format, skip_bad=True))
    except DataError as error:
        assert str(error)
        return
    assert len(loaded.rows) == len(rows)
    for row in loaded.rows:
        assert type(row).from_json(json.loads(json.dumps(row.to_json()))) == row


LINES = [line for path in EXAMPLES if path.suffix == ".jsonl" for line in path.read_bytes().splitlines()]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(LINES),
            st.binary(max_size=30),
            st.sampled_from(LINES).flatmap(lambda line: st.integers(0, len(line)).map(lambda end: line[:end])),
        ),
        max_size=6,
    )
)
def test_every_line_that_is_not_blank_is_accounted_for(tmp_path_factory, lines: list[bytes]) -> None:
    """The lines of a file of JSON lines are counted here by hand."""
    content = b"\n".join([b'{"prompt": "a river?"}', *(line.replace(b"\n", b"").replace(b"\0", b"") for line in lines)])
    path = tmp_path_factory.getbasetemp() / "any-lines"
    path.write_bytes(content)
    account, rows = scanned(path, format="prompt")
    complete(account, rows)
    assert account.read == sum(bool(line.strip()) for line in content.split(b"\n"))


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    0.5,
    "",
    " ",
    "a",
    "user",
    "assistant",
    "c0",
    "N/A",
    "tie",
    [],
    {},
    [[]],
    ["a"],
]
VALUES += [
    [None],
    [0],
    [[0], [1]],
    {"role": "user", "content": "a"},
    [{"role": "user", "content": "a"}],
    1e308,
    10**400,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in inside for place in places(inner, (*path, key))]


def changed(row: Any, path: tuple[Any, ...], how: int, other: Any) -> None:
    """Put another value there, take it away, or rename its key."""
    *before, last = path
    for step in before:
        row = row[step]
    if how == 0:
        del row[last]
    elif how == 1 and isinstance(row, dict):
        row[f"{last}x"] = row.pop(last)
    else:
        row[last] = other


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_no_value_in_a_row_leads_to_a_traceback(tmp_path: Path, path: Path) -> None:
    """The example's rows, again and again with one value changed: each is used, left out or refused by its line."""
    found = [row.row for row in sources.read(str(path), [])]
    chance = random.Random(7)
    rows = list(found)
    for number in range(150):
        row = json.loads(json.dumps(found[number % len(found)]))
        changed(row, chance.choice(places(row)), chance.randrange(6), chance.choice(VALUES))
        rows.append(row)
    name = path.name.split(".")[0]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    axis = "better" if name == "pku_saferlhf" else None
    account, kept = scanned(file, format=name, axis=axis)
    complete(account, kept)
    assert (account.read, account.fatal) == (len(rows), False)
    assert account.used and account.rejected
    for problem in account.problems:
        assert 1 <= (problem.line or 0) <= len(rows) and problem.field and problem.problem and problem.fix


@pytest.mark.parametrize(
    "name",
    ["pretty.jsonl", "wrapped-data.json", "csv-unclosed-header.csv", "encoded-utf-16.csv"],
)
def test_the_command_line_exits_2_with_the_place_and_no_traceback(tmp_path: Path, name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    path = tmp_path / case.name
    path.write_bytes(case.content)
    command = [sys.executable, "-m", "pipeline", "data-check", str(path), "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    line = case.wrong[0].line
    assert f"{path}:{line}: " in done.stdout if line else f"{path}: " in done.stdout
    assert case.wrong[0].says in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert [error["line"] for error in json.loads((tmp_path / "out.json").read_text())["errors"]] == [line]
