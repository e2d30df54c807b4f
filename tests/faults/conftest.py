"""What do the tests of faults share? Cases that are counted by kind, and the table that `make faults` ends with."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

AT_LEAST = {
    "names": 40,
    "lineage": 20,
    "kills": 400,
    "bytes": 2000,
    "signals": 24,
    "pairs": 20,
    "disks": 70,
    "hostile": 90,
}
"""How many cases of each kind `make faults` tries; fewer fail it."""

HEADINGS = ("class", "at least", "tried", "held")
_counts = {kind: [0, 0] for kind in AT_LEAST}  # tried, held; of the process that reports

Cases = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str], AbstractContextManager[Cases]]:
    """`with tally(kind) as cases`, and in it `with cases(name)` once a case: it held if its block ends without an exception. All
    are tried; the test fails with a list of those that did not hold."""

    @contextmanager
    def counted(kind: str) -> Iterator[Cases]:
        assert kind in AT_LEAST, f"{kind}: one of {', '.join(AT_LEAST)}"
        tried, lost = [0], list[str]()

        @contextmanager
        def case(name: str) -> Iterator[None]:
            tried[0] += 1
            try:
                yield
            except (Exception, SystemExit, KeyboardInterrupt, pytest.fail.Exception) as error:
                lost.append(f"{name}: {type(error).__name__}: {error}")

        try:
            yield case
        finally:
            record_property("faults", [kind, tried[0], tried[0] - len(lost)])
        assert not lost, f"{len(lost)} of {tried[0]} did not hold:\n" + "\n".join(lost)
        assert tried[0], "no case was tried"

    return counted


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stages that nothing interrupts: killing.Uninterrupted."""
    return importlib.import_module("killing").Uninterrupted(tmp_path_factory.mktemp)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-matrix", action="store_true", help="fail where fewer cases were tried than AT_LEAST says")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        for name, value in report.user_properties:
            if name == "faults":
                kind, tried, held = value
                _counts[kind][0] += tried
                _counts[kind][1] += held


def short() -> list[str]:
    """The kinds of which too few cases were tried."""
    return [kind for kind, least in AT_LEAST.items() if _counts[kind][0] < least]


def pytest_sessionfinish(session: pytest.Session) -> None:
    reports = not hasattr(session.config, "workerinput")
    if reports and session.config.getoption("--whole-matrix") and short() and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--whole-matrix"):
        return
    terminalreporter.section("faults")
    rows = [HEADINGS, *((kind, str(least), *map(str, _counts[kind])) for kind, least in AT_LEAST.items())]
    for kind, *figures in rows:
        terminalreporter.line(f"  {kind:<10}" + "".join(f"{figure:>10}" for figure in figures))
    for kind in short():
        terminalreporter.line(
            f"error: {kind}: {_counts[kind][0]} cases were tried, at least {AT_LEAST[kind]} belong to it"
        )
