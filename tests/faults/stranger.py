"""What do the tests of hostile endpoints share? A server on 127.0.0.1 that answers with any bytes, and what it was sent."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answer = Callable[[socket.socket], None]


class Stranger:
    """`answer(connection)` is called for each request, once that was read whole; `seen` holds the requests."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.seen: list[bytes] = []
        self.stopped = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base_url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while not self.stopped.is_set():
                threading.Thread(target=self._one, args=(self.listening.accept()[0],), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(10)
            request = b""
            while b"\r\n\r\n" not in request:
                if not (piece := connection.recv(65536)):
                    return
                request += piece
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))  # fmt: skip
            while len(body) < length:
                body += connection.recv(65536)
            self.seen.append(head + b"\r\n\r\n" + body)
            self.answer(connection)

    def close(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@contextmanager
def stranger(answer: Answer) -> Iterator[Stranger]:
    server = Stranger(answer)
    try:
        yield server
    finally:
        server.close()


def sends(*pieces: bytes, pause: float = 0.0) -> Answer:
    """The pieces, one after another, and then the connection is closed."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


def without_end(piece: bytes, first: bytes = b"", pause: float = 0.0) -> Answer:
    """The same piece again and again, for as long as somebody listens."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode("utf-8") + b"\r\n\r\n" + body


def says(content: object, **more: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}], **more}).encode()
