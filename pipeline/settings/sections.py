"""What do sections of a recipe have in common? Strict fields, how to decode, what every training stage can be told; no torch import."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pipeline.commands import install
from pipeline.settings.wrong import multiples


class ConfigError(Exception):
    """A user's mistakes in a recipe or an override, all of them, one a line."""


class Section(BaseModel):
    """Settings that belong together. Nothing is converted (yes is no number), no number may be NaN or infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_section(cls, value: Any, info: ValidationInfo) -> Any:
        """`sft:` with nothing below it, which YAML reads as null, means the section's defaults."""
        return {} if value is None and is_section(cls.model_fields[str(info.field_name)].annotation) else value


OBSERVES: dict[str, Any] = {"observes": True}
"""`json_schema_extra` of a setting that only observes: no part of a stage's identity (deciding.py)."""


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


Tracker = Literal["tensorboard", "trackio", "wandb"]


def check_installed(trackers: Sequence[str] | None) -> None:
    """Raise ValueError where a tracker's package is missing; found without importing it."""
    if missing := [name for name in trackers or () if find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)}: not installed; leave it out, or {install(*missing)}")


CUTS = ("top_k", "top_p", "min_p")  # what keeps unlikely tokens from being drawn


class Decoding(Section):
    """How completions are made. The names are those of transformers.GenerationConfig, the defaults draw from all that a model may say."""

    do_sample: bool = Field(
        True, description="draw each token; false: greedy, or beam search where num_beams is above 1"
    )
    num_beams: int = Field(
        1, ge=1, description="beams that are followed; needs do_sample said, false to search, true to draw"
    )
    temperature: float | None = Field(None, gt=0, description="default: ppo.temperature")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens; 0: from all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the likeliest tokens that together have this probability"
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="draw from tokens with this share of the likeliest one's probability"
    )
    max_new_tokens: int | None = Field(None, ge=1, description="default: ppo.response_length")

    @model_validator(mode="after")
    def _goes_together(self) -> "Decoding":
        drawing = [
            name for name in ("temperature", *CUTS) if getattr(self, name) != Decoding.model_fields[name].default
        ]
        if self.num_beams > 1 and "do_sample" not in self.model_fields_set:
            raise ValueError(
                f"num_beams: {self.num_beams} beams are beam search with do_sample: false and beam sampling with do_sample: true; say which"
            )
        if not self.do_sample and drawing:
            raise ValueError(
                f"{', '.join(drawing)}: nothing is drawn where do_sample is false; leave that out, or set do_sample: true"
            )
        return self

    def resolved(self, temperature: float, response_length: int) -> "Resolved":
        """The same with nothing left open, given those settings of ppo."""
        return Resolved.model_construct(
            **self.model_dump()
            | {"temperature": self.temperature or temperature, "max_new_tokens": self.max_new_tokens or response_length}
        )


class Resolved(Decoding):
    """A Decoding with nothing left open. Where nothing is drawn, `temperature` is that of the log-probabilities alone."""

    temperature: float
    max_new_tokens: int

    def acting(self) -> dict[str, bool | int | float]:
        """The fields that decide what is said, by name."""
        drawing = {"temperature": self.temperature, **{name: getattr(self, name) for name in CUTS}}
        beams = {"do_sample": self.do_sample, "num_beams": self.num_beams}
        return beams | (drawing if self.do_sample else {}) | {"max_new_tokens": self.max_new_tokens}

    def words(self) -> str:
        """Such as "sampling, temperature 0.7, top_p 0.9, at most 24 tokens"."""
        if self.num_beams > 1:
            said = [f"beam {'sampling' if self.do_sample else 'search'}", f"{self.num_beams} beams"]
        else:
            said = ["sampling" if self.do_sample else "greedy"]
        if self.do_sample:
            cuts = {name: getattr(self, name) for name in CUTS}
            said.append(f"temperature {self.temperature}")
            said += [f"{name} {cut}" for name, cut in cuts.items() if cut != Decoding.model_fields[name].default]
        return ", ".join([*said, f"at most {self.max_new_tokens} tokens"])


SamplingEngine = Literal["transformers", "vllm", "vllm_server"]
BY = "what samples: transformers, vLLM in processes of its own, or the server at ppo.vllm_server"


def check_decoding(setting: str, engine: SamplingEngine, how: Resolved) -> None:
    """Raise ConfigError where vLLM would decode otherwise than compare.generation says. `setting` is the one that chose the engine."""
    if engine == "transformers":
        return
    wrong = []
    if how.num_beams > 1:
        wrong.append(f"num_beams: {how.num_beams} beams are followed by transformers alone")
    elif how.do_sample and not 0.01 <= how.temperature <= 2:
        wrong.append(f"temperature: {how.temperature} is outside vLLM's 0.01 to 2")
    if how.num_beams == 1 and how.min_p and how.top_p < 1:
        wrong.append(
            f"min_p: {how.min_p} is cut before top_p by vLLM, and after it by transformers; leave one of them out"
        )
    if wrong:
        raise ConfigError("\n".join(f"compare.generation.{one}, or set {setting}=transformers" for one in wrong))


class Lora(Section):
    """A low-rank adapter (peft.LoraConfig)."""

    r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    target_modules: str | list[str] = Field("all-linear", description="as peft has it")
    layers: str | None = Field(None, pattern=r"^last [1-9]\d*$", description='such as "last 10"; default: all')


class Training(Section):
    """What every training stage has."""

    tuning: Literal["lora", "full"] = Field("lora", description="train an adapter, or all weights")
    lora: Lora = Lora()
    learning_rate: float = Field(gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(ge=1, description="rows of one optimizer step, over all processes and micro-batches")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, one more forward"
    )
    sharding: Literal["none", "frozen", "full"] = Field(
        "none",
        description="whose decoder layers are shared out among the processes (FSDP2): nobody's, those that are frozen, or all",
        json_schema_extra=OBSERVES,
    )
    save_steps: int = Field(50, ge=1, description="optimizer steps between resume states", json_schema_extra=OBSERVES)
    report_to: list[Tracker] | None = Field(
        None, description="trackers of this stage; default: report_to of the run", json_schema_extra=OBSERVES
    )

    @field_validator("report_to")
    @classmethod
    def _trackers_installed(cls, wanted: list[str] | None) -> list[str] | None:
        check_installed(wanted)
        return wanted

    @model_validator(mode="after")
    def _an_adapter_stays_whole(self) -> "Training":
        if self.sharding == "full" and self.tuning == "lora":
            raise ValueError(
                "sharding: full shares out what is trained, and with tuning: lora that is a small adapter; set sharding: frozen"
            )
        return self

    def shared_by(self, stage: str) -> str | None:
        """The setting that has the trained model's layers shared out, none where that is off."""
        return None if self.sharding == "none" else f"{stage}.sharding"

    def check_sharding(self, stage: str, world_size: int, quantization: str | None) -> None:
        """Raise ConfigError where weights are to be shared out and cannot be."""
        if self.sharding == "none":
            return
        if world_size == 1:
            raise ConfigError(
                f"{stage}.sharding: {self.sharding} shares weights out among processes, and there is one; "
                f"start more (--nproc 2), or set {stage}.sharding=none"
            )
        if stage != "ppo" and self.tuning == "full" and self.sharding == "frozen":
            raise ConfigError(
                f"{stage}.sharding: frozen shares out what is not trained, and {stage}.tuning: full trains all; "
                f"set {stage}.sharding=full, or {stage}.tuning=lora"
            )
        if quantization is not None:
            raise ConfigError(
                f"{stage}.sharding: {self.sharding} shares out weights of 16 or 32 bit alone; set quantization=null, or {stage}.sharding=none"
            )
        if (engine := getattr(self, "engine", "transformers")) != "transformers":
            raise ConfigError(
                f"{stage}.sharding: {self.sharding} leaves no whole policy to hand to engine {engine}; "
                f"set {stage}.engine=transformers, or {stage}.sharding=none"
            )


class Stepwise(Training):
    """Training with transformers' Trainer, or one of trl made from it."""

    per_device_train_batch_size: int = Field(ge=1, description="rows of one micro-batch on one device")
    warmup_steps: int = Field(0, ge=0)
    logging_steps: int = Field(
        5, ge=1, description="optimizer steps between rows of metrics.jsonl", json_schema_extra=OBSERVES
    )

    def accumulation(self, world_size: int) -> int:
        """Micro-batches a process sees in one optimizer step."""
        each = self.per_device_train_batch_size * world_size
        if self.batch_size % each:
            raise ConfigError(
                f"{type(self).__name__.lower()}.batch_size: {self.batch_size} rows cannot be shared by {world_size} process(es) in micro-batches of "
                f"{self.per_device_train_batch_size}; use {multiples(self.batch_size, each)}"
            )
        return self.batch_size // each


class Supervised(Stepwise):
    """Training for a number of passes over a data set."""

    num_train_epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1, description="optimizer steps; -1: num_train_epochs decides")

    @field_validator("max_steps")
    @classmethod
    def _trains(cls, steps: int) -> int:
        if steps == 0 and not cls.may_be_passed_over:
            raise ValueError("0 steps train nothing; give 1 or more, or -1, where num_train_epochs decides")
        return steps

    may_be_passed_over: ClassVar[bool] = False
