"""How does a vLLM server sample for us? Weights go to it by a safetensors file that both see, prompts and answers by HTTP.

The server has its own environment, GPUs or host (`make vllm-server`), so versions of vLLM and of this project need not agree. It
is started with VLLM_SERVER_DEV_MODE=1, which opens /collective_rpc: it belongs on an address that nobody else reaches.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from policies.blueprint import config_at
from policies.drawing import Completion, completed
from policies.errors import BackboneError
from policies.roles import Roles
from policies.untyped import Arguments, Foreign, Json, Model, ModelConfig, Noise
from policies.vllm_start import VLLMSettings, check_temperature, how_to_sample

AT_ONCE = 256  # requests that wait for answers at the same time; vLLM forms its own batches of them
LONGEST = 600.0  # seconds without a word from the server before it is given up
MOST = 64 << 20  # bytes of one answer
WAITS = (0.2, 1.0)  # seconds before a lost connection is tried again
DEV_MODE = "it takes no weights; set VLLM_SERVER_DEV_MODE=1 where it is started, as the target vllm-server does"
OLDEST = (0, 22)  # the version of vLLM that loads weights from a path and gives token ids
SAME = ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
"""Fields of a config in which the server's model is ours, or it cannot hold our weights."""


class Processes(Protocol):
    """What is asked of accelerate's Accelerator."""

    @property
    def is_main_process(self) -> bool: ...

    def wait_for_everyone(self) -> None: ...


class _Stays(HTTPRedirectHandler):
    """Prompts go to the address that was named and to no other."""

    def redirect_request(self, *_: Foreign) -> None:
        return None


@dataclass(frozen=True)
class Server:
    """A vLLM server. `asker` is the setting that wants it, such as ppo.engine: messages name it."""

    asker: str
    address: str
    name: str  # of the model, as the server calls it

    def load(self, folder: Path) -> None:
        """Have the server take the weights in `folder`."""
        asked = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
        meaning = "it could not load weights; does it see the run's folder, and is its model the run's sft model?"
        self.ask("/collective_rpc", asked, meaning)
        done = self.ask("/reset_prefix_cache", {})  # keys and values of the weights before
        if isinstance(done, dict) and done.get("success") is False:
            raise BackboneError(
                f"ppo.vllm_server: {self.address} answers others meanwhile; it serves one run at a time"
            )

    def generate(self, prompts: Sequence[Sequence[int]], how: Sequence[Arguments]) -> list[Completion]:
        """What it says to each of `prompts`, asked `how` (vLLM's SamplingParams)."""
        if not prompts:
            return []
        with ThreadPoolExecutor(min(AT_ONCE, len(prompts))) as pool:
            return list(pool.map(self._one, prompts, how))

    def _one(self, prompt: Sequence[int], how: Arguments) -> Completion:
        more = {"return_token_ids": True, "skip_special_tokens": False}
        found = self.ask("/v1/completions", {"model": self.name, "prompt": list(prompt), **more, **how})
        try:
            (told,) = found["choices"]
            tokens, logprobs = list(told["token_ids"]), list(map(float, told["logprobs"]["token_logprobs"]))
        except (KeyError, TypeError, ValueError):
            raise BackboneError(
                f"ppo.vllm_server: {self.address} gives no token_ids or token_logprobs; it needs vLLM {_dotted(OLDEST)} or later"
            ) from None
        if not all(map(math.isfinite, logprobs)):
            raise BackboneError(
                f"ppo.vllm_server: {self.address} gives log-probabilities that are not finite; {self.help}"
            )
        limit, ends = how["max_tokens"], how["stop_token_ids"]
        return completed(f"{self.asker}: vllm_server", tokens, logprobs, limit, ends)

    @property
    def help(self) -> str:
        return f"start one (the target vllm-server does), or set {self.asker}=transformers"

    def ask(self, path: str, body: Arguments | None, meaning: str = "") -> Foreign:
        """The JSON that the server answers. Raises BackboneError that names the address and the remedy."""
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(self.address + path, data=data, headers={"Content-Type": "application/json"})
            text = _read(request)
            if len(text) > MOST:
                raise BackboneError(
                    f"ppo.vllm_server: {self.address}{path} answers more than {MOST >> 20} MB; {self.help}"
                )
            return json.loads(text) if text.strip() else None
        except HTTPError as error:
            told = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
            raise BackboneError(
                f"ppo.vllm_server: {self.address}{path} answers {error.code} ({told}); {meaning or self.help}"
            ) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise BackboneError(
                f"ppo.vllm_server: {self.address} does not answer as vLLM does ({reason}); {self.help}"
            ) from None


@dataclass(frozen=True)
class Following:
    """A server and the policy that it follows; what an Engine runs and follows the policy with."""

    server: Server
    roles: Roles
    accelerator: Processes
    exchange: Path

    def follow(self) -> None:
        """Have the server load the policy's weights as they are now; every process waits until it has them."""
        self.accelerator.wait_for_everyone()  # nobody samples any more
        if self.accelerator.is_main_process:
            shutil.rmtree(self.exchange, ignore_errors=True)
            model: Foreign = self.roles.sampler()
            model.save_pretrained(self.exchange)
            self.roles.forget_sampler()
            self.server.load(self.exchange)
            shutil.rmtree(self.exchange)
        self.accelerator.wait_for_everyone()

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        noises: Sequence[Noise],
        *,
        eos_ids: Sequence[int],
        temperature: float,
        progress: Callable[[int], object] | None = None,
        **_: Arguments,
    ) -> list[Completion]:
        """Sample with the weights of the last `follow`."""
        completions = self.server.generate(prompts, [how_to_sample(noise, eos_ids, temperature) for noise in noises])
        if progress is not None and prompts:
            progress(len(completions))
        return completions


def following(roles: Roles, settings: VLLMSettings, accelerator: Processes, exchange: Path, longest: int) -> Following:
    """The server at `settings.vllm_server`, for the policy. Raises BackboneError as `connect` does, and where vLLM would change the temperature."""
    check_temperature(settings.temperature)
    server = connect("ppo.engine", settings.vllm_server, roles.causal, longest)
    return Following(server, roles, accelerator, exchange)


def connect(asker: str, address: str, model: Model, longest: int) -> Server:
    """The server at `address`. Raises BackboneError where there is none, or none that takes weights such as those of `model`, computes as
    the trainer does, and reads `longest` tokens, prompt and completion."""
    server = Server(asker, address.rstrip("/").removesuffix("/v1"), "")
    models, info = server.ask("/v1/models", None), server.ask("/server_info?config_format=json", None, DEV_MODE)
    try:
        name, reads = str(models["data"][0]["id"]), int(models["data"][0].get("max_model_len") or longest)
        found = info["vllm_config"]["model_config"]
        wrong = _to_start_with(found, model, reads, longest)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise BackboneError(f"ppo.vllm_server: {server.address} is no vLLM server; {server.help}") from None
    if wrong:
        raise BackboneError(
            f"ppo.vllm_server: {server.address} has to be started with {', '.join(wrong)}, as the target vllm-server does"
        )
    version = str((server.ask("/version", None) or {}).get("version", ""))
    if (parts := re.match(r"(\d+)\.(\d+)", version)) and tuple(map(int, parts.groups())) < OLDEST:
        raise BackboneError(
            f"ppo.vllm_server: {server.address} is vLLM {version}, which takes no weights from a path; it needs {_dotted(OLDEST)} or later"
        )
    return replace(server, name=name)


def _to_start_with(found: Json, model: Model, reads: int, longest: int) -> list[str]:
    """The options that the server would have to be started with, of those that it was not: `found` is the config of its model."""
    wanted = {"dtype": str(model.dtype), "logprobs_mode": "processed_logprobs", "generation_config": "vllm"}
    options = [
        f"--{key.replace('_', '-')} {value.removeprefix('torch.')} (it has {found[key]})"
        for key, value in wanted.items()
        if str(found[key]) != value
    ]
    if reads < longest:
        options.append(f"--max-model-len {longest} (it has {reads}, for a prompt and its completion)")
    served = Path(str(found["model"]))
    if (served / "config.json").is_file() and (other := _differs(config_at(served), model.config)):
        options.append(f"--model the run's sft model (it has {served}, whose {other})")
    return options


def _differs(theirs: ModelConfig, ours: ModelConfig) -> str:
    """In which field of SAME two configs differ, in words; "" where in none."""
    for name in SAME:
        a, b = (getattr(config.get_text_config(), name, None) for config in (theirs, ours))
        if a != b:
            return f"{name} is {a}, not {b}"
    return ""


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _read(request: Request) -> bytes:
    """What the server answers, at most one byte more than MOST. A connection that is refused or lost is tried again: what is asked
    may be asked twice."""
    opener = build_opener(ProxyHandler({}), _Stays())
    for wait in (*WAITS, None):
        try:
            with opener.open(request, timeout=LONGEST) as answer:
                text: bytes = answer.read(MOST + 1)
                return text
        except (URLError, ConnectionError) as error:
            lost = isinstance(error, ConnectionError) or isinstance(error.reason, ConnectionError)
            if not lost or wait is None:  # an HTTPError too, which is an answer
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")
