"""What does the trainer make of a vLLM server that is missing, of another kind, or answers what it should not? The real one runs in make test-engines."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from saying import ALONE, LIMIT, PROMPTS, say
from tiny import EOS, STOP, randomise, save_tiny

from policies.engines import Engine, make_engine
from policies.errors import BackboneError
from policies.roles import POLICY, Roles

MODEL = {
    "dtype": "torch.float32",
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
    "model": "somewhere/else",
}


class StandIn(ThreadingHTTPServer):
    """Answers by path: a JSON value, or (status, bytes). Records what it was asked."""

    request_queue_size = 3  # more are refused at the first try

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.weights: dict[str, Any] = {}
        self.answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "policy", "max_model_len": 64}]},
            "/server_info?config_format=json": {"vllm_config": {"model_config": dict(MODEL)}},
            "/version": {"version": "0.32.0"},
            "/collective_rpc": {"results": [None]},
            "/reset_prefix_cache": {"success": True},
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        server = self.server
        server.asked.append((self.path, body))
        if self.path == "/collective_rpc" and body["method"] == "reload_weights":
            server.weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
        found = server.answers.get(self.path, (404, b"no such page"))
        if self.path == "/v1/completions" and callable(found):
            found = found(body)
        status, data = found if isinstance(found, tuple) else (200, json.dumps(found).encode())
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def engine(server: StandIn, roles: Roles, place: Path) -> Engine:
    settings: Any = SimpleNamespace(temperature=0.7, vllm_gpu_memory_utilization=0.3, vllm_server=server.address)
    return make_engine("vllm_server", roles, place, settings, ALONE, place / "sampler", longest=64)


def said(body: dict[str, Any]) -> dict[str, Any]:
    """Every prompt says its first token until the limit."""
    tokens = [body["prompt"][0]] * body["max_tokens"]
    return {"choices": [{"token_ids": tokens, "logprobs": {"token_logprobs": [-0.5] * len(tokens)}}]}


def test_weights_go_by_file_and_prompts_by_http(server: StandIn, lora: Roles, tmp_path: Path) -> None:
    server.answers["/v1/completions"] = said
    one = engine(server, lora, tmp_path)
    assert one.apart and not one.exact
    for std in (0.1, 0.4):
        randomise(lora, POLICY, std=std)
        done: list[int] = []
        found = say(one, progress=done.append)
        wanted = {name: p.detach().clone() for name, p in lora.sampler().named_parameters()}
        lora.forget_sampler()
        assert server.weights.keys() == wanted.keys()
        assert all((server.weights[name] - weight).abs().max() < 1e-6 for name, weight in wanted.items())
        assert [c.tokens for c in found] == [[prompt[0]] * LIMIT for prompt in PROMPTS] and done == [len(PROMPTS)]
    assert not (tmp_path / "sampler").exists()
    order = [path for path, _ in server.asked if path != "/v1/completions"]
    assert order[3:] == ["/collective_rpc", "/reset_prefix_cache"] * 2
    bodies = [body for path, body in server.asked if path == "/v1/completions"]
    assert len({body["seed"] for body in bodies}) == len(PROMPTS)
    assert {key: value for key, value in bodies[0].items() if key not in ("seed", "prompt")} == {
        "model": "policy", "return_token_ids": True, "skip_special_tokens": False, "temperature": 0.7, "top_k": -1, "top_p": 1.0,
        "max_tokens": LIMIT, "stop_token_ids": [EOS, STOP], "ignore_eos": True, "logprobs": 0,
    }  # fmt: skip


BAD_START = [
    ("/v1/models", {"data": []}, "is no vLLM server"),
    ("/v1/models", (200, b"<html>"), "does not answer as vLLM does"),
    ("/v1/models", (302, b""), "answers 302"),
    ("/server_info?config_format=json", (404, b""), "takes no weights; set VLLM_SERVER_DEV_MODE=1"),
    ("/server_info?config_format=json", {"vllm_config": "text"}, "is no vLLM server"),
    ("/v1/models", {"data": [{"id": "policy", "max_model_len": 63}]}, r"--max-model-len 64 \(it has 63, for a prompt and its completion\)"),
    ("/version", {"version": "0.21.1"}, r"is vLLM 0\.21\.1, which takes no weights from a path; it needs 0\.22 or later"),
    *(
        ("/server_info?config_format=json", {"vllm_config": {"model_config": MODEL | {key: "x"}}}, f"--{option}.*it has x")
        for key, option in (("dtype", "dtype float32"), ("logprobs_mode", "logprobs-mode processed_logprobs"), ("generation_config", "generation-config vllm"))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "answer", "words"), BAD_START)
def test_a_server_that_will_not_do_is_refused_at_the_start(
    server: StandIn, lora: Roles, tmp_path: Path, path: str, answer: Any, words: str
) -> None:
    server.answers[path] = answer
    with pytest.raises(BackboneError, match=rf"ppo\.vllm_server: {server.address}.*{words}"):
        engine(server, lora, tmp_path)


def test_a_server_of_another_model_is_refused_at_the_start(server: StandIn, lora: Roles, tmp_path: Path) -> None:
    """Where its model can be read here, before it is handed weights that do not fit: vLLM would not live through that."""
    deeper = save_tiny(tmp_path / "deeper", num_hidden_layers=3)
    server.answers["/server_info?config_format=json"] = {
        "vllm_config": {"model_config": MODEL | {"model": str(deeper)}}
    }
    with pytest.raises(
        BackboneError, match=r"--model the run's sft model \(it has .*deeper, whose num_hidden_layers is 3, not 2\)"
    ):
        engine(server, lora, tmp_path)


def test_an_address_that_is_none(server: StandIn, lora: Roles, tmp_path: Path) -> None:
    settings: Any = SimpleNamespace(temperature=0.7, vllm_gpu_memory_utilization=0.3, vllm_server="127.0.0.1:8000")
    with pytest.raises(
        BackboneError, match=r"ppo.vllm_server: 127.0.0.1:8000 does not answer as vLLM does \(unknown url type"
    ):
        make_engine("vllm_server", lora, tmp_path, settings, ALONE, tmp_path)


def test_no_server(server: StandIn, lora: Roles, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(BackboneError, match="does not answer as vLLM does .*ppo.engine=transformers"):
        engine(server, lora, tmp_path)


BAD_LATER = [
    ("/collective_rpc", (500, b"no such file"), "could not load weights; does it see the run's folder"),
    ("/reset_prefix_cache", {"success": False}, "answers others meanwhile"),
    ("/v1/completions", {"choices": []}, "no token_ids or token_logprobs"),
    ("/v1/completions", {"choices": [{"token_ids": None, "logprobs": None}]}, "no token_ids or token_logprobs"),
    ("/v1/completions", (400, b"context is full"), r"answers 400 \(context is full\)"),
    ("/v1/completions", (302, b""), "answers 302"),
    ("/v1/completions", {"choices": [{"token_ids": [5], "logprobs": {"token_logprobs": [-1]}}]}, "stopped after 1 of 12"),
    ("/v1/completions", (200, b'{"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [NaN]}}]}'), "not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "answer", "words"), BAD_LATER)
def test_what_a_server_answers_wrongly_is_told(
    server: StandIn, lora: Roles, tmp_path: Path, path: str, answer: Any, words: str
) -> None:
    server.answers["/v1/completions"] = said
    one = engine(server, lora, tmp_path)
    server.answers[path] = answer
    with pytest.raises(BackboneError, match=words):
        say(one)
    assert not any("elsewhere" in path for path, _ in server.asked)  # a redirect is not followed
