"""What is planned? A recipe's PPO on a model of which only the config is known: its parts, its matrices, its tokens."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.artifacts.embedded import EMBEDDED_FOLDER
from pipeline.bench.machine import Shape, Work
from pipeline.bench.scale import SHAPES, USUAL, model_config
from pipeline.graph import PRETRAINED
from pipeline.settings.config import EMBEDDED_MODEL, Config, ConfigError

QUANTISED = (None, "nf4", "int8")


@dataclass(frozen=True)
class Matrices(Shape):
    """A decoder's dimensions, whatever its layers are made of, with the matrices of one of them as they were found."""

    found: tuple[tuple[int, int], ...] = ()  # (in, out)

    def matrices(self) -> list[tuple[int, int]]:
        return list(self.found)


@dataclass(frozen=True)
class Job:
    """A recipe on a model."""

    config: Config
    name: str  # of the model
    shape: Matrices | None  # None: its operations cannot be counted
    prompt: int  # tokens of each prompt
    footprints: Callable[[str, str | None], Any]  # (dtype, quantisation) -> Footprint of the policy as it is trained
    scored: Callable[[str], float]  # dtype -> bytes of reward models that are no adapter on the policy's base

    @property
    def completion(self) -> int:
        return self.config.ppo.response_length

    @property
    def row(self) -> int:
        return self.prompt + self.completion

    @property
    def models(self) -> bool:
        """Whether a model takes part in the score."""
        return any(":" not in name or Path(name).exists() for name in self.config.ppo.reward_funcs)

    def work(self, episodes: float) -> Work:
        """An iteration of so many episodes, as the bench counts it."""
        section, shape = self.config.ppo, self.shape
        assert shape is not None
        lora = section.tuning == "lora"
        critic = "head" if section.value == "shared" else "adapter" if lora else "full"
        layers = int(section.lora.layers.split()[1]) if lora and section.lora.layers else shape.layers
        rank = section.lora.r if lora else None
        done = Work(1, self.prompt, self.completion, section.num_ppo_epochs, critic, rank, min(layers, shape.layers))
        return replace(done, episodes=episodes)  # type: ignore[arg-type]  # of one process on average


def job(config: Config, model: str | None, prompt: int | None) -> Job:
    """The recipe's, on `model` or its own, with prompts of `prompt` tokens. Raises ConfigError where there is no such model."""
    name = model or config.model
    return job_of(config, name, _config_of(name, config), prompt)


def job_of(config: Config, name: str, shape: Any, prompt: int | None) -> Job:
    """The recipe's on a model of which transformers' config is given."""
    from transformers import AutoModelForSequenceClassification

    from policies.footprint import weights_of

    section = config.ppo
    if prompt is None:
        prompt = max(1, config.data.max_length - section.response_length)
    own = section.tuning == "full" or config.reward.tuning == "full" or config.reward.model is not None
    own |= shape.is_encoder_decoder  # whose classifier is no adapter on it

    def beside(dtype: str) -> float:
        total = 0.0
        for one in section.reward_funcs:
            if one != "reward" and ":" in one and not Path(one).exists():
                continue
            scoring = shape if one == "reward" and config.reward.model is None else _config_of(one if one != "reward" else str(config.reward.model), config)  # fmt: skip
            if one != "reward" or own:
                total += weights_of(scoring, _held(dtype, None), AutoModelForSequenceClassification)
        return total

    return Job(config, name, matrices(shape), prompt, cache(partial(_footprint, config, shape)), cache(beside))


def _config_of(name: str, config: Config) -> Any:
    """The config of a model by its name: one of the sizes of the bench, the embedded ones, a folder or a Hub id."""
    from pipeline.training.context import base_model
    from policies.blueprint import config_at
    from policies.errors import NotThere

    if name in SHAPES:
        return model_config(name)
    if name == EMBEDDED_MODEL and not EMBEDDED_FOLDER.is_dir():
        return model_config(USUAL)  # the same shape, and nothing is fetched
    if name in PRETRAINED:
        from pipeline.stages.pretrain import OBJECTIVES

        section = getattr(config, name)
        special = SimpleNamespace(pad_token_id=0, bos_token_id=1, eos_token_id=2)  # nothing is counted by them
        return OBJECTIVES[section.objective].config(section, special)
    named = config.model_copy(update={"model": name})
    try:
        return config_at(base_model(named), config.revision if name == config.model else None)
    except (OSError, ValueError, NotThere) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(f"model: {reason}; or a size, one of {', '.join(SHAPES)}") from None


def _held(dtype: str, quantization: str | None) -> Any:
    import torch

    from policies.precision import Held

    return Held(getattr(torch, dtype), quantization=quantization)


def _footprint(config: Config, shape: Any, dtype: str, quantization: str | None) -> Any:
    from policies.footprint import footprint

    if config.ppo.tuning == "full":
        return footprint(shape, _held("float32", None), None)  # what is trained is float32, as in stage ppo
    return footprint(shape, _held(dtype, quantization), config.ppo.lora)


def matrices(config: Any) -> Matrices | None:
    """Those of one decoder layer, found on the model itself, built without memory; None where its layers are not all of the same matrices,
    or hold weights that are none: experts, of which each token takes some."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from policies.blueprint import blueprint
    from policies.trials import decoder

    model = blueprint(config)
    body, text = decoder(model), config.get_text_config()
    count, heads = text.num_hidden_layers, text.num_attention_heads
    stacks = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(stacks) != 1:
        return None
    layers = [
        Counter((m.weight.shape[1], m.weight.shape[0]) for m in layer.modules() if isinstance(m, nn.Linear | Conv1D))
        for layer in stacks[0]
    ]
    found = tuple(layers[0].elements())
    numbers = sum(p.numel() for p in stacks[0].parameters() if p.dim() > 1)
    if any(one != layers[0] for one in layers) or sum(a * b for a, b in found) * count < 0.98 * numbers:
        return None
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    tied = bool(getattr(config, "tie_word_embeddings", False))
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return Matrices(count, text.hidden_size, inner, heads, kv_heads, width, text.vocab_size, tied, found)
