"""How is a stage trained again with further seeds, and which of the models that gave belong together? No torch import.

    make ppo SEEDS=3        python -m pipeline ppo recipes/film_reviews.yaml --seeds 3

The stage alone is trained again, on the same data, sft model and reward model; `ppo/` keeps the recipe's seed, and seed 1
lies beside it in `ppo_seed_1/`, published as any stage is. Stage compare finds those that fit, and report/seed_spread.py
says how far they are apart.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.graph import SEEDED
from pipeline.settings.config import Config
from pipeline.settings.deciding import deciding

if TYPE_CHECKING:
    from pipeline.artifacts.run import Run

GOLD = 1  # what stage gold adds to the seed, so that it does not begin as the reward model did


def with_seed(stage: str, config: Config, run: "Run", further: int = 0) -> tuple[Config, "Run"]:
    """The config and the run that `stage` is made with: with the seed `further` after the recipe's, beside its own folder; a
    comparison that has a name, in a folder of that name."""
    if stage == "compare" and config.compare.name is not None:
        return config, replace(run, beside={**run.beside, stage: f"compare-{config.compare.name}"})
    if stage == "gold":
        return config.model_copy(update={"seed": config.seed + GOLD}), run
    if not further:
        return config, run
    config = config.model_copy(update={"seed": config.seed + further})
    return config, replace(run, beside={**run.beside, stage: f"{stage}_seed_{config.seed}"})


@dataclass(frozen=True)
class Sibling:
    """One model of a stage trained with several seeds; `folder` is its place in the run, such as ppo_seed_1."""

    stage: str
    folder: str
    seed: int
    gate: str


def siblings(run: "Run", stage: str) -> list[Sibling]:
    """The published models of a stage, its own first, then those of other seeds that fit it, by seed: the same settings
    but for the seed and what only observes, made from the same parents. None where the stage itself is not there or not one of `SEEDED`."""
    own = run.manifest(stage) if stage in SEEDED else None
    if own is None:
        return []

    def origin(manifest: Any) -> Any:
        settings = {name: value for name, value in deciding(manifest.config["settings"]).items() if name != "seed"}
        return settings, [(parent["role"], parent["sha256"]) for parent in manifest.parents]

    found = []
    for folder in _folders(run, stage):
        other = run.manifest(folder)
        fits = other is not None and str(other.seed) == folder.rpartition("_seed_")[2]
        if other is not None and fits and other.seed != own.seed and origin(other) == origin(own):
            # one that failed its gate stays: to leave out the seeds that went wrong would make the spread look small
            found.append(Sibling(stage, folder, other.seed, other.gate["result"]))
    return [Sibling(stage, stage, own.seed, own.gate["result"]), *sorted(found, key=lambda one: one.seed)]


def further(run: "Run", config: Config) -> list[Sibling]:
    """The models of further seeds of all stages that compare.models names."""
    return [one for stage in config.compare.models if stage in SEEDED for one in siblings(run, stage)[1:]]


def strays(run: "Run", config: Config) -> list[str]:
    """The folders of further seeds that do not fit the stage as it is now, of those stages."""
    fitting = [one.folder for one in further(run, config)]
    every = [folder for stage in config.compare.models if stage in SEEDED for folder in _folders(run, stage)]
    return [folder for folder in every if folder not in fitting]


def _folders(run: "Run", stage: str) -> list[str]:
    names = sorted(path.name for path in (run.root / run.name).glob(f"{stage}_seed_*"))
    return [name for name in names if name.rpartition("_seed_")[2].lstrip("-").isdigit()]  # no .partial
