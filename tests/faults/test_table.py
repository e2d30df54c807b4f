"""Does the table of faults count what was tried, and fail where too little was?"""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HOLDS = """
def test_it(tally):
    with tally("names") as cases:
        for n in range({count}):
            with cases(f"name {{n}}"):
                assert n != {bad}
"""


@pytest.fixture
def matrix(pytester: pytest.Pytester) -> pytest.Pytester:
    text = (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8")
    kinds = text.partition("AT_LEAST = {")[2].partition("}")[0]
    pytester.makeconftest(text.replace(kinds, '"names": 3'))
    return pytester


@pytest.mark.parametrize(
    ("count", "bad", "code", "row"),
    [(3, -1, 0, ["3", "3", "3"]), (2, -1, 1, ["3", "2", "2"]), (4, 1, 1, ["3", "4", "3"])],
    ids=["all held", "too few", "one not held"],
)
@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two"])
def test_the_table(
    matrix: pytest.Pytester, count: int, bad: int, code: int, row: list[str], processes: tuple[str, ...]
) -> None:
    matrix.makepyfile(HOLDS.format(count=count, bad=bad))
    done = matrix.runpytest_subprocess("--whole-matrix", *processes)
    assert done.ret == code
    assert ["names", *row] in [line.split() for line in done.outlines]
    told = any("2 cases were tried, at least 3" in line for line in done.outlines)
    assert told is (count < 3)
    assert any("1 of 4 did not hold" in line for line in done.outlines) is (bad == 1)
