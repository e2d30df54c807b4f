"""What can be set of the baselines? Sections of the methods that ppo is compared with; config.py has all others. No torch import."""

import difflib
import re
from pathlib import Path

from pydantic import Field, model_validator

from pipeline.graph import COMPARED
from pipeline.settings.sections import BY, Decoding, SamplingEngine, Section, Stepwise, Supervised
from pipeline.settings.wrong import multiples


class Held(Supervised):
    """What baselines have that learn from people's judgements without sampling, held near the sft model by a KL."""

    beta: float | None = Field(None, gt=0, description="weight of the KL to the sft model; default: ppo.kl_coef")


class DPO(Held):
    """Stage dpo, a baseline: the sft model learns from pairs of the rankings without a reward model (trl.DPOTrainer)."""

    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(16, ge=1, description="rankings of one optimizer step, one pair of each")
    per_device_train_batch_size: int = Field(4, ge=1, description="pairs of one micro-batch on one device")
    eval_rows: int = Field(512, ge=1, description="held-out rankings used for the figures")


class KTO(Held):
    """Stage kto, a baseline: the sft model learns from liked and disliked completions (trl.KTOTrainer): judgements where both sides
    have both kinds, or else the pairs of the rankings.
    """

    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=2, description="completions of one optimizer step")
    per_device_train_batch_size: int = Field(
        8,
        ge=2,
        description="completions of one micro-batch on one device",
    )
    desirable_weight: float | None = Field(
        None,
        gt=0,
        description="of liked completions; default: 1, or more where they are rarer and neither weight is set",
    )
    undesirable_weight: float | None = Field(None, gt=0, description="of disliked completions; default likewise")
    eval_rows: int = Field(512, ge=2, description="held-out judgements, or rankings, used for the figures")


class RLOO(Stepwise):
    """Stage rloo, a baseline: REINFORCE with a leave-one-out baseline on the score that ppo maximises (trl.RLOOTrainer).

    It samples ppo.total_episodes completions, with the temperature, length, KL coefficient and rule for EOS of ppo.
    """

    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=2, description="completions of one optimizer step")
    per_device_train_batch_size: int = Field(8, ge=1, description="completions of one micro-batch")
    num_generations: int = Field(4, ge=2, description="completions of a prompt, each the others' baseline")

    @model_validator(mode="after")
    def _whole_groups(self) -> "RLOO":
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size: {self.batch_size} is no multiple of num_generations {self.num_generations}; "
                f"use {multiples(self.batch_size, self.num_generations)}"
            )
        return self


class RFT(Supervised):
    """Stage rft, a baseline: the sft model is fine-tuned on the best of several completions of its own, by the score."""

    learning_rate: float = Field(2e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    per_device_train_batch_size: int = Field(8, ge=1)
    n: int = Field(8, ge=2, description="completions sampled of each prompt")
    prompts: int | None = Field(None, ge=1, description="training prompts; default: ppo.total_episodes / n of them")
    generation: Decoding = Decoding()

    @model_validator(mode="after")
    def _something_to_choose(self) -> "RFT":
        if not self.generation.do_sample:
            raise ValueError(
                f"generation.do_sample: false, and the {self.n} completions of a prompt are the same; set it to true"
            )
        return self


class BestOfN(Section):
    """Stage best_of_n, a baseline: completions of the sft model, from which the score picks the best when models are compared.

    It decodes as compare.generation says.
    """

    n: int = Field(64, ge=1, description="completions sampled once of each prompt; best_of_4 in compare.models reads 4")
    prompts: int = Field(64, ge=2, description="held-out prompts; a comparison with best_of_… keeps to these")
    per_device_eval_batch_size: int | None = Field(
        None, ge=1, description="completions sampled together on one device; null: 64 on a CPU, what fits on a GPU"
    )
    engine: SamplingEngine = Field("transformers", description=BY)

    def check(self, models: list[str], samples_per_prompt: int) -> None:
        """Raise ValueError where a comparison of `models` needs more samples of a prompt than there are."""
        most = max((best_of(name) or 0 for name in models), default=0)
        if (needed := most * samples_per_prompt) > self.n:
            each = f" and compare.samples_per_prompt {samples_per_prompt}" if needed > most else ""
            raise ValueError(
                f"compare.models: best_of_{most}{each} need {needed} samples of a prompt, and best_of_n.n is {self.n}; raise it"
            )


def best_of(name: str) -> int | None:
    """16 of best_of_16, or None for what is no such name."""
    found = re.fullmatch(r"best_of_([1-9]\d*)", name)
    return int(found[1]) if found else None


def known_models(models: list[str]) -> list[str]:
    """The names of compare.models, each once and each a name, a folder or a Hub id. Raises ValueError with all that are not."""
    wrong = [f'"{name}" stands twice; keep one' for name in dict.fromkeys(models) if models.count(name) > 1]
    for name in models:
        if name in COMPARED or best_of(name) is not None or "/" in name or Path(name).is_dir():
            continue
        near = difflib.get_close_matches(name, [*COMPARED, "best_of_16"], n=1)
        meant = f"did you mean {near[0]}?" if near else "write a folder, or a Hub id as owner/name"
        wrong.append(f'"{name}" is no model of this project; {meant}')
    if wrong:
        raise ValueError("\n".join(wrong))
    return models
