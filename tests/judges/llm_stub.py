"""What do the tests of the LLM judge share? An endpoint on 127.0.0.1 with replies laid down, and how it is asked."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.judges import llm
from pipeline.judges.judge import Judge
from pipeline.judges.llm import Endpoint

KEY = "sk-a-very-secret-key-1234567890"
PROMPTS, GOOD, BAD = ["one?", "two?"], ["GOOD 1", "BAD 2"], ["BAD 1", "GOOD 2"]


class Stub(ThreadingHTTPServer):
    """`reply(text)` is a word for a proper reply, (status, body) or (status, body, headers); `seen` is what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[str], Any] = lambda text: "A"
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up before the reply is part of the test."""


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, headers, body))
        reply = self.server.reply(body["messages"][0]["content"])
        status, content, more = (200, completion(reply), {}) if isinstance(reply, str) else (*reply, {})[:3]
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


def completion(content: str | None) -> bytes:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps({"id": "x", "model": "m", "created": 0, "choices": [choice], "usage": usage}).encode()


def asking(stub: Stub, cache: Path, **changes: Any) -> Judge:
    settings: dict[str, Any] = {"wait": 0.001, "timeout": 5.0} | changes
    return llm.judge(Endpoint(stub.base_url, settings.pop("model", "m"), **settings), cache)


def prefers_good(text: str) -> str:
    """GOOD wins wherever it stands."""
    assert text.count("GOOD") == text.count("BAD") == 1
    return "A" if text.index("GOOD") < text.index("BAD") else "B"


def same(found: np.ndarray, wanted: list[float]) -> bool:
    return found.dtype == np.float64 and np.array_equal(found, np.array(wanted), equal_nan=True)


NAN = float("nan")
