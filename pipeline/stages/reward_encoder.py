"""Stage reward_encoder: would an encoder know better what people prefer? A reward model on the encoder beside the decoder's.

    python -m pipeline reward-encoder recipes/film_reviews.yaml encoder.source=corpus.txt

The reward stage's code with the settings of section `reward_encoder`, from the very rankings that stage reward learns from. Its report.html
holds the two against each other on the same held-out pairs. With ppo.reward_funcs or compare.gold naming its folder it scores elsewhere, too.
"""

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.stages import reward as reward_model


def run(config: Config, run: Run) -> Manifest | None:
    return reward_model.run(config.model_copy(update={"reward": config.reward_encoder}), run, "reward_encoder")


gate = reward_model.gate
summary = reward_model.summary
