"""Is every byte of what the real stages publish watched over? All files of a walk with gold model and all baselines, and its base model."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import PARENTS, made, settings

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed

pytestmark = pytest.mark.slow
STAGES = [*(stage for stage in PARENTS if stage != "compare"), "compare"]
FLIPS = 5  # of each file


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("real"))
        for stage in STAGES:
            made(stage)
        (folder,) = (path for path in Path("runs").iterdir() if not path.name.startswith("."))
        yield Run(folder.name)


def damages(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Bits at the first and last byte and at places drawn by the file's name; an end cut off; a byte more; nothing."""
    raw, drawn = path.read_bytes(), random.Random(str(path.name))
    for place in {0, len(raw) - 1, *(drawn.randrange(len(raw)) for _ in range(FLIPS - 2))} if raw else ():
        yield f"bit at {place}", raw[:place] + bytes([raw[place] ^ (1 << drawn.randrange(8))]) + raw[place + 1 :]
    yield from (("cut by one", raw[:-1]), ("longer by one", raw + b"\0")) if raw else (("longer", b"\0"),)
    yield "missing", None


def test_every_file_that_is_published_and_of_the_base_model(walk: Run, tally: Any) -> None:
    with tally("bytes") as cases:
        for stage in STAGES:
            config, run = with_seed(stage, settings(), walk)
            run.require(stage, force=True)
            assert finished(run, stage, config) is not None
            for path in sorted(path for path in run.folder(stage).rglob("*") if path.is_file()):
                raw = path.read_bytes()
                for what, other in damages(path):
                    with cases(f"{path}: {what}"):
                        path.unlink() if other is None else path.write_bytes(other)
                        try:
                            with pytest.raises(ArtifactError, match="runs/"):
                                run.require(stage, force=True, lineage=False)
                            told = None
                            try:
                                told = finished(run, stage, config)
                            except ArtifactError:
                                pass
                            assert told is None
                        finally:
                            path.write_bytes(raw)
            assert finished(run, stage, config) is not None
        for path in sorted(path for path in Path("runs/.cache/tiny-random").rglob("*") if path.is_file()):
            raw = path.read_bytes()
            for what, other in damages(path):
                with cases(f"{path}: {what}"):
                    path.unlink() if other is None else path.write_bytes(other)
                    stale = [stage for stage in ("data", "sft") if finished(walk, stage, settings()) is None]
                    path.write_bytes(raw)
                    assert stale == ["data", "sft"]
