"""What do sections of a recipe have in common? Strict fields, and what every training stage can be told; no torch import."""

from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


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


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


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
    save_steps: int = Field(50, ge=1, description="optimizer steps between resume states")


class Stepwise(Training):
    """Training with transformers' Trainer, or one of trl made from it."""

    per_device_train_batch_size: int = Field(ge=1, description="rows of one micro-batch on one device")
    warmup_steps: int = Field(0, ge=0)
    logging_steps: int = Field(5, ge=1)

    def accumulation(self, world_size: int) -> int:
        """Micro-batches a process sees in one optimizer step."""
        each = self.per_device_train_batch_size * world_size
        if self.batch_size % each:
            raise ConfigError(
                f"{type(self).__name__.lower()}.batch_size: {self.batch_size} rows cannot be shared by {world_size} process(es) in micro-batches of "
                f"{self.per_device_train_batch_size}; make it a multiple of {each}"
            )
        return self.batch_size // each


class Supervised(Stepwise):
    """Training for a number of passes over a data set."""

    num_train_epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1, description="optimizer steps; -1: num_train_epochs decides")
