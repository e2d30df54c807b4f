"""A stand-in for the Hub on this machine: the files of local folders under names such as org/model, over HTTP."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 40


@contextmanager
def hub(repos: dict[str, Path]) -> Iterator[str]:
    """Within the block a server answers for `repos`, name -> folder; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0].strip("/")
            name = next((one for one in repos if one in path), None)
            _, _, file = path.partition("/resolve/main/")
            found = None if name is None or not file else repos[name] / file
            if name is not None and path == f"api/models/{name}":
                files = [{"rfilename": one.name} for one in repos[name].iterdir()]
                data = json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()
            elif found is not None and found.is_file():
                data = found.read_bytes()
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if name else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
