"""Which models of other runs does a comparison take? `demo/ppo` in compare.models is the ppo model of run demo.

A name of two parts is one where the second is a stage that publishes a policy (or such a model of another seed, as ppo_seed_1), or the
first is a run; a folder that lies there by that name comes first, and any other name is a Hub id.
"""

from pathlib import Path

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.graph import SEEDED, STAGES
from pipeline.settings.config import Config


def is_of_another_run(run: Run, name: str) -> bool:
    """Whether a name of compare.models is RUN/STAGE, though neither may be there."""
    other, _, folder = name.partition("/")
    if not other or not folder or "/" in folder or Path(name).exists():
        return False
    return _is_policy(folder) or (run.root / other).is_dir()


def of_other_runs(run: Run, config: Config) -> tuple[str, ...]:
    """The models of other runs that compare.models names. Raises ArtifactError for all that are not there, with what is."""
    names = tuple(name for name in config.compare.foreign() if is_of_another_run(run, name))
    wrong = [wrong for name in names if (wrong := _missing(run, name)) is not None]
    if wrong:
        raise ArtifactError("\n".join(wrong))
    return names


def open_models(run: Run, config: Config) -> dict[str, Manifest]:
    """Their manifests, every file checked by its hash and every gate asked. What they were made of need not be there any more."""
    found = {}
    for name in of_other_runs(run, config):
        other, folder = run.at(name)
        found[name] = other.require(folder, force=config.force, lineage=False)
    return found


def there(run: Run) -> list[str]:
    """All models of all runs, as compare.models names them."""
    found = []
    for path in sorted(run.root.glob("*/*/manifest.json")):
        if _is_policy(path.parent.name):
            found.append(f"{path.parent.parent.name}/{path.parent.name}")
    return found


def _missing(run: Run, name: str) -> str | None:
    other, folder = name.split("/")
    if (run.root / other / folder / "manifest.json").is_file() and _is_policy(folder):
        return None
    every = there(run)
    what = "no finished model of that name" if (run.root / other).is_dir() else f"no run {other}"
    known = f"there are {', '.join(every)}" if every else "no run has a model yet"
    return (
        f"compare.models: {name}: {what} in {run.root}; {known}; a model that lies elsewhere is named by its whole path"
    )


def _is_policy(folder: str) -> bool:
    stage, seed, number = folder.partition("_seed_")
    if stage not in STAGES or not STAGES[stage].policy:
        return False
    return not seed or (stage in SEEDED and number.isdigit())
