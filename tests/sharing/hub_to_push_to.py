"""A stand-in for the Hub to push to: its HTTP interface for repositories, cards, uploads and commits, and its refusals."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

LICENSES = ("apache-2.0", "mit", "other", "openrail", "llama3.1")
PIPELINES = ("text-generation", "text-classification")
KNOWN = {"license", "base_model", "datasets", "language", "library_name", "pipeline_tag", "tags"}


@dataclass
class Hub:
    """What was sent, and what is answered instead: path's end -> status."""

    address: str = ""
    repos: dict[str, bool] = field(default_factory=dict)  # name -> private
    files: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


def flaws(card: str) -> list[str]:
    """What the Hub's check of a card's metadata would say."""
    told = yaml.safe_load(card.split("---")[1])
    wrong = [f"{name} is not known" for name in told.keys() - KNOWN]
    if told.get("license", "mit") not in LICENSES:
        wrong.append(f'"license" must be one of {", ".join(LICENSES)}')
    if told.get("pipeline_tag") not in PIPELINES:
        wrong.append('"pipeline_tag" must be known')
    for name in ("base_model", "datasets"):
        ids = told.get(name, [])
        wrong += [f'"{name}" {one} is no id' for one in ([ids] if isinstance(ids, str) else ids) if one.count("/") != 1]
    wrong += [
        f'"language" {one}' for one in told.get("language", []) if not (isinstance(one, str) and 2 <= len(one) <= 3)
    ]
    return wrong + [f'"tags" {one}' for one in told["tags"] if not isinstance(one, str)]


@contextmanager
def hub() -> Iterator[Hub]:
    """Within the block a server answers at `address`."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, told: Any) -> None:
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status >= 400:
                self.send_header("X-Error-Message", told.get("error", ""))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            name = self.path.removeprefix("/api/models/").split("?")[0]
            state.asked.append(f"GET {name}")
            if name in state.repos:
                self.answer(
                    200, {"id": name, "private": state.repos[name], "sha": "1" * 40, "siblings": [], "tags": []}
                )
            else:
                self.answer(404, {"error": "Repository not found"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            state.asked.append(f"POST {path}")
            for end, status in state.refuse.items():
                if end in path:
                    return self.answer(status, {"error": "not like this", "errors": [{"message": "not like this"}]})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                there = name in state.repos
                state.repos.setdefault(name, asked.get("visibility") == "private")
                return self.answer(409 if there else 200, {"url": f"{state.address}/{name}", "error": "it is there"})
            if path == "/api/validate-yaml":
                wrong = flaws(json.loads(body)["content"])
                told = {"errors": [{"message": one} for one in wrong], "warnings": [], "error": "; ".join(wrong)}
                return self.answer(400 if wrong else 200, told)
            if "/preupload/" in path:
                names = [one["path"] for one in json.loads(body)["files"]]
                files = [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in names]
                return self.answer(200, {"files": files})
            lines = [json.loads(line) for line in body.splitlines() if line]
            for value in (one["value"] for one in lines if one["key"] == "file"):
                state.files[value["path"]] = base64.b64decode(value["content"])
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            url = f"{state.address}/{name}/commit/{'2' * 40}"
            commit = {"success": True, "commitOid": "2" * 40, "commitUrl": url}
            return self.answer(200, commit)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
