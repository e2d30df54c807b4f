"""What can be set? Every setting of every stage, as a documented field with its default; no torch import.

A Config is one run; recipe.py makes it from a YAML file with a section a stage.
"""

from importlib.util import find_spec
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.commands import install
from pipeline.graph import COMPARED, PRETRAINED, REWARD_MODELS
from pipeline.settings import baselines
from pipeline.settings.baselines import best_of, known_models
from pipeline.settings.data import CHINESE_REVIEWS as CHINESE_REVIEWS
from pipeline.settings.data import CHINESE_SENTIMENT as CHINESE_SENTIMENT
from pipeline.settings.data import EMBEDDED_REVIEWS as EMBEDDED_REVIEWS
from pipeline.settings.data import EMBEDDED_SOURCES as EMBEDDED_SOURCES
from pipeline.settings.data import VADER as VADER
from pipeline.settings.data import Clean as Clean
from pipeline.settings.data import Data
from pipeline.settings.data import Part as Part
from pipeline.settings.data import Reviews as Reviews
from pipeline.settings.llm_judge import LLMJudge as LLMJudge
from pipeline.settings.ppo import PPO as PPO
from pipeline.settings.pretrain import Encoder as Encoder
from pipeline.settings.pretrain import Pretrain as Pretrain
from pipeline.settings.sections import (
    BY,
    OBSERVES,
    ConfigError,
    Decoding,
    SamplingEngine,
    Section,
    Stepwise,
    Supervised,
    Tracker,
    Training,
    check_decoding,
    check_installed,
)
from pipeline.settings.sections import is_section as is_section
from pipeline.settings.wrong import divisors

Scalar = bool | int | float | str | None
TemplateValue = Scalar | list[Scalar]
_QUANTISED = ("bitsandbytes", "quantization=null", ("-e", ".[quantized]"))
NEEDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    **dict.fromkeys(("nf4", "fp4", "int8"), _QUANTISED),
    "flash_attention_2": ("flash_attn", "attn_implementation=sdpa", ("flash-attn",)),
}
"""Values of settings that need a package: (its name, what to set instead, what pip installs)."""

EMBEDDED_MODEL = "SmolLM2-135M-Instruct@pypi"
TINY_MODEL = "tiny-random"
VERIFIERS = "reward.verifiers:"
"""How the names of functions begin that check an answer against the row's own, so that they may be maximised and judge."""


class SFT(Supervised):
    """Stage sft: the base model learns the format and when to stop."""

    learning_rate: float = Field(2e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    per_device_train_batch_size: int = Field(8, ge=1)
    eval_rows: int = Field(256, ge=1, description="held-out demonstrations used for the loss before and after")
    assistant_turns: Literal["all", "last"] = Field(
        "all", description="turns of the assistant in a conversation that are learned: all of them, or the last alone"
    )
    max_new_tokens: int = Field(32, ge=1, description="length limit when EOS is checked")
    max_steps: int = Field(
        -1, ge=-1, description="optimizer steps; -1: num_train_epochs decides; 0: the model is taken as it is"
    )
    may_be_passed_over: ClassVar[bool] = True


class Reward(Supervised):
    """Stage reward: a scalar model of what people prefer, from rankings."""

    model: str | None = Field(
        None,
        description="another base: encoder or pretrain, what these stages make, a path or Hub id; default: the sft stage's model",
    )
    learning_rate: float = Field(3e-4, gt=0)
    batch_size: int = Field(8, ge=1, description="rankings of one optimizer step")
    per_device_train_batch_size: int = Field(4, ge=1, description="rankings of one micro-batch on one device")
    loss: Literal["k_wise", "plackett_luce"] = Field("k_wise", description="all pairs (InstructGPT) or the whole order")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of labels taken to be flipped (k_wise only)")
    margin: float = Field(0.0, ge=0, description="margin a unit of rating difference, where rated (k_wise only)")
    eval_rows: int = Field(512, ge=1, description="held-out rankings used for the figures")
    keep_states: float = Field(
        2.0, ge=0, description="GB for states of the layers below lora.layers, computed once and kept over the epochs"
    )
    normalise_samples: int = Field(64, ge=2, description="samples of the sft model that fix mean 0 and std 1")
    max_new_tokens: int = Field(32, ge=1, description="length limit of those samples")

    @model_validator(mode="after")
    def _only_k_wise(self) -> "Reward":
        if self.loss == "plackett_luce" and (self.label_smoothing or self.margin):
            raise ValueError("label_smoothing and margin belong to loss k_wise; set them to 0 or choose loss: k_wise")
        return self


class RewardEncoder(Reward):
    """Stage reward_encoder: a reward model on the encoder, from the same rankings as stage reward, which its page holds it against."""

    model: str | None = Field(
        "encoder", description="its base: encoder, pretrain, a path or Hub id; null: the sft stage's model"
    )
    tuning: Literal["lora", "full"] = Field("full", description="train an adapter, or all weights")
    learning_rate: float = Field(3e-4, gt=0)


class Compare(Section):
    """Stage compare: is the aligned model better than what it came from?"""

    name: str | None = Field(
        None,
        description="of this comparison, which is then published in compare-NAME beside the others; null: in compare",
        json_schema_extra=OBSERVES,
    )
    models: list[str] = Field(
        ["base", "few_shot", "sft", "ppo"],
        min_length=1,
        description=f"{', '.join(COMPARED)}, best_of_16 and the like, RUN/STAGE, a folder or a Hub id",
    )
    judges: list[str] | None = Field(
        None,
        description="vader, chinese_sentiment or module:function, beside the reward model; default: the first for film reviews, the second for Chinese ones",
    )
    prompts: int = Field(256, ge=2, description="held-out prompts")
    samples_per_prompt: int = Field(1, ge=1)
    generation: Decoding = Decoding()
    engine: SamplingEngine = Field("transformers", description=BY)
    few_shot: int = Field(4, ge=1, description="demonstrations shown to the few-shot prompted base")
    perplexity_rows: int = Field(128, ge=1, description="held-out demonstrations for perplexity")
    plain_text: str | None = Field(
        None, description="a text file whose perplexity shows what was unlearned; default: Python's documentation"
    )
    per_device_eval_batch_size: int | None = Field(
        None, ge=1, description="completions sampled together on one device; null: 64 on a CPU, what fits on a GPU"
    )
    gold: str | None = Field(
        None,
        description="folder or Hub id of a reward model that training never saw, as a judge; default: stage gold, where it is made",
    )
    llm: LLMJudge | None = Field(None, description="a language model as a judge: {base_url: …, model: …}; null: none")
    votes: list[str] = Field([], description="files of people's votes, or filled ballots, as a judge")

    @field_validator("name")
    @classmethod
    def _a_folder(cls, name: str | None) -> str | None:
        if name is not None and (not all(c.isalnum() or c in "_-" for c in name) or not 1 <= len(name.encode()) <= 100):
            raise ValueError(
                f"{ascii(name)}: a comparison is named with letters, digits, '_' and '-'; write for instance NAME=greedy"
            )
        return name

    @field_validator("models")
    @classmethod
    def _known_models(cls, models: list[str]) -> list[str]:
        return known_models(models)

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Compare":
        if self.generation.do_sample:
            return self
        wrong = []
        if self.samples_per_prompt > 1:
            wrong.append(
                f"samples_per_prompt: {self.samples_per_prompt} samples are the same where generation.do_sample is false; set it to 1"
            )
        if picked := [name for name in self.models if best_of(name) is not None]:
            wrong.append(
                f"models: {', '.join(picked)} picks among samples that differ, and generation.do_sample is false; leave it out, or draw"
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def foreign(self) -> list[str]:
        """The folders and Hub ids among the models."""
        return [name for name in self.models if name not in COMPARED and best_of(name) is None]

    def files(self) -> list[str]:
        """Everything outside the run that the comparison reads, as it is named."""
        return self.foreign() + [name for name in (self.gold, self.plain_text) if name is not None] + self.votes


class Inspect(Section):
    """Command inspect: one completion from the inside."""

    generation: Decoding = Decoding()


class Report(Section):
    """What is shown of a run: reports, pages, index."""

    language: Literal["en", "zh"] = Field(
        "en",
        description="of the pages: en, English; zh, Chinese. report.html and report.zh.html are both made, so that a change makes nothing again",
        json_schema_extra=OBSERVES,
    )


class Config(Section):
    """One run."""

    model: str = Field(
        EMBEDDED_MODEL,
        description=f"base model: {EMBEDDED_MODEL}, {TINY_MODEL}, a folder, a Hub id, or pretrain: what that stage makes",
    )
    revision: str | None = Field(None, description="revision of a Hub model")
    chat_template_kwargs: dict[str, TemplateValue] = Field(
        {}, description="what the model's chat template is told, such as {enable_thinking: false}; published with it"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of frozen weights; auto: bfloat16 on GPU and on a CPU with AMX tiles, else float32"
    )
    quantization: Literal["nf4", "fp4", "int8"] | None = Field(
        None,
        description="4 or 8 bit for the frozen weights that an adapter is trained on (bitsandbytes, extra quantized); null: none",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="how attention is computed; flash_attention_2: CUDA and bfloat16; null: the model's default"
    )
    seed: int = 0
    force: bool = Field(False, description="go on from a parent whose gate failed")
    function_timeout: float | None = Field(
        1800,
        gt=0,
        description="seconds that one call of a function of yours may take (module:function); null: no limit",
        json_schema_extra=OBSERVES,
    )
    report_to: list[Tracker] = Field(
        [], description="trackers of every training stage, beside metrics.jsonl", json_schema_extra=OBSERVES
    )
    pretrain: Pretrain = Pretrain()
    encoder: Encoder = Encoder()
    data: Data = Data()
    sft: SFT = SFT()
    reward: Reward = Reward()
    reward_encoder: RewardEncoder = RewardEncoder()
    ppo: PPO = PPO()
    compare: Compare = Compare()
    dpo: baselines.DPO = baselines.DPO()
    kto: baselines.KTO = baselines.KTO()
    rloo: baselines.RLOO = baselines.RLOO()
    rft: baselines.RFT = baselines.RFT()
    best_of_n: baselines.BestOfN = baselines.BestOfN()
    inspect: Inspect = Inspect()
    report: Report = Report()

    @field_validator("quantization", "attn_implementation")
    @classmethod
    def _installed(cls, wanted: str | None) -> str | None:
        """Where a value needs a package of its own; found without importing it."""
        if wanted in NEEDS:
            package, instead, packages = NEEDS[wanted]
            if find_spec(package) is None:
                raise ValueError(
                    f"{wanted} needs the package {package}, which is not installed; set {instead}, or {install(*packages)}"
                )
        return wanted

    @field_validator("report_to")
    @classmethod
    def _trackers_installed(cls, wanted: list[str]) -> list[str]:
        check_installed(wanted)
        return wanted

    def report_to_of(self, stage: str) -> list[Tracker]:
        """The trackers of a training stage; stage gold has the settings of reward."""
        section: Training = self.reward if stage == "gold" else getattr(self, stage)
        return self.report_to if section.report_to is None else section.report_to

    @model_validator(mode="after")
    def _a_corpus(self) -> "Config":
        """What is made from nothing is made from something, and what speaks is no encoder."""
        if self.model == "pretrain" and self.pretrain.source is None:
            raise ValueError(
                f"model: {self.model} is what stage pretrain makes, and there is no corpus to make it from; set pretrain.source, or "
                f"model={EMBEDDED_MODEL}"
            )
        return self

    @model_validator(mode="after")
    def _an_encoder(self) -> "Config":
        vars(self)["encoder"] = self.encoder.like(self.pretrain)  # no field that was set
        wrong = [f"encoder.{one}" for one in self.encoder.of_no_use()]
        if self.model == "encoder":
            wrong.append(
                f"model: encoder is for reward models (reward.model); set model=pretrain, or model={EMBEDDED_MODEL}"
            )
        if self.model == "pretrain" and self.pretrain.objective == "mlm_nsp":
            wrong.append(
                f"model: pretrain makes an encoder (objective: mlm_nsp), which says nothing; set model={EMBEDDED_MODEL}, or an objective that does"
            )
        fractions = self.data.eval_fraction + self.data.chinese_reviews.judge_fraction
        if CHINESE_REVIEWS in (self.pretrain.source, self.encoder.source, self.data.source) and fractions >= 1:
            wrong.append(
                "data.chinese_reviews.judge_fraction: with data.eval_fraction it leaves no review to train on; lower one of them"
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def encoder_wanted(self) -> bool:
        """Whether `all` makes the encoder and its reward model beside the decoder's: where the recipe has a section encoder, and a corpus."""
        return "encoder" in self.model_fields_set and self.encoder.source is not None

    @model_validator(mode="after")
    def _judges_apart(self) -> "Config":
        both = sorted(set(self.judges()) & set(self.ppo.reward_funcs))
        if both := [name for name in both if not name.startswith(VERIFIERS)]:
            raise ValueError(
                f"compare.judges: {', '.join(both)} is what ppo.reward_funcs maximises, so it cannot judge; name another judge"
            )
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> "Config":
        self.best_of_n.check(self.compare.models, self.compare.samples_per_prompt)
        return self

    def check_stage(self, stage: str, world_size: int) -> None:
        """Raise ConfigError for what only the stage `stage` minds, before anything heavy is loaded for it."""
        if stage in ("compare", "best_of_n"):
            engine: SamplingEngine = getattr(self, stage).engine
            how = self.compare.generation.resolved(self.ppo.temperature, self.ppo.response_length)
            check_decoding(f"{stage}.engine", engine, how)
            return
        if stage in PRETRAINED:
            made: Pretrain = getattr(self, stage)
            if made.source is None:
                raise ConfigError(
                    f"{stage}.source: there is no corpus to make a model from; set it to texts or rows: a file, folder, pattern, Hub id or module:function"
                )
            made.accumulation(world_size)
            return
        base = getattr(self, REWARD_MODELS[stage]).model if stage in REWARD_MODELS else None
        if base in PRETRAINED and getattr(self, base).source is None:
            raise ConfigError(
                f"{REWARD_MODELS[stage]}.model: {base} is what that stage makes, and there is no corpus to make it from; set {base}.source, "
                f"or {REWARD_MODELS[stage]}.model to another base"
            )
        self._check_quantised("reward" if stage == "gold" else stage)
        section: Training = self.reward if stage == "gold" else getattr(self, stage)
        section.check_sharding("reward" if stage == "gold" else stage, world_size, self.quantization)
        if not isinstance(section, Stepwise):
            self.ppo.share(world_size)
            return
        section.accumulation(world_size)
        if isinstance(section, baselines.Held):
            self.beta(stage)
        if stage == "rloo" and self.ppo.total_episodes % self.rloo.batch_size:
            raise ConfigError(
                f"rloo.batch_size: ppo.total_episodes {self.ppo.total_episodes} is no multiple of {self.rloo.batch_size}; use {divisors(self.ppo.total_episodes, self.rloo.batch_size)}"
            )

    def _check_quantised(self, stage: str) -> None:
        """Stage sft may train all weights, which it then loads unquantised: it has no reference to share them with."""
        if self.quantization is None:
            return
        if stage != "sft" and getattr(self, stage).tuning == "full":
            raise ConfigError(
                f"{stage}.tuning: full trains all weights, and quantization {self.quantization} freezes them in few bits; "
                f"set {stage}.tuning=lora or quantization=null"
            )
        if stage == "ppo" and self.ppo.engine != "transformers":
            raise ConfigError(
                f"ppo.engine: {self.ppo.engine} samples from merged weights, and nothing is merged into weights of few bits "
                f"(quantization {self.quantization}); set ppo.engine=transformers or quantization=null"
            )

    def beta(self, stage: str) -> float:
        """Weight of the KL in a baseline that is `Held` near the sft model, such as dpo: its own, or PPO's."""
        section: baselines.Held = getattr(self, stage)
        beta = self.ppo.kl_coef if section.beta is None else section.beta
        if beta == 0:
            name = type(section).__name__
            raise ConfigError(
                f"{stage}.beta: ppo.kl_coef is 0, and {name} has no meaning without a KL; set {stage}.beta"
            )
        return beta

    def rft_prompts(self) -> int:
        """Training prompts that rft samples for, so that it samples as many completions as ppo unless told otherwise."""
        return self.rft.prompts or max(1, self.ppo.total_episodes // self.rft.n)

    def judges(self) -> list[str]:
        """Names of the judges beside the reward model."""
        if self.compare.judges is not None:
            return self.compare.judges
        return [CHINESE_SENTIMENT if self.data.chinese() else VADER] if self.data.embedded() else []
