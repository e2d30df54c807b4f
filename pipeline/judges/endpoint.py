"""Whom does the LLM judge ask, and how is a stranger's answer taken? One request within limits of time and size, and to nobody else.

The request is made by the HTTP client of huggingface_hub itself, without what a client does of its own accord: no redirect is followed,
since questions hold people's texts and the header a key; nothing is unpacked beyond the limit; a clock runs over the whole request,
which a read timeout does not, as a server that sends a byte a second never lets it run out.
"""

import asyncio
import importlib
import json
import os
import re
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from pipeline import redaction
from pipeline.judges.judge import JudgeError
from pipeline.pages.visible import visible
from pipeline.settings.wrong import no_address

# huggingface_hub 1 stands on httpx, 2 on httpx2; the root of every transport error says which
http: Any = importlib.import_module(HTTPError.__module__.partition(".")[0])

SHOWN = 120  # characters of what the system says about a connection


class NoAnswer(Exception):
    """A request that brought no answer that could be read, and why; `again`: another attempt may fare better."""

    def __init__(self, problem: str, again: bool = True):
        super().__init__(problem)
        self.again = again


class Answer(NamedTuple):
    """What came: `body` is empty unless the status is 200."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, and how hard to try. Raises JudgeError for a setting that cannot be.

    api_key_env names the environment variable that holds the key; None sends none. max_calls bounds the requests of one
    run, repeated ones included; what is left then stays without a judgement. timeout is in seconds for one request, from
    the first byte to the last, max_answer_kb bounds what is taken of it, unpacked. A request that failed is sent again
    after `wait` seconds, then twice that, until it was sent `attempts` times.
    max_tokens bounds the reply; a model that thinks aloud needs more, None leaves it to the endpoint.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    max_calls: int = 2000
    concurrency: int = 4
    attempts: int = 3
    timeout: float = 60.0
    wait: float = 1.0
    max_tokens: int | None = 32
    max_answer_kb: int = 1024

    def __post_init__(self) -> None:
        # no value is repeated here: it may well be a key
        if (wrong := no_address(self.base_url)) is not None:
            raise JudgeError(f"LLM judge: {wrong}")
        if self.api_key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise JudgeError(
                "LLM judge: api_key_env is the name of an environment variable in capitals, such as OPENAI_API_KEY, "
                "never the key itself"
            )
        for name in ("max_calls", "concurrency", "attempts", "max_answer_kb"):
            if getattr(self, name) < 1:
                raise JudgeError(f"LLM judge: {name} is {getattr(self, name)}; make it at least 1")
        if not self.timeout > 0:
            raise JudgeError(f"LLM judge: timeout is {self.timeout}; make it above 0")

    @property
    def url(self) -> str:
        """Where questions go: base_url, and what it may leave out."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
        return parts._replace(path=path, fragment="").geturl()

    def key(self) -> str | None:
        """The key from the environment, to be sent and never shown. Raises JudgeError when it is not there."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise JudgeError("LLM judge: the environment variable that api_key_env names is not set; export it")
        redaction.keep(key)
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise JudgeError("LLM judge: the key in the environment holds a space or no ASCII text; export it again")
        return key


def ask(endpoint: Endpoint, key: str | None, body: dict[str, Any]) -> Answer:
    """One request. Raises NoAnswer, and JudgeError where no other request would fare better."""
    if constants.HF_HUB_OFFLINE:
        raise JudgeError("LLM judge: HF_HUB_OFFLINE is set, so no request leaves; unset it")
    try:
        return asyncio.run(_ask(endpoint, key, body))
    except (TimeoutError, http.TimeoutException):
        raise NoAnswer(f"no whole answer within {endpoint.timeout:g} s (compare.llm.timeout)") from None
    except http.ConnectError as error:
        # said by the system before anything was sent; the text of other errors may quote the headers, and so the key
        said = visible(" ".join(redaction.redacted(str(error)).split()))[:SHOWN]
        raise NoAnswer(f"ConnectError: {said}" if said else "ConnectError") from None
    except (HTTPError, http.StreamError, http.InvalidURL, OSError, UnicodeError) as error:
        raise NoAnswer(type(error).__name__) from None


async def _ask(endpoint: Endpoint, key: str | None, body: dict[str, Any]) -> Answer:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    # a proxy that the environment names is for the way out, never for this machine
    outside = not _loopback(urlsplit(endpoint.base_url).hostname or "")
    client = http.AsyncClient(verify=_trusted(), trust_env=outside, follow_redirects=False, timeout=endpoint.timeout)
    async with asyncio.timeout(endpoint.timeout), client:
        content = json.dumps(body).encode()
        async with client.stream("POST", endpoint.url, content=content, headers=headers) as response:
            found = dict(response.headers)
            if 300 <= response.status_code < 400:
                raise JudgeError(
                    f"LLM judge: {endpoint.base_url} answers {response.status_code}, a redirect{_towards(found.get('location', ''))}, and "
                    "questions and key go to no other address than the one given; set compare.llm.base_url to where it leads, if you trust it"
                )
            taken = await _body(response, endpoint) if response.status_code == 200 else b""
            return Answer(response.status_code, found, taken)


async def _body(response: Any, endpoint: Endpoint) -> bytes:
    """The body, unpacked, of which no more is taken than the limit. Raises NoAnswer."""
    most = endpoint.max_answer_kb * 1024
    too_large = NoAnswer(f"an answer of more than {endpoint.max_answer_kb} KB (compare.llm.max_answer_kb)", again=False)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise NoAnswer("an answer in an encoding that nobody asked for", again=False)
    unpacker = None if encoding in ("identity", "") else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    found = bytearray()
    async for piece in response.aiter_raw():
        try:
            found += piece if unpacker is None else unpacker.decompress(piece, most + 1 - len(found))
        except zlib.error:
            raise NoAnswer("an answer whose compression is broken") from None
        if len(found) > most:
            raise too_large
    return bytes(found)


def _towards(location: str) -> str:
    """Where a redirect leads, if that is an address that can be shown; never its query."""
    plain = re.match(r"https?://[\w.-]{1,100}(:\d{1,5})?(/[\w./-]{0,100})?", location, re.ASCII)
    return f" to {redaction.redacted(plain[0])}" if plain else ""


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed, as the client has it; made once, since that takes its time."""
    context: ssl.SSLContext = http.create_ssl_context()
    return context
