"""Do the results that a stage will read belong together? Each was made from those that lie in the run now, up to the data."""

from collections.abc import Sequence

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.run import Chain, Run, in_order, stage_of
from pipeline.graph import BASELINES
from pipeline.settings.config import Config

MOST = 3  # parents that are told; more are only named in the command


def check(run: Run, stage: str, config: Config, without: Sequence[str] = ()) -> None:
    """Raise ArtifactError unless all parents of `stage` are whole and were made from one another, and from what lies in the run now; the
    message has the chain to what is another one, and the command that makes all of them again in their order.

    A parent that is not there is for others to tell, and those `without` are made again anyhow."""
    read = [one for one in in_order(parents(stage, config)) if one not in without]
    for parent in read:
        if (wrong := _damage(run, parent)) is not None:
            raise ArtifactError(f"{wrong}; {run.remedy(parent, anew=True)}")
    chains, stale = _broken(run, read)
    if chains:
        told = [chain.words(run.folder(chain.stages[0])) for chain in chains[:MOST]]
        raise ArtifactError(f"{'; '.join(told)}: they do not belong together; {run.remedy(*in_order(stale))}")


def baselines_to_make(run: Run, config: Config) -> list[str]:
    """The baselines that a comparison reads and that are not there, or were made from parents that are others now."""
    read = parents("compare", config)
    stale = _broken(run, in_order(read))[1]
    own = [stage for stage in read if stage in BASELINES]
    return [one for one in own if one in stale or run.manifest(one) is None or _damage(run, one) is not None]


def _damage(run: Run, stage: str) -> str | None:
    """What is not whole of a stage that is there, by the hashes that are remembered unless all is to be read again."""
    found = run.manifest(stage)
    return None if found is None else run.flaw(stage, found, anew=run.verify)


def _broken(run: Run, stages: list[str]) -> tuple[list[Chain], list[str]]:
    """Where the origins of finished stages end in another parent than is there now, and all that have to be made again for it."""
    chains, stale = list[Chain](), list[str]()
    for stage in stages:
        found = run.manifest(stage)
        if found is None:
            continue
        chains += (own := list(run.broken(stage, found)))
        stale += [one for chain in own for one in chain.stages]
        if any(stage_of(parent["role"]) in stale for parent in found.parents):
            stale.append(stage)
    return chains, stale
