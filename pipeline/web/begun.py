"""With which settings was the attempt begun that is at work now? Found in commands that are at hand, and taken only where they prove true.

A partial folder says a hash of all that its attempt was begun from, not the settings. So the command lines of the processes that make it,
and of the stages of its run, are tried: the one whose settings give that very hash is the one.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import inputs_of
from pipeline.artifacts.ownership import LOCK, MANIFEST, begun_from
from pipeline.artifacts.run import Run, stage_of
from pipeline.artifacts.seeds import with_seed
from pipeline.commands import ROOT
from pipeline.graph import STAGES
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load

AGAIN = 30.0  # seconds after which what was found, or not, is looked for again
ANCESTORS = 12  # processes above the one that holds the lock: launchers, supervisors, make


def config_of(run: Run, folder: str) -> Config | None:
    """The settings of the attempt in the partial folder of `folder` (such as ppo or ppo_seed_1); None where they are not known."""
    begun = begun_from(run.root / run.name / f"{folder}.partial")
    if not begun:
        return None
    return _proven(run.root, run.name, folder, begun, tuple(_commands(run, folder)), int(time.monotonic() // AGAIN))


@lru_cache(maxsize=64)
def _proven(
    root: Path, name: str, folder: str, begun: str, commands: tuple[tuple[str, tuple[str, ...]], ...], when: int
) -> Config | None:
    stage, seed = stage_of(folder), folder.partition("_seed_")[2]
    tries = [(path, overrides) for recipe, overrides in commands for path in (Path(recipe), ROOT / recipe)]
    for path, overrides in dict.fromkeys(tries) if stage in STAGES else ():
        with suppress(ConfigError, ArtifactError, OSError, ValueError):
            config = load(path, overrides)
            further = int(seed) - config.seed if seed else 0
            config, run = with_seed(stage, config, Run(name, root), further)
            if inputs_of(run, stage, config) == begun:
                return config
    return None


def _commands(run: Run, folder: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Recipes and overrides: of the processes that work there now, then of the stages of the run, the newest first."""
    yield from _of_processes(run.root / run.name / f"{folder}.partial" / LOCK)
    found = []
    for path in (run.root / run.name).glob(f"*/{MANIFEST}"):
        with suppress(OSError, ValueError):
            manifest = manifests.read(path)
            if manifest.command is not None:
                found.append(
                    (manifest.finished, manifest.command["recipe"], tuple(map(str, manifest.command["overrides"])))
                )
    yield from ((recipe, overrides) for _, recipe, overrides in sorted(found, reverse=True))


def _of_processes(lock: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the process that holds a lock, and those that started it, were given; nothing where /proc does not tell."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        process = int(json.loads(lock.read_text(encoding="utf-8"))["pid"])
        for _ in range(ANCESTORS):
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if (given := given_in(words)) is not None:
                yield given
            # the name in the second field may hold blanks and brackets of its own
            process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def given_in(words: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """The recipe and the overrides in the words of a command line of ours; None where it is none."""
    place = next((n for n, word in enumerate(words) if word.endswith((".yaml", ".yml"))), None)
    if place is None:
        return None
    overrides = [word for word in words[place + 1 :] if "=" in word and not word.startswith("-")]
    return words[place], tuple(overrides)
