"""Stage encoder: a corpus to a small BERT and its tokenizer, both from nothing, beside the decoder of stage pretrain.

    python -m pipeline encoder recipes/film_reviews.yaml encoder.source=corpus.txt

The pretrain stage's code with the settings of section `encoder`, whose objective is mlm_nsp: masked words and next sentences (Devlin et al.
2019, 1810.04805). Publishes a folder that AutoModelForMaskedLM and AutoModelForSequenceClassification load; with reward.model: encoder, and
in stage reward_encoder, a reward model starts from it.
"""

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config
from pipeline.stages import pretrain


def run(config: Config, run: Run) -> Manifest | None:
    return pretrain.run(config, run, "encoder")


gate = pretrain.gate
summary = pretrain.summary
