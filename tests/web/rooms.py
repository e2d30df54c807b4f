"""What the tests of the rooms share: the whole application around a run, asked as a page would, with a tiny model where one speaks."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from tiny import save_tiny

from pipeline.artifacts.run import Run
from pipeline.web import arena, chat, contenders, speakers
from pipeline.web.app import make_app
from pipeline.web.asking import State

HOST = "127.0.0.1:8377"


class Page:
    """A person's page: posts JSON as it does, with the cookie."""

    def __init__(self, run: Run):
        state = State(run, run.root, "t0ken-that-is-long")
        self.client = TestClient(make_app(state, [HOST]), base_url=f"http://{HOST}")
        self.client.get(f"/static/base.css?token={state.token}")

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, json=body, headers={"Origin": f"http://{HOST}"})

    def lines(self, path: str, body: Any) -> list[dict[str, Any]]:
        """The lines of an answer that is streamed."""
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


@contextmanager
def served(state: State) -> Iterator[str]:
    """The address at which the whole application answers a browser, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = make_app(state, [f"127.0.0.1:{port}"])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=10))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        state.ending.set()  # as serve.py does
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "open event streams do not keep the server"


def with_models(folder: Path, monkeypatch: pytest.MonkeyPatch, *known: str) -> dict[str, str]:
    """Let the run have the models `known`, each a tiny one of its own seed."""
    places = {name: str(save_tiny(folder / name)) for name in known}
    for module in (arena, chat):
        monkeypatch.setattr(module, "names", lambda run: list(places))
    for module in (arena, speakers):
        monkeypatch.setattr(module, "source_of", lambda run, name: places.get(name) or contenders.source_of(run, name))
    return places
