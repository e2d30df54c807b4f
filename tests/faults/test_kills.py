"""Does a stage that is killed at any of its file calls end with the same bits, leave nothing behind, and never stop for good?"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from killing import RUN, Uninterrupted, killed, made, outcome, sound

Tally = Callable[[str], AbstractContextManager[Callable[[str], AbstractContextManager[None]]]]

# how many of its file calls each stage is killed at
POINTS = {
    **{"data": 90, "best_of_n": 80, "ppo": 30, "compare": 14},
    **dict.fromkeys(("sft", "reward", "rloo", "rft"), 24),
    **dict.fromkeys(("gold", "dpo", "kto"), 18),
}
PARTS = 2  # tests of each stage, so that two processes share them


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


def matrix(tally: Tally, uninterrupted: Uninterrupted, folder: Path, stage: str, points: Sequence[int]) -> None:
    wanted, calls = uninterrupted.of(stage)
    with tally("kills") as cases:
        for at in points:
            with cases(f"{stage}, killed at call {at} of {len(calls)}: {calls[at]}"):
                kill_and_go_on(uninterrupted.case(folder / "case", stage), stage, wanted, [at])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("stage", list(POINTS))
def test_a_stage_that_is_killed_anywhere_ends_with_the_same_bits(
    tally: Tally, uninterrupted: Uninterrupted, tmp_path: Path, stage: str, part: int
) -> None:
    points = spread(len(uninterrupted.of(stage)[1]), POINTS[stage], part, PARTS)
    matrix(tally, uninterrupted, tmp_path, stage, points)


def test_a_few_of_them(tally: Tally, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    matrix(tally, uninterrupted, tmp_path, "data", spread(len(uninterrupted.of("data")[1]), 12, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["data", "sft", "ppo", "best_of_n"])
def test_a_stage_that_is_killed_again_while_it_goes_on(
    tally: Tally, uninterrupted: Uninterrupted, tmp_path: Path, stage: str
) -> None:
    """Twice, the second time soon after the start: what it finds is put in order then."""
    wanted, calls = uninterrupted.of(stage)
    with tally("kills") as cases:
        for number, first in enumerate(spread(len(calls), 8, 0, 1)):
            at = [first, (3, 9, 17, 30)[number % 4]]
            with cases(f"{stage}, killed at calls {at}, {calls[first]}"):
                kill_and_go_on(uninterrupted.case(tmp_path / "case", stage), stage, wanted, at)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["data", "best_of_n"])
def test_a_former_result_is_kept_whenever_its_successor_is_killed(
    tally: Tally, uninterrupted: Uninterrupted, tmp_path: Path, stage: str
) -> None:
    """The last moments, in which both change places; the stage's place is never empty, and the former result comes back whole."""
    before, back = ("seed=7",), ("seed=7",)
    wanted, calls = uninterrupted.of(stage, before=before)
    former, _ = uninterrupted.of(stage, *back)
    swap = next(i for i, call in enumerate(calls) if call.startswith("exchange"))
    with tally("kills") as cases:
        for at in range(swap - 8, len(calls)):
            with cases(f"{stage}, made before with another seed, killed at {calls[at]}"):
                folder = uninterrupted.case(tmp_path / "case", stage)
                sound(killed(folder, -1, lambda: made(stage, *before)))
                assert killed(folder, at, lambda: made(stage)).code in (-9, 0)
                assert (folder / "runs" / RUN / stage / "manifest.json").is_file()
                kill_and_go_on(folder, stage, wanted, [])
                sound(killed(folder, -1, lambda: made(stage, *back)))
                found = {k: v for k, v in outcome(folder, stage).items() if ".kept" not in k}
                assert not (lost := difference(found, former)), lost
