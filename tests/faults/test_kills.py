"""Does a stage that is killed at any of its file calls end with the same bits, leave nothing behind, and never stop for good?"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from killing import PARENTS, RUN, Ended, case, killed, made, outcome, warmed

Tally = Callable[[str], AbstractContextManager[Callable[[str], AbstractContextManager[None]]]]

# how many of its file calls each stage is killed at
POINTS = {
    **dict.fromkeys(("data", "best_of_n"), 64),
    **dict.fromkeys(("sft", "reward", "ppo", "rloo", "rft"), 34),
    **dict.fromkeys(("gold", "dpo", "kto"), 28),
    "compare": 24,
}
PARTS = 2  # tests of each stage, so that two processes share them


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, with what the other stages are made from."""
    folder = tmp_path_factory.mktemp("whole")
    for stage in PARENTS:
        importlib.import_module(f"pipeline.stages.{stage}")
    importlib.import_module("pipeline.training.context").quiet()
    for stage in ("data", "sft", "reward", "ppo"):
        ended = warmed(folder, lambda stage=stage: made(stage))
        assert ended.code == 0, ended.told
    return folder


@pytest.fixture(scope="session")
def expected(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, str], list[str]]]:
    """What a stage publishes that nothing interrupts, and the file calls of it."""
    known: dict[tuple[str, ...], tuple[dict[str, str], list[str]]] = {}

    def of(stage: str, *more: str, before: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
        key = (stage, *more, "|", *before)
        if key not in known:
            folder = case(tmp_path_factory.mktemp(stage), whole, PARENTS[stage])
            if before:
                assert killed(folder, -1, lambda: made(stage, *before)).code == 0
            if key[:1] not in known:
                warmed(folder, lambda: made(stage, *more))
                case(folder, whole, PARENTS[stage])
                if before:
                    killed(folder, -1, lambda: made(stage, *before))
            calls = folder / "calls.txt"
            ended = killed(folder, -1, lambda: made(stage, *more), calls)
            assert ended.code == 0, ended.told
            known[key] = outcome(folder, stage), calls.read_text().splitlines()
            assert f"runs/{RUN}/{stage}.partial" not in known[key][0]
        return known[key]

    return of


def sound(ended: Ended) -> None:
    """It went to its end, and nothing in what it said is a traceback."""
    assert ended.code == 0 and "Traceback" not in ended.told, f"exit code {ended.code}: {ended.told[-1500:]}"


def spread(calls: int, points: int, part: int, parts: int) -> list[int]:
    """`part` of so many of the calls, evenly: the last ones, in which the result takes its place, are all among them."""
    last = min(12, points // 2)
    even = [round(i * (calls - last) / (points - last)) for i in range(points - last)]
    return [*even, *range(calls - last, calls)][part::parts]


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    return ", ".join(sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)))


def kill_and_go_on(folder: Path, stage: str, wanted: dict[str, str], at: Sequence[int], *more: str) -> None:
    """Killed at the file calls `at`, one start after the other; then once more, and nothing is told apart from what nothing interrupted."""
    for place in at:
        ended = killed(folder, place, lambda: made(stage, *more))
        assert ended.code in (-9, 0) and "Traceback" not in ended.told, f"exit code {ended.code}: {ended.told[-1500:]}"
    sound(killed(folder, -1, lambda: made(stage, *more)))
    assert not (lost := difference(outcome(folder, stage), wanted)), f"other than uninterrupted: {lost}"


def matrix(tally: Tally, whole: Path, expected: Any, folder: Path, stage: str, points: Sequence[int]) -> None:
    wanted, calls = expected(stage)
    with tally("kills") as cases:
        for at in points:
            with cases(f"{stage}, killed at call {at} of {len(calls)}: {calls[at]}"):
                kill_and_go_on(case(folder / "case", whole, PARENTS[stage]), stage, wanted, [at])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("stage", list(POINTS))
def test_a_stage_that_is_killed_anywhere_ends_with_the_same_bits(
    tally: Tally, whole: Path, expected: Any, tmp_path: Path, stage: str, part: int
) -> None:
    points = spread(len(expected(stage)[1]), POINTS[stage], part, PARTS)
    matrix(tally, whole, expected, tmp_path, stage, points)


def test_a_few_of_them(tally: Tally, whole: Path, expected: Any, tmp_path: Path) -> None:
    """One stage of each kind: rows, a Trainer's checkpoints, samples."""
    for stage, points in (("data", 8), ("best_of_n", 6)):
        matrix(tally, whole, expected, tmp_path, stage, spread(len(expected(stage)[1]), points, 0, 1))
    wanted, calls = expected("ppo")
    with tally("kills") as cases:
        for wanted_call in ("save_file", "rename", "state.json"):
            at = next(i for i in range(len(calls) // 2, len(calls)) if wanted_call in calls[i])
            with cases(f"ppo, killed at {calls[at]}"):
                kill_and_go_on(case(tmp_path / "case", whole, PARENTS["ppo"]), "ppo", wanted, [at])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "ppo", "rft", "best_of_n"])
def test_a_stage_that_is_killed_again_while_it_goes_on(
    tally: Tally, whole: Path, expected: Any, tmp_path: Path, stage: str
) -> None:
    """Twice, the second time soon after the start: what it finds is put in order then."""
    wanted, calls = expected(stage)
    with tally("kills") as cases:
        for number, first in enumerate(spread(len(calls), 8, 0, 1)):
            at = [first, (3, 9, 17, 30)[number % 4]]
            with cases(f"{stage}, killed at calls {at}, {calls[first]}"):
                kill_and_go_on(case(tmp_path / "case", whole, PARENTS[stage]), stage, wanted, at)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["data", "best_of_n"])
def test_a_former_result_is_kept_whenever_its_successor_is_killed(
    tally: Tally, whole: Path, expected: Any, tmp_path: Path, stage: str
) -> None:
    """The last moments, in which both change places; the stage's place is never empty, and the former result comes back whole."""
    before, back = ("seed=7",), ("seed=7",)
    wanted, calls = expected(stage, before=before)
    former, _ = expected(stage, *back)
    swap = next(i for i, call in enumerate(calls) if call.startswith("exchange"))
    with tally("kills") as cases:
        for at in range(swap - 8, len(calls)):
            with cases(f"{stage}, made before with another seed, killed at {calls[at]}"):
                folder = case(tmp_path / "case", whole, PARENTS[stage])
                sound(killed(folder, -1, lambda: made(stage, *before)))
                assert killed(folder, at, lambda: made(stage)).code in (-9, 0)
                assert (folder / "runs" / RUN / stage / "manifest.json").is_file()
                kill_and_go_on(folder, stage, wanted, [])
                sound(killed(folder, -1, lambda: made(stage, *back)))
                found = {k: v for k, v in outcome(folder, stage).items() if ".kept" not in k}
                assert not (lost := difference(found, former)), lost
