"""Which decoding is refused where vLLM samples for compare and best_of_n? What it would do otherwise, by name and with what helps."""

from typing import Any

import pytest

from pipeline.settings.baselines import BestOfN
from pipeline.settings.config import Compare, Config, ConfigError
from pipeline.settings.sections import Decoding


def config(engine: Any, **generation: Any) -> Config:
    return Config(compare=Compare(engine=engine, generation=Decoding(**generation)), best_of_n=BestOfN(engine=engine))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"do_sample": False, "num_beams": 2}, "num_beams: 2 beams are followed by transformers alone"),
    ({"do_sample": True, "num_beams": 2}, "num_beams: 2 beams are followed by transformers alone"),
    ({"temperature": 2.5}, "temperature: 2.5 is outside vLLM's 0.01 to 2"),
    ({"temperature": 0.001}, "temperature: 0.001 is outside vLLM's 0.01 to 2"),
    ({"min_p": 0.1, "top_p": 0.9}, "min_p: 0.1 is cut before top_p by vLLM, and after it by transformers; leave one of them out"),
]  # fmt: skip


def refusal(made: Config, stage: str) -> str | None:
    """What a stage is refused by."""
    try:
        made.check_stage(stage, 1)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("stage", ["compare", "best_of_n"])
@pytest.mark.parametrize(("generation", "words"), REFUSED)
def test_what_vllm_decodes_otherwise(stage: str, generation: dict[str, Any], words: str) -> None:
    assert refusal(config("transformers", **generation), stage) is None
    for engine in ("vllm", "vllm_server"):
        told = f"compare.generation.{words}, or set {stage}.engine=transformers"
        assert refusal(config(engine, **generation), stage) == told


@pytest.mark.parametrize(
    "generation",
    [{}, {"do_sample": False}, {"top_k": 5, "top_p": 0.9}, {"top_k": 5, "min_p": 0.1}, {"temperature": 2.0}],
)
def test_what_it_decodes_alike(generation: dict[str, Any]) -> None:
    for stage in ("compare", "best_of_n"):
        assert refusal(config("vllm", **generation), stage) is None


def test_nothing_is_drawn_at_the_temperature_of_a_greedy_comparison() -> None:
    greedy = config("vllm", do_sample=False)
    greedy.ppo.temperature = 3.0
    assert refusal(greedy, "compare") is None
