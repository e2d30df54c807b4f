"""Does vLLM get the policy's weights, what it is to sample, and the processes it runs in?

A stand-in plays vLLM and records what it is given.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from saying import ALONE, LIMIT, PROMPTS, SETTINGS, figures_of, noises, say
from tiny import EOS, PAD, STOP, make_roles, randomise

from policies.backbone import BackboneError
from policies.drawing import Completion, Record, noise
from policies.engines import Engine, make_engine
from policies.roles import POLICY, Roles


class Inner:
    """vLLM's own model: keeps what it loads."""

    def __init__(self, events: list[str]):
        self.events = events
        self.weights: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Any) -> set[str]:
        self.events.append("load")
        loaded = {name: tensor.clone() for name, tensor in weights}
        self.weights |= loaded
        return set(loaded)


class StandIn:
    """vLLM's LLM as far as it is used: says `script(prompt)`, cut at the first stop token and at the limit."""

    made: "list[StandIn]" = []
    script: Callable[[list[int]], list[int]] = staticmethod(lambda prompt: [])

    def __init__(self, **arguments: Any):
        self.arguments, self.events, self.asked = arguments, list[str](), list[list[dict[str, Any]]]()
        self.in_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")
        self.model = Inner(self.events)
        self.model_config = SimpleNamespace(max_model_len=512)
        StandIn.made.append(self)

    def apply_model(self, function: Callable[[Inner], Any]) -> list[Any]:
        return [function(self.model)]

    def wake_up(self, tags: list[str]) -> None:
        self.events.append(f"wake {tags[0]}")

    def sleep(self, level: int) -> None:
        self.events.append(f"sleep {level}")

    def reset_prefix_cache(self) -> bool:
        self.events.append("reset")
        return True

    def generate(self, prompts: list[dict[str, list[int]]], sampling_params: Any, *, use_tqdm: bool) -> list[Any]:
        self.events.append("generate")
        self.asked.append(sampling_params)
        outputs = []
        for prompt, p in zip(prompts, sampling_params, strict=True):
            assert all(type(token) is int for token in prompt["prompt_token_ids"])
            tokens: list[int] = []
            for token in StandIn.script(prompt["prompt_token_ids"])[: p["max_tokens"]]:
                tokens.append(token)
                if token in p["stop_token_ids"] or (token == EOS and not p["ignore_eos"]):
                    break
            logprobs = [  # a likelier token stands first, as it may with logprobs above 0
                {90: SimpleNamespace(logprob=-0.1), token: SimpleNamespace(logprob=-token / 10)} for token in tokens
            ]
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(tokens), logprobs=logprobs)]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(StandIn, "script", staticmethod(lambda prompt: [prompt[0] + 1] * 20))
    return StandIn


def test_vllm_is_started_once(cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path) -> None:
    engine = cuda("vllm", lora, tiny_folder)
    say(engine)
    say(engine)
    (llm,) = vllm.made
    assert not engine.exact
    assert llm.in_process == "0"
    assert llm.arguments == {
        "model": str(tiny_folder),
        "dtype": "float32",
        "gpu_memory_utilization": 0.3,
        "max_model_len": -1,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_sleep_mode": True,
        "enforce_eager": False,
        "distributed_executor_backend": None,
    }


def test_vllm_joins_the_processes_of_torchrun(
    cuda: Callable[..., Engine],
    vllm: type[StandIn],
    lora: Roles,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    cuda("vllm", lora, tiny_folder)
    assert vllm.made[0].arguments["distributed_executor_backend"] == "external_launcher"


def test_vllm_gets_the_merged_weights_before_every_rollout(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path
) -> None:
    """By hand: W + (alpha / r)·B·A with alpha 8 and r 4, under the names of the checkpoint that vLLM was started from;
    what has no adapter is what the checkpoint holds."""
    with safe_open(tiny_folder / "model.safetensors", "pt") as file:
        checkpoint = {name: file.get_tensor(name) for name in file.keys()}
    engine = cuda("vllm", lora, tiny_folder)
    (llm,) = vllm.made
    for std in (0.1, 0.4):
        randomise(lora, POLICY, std=std)
        say(engine)
        adapters = dict(lora.policy.named_parameters())
        assert llm.model.weights.keys() == checkpoint.keys()
        merged = 0
        for name, weight in checkpoint.items():
            at = f"base_model.model.{name.removesuffix('.weight')}.lora_%s.{POLICY}.weight"
            if at % "A" in adapters:
                weight = weight + 8 / 4 * adapters[at % "B"] @ adapters[at % "A"]
                merged += 1
            assert (llm.model.weights[name] - weight).abs().max() < 1e-6
        assert merged == 14  # seven matrices in each of two layers
    assert llm.events == ["wake weights", "load", "wake kv_cache", "reset", "generate", "sleep 2"] * 2


def test_vllm_gets_the_policy_of_full_fine_tuning(
    cuda: Callable[..., Engine], vllm: type[StandIn], tiny_folder: Path, tiny_tokenizer: Any
) -> None:
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning="full")
    engine = cuda("vllm", roles, tiny_folder)
    with torch.no_grad():
        roles.causal.model.norm.weight.fill_(3.0)
    say(engine)
    assert vllm.made[0].model.weights["model.norm.weight"].eq(3).all()


def test_vllm_is_asked_for_plain_sampling(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path
) -> None:
    say(cuda("vllm", lora, tiny_folder))
    for asked in vllm.made[0].asked[0]:
        asked.pop("seed")
        assert asked == {
            "temperature": 0.7,
            "top_k": -1,
            "top_p": 1.0,
            "max_tokens": LIMIT,
            "stop_token_ids": [EOS, STOP],
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        }


def test_vllm_seeds_belong_to_seed_step_prompt_and_sample(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path
) -> None:
    """All different, the same when asked again, whatever stands beside them, and within a signed 64-bit integer."""
    engine = cuda("vllm", lora, tiny_folder)
    drawn = [noise(s, t, p, n, 5) for s in (0, 1) for t in (0, 1) for p in ("a", "b") for n in (0, 1)]
    more: dict[str, Any] = {"eos_ids": [EOS], "pad_id": PAD, "temperature": 1.0, "batch_size": 4}
    engine([[5]] * 16, drawn, **more)
    engine([[5]] * 16, drawn, **more)
    engine([[6, 7]], drawn[6:7], **more)
    first, again, alone = ([p["seed"] for p in asked] for asked in vllm.made[0].asked)
    assert len(set(first)) == 16
    assert again == first
    assert alone == first[6:7]
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in first)


def test_vllm_ends_order_and_logprobs(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt says its first token ten times and then ends, one by each end; the third would go on for ever."""
    ends = {5: [EOS], 9: [STOP], 60: [60] * 20}
    monkeypatch.setattr(vllm, "script", staticmethod(lambda prompt: [prompt[0]] * 10 + ends[prompt[0]]))
    engine = cuda("vllm", lora, tiny_folder)
    done: list[int] = []
    more: dict[str, Any] = {"pad_id": PAD, "temperature": 1.0, "batch_size": 4, "progress": done.append}
    prompts = [[9, 1], [60], [5, 3]]
    found = engine(prompts, noises(0, count=3), eos_ids=[EOS, STOP], **more)
    assert figures_of(found) == figures_of(
        [
            Completion([9] * 10 + [STOP], torch.tensor([-0.9] * 10 + [-STOP / 10]), True),
            Completion([60] * 12, torch.tensor([-6.0] * 12), False),
            Completion([5] * 10 + [EOS], torch.tensor([-0.5] * 10 + [-EOS / 10]), True),
        ]
    )
    assert done == [3]
    (last,) = engine([[5]], noises(0, limit=11, count=1), eos_ids=[EOS], **more)
    assert last.finished  # an end on the last token counts
    (cut,) = engine([[5]], noises(0, limit=10, count=1), eos_ids=[EOS], **more)
    assert (len(cut.tokens), cut.finished) == (10, False)
    monkeypatch.setattr(vllm, "script", staticmethod(lambda prompt: [7] * 4))
    with pytest.raises(BackboneError, match="vllm stopped after 4 of 12 tokens"):
        say(engine)


def test_states_are_recorded_where_they_can_be(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path
) -> None:
    for name, given in (("transformers", True), ("continuous", False), ("vllm", False)):
        found = say(cuda(name, lora, tiny_folder), record=Record(0, 1))
        assert [c.hidden is not None for c in found] == [given] * len(PROMPTS)


def test_nothing_asked_nothing_done(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path
) -> None:
    for name in ("transformers", "continuous", "vllm"):
        engine = cuda(name, lora, tiny_folder)
        assert engine([], [], eos_ids=[EOS], pad_id=PAD, temperature=1.0, batch_size=4) == []


def test_without_vllm(
    cuda: Callable[..., Engine], lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, it is named with its remedy; there but broken inside, the error is its own."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        BackboneError,
        match=r"ppo\.engine: vllm needs .*; set ppo.engine=vllm_server .*, or set ppo.engine=transformers$",
    ):
        cuda("vllm", lora, tiny_folder)
    make_engine("transformers", lora, tiny_folder, SETTINGS, ALONE, tiny_folder)

    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'flashinfer'", name="flashinfer")

    module: Any = ModuleType("vllm")
    module.__getattr__ = missing
    monkeypatch.setitem(sys.modules, "vllm", module)
    with pytest.raises(ModuleNotFoundError, match="flashinfer"):
        cuda("vllm", lora, tiny_folder)


def test_vllm_without_cuda_and_not_built_for_a_cpu(
    vllm: type[StandIn], lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platforms: Any = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match="needs a CUDA GPU, or vLLM's CPU build, and there is neither"):
        make_engine("vllm", lora, tiny_folder, SETTINGS, ALONE, tiny_folder)
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: True)
    make_engine("vllm", lora, tiny_folder, SETTINGS, ALONE, tiny_folder)
    (llm,) = vllm.made
    assert llm.arguments["enforce_eager"] and not llm.arguments["enable_sleep_mode"]


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_vllm_would_change(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path, temperature: float
) -> None:
    settings = SimpleNamespace(temperature=temperature, vllm_gpu_memory_utilization=0.3)
    with pytest.raises(BackboneError, match=rf"ppo\.temperature: {temperature} is outside"):
        cuda("vllm", lora, tiny_folder, settings)
    assert not vllm.made
