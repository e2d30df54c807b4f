"""Which machine answers for a model that does not learn? What vLLM is asked, what of its answers is believed, and what ends with it.

Stand-ins play vLLM; the real one runs in make test-engines.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from saying import ALONE, LIMIT, PROMPTS, noises
from tiny import EOS, PAD, STOP

from pipeline.settings.sections import Decoding
from policies import asking
from policies.asking import Machine, answering, how_to_decode
from policies.backbone import load_causal
from policies.decoding import decode
from policies.drawing import Completion, seed_of
from policies.errors import BackboneError
from policies.tokenizers import load_tokenizer
from policies.vllm_apart import started_apart
from policies.vllm_plugin import TOGETHER

SETTINGS = SimpleNamespace(vllm_gpu_memory_utilization=0.3, vllm_server="http://127.0.0.1:1", max_sampler_kl=0.02)
ARGUMENTS: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "batch_size": 5}
PLAIN = {"top_k": -1, "top_p": 1.0, "max_tokens": LIMIT, "stop_token_ids": [EOS], "ignore_eos": True, "logprobs": 0}


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    return load_causal(tiny_folder, load_tokenizer(tiny_folder), torch.float32)


def machine(engine: str) -> Machine:
    return Machine(engine, "compare.engine", SETTINGS, ALONE, 64)  # type: ignore[arg-type]


def how(**given: Any) -> Any:
    return Decoding(**given).resolved(0.7, LIMIT)


def served_by(monkeypatch: pytest.MonkeyPatch, speaker: Any) -> list[dict[str, Any]]:
    """Have a vLLM that is `speaker` answer; what it was asked."""
    asked: list[dict[str, Any]] = []

    def generate(prompts: Sequence[Sequence[int]], each: Sequence[dict[str, Any]]) -> list[Completion]:
        asked.extend(each)
        said = []
        for number, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            drawn = noises(number, limit=one["max_tokens"], count=1)
            wanted = Decoding(do_sample=one["temperature"] > 0).resolved(one["temperature"] or 1.0, one["max_tokens"])
            more = {"eos_ids": one["stop_token_ids"], "pad_id": PAD, "batch_size": 1}
            said += decode(speaker, [prompt], drawn, wanted, **more)
        return said

    @contextmanager
    def serving(*_: Any) -> Iterator[Any]:
        yield generate

    monkeypatch.setattr(asking, "_serving", serving)
    return asked


def test_transformers_answers_as_it_decodes(model: Any, tiny_folder: Path) -> None:
    with answering(machine("transformers"), model, tiny_folder) as say:
        found = say(PROMPTS, noises(1), how(), **ARGUMENTS)
    wanted = decode(model, PROMPTS, noises(1), how(), **ARGUMENTS)
    assert [c.tokens for c in found] == [c.tokens for c in wanted]
    assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(found, wanted, strict=True))


def test_figures_beside_an_engines_tokens_are_ours(
    monkeypatch: pytest.MonkeyPatch, model: Any, tiny_folder: Path
) -> None:
    """Of the whole distribution at the temperature, where vLLM's would be of what is left of it."""
    asked = served_by(monkeypatch, model)
    done: list[int] = []
    with answering(machine("vllm"), model, tiny_folder) as say:
        tried = len(asked)
        found = say(PROMPTS, noises(1), how(do_sample=False), progress=done.append, **ARGUMENTS)
    wanted = decode(model, PROMPTS, noises(1), how(do_sample=False), **ARGUMENTS)
    assert done == [len(PROMPTS)] and {one["temperature"] for one in asked[tried:]} == {0.0}
    for a, b in zip(found, wanted, strict=True):
        assert (a.tokens, a.finished) == (b.tokens, b.finished)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5) and a.entropies == pytest.approx(b.entropies, abs=1e-5)


@pytest.mark.parametrize("engine", ["vllm", "vllm_server"])
def test_an_engine_that_speaks_for_another_model_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, model: Any, tiny_folder: Path, engine: str
) -> None:
    """Stale weights, or numbers too coarse."""
    other = load_causal(tiny_folder, load_tokenizer(tiny_folder), torch.float32)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(3.0)
    served_by(monkeypatch, other)
    words = rf"compare.engine: {engine} is .* nats a token from transformers in .*; set compare.engine=transformers"
    with pytest.raises(BackboneError, match=words), answering(machine(engine), model, tiny_folder):
        pass


def test_decoding_by_vllms_names() -> None:
    noise = noises(1)[0]

    def mapped(**given: Any) -> dict[str, Any]:
        found = how_to_decode(noise, [EOS], how(**given))
        assert found.pop("seed") == seed_of(noise)
        return found

    assert mapped() == PLAIN | {"temperature": 0.7, "min_p": 0.0}
    assert mapped(do_sample=False) == PLAIN | {"temperature": 0.0}
    assert mapped(top_k=5, min_p=0.1) == PLAIN | {"temperature": 0.7, "top_k": 5, "min_p": 0.1}
    assert mapped(temperature=1.5, top_p=0.9) == PLAIN | {"temperature": 1.5, "top_p": 0.9, "min_p": 0.0}


def test_a_server_is_handed_weights_by_one_process_and_from_a_folder(
    monkeypatch: pytest.MonkeyPatch, model: Any, tiny_folder: Path
) -> None:
    loaded: list[Path] = []
    served_by(monkeypatch, model)
    generate = next(iter([asking._serving]))  # the stand-in's
    monkeypatch.undo()
    with generate() as speak:  # type: ignore[call-arg]
        server = SimpleNamespace(load=loaded.append, generate=speak)
        monkeypatch.setattr(asking, "connect", lambda *_: server)
        for main in (True, False):
            processes = SimpleNamespace(is_main_process=main, wait_for_everyone=lambda: None)
            one = Machine("vllm_server", "best_of_n.engine", SETTINGS, processes, 64)  # type: ignore[arg-type]
            with answering(one, model, tiny_folder) as say:
                assert len(say(PROMPTS, noises(1), how(), **ARGUMENTS)) == len(PROMPTS)
        assert loaded == [tiny_folder]
        words = "best_of_n.engine: vllm_server takes weights from a folder, and owner/name is a model on the Hub"
        with pytest.raises(BackboneError, match=words), answering(one, model, "owner/name"):
            pass


class LLM:
    """vLLM's, as far as it is used here; notes the environment that it is started in, and that it ends."""

    started: "list[tuple[dict[str, Any], dict[str, str]]]" = []
    ended: "list[bool]" = []

    def __init__(self, **arguments: Any):
        LLM.started.append((arguments, dict(os.environ)))
        self.model_config = SimpleNamespace(max_model_len=64)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: LLM.ended.append(True)))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setattr(LLM, "ended", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    return LLM


def apart(longest: int = 64) -> Any:
    return started_apart("compare.engine", "somewhere", None, torch.float32, 0.3, longest)


@pytest.mark.parametrize(("visible", "own"), [(None, "1"), ("6,7", "7")])
def test_vllm_apart_is_alone_on_its_processs_gpu(
    monkeypatch: pytest.MonkeyPatch, vllm: type[LLM], visible: str | None, own: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = dict(os.environ)
    with apart():
        assert dict(os.environ) == before and not vllm.ended
    ((_, environment),) = vllm.started
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE"} & environment.keys()
    assert environment[TOGETHER] == "1" and environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == own
    assert vllm.ended == [True]


def test_vllm_apart_ends_whatever_happens(vllm: type[LLM]) -> None:
    with pytest.raises(KeyError), apart():
        raise KeyError
    assert vllm.ended == [True]


def test_what_vllm_cannot_serve_is_told(monkeypatch: pytest.MonkeyPatch, vllm: type[LLM]) -> None:
    with pytest.raises(BackboneError, match=r"memory for 64 tokens .* up to 65; raise ppo.vllm_gpu_memory"), apart(65):
        pass
    assert vllm.ended == [True]

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("Head size 16 is not supported by CPU attention.\nmore")

    monkeypatch.setattr(vllm, "__init__", refuse)
    words = r"compare.engine: vllm cannot serve somewhere here \(Head size 16 is not supported by CPU attention\); set compare.engine=transf"
    with pytest.raises(BackboneError, match=words), apart():
        pass


CHILD = """
import multiprocessing, os, sys, time
from types import ModuleType, SimpleNamespace

def work():
    for name in ("vllm", "vllm.platforms"):
        sys.modules[name] = ModuleType(name)
    sys.modules["vllm.platforms"].current_platform = SimpleNamespace(is_cpu=lambda: False)
    from policies.vllm_plugin import register
    register()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(60)
"""


@pytest.mark.parametrize("together", [True, False])
def test_vllms_processes_end_with_a_parent_that_is_killed(tmp_path: Path, together: bool) -> None:
    """Where we started it: whoever serves by vLLM with this package beside it is left alone."""
    (tmp_path / "parent.py").write_text(CHILD)
    root = str(Path(__file__).resolve().parents[2])
    env = {key: value for key, value in os.environ.items() if key != TOGETHER} | {"PYTHONPATH": root}
    env |= {TOGETHER: "1"} if together else {}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        for _ in range(100 if together else 10):
            if not _alive(child):
                break
            time.sleep(0.1)
        left = _alive(child)
        if left:
            child.kill()
    assert left is not together


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
