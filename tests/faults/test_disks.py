"""A disk that is full, at any time of any stage: one sentence, nothing half-written in its place, and the same result once there is room."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from disk_walk import STAGES, forget, goes_on, making, refused, whole_walk, with_all_before
from small_disk import Disk, attempt, on_a_disk

from pipeline.training import room
from pipeline.training.context import quiet

FULL = "no space is left on its disk"
LATER = (0.05, 0.5, 0.95)
"""Shares of what a stage writes beyond what is there when it starts: the disk is full behind each of them."""

Tally = Callable[[str], AbstractContextManager[Callable[[str], AbstractContextManager[None]]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs/ of a walk that nothing disturbed, and what each stage left."""
    quiet()
    for stage in STAGES:
        importlib.import_module(f"pipeline.stages.{stage}")
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder / "runs", whole_walk()


def filled(disk: Disk, size: int) -> Callable[[], None]:
    """Makes the disk so small in the stage's process, as soon as the stage has seen that there is room."""

    def before() -> None:
        right = room.check

        def then(*arguments: Any, **more: Any) -> str:
            told = right(*arguments, **more)
            disk.resize(size)
            return told

        room.check = then

    return before


def results(tally: Tally, found: list[tuple[str, str | None]]) -> None:
    with tally("disks") as cases:
        for name, wrong in found:
            with cases(name):
                assert wrong is None, wrong


def held(found: list[tuple[str, str | None]], name: str, look: Callable[[], object]) -> None:
    """One case: what is wrong, or nothing."""
    try:
        look()
        found.append((name, None))
    except (AssertionError, OSError) as error:
        found.append((name, f"{type(error).__name__}: {error}"))


def full_at_every_time(stage: str, whole: Path, reference: dict[str, Any], disk: Disk) -> list[tuple[str, str | None]]:
    """The disk is full at the start, then behind each of LATER, what an attempt left being gone on from; then there is room. And once
    more, full in the middle and room at once."""
    found: list[tuple[str, str | None]] = []
    with_all_before(stage, whole)
    base = disk.used()
    most = disk.most_used(lambda: attempt(making(stage)))
    forget(stage)

    def fails_at(size: int, at_start: bool = False) -> None:
        if at_start:
            disk.resize(size)
        ended = attempt(making(stage), int if at_start else filled(disk, size))
        disk.resize()
        refused(ended, FULL)
        assert "are free of" in ended.error and (at_start or f"{stage} writes about" in ended.error), ended.error
        assert not (Path("runs/r") / stage).exists(), "a folder was published"

    held(found, f"{stage}: full at its start", lambda: fails_at(base, at_start=True))
    for share in LATER if stage != "compare" else LATER[1:2]:  # which writes all at its end, and takes longest
        held(found, f"{stage}: full at {share:.0%}", partial(fails_at, base + int(share * (most - base))))
    held(found, f"{stage}: room at last", lambda: goes_on(stage, reference))
    forget(stage)
    held(found, f"{stage}: full in the middle", lambda: fails_at(base + (most - base) * 3 // 10))
    held(found, f"{stage}: full in the middle, and room", lambda: goes_on(stage, reference))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_ends_no_run(stage: str, whole: tuple[Path, dict[str, Any]], tmp_path: Path, tally: Tally) -> None:
    results(tally, on_a_disk(tmp_path / "disk", lambda disk: full_at_every_time(stage, *whole, disk)))
