"""Did the stages that are read stay what they were, to the end? One that is made again meanwhile is told, so that nothing mixes two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256
from pipeline.artifacts.ownership import MANIFEST, using
from pipeline.artifacts.run import Run


@contextmanager
def unchanged(run: Run, what: str, stages: Sequence[str], after: bool = True) -> Iterator[None]:
    """Raise ArtifactError where one of `stages`, or roles, has become another until the block ends, or (not `after`) until it fails:
    that is why it failed. `what` is the work in the block, as a user calls it."""
    before = _known(run, stages)
    with using(run.root / run.name) if (run.root / run.name).is_dir() else nullcontext():
        try:
            yield
        except Exception as error:
            if others := _changed(run, before):
                raise ArtifactError(_told(run, what, others)) from error
            raise
        if after and (others := _changed(run, before)):
            raise ArtifactError(_told(run, what, others))


def _told(run: Run, what: str, others: Sequence[str]) -> str:
    how = f"make {what} again" if run.call is None else f"run: {run.call.again()}"
    folders = ", ".join(str(run.folder(stage)) for stage in others)
    return f"{folders}: made again or removed while {what} read it, so nothing was made of it; wait until that is done, then {how}"


def _changed(run: Run, before: dict[str, str | None]) -> list[str]:
    now = _known(run, list(before))
    return [stage for stage, known in before.items() if now[stage] != known]


def _known(run: Run, stages: Sequence[str]) -> dict[str, str | None]:
    """What tells each stage from another one of its name: the hash of its manifest, None where there is none."""
    found: dict[str, str | None] = {}
    for stage in stages:
        try:
            found[stage] = sha256(run.folder(stage) / MANIFEST)
        except OSError:
            found[stage] = None
    return found
