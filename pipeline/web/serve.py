"""How is the page started? `make web`: one address with a token on the terminal, answered on this machine alone until it is ended.

make web RUN=demo                       # PORT=8377 HOST=127.0.0.1
python -m pipeline web --run demo --port 8377
"""

import ipaddress
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.commands import install
from pipeline.redaction import keep, redacted, show

if TYPE_CHECKING:
    import uvicorn

PORT = 8377  # where no other is asked for; taken, any that is free
LOG = "web.log"
GRACE = 2  # seconds that open answers have when the page is ended


def serve(run: Run, host: str = "127.0.0.1", port: int | None = None, lang: str | None = None) -> None:
    """Answer requests about `run`, and the runs beside it, until this process is asked to end; pages are in `lang`, else in English.

    Raises ArtifactError where starlette or uvicorn are not installed, there is no such run, or the address cannot be had.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ArtifactError(f"web: {error.name} is not installed; {install('-e', '.[web]')}") from None
    from pipeline.web.app import make_app
    from pipeline.web.asking import State

    state = State(run, run.root, language=lang or "en")
    with listening(host, port) as listener:
        number = listener.getsockname()[1]
        _tell(host, number, state.token)
        with logged(run):
            config = uvicorn.Config(
                make_app(state, names(host, number)),
                log_config=None,
                access_log=False,  # addresses hold the token
                server_header=False,
                timeout_graceful_shutdown=GRACE,
                limit_concurrency=200,
                h11_max_incomplete_event_size=32 * 1024,
                ws="none",
            )
            with suppress(KeyboardInterrupt):  # how it is ended
                server = uvicorn.Server(config)
                _end_streams_first(server, state.ending)
                server.run(sockets=[listener])
    print("web: ended", flush=True)


def _end_streams_first(server: "uvicorn.Server", ending: threading.Event) -> None:
    """Have what is streamed end by itself when the server is asked to end, as it waits for all that is open."""
    end = server.handle_exit

    def handled(number: int, frame: FrameType | None) -> None:
        ending.set()
        end(number, frame)

    server.handle_exit = handled  # type: ignore[assignment,method-assign]


@contextmanager
def listening(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket at `host`: at `port`, or at PORT where it is free and else any. Raises ArtifactError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                listener.bind((host, PORT if port is None else port))
            except OSError:
                if port is not None:
                    raise
                listener.bind((host, 0))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise ArtifactError(
                f"web: {host}:{PORT if port is None else port} cannot be had ({reason}); choose another PORT (--port), or leave HOST out (--host)"
            ) from None
        yield listener


def is_of_this_machine(host: str) -> bool:
    """Whether only this machine can ask at `host`."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def names(host: str, port: int) -> list[str]:
    """What a request to us has as its Host: the names of where we listen."""
    found = ["127.0.0.1", "localhost", "[::1]"]
    if not is_of_this_machine(host):
        found += [f"[{host}]" if ":" in host else host, *_own_names()]
    with_port = [f"{name}:{port}" for name in found]
    return with_port + (found if port == 80 else [])


def _own_names() -> list[str]:
    name = socket.gethostname()
    addresses: list[str] = []
    with suppress(OSError):
        addresses = [str(one[4][0]) for one in socket.getaddrinfo(name, None)]
    return list(dict.fromkeys([name, *(f"[{one}]" if ":" in one else one for one in addresses)]))


def _tell(host: str, port: int, token: str) -> None:
    shown = "127.0.0.1" if is_of_this_machine(host) and host != "::1" else f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = _own_names()[0]
    if not is_of_this_machine(host):
        print(
            f"web: warning: others on the network can ask at {shown}:{port}, and read what is sent, which is not encrypted; "
            "leave HOST out (--host) to answer this machine alone",
            file=sys.stderr,
            flush=True,
        )
    show(f"web: open http://{shown}:{port}/?token={token}")
    print("web: Ctrl-C ends it", flush=True)
    keep(token)  # from here on it is in no line that is written


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


@contextmanager
def logged(run: Run) -> Iterator[None]:
    """What goes wrong is written to web.log in the run's folder, for its owner alone, and its sentence to the terminal."""
    folder = run.root / run.name
    path = folder / LOG
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(_Redacted("web: %(message)s"))
    if folder.is_dir():
        _for_the_owner(path)
        handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        handlers[1].setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = [logging.getLogger(name) for name in ("pipeline.web", "uvicorn.error")]
    for logger in ours:
        logger.handlers, logger.propagate = list(handlers), False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in handlers:
            handler.close()


def _for_the_owner(path: Path) -> None:
    """Make a file that its owner alone may read, and that is no link to another."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ArtifactError(f"{path}: it cannot be written ({error.strerror}); move it away") from None
    os.fchmod(made, 0o600)
    os.close(made)
