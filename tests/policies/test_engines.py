"""Do all engines sample from the policy as it is, end where they must, and say so when they cannot?

Transformers' continuous batching runs here for real, on the CPU; vLLM is played by a stand-in that records what it is
given.
"""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import EOS, PAD, STOP, make_roles, randomise

from policies.backbone import BackboneError, adapter
from policies.engines import Engine, make_engine, truncated_importance_weights
from policies.roles import POLICY, Roles
from policies.rollout import Completion, Record, noise, sample

LIMIT = 12
PROMPTS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8] * 11, [40, 41], [9, 7], [22] * 6, [5, 6, 7, 8, 9, 10, 11]] * 3
SETTINGS = SimpleNamespace(temperature=0.7, vllm_gpu_memory_utilization=0.3)


def noises(step: int, limit: int = LIMIT, count: int = len(PROMPTS)) -> list[np.ndarray]:
    return [noise(0, step, f"p{i}", 0, limit) for i in range(count)]


def say(engine: Engine, step: int = 4, **changes: Any) -> list[Completion]:
    arguments: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 0.7, "batch_size": 3}
    return engine(PROMPTS, noises(step), **{**arguments, **changes})


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """`make_engine` on a machine that seems to have CUDA; afterwards torch tells the truth again."""

    def make(name: str, roles: Roles, folder: Path, settings: Any = SETTINGS) -> Engine:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return make_engine(name, roles, folder, settings)

    return make


@pytest.fixture(params=["lora", "full"])
def roles(request: pytest.FixtureRequest, tiny_folder: Path, tiny_tokenizer: Any) -> Roles:
    """A policy away from its reference, its ends made likely: some completions stop soon, some late, some never."""
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning=request.param)
    randomise(roles, POLICY)
    with torch.no_grad():
        roles.causal.lm_head.weight[[EOS, STOP]] *= 2.5
    return roles


@pytest.fixture
def lora(tiny_folder: Path, tiny_tokenizer: Any) -> Roles:
    roles = make_roles(tiny_folder, tiny_tokenizer)
    randomise(roles, POLICY)
    return roles


@torch.no_grad()
def trained_logprobs(roles: Roles, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
    """Of each token, from one pass over prompt and completion through the adapter, unmerged; log-softmax in float64."""
    ids = torch.tensor([prompt + tokens])
    if roles.lora:
        with adapter(roles.policy, POLICY):
            z = roles.policy(input_ids=ids).logits[0]
    else:
        z = roles.policy(input_ids=ids).logits[0]
    logprobs = torch.log_softmax(z.double() / temperature, -1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()


def check_ends(completions: list[Completion], limit: int = LIMIT) -> None:
    """Every completion ends with its first end token, or at the limit; both kinds of end and the limit are met."""
    for c in completions:
        ends = [i for i, token in enumerate(c.tokens) if token in (EOS, STOP)]
        assert ends == ([len(c.tokens) - 1] if c.finished else [])
        assert c.finished or len(c.tokens) == limit
        assert len(c.logprobs) == len(c.tokens)
    assert {c.tokens[-1] for c in completions if c.finished} == {EOS, STOP}
    assert any(not c.finished for c in completions)


def test_transformers_is_the_plain_sampler_and_exact(roles: Roles, tiny_folder: Path) -> None:
    """Exact means: the log-probabilities that training computes through the adapter, up to float32 rounding."""
    engine = make_engine("transformers", roles, tiny_folder, SETTINGS)
    done: list[int] = []
    found = say(engine, progress=done.append)
    with roles.sampling() as model:
        plain = sample(model, PROMPTS, noises(4), eos_ids=[EOS, STOP], pad_id=PAD, temperature=0.7, batch_size=3)
    assert found == plain
    assert sum(done) == len(PROMPTS)
    check_ends(found)
    assert engine.exact
    for prompt, c in zip(PROMPTS, found, strict=True):
        assert c.logprobs == pytest.approx(trained_logprobs(roles, prompt, c.tokens, 0.7), abs=5e-5)


def test_transformers_follows_the_policy(lora: Roles, tiny_folder: Path) -> None:
    engine = make_engine("transformers", lora, tiny_folder, SETTINGS)
    before = say(engine)
    randomise(lora, POLICY, std=0.5)
    assert [c.tokens for c in say(engine)] != [c.tokens for c in before]


def test_not_exact_in_bfloat16(lora: Roles, tiny_folder: Path) -> None:
    lora.causal.to(torch.bfloat16)
    assert not make_engine("transformers", lora, tiny_folder, SETTINGS).exact


@pytest.mark.parametrize("batch_size", [2, 8])
def test_continuous_samples_the_policy(
    cuda: Callable[..., Engine], roles: Roles, tiny_folder: Path, batch_size: int
) -> None:
    """What it says of its draws is what one pass over prompt and completion says: top-k, another temperature, stale
    weights or prompts mixed up would all show."""
    engine = cuda("continuous", roles, tiny_folder)
    assert not engine.exact
    done: list[int] = []
    found = say(engine, batch_size=batch_size, progress=done.append)
    assert sum(done) == len(PROMPTS)
    check_ends(found)
    for prompt, c in zip(PROMPTS, found, strict=True):
        assert c.logprobs == pytest.approx(trained_logprobs(roles, prompt, c.tokens, 0.7), abs=1e-4)
    assert {len(c.tokens) for c in say(engine, eos_ids=[PAD])} >= {
        LIMIT
    }  # the ends are those asked, not the model's own


def test_continuous_belongs_to_the_noise_and_leaves_no_trace(
    cuda: Callable[..., Engine], tiny_folder: Path, tiny_tokenizer: Any
) -> None:
    roles = make_roles(tiny_folder, tiny_tokenizer, tuning="full")
    roles.policy.train()
    engine = cuda("continuous", roles, tiny_folder)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = say(engine)
    assert torch.equal(torch.rand(3), expected)  # the global generator goes on as if nothing had been drawn
    assert say(engine) == first
    assert [c.tokens for c in say(engine, step=5)] != [c.tokens for c in first]
    assert roles.policy.training
    assert roles.causal.config._attn_implementation == "sdpa"


def broken(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Roles whose sampler has a continuous batching that answers, but not as it was asked."""

    def generate_batch(inputs: list[list[int]], *, generation_config: Any, **_: Any) -> dict[str, Any]:
        limit = generation_config.max_new_tokens
        return change(
            {
                f"req_{i}": SimpleNamespace(
                    prompt_ids=prompt, generated_tokens=[7] * limit, logprobs=[-1.0] * limit, error=None
                )
                for i, prompt in enumerate(inputs)
            }
        )

    model = SimpleNamespace(
        generate_batch=generate_batch,
        device=torch.device("cpu"),
        dtype=torch.float32,
        training=False,
        train=lambda mode: None,
    )
    return SimpleNamespace(sampler=lambda: model, causal=model, forget_sampler=lambda: None)


def drop_one(answers: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answers.items() if k != "req_3"}


def fail_one(answers: dict[str, Any]) -> dict[str, Any]:
    answers["req_2"].error = "out of memory"
    return answers


def swap_two(answers: dict[str, Any]) -> dict[str, Any]:
    return {k: answers[k] for k in ["req_1", "req_0", *list(answers)[2:]]}


def cut_one(answers: dict[str, Any]) -> dict[str, Any]:
    answers["req_2"].generated_tokens, answers["req_2"].logprobs = [7] * 5, [-1.0] * 5
    return answers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_one, "finished 23 of 24 prompts"),
        (fail_one, r"finished 23 of 24 prompts \(out of memory\)"),
        (swap_two, "finished 24 of 24"),
        (cut_one, "stopped after 5 of 12 tokens"),
    ],
)
def test_continuous_drops_nothing_silently(cuda: Callable[..., Engine], change: Any, words: str) -> None:
    engine = cuda("continuous", broken(change), Path("."))
    with pytest.raises(BackboneError, match=words) as error:
        say(engine)
    assert "ppo.engine: transformers" in str(error.value)
    assert len(say(cuda("continuous", broken(lambda answers: answers), Path(".")))) == len(PROMPTS)


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
        StandIn.made.append(self)

    def apply_model(self, function: Callable[[Inner], Any]) -> list[Any]:
        return [function(self.model)]

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
    assert llm.events == ["load", "reset", "generate"] * 2


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
    assert found == [
        Completion([9] * 10 + [STOP], [-0.9] * 10 + [-STOP / 10], True),
        Completion([60] * 12, [-6.0] * 12, False),
        Completion([5] * 10 + [EOS], [-0.5] * 10 + [-EOS / 10], True),
    ]
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


@pytest.mark.parametrize("name", ["continuous", "vllm"])
def test_without_cuda(name: str, lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError) as error:
        make_engine(name, lora, tiny_folder, SETTINGS)
    assert (
        str(error.value) == f"ppo.engine: {name} needs a CUDA GPU and there is none here; set ppo.engine: transformers"
    )


def test_without_vllm(
    cuda: Callable[..., Engine], lora: Roles, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, it is named with its remedy; there but broken inside, the error is its own."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(BackboneError, match=r"ppo\.engine: vllm needs .*; run: pip install -e '.\[vllm\]'$"):
        cuda("vllm", lora, tiny_folder)
    make_engine("transformers", lora, tiny_folder, SETTINGS)

    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'flashinfer'", name="flashinfer")

    module: Any = ModuleType("vllm")
    module.__getattr__ = missing
    monkeypatch.setitem(sys.modules, "vllm", module)
    with pytest.raises(ModuleNotFoundError, match="flashinfer"):
        cuda("vllm", lora, tiny_folder)


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_vllm_would_change(
    cuda: Callable[..., Engine], vllm: type[StandIn], lora: Roles, tiny_folder: Path, temperature: float
) -> None:
    settings = SimpleNamespace(temperature=temperature, vllm_gpu_memory_utilization=0.3)
    with pytest.raises(BackboneError, match=rf"ppo\.temperature: {temperature} is outside"):
        cuda("vllm", lora, tiny_folder, settings)
    assert not vllm.made


def test_weights_by_hand() -> None:
    """π_old/μ = 2/1, ½, 1, e^1000 and e^-1000 with cap 3 and 1.5; masked tokens hold what they like."""
    ln = math.log
    old = torch.tensor([[ln(0.2), ln(0.1), -3.0, 0.0, -1000.0, math.nan]], requires_grad=True)
    rollout = torch.tensor([[ln(0.1), ln(0.2), -3.0, -1000.0, 0.0, -math.inf]])
    mask = torch.tensor([[True] * 5 + [False]])
    for cap, expected in ((3.0, [2.0, 0.5, 1.0, 3.0, 0.0, 0.0]), (1.5, [1.5, 0.5, 1.0, 1.5, 0.0, 0.0])):
        weights = truncated_importance_weights(old, rollout, mask, cap)
        torch.testing.assert_close(weights, torch.tensor([expected]))
        assert not weights.requires_grad


def test_weights_turn_the_engines_mean_into_the_policys() -> None:
    """Σ μ·w·f = Σ π·f when nothing is cut: with π = (.2, .3, .5), μ = (.5, .3, .2) and f = (1, 10, 100) that is 53.2,
    where the engine alone would say 23.5; cap 1.5 leaves .2 + 3 + .2·1.5·100 = 33.2."""
    policy, engine = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.5, 0.3, 0.2]])
    f, mask = torch.tensor([1.0, 10.0, 100.0]), torch.ones((1, 3), dtype=torch.bool)
    for cap, expected in ((10.0, 53.2), (1.5, 33.2)):
        weights = truncated_importance_weights(policy.log(), engine.log(), mask, cap)
        assert (engine * weights * f).sum().item() == pytest.approx(expected, rel=1e-5)
