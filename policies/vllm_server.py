"""How does a vLLM server sample for the trainer? Weights go to it by a safetensors file that both see, prompts and answers by HTTP.

The server has its own environment, GPUs or host (`make vllm-server`), so versions of vLLM and of this project need not agree. It
is started with VLLM_SERVER_DEV_MODE=1, which opens /collective_rpc: it belongs on an address that nobody else reaches.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from policies.drawing import Completion, completed
from policies.errors import BackboneError
from policies.roles import Roles
from policies.untyped import Arguments, Foreign, Noise
from policies.vllm_inside import VLLMSettings, check_temperature, how_to_sample

AT_ONCE = 256  # requests that wait for answers at the same time; vLLM forms its own batches of them
LONGEST = 600.0  # seconds without a word from the server before it is given up
MOST = 64 << 20  # bytes of one answer
WAITS = (0.2, 1.0)  # seconds before a lost connection is tried again
DEV_MODE = "it takes no weights; set VLLM_SERVER_DEV_MODE=1 where it is started, as the target vllm-server does"
HELP = "start one (the target vllm-server does), or set ppo.engine=transformers"


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
    """A vLLM server; what an Engine runs and follows the policy with."""

    roles: Roles
    address: str
    name: str  # of the model, as the server calls it
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
            asked = {"method": "reload_weights", "kwargs": {"weights_path": str(self.exchange.resolve())}}
            _ask(self.address, "/collective_rpc", asked, "it could not load weights; does it see the run's folder?")
            done = _ask(self.address, "/reset_prefix_cache", {})  # keys and values of the weights before
            if isinstance(done, dict) and done.get("success") is False:
                raise BackboneError(
                    f"ppo.vllm_server: {self.address} answers others meanwhile; it serves one run at a time"
                )
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
        if not prompts:
            return []
        one = partial(self._one, eos_ids=eos_ids, temperature=temperature)
        with ThreadPoolExecutor(min(AT_ONCE, len(prompts))) as pool:
            completions = list(pool.map(one, prompts, noises))
        if progress is not None:
            progress(len(completions))
        return completions

    def _one(self, prompt: Sequence[int], noise: Noise, *, eos_ids: Sequence[int], temperature: float) -> Completion:
        how = {"return_token_ids": True, "skip_special_tokens": False, **how_to_sample(noise, eos_ids, temperature)}
        found = _ask(self.address, "/v1/completions", {"model": self.name, "prompt": list(prompt), **how})
        try:
            (said,) = found["choices"]
            tokens, logprobs = list(said["token_ids"]), list(map(float, said["logprobs"]["token_logprobs"]))
        except (KeyError, TypeError, ValueError):
            raise BackboneError(
                f"ppo.vllm_server: {self.address} gives no token_ids or token_logprobs; it needs vLLM 0.22 or later"
            ) from None
        if not all(map(math.isfinite, logprobs)):
            raise BackboneError(f"ppo.vllm_server: {self.address} gives log-probabilities that are not finite; {HELP}")
        return completed("vllm_server", tokens, logprobs, len(noise), eos_ids)


def connect(roles: Roles, settings: VLLMSettings, accelerator: Processes, exchange: Path) -> Server:
    """The server at `settings.vllm_server`. Raises BackboneError where there is none, or none that takes weights and computes as the
    trainer does."""
    check_temperature(settings.temperature)
    address = settings.vllm_server.rstrip("/").removesuffix("/v1")
    models, info = _ask(address, "/v1/models", None), _ask(address, "/server_info?config_format=json", None, DEV_MODE)
    try:
        name, found = str(models["data"][0]["id"]), info["vllm_config"]["model_config"]
        wanted = {"dtype": str(roles.causal.dtype), "logprobs_mode": "processed_logprobs", "generation_config": "vllm"}
        wrong = [
            f"--{key.replace('_', '-')} {value.removeprefix('torch.')} (it has {found[key]})"
            for key, value in wanted.items()
            if str(found[key]) != value
        ]
    except (KeyError, IndexError, TypeError):
        raise BackboneError(f"ppo.vllm_server: {address} is no vLLM server; {HELP}") from None
    if wrong:
        raise BackboneError(
            f"ppo.vllm_server: {address} has to be started with {', '.join(wrong)}, as the target vllm-server does"
        )
    return Server(roles, address, name, accelerator, exchange)


def _ask(address: str, path: str, body: Arguments | None, meaning: str = "") -> Foreign:
    """The JSON that the server answers. Raises BackboneError that names the address and the remedy."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(address + path, data=data, headers={"Content-Type": "application/json"})
    try:
        text = _read(request)
        if len(text) > MOST:
            raise BackboneError(f"ppo.vllm_server: {address}{path} answers more than {MOST >> 20} MB; {HELP}")
        return json.loads(text) if text.strip() else None
    except HTTPError as error:
        said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
        raise BackboneError(
            f"ppo.vllm_server: {address}{path} answers {error.code} ({said}); {meaning or HELP}"
        ) from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BackboneError(f"ppo.vllm_server: {address} does not answer as vLLM does ({reason}); {HELP}") from None


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
