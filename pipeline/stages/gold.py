"""Stage gold: is a gain a gain, or only what the reward model likes? A second reward model, from rankings it never saw.

    python -m pipeline gold recipes/film_reviews.yaml data.gold_fraction=0.5

The reward stage's code and settings with another seed (`seeds.with_seed`) on the rankings that data.gold_fraction set aside.
Stage compare takes it as the judge "gold", and shows it beside the optimised reward over training (Gao et al. 2023,
2210.10760). Its base model is the reward model's, so a mistake that comes from there may be in both.
"""

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.stages import reward as reward_model

ROWS = "rankings.gold.jsonl"


def run(config: Config, run: Run) -> Manifest | None:
    if not (run.folder("data") / ROWS).is_file():
        raise ArtifactError(
            f"{run.folder('data')}: no rankings are set aside in it, as it was made with data.gold_fraction=0; "
            f"{run.remedy('data', 'sft', 'reward', 'gold')}"
        )
    return reward_model.run(config, run, "gold")


gate = reward_model.gate
summary = reward_model.summary
