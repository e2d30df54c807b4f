"""Which stages are there, what does each read, and how is it made? One record a stage: all that knows stages asks here.

To add one, add a record, a section of settings, and a file of its name in `pipeline/stages/`. Imports nothing of ours.
"""

from dataclasses import dataclass

_MODEL = ("model", "revision", "dtype", "quantization", "attn_implementation", "seed", "chat_template_kwargs")
_EMBEDDED = ("data.eval_fraction", "data.chinese_reviews.judge_fraction")  # by which an embedded corpus is split
PRETRAINED = ("pretrain", "encoder")  # whose model others start from, where the recipe names it: model: pretrain
_SAMPLING = ("ppo.response_length", "ppo.temperature")
_SCORE = ("ppo.reward_funcs", "ppo.reward_weights", "ppo.missing_eos_score", "ppo.missing_eos_penalty")


@dataclass(frozen=True)
class Stage:
    """What the project knows of a stage, beside what the stage does."""

    name: str  # its folder in a run, its section of a recipe, its module in pipeline/stages/; with '-' its command
    help: str
    parents: tuple[str, ...]  # stages whose results it opens
    reads: tuple[str, ...]  # the settings that decide what it makes, whole sections or single ones
    walk: bool = False  # whether `all` makes it, in the order of the table
    baseline: bool = False  # what ppo is compared with, from the same artifacts
    policy: bool = False  # whether it publishes a policy, which compare.models can name
    note: str = ""  # of a policy: what the report says that it is
    from_rankings: bool = (
        False  # whether it trains on the rankings themselves, those that are not set aside for stage gold
    )
    seeded: bool = False  # whether `seeds` makes it again with further seeds, the stages before it shared
    one_process: bool = False  # the work of one process, whatever NPROC says


_TABLE = (
    Stage(
        name="pretrain",
        help="Make a base model and its tokenizer from nothing but a corpus (model: pretrain).",
        parents=(),
        reads=("seed", "attn_implementation", "pretrain", *_EMBEDDED),
    ),
    Stage(
        name="encoder",
        help="Make an encoder and its tokenizer likewise, by masked words and next sentences (reward.model: encoder).",
        parents=(),
        reads=("seed", "attn_implementation", "encoder", *_EMBEDDED),
    ),
    Stage(
        name="data",
        help="Read, check, clean and split demonstrations, rankings and prompts.",
        parents=("pretrain",),
        reads=("model", "revision", "seed", "chat_template_kwargs", "data"),
        walk=True,
        one_process=True,
    ),
    Stage(
        name="sft",
        help="Supervised fine-tuning on demonstrations.",
        parents=("pretrain", "data"),
        reads=(*_MODEL, "sft", "data.max_length"),
        walk=True,
        policy=True,
        note="base after supervised fine-tuning on demonstrations",
    ),
    Stage(
        name="reward",
        help="Train a reward model from rankings.",
        parents=(*PRETRAINED, "data", "sft"),
        reads=(*_MODEL, "reward", "data.max_length", "ppo.temperature"),
        walk=True,
        from_rankings=True,
    ),
    Stage(
        name="ppo",
        help="Align the sft model with PPO against the reward model.",
        parents=("data", "sft", "reward"),
        reads=(*_MODEL, "ppo", "data.max_length"),
        walk=True,
        policy=True,
        note="sft after PPO: the aligned model",
        seeded=True,
    ),
    Stage(
        name="compare",
        help="Compare base, sft, ppo and others on held-out prompts; writes report.html.",
        parents=("pretrain", "data", "sft", "reward", "ppo"),  # and the baselines, see below
        reads=(
            *(*_MODEL, "compare", "data.source", "data.mixture", "data.max_length"),
            *("ppo.reward_funcs", "ppo.reward_weights", *_SAMPLING),
        ),
        walk=True,
    ),
    Stage(
        name="gold",
        help="A second reward model, from rankings set aside (data.gold_fraction), as a judge.",
        parents=(*PRETRAINED, "data", "sft"),
        reads=(*_MODEL, "reward", "data.max_length", "ppo.temperature"),
    ),
    Stage(
        name="reward_encoder",
        help="A reward model on the encoder, from the rankings of stage reward, held against it on its page.",
        parents=(*PRETRAINED, "data", "sft", "reward"),
        reads=(*_MODEL, "reward_encoder", "data.max_length", "ppo.temperature"),
        from_rankings=True,
    ),
    Stage(
        name="dpo",
        help="Baseline: DPO from the sft model on pairs of the rankings.",
        parents=("data", "sft"),
        reads=(*_MODEL, "dpo", "data.max_length", "ppo.kl_coef"),
        baseline=True,
        policy=True,
        note="sft after DPO on pairs of the same rankings",
        from_rankings=True,
        seeded=True,
    ),
    Stage(
        name="kto",
        help="Baseline: KTO from the sft model on liked and disliked completions.",
        parents=("data", "sft"),
        reads=(*_MODEL, "kto", "data.max_length", "ppo.kl_coef"),
        baseline=True,
        policy=True,
        note="sft after KTO on liked and disliked completions",
        from_rankings=True,
        seeded=True,
    ),
    Stage(
        name="rloo",
        help="Baseline: RLOO from the sft model on the score that ppo maximises.",
        parents=("data", "sft", "reward"),
        reads=(
            *(*_MODEL, "rloo", "data.max_length", "ppo.total_episodes", "ppo.kl_coef", "ppo.eval_prompts"),
            *(*_SAMPLING, *_SCORE),
        ),
        baseline=True,
        policy=True,
        note="sft after RLOO on the score that ppo maximises",
        seeded=True,
    ),
    Stage(
        name="rft",
        help="Baseline: fine-tune the sft model on the best of its own completions.",
        parents=("data", "sft", "reward"),
        reads=(*_MODEL, "rft", "data.max_length", "ppo.total_episodes", "ppo.eval_prompts", *_SAMPLING, *_SCORE),
        baseline=True,
        policy=True,
        note="sft fine-tuned on the best of its own completions",
        seeded=True,
    ),
    Stage(
        name="best_of_n",
        help="Baseline: sample many completions of each held-out prompt for best-of-n.",
        parents=("data", "sft", "reward"),
        reads=(*_MODEL, "best_of_n", "data.max_length", "compare.generation", *_SAMPLING, *_SCORE),
        baseline=True,
    ),
)

REWARD_MODELS = {"reward": "reward", "gold": "reward", "reward_encoder": "reward_encoder"}  # stages by their sections
STAGES = {stage.name: stage for stage in _TABLE}
WALK = tuple(stage.name for stage in _TABLE if stage.walk)
BASELINES = tuple(stage.name for stage in _TABLE if stage.baseline)
SEEDED = tuple(stage.name for stage in _TABLE if stage.seeded)
FROM_RANKINGS = tuple(stage.name for stage in _TABLE if stage.from_rankings)
NOTES = {
    "base": "the model before any training of ours",
    "few_shot": "base with examples in its prompt",
    **{stage.name: stage.note for stage in _TABLE if stage.policy},
}
COMPARED = tuple(NOTES)  # what compare.models can name beside best_of_…, in reading order


def parents_of(name: str) -> tuple[str, ...]:
    """The stages whose results stage `name` may open, whatever the settings: the comparison opens every baseline too. One of PRETRAINED
    is opened only where the recipe names it (freshness.parents)."""
    return STAGES[name].parents + (BASELINES if name == "compare" else ())


def command_name(stage: str) -> str:
    """What a stage is called on the command line and in make; the model of a further seed goes by its stage."""
    return stage.partition("_seed_")[0].replace("_", "-")
