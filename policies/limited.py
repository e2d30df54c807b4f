"""How is a stranger's work kept within limits? In a fork of this process that has seconds and memory, and touches nothing of ours.

What is asked and answered are values of JSON. The fork has no terminal and no files of this process, and it writes none.
"""

import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from policies.untyped import Json

MEMORY = 2 * 2**30
"""Bytes that a fork may take beyond those of this process."""
WRITTEN = 64 * 2**20
"""Bytes of the longest answer."""
_LENGTH = 8  # bytes in front of each message


class Beyond(Exception):
    """Work that passed a limit or ended its process; says which, as the end of a sentence."""


class Worker:
    """A fork that answers questions by `answer`, one after another, and is there until it is closed or passes a limit."""

    def __init__(self, answer: Callable[[Json], Json], memory: int = MEMORY):
        ours, theirs = socket.socketpair()
        with _quiet_tokenizers():
            self.pid = os.fork()
        if self.pid == 0:
            _serve(theirs, answer, memory)
        theirs.close()
        self.connection, self.memory = ours, memory

    def ask(self, question: Json, seconds: float) -> Json:
        """What it answers. Raises Beyond where it takes longer, more memory or another end than an answer; it is closed then."""
        try:
            self.connection.settimeout(seconds)
            _send(self.connection, [question, seconds])
            found = _received(self.connection)
        except TimeoutError:
            self.close()
            raise Beyond(f"takes more than {seconds:g} seconds") from None
        except OSError:
            self.close()
            raise Beyond("ends the process that it runs in") from None
        if found is None:
            self.close()
            raise Beyond(f"takes more than {self.memory >> 20} MiB of memory, or ends the process that it runs in")
        if "beyond" in found:
            self.close()
            raise Beyond(str(found["beyond"]))
        return found["answer"]

    def close(self) -> None:
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            os.waitpid(self.pid, 0)
        self.connection.close()


def limited(work: Callable[[], Json], seconds: float, memory: int = MEMORY) -> Json:
    """What `work` gives, in a fork of its own. Raises Beyond."""
    worker = Worker(lambda _: work(), memory)
    try:
        return worker.ask(None, seconds)
    finally:
        worker.close()


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Within the block a fork is none that the tokenizers' threads are told of on the terminal: it uses no threads of theirs."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def _serve(connection: socket.socket, answer: Callable[[Json], Json], memory: int) -> NoReturn:
    """What the fork does: it ends with the first question that nobody asks, as when its parent is gone."""
    try:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; whoever asks decides
        _cut_off(connection.fileno())
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + memory
        if (allowed := resource.getrlimit(resource.RLIMIT_AS)[1]) != resource.RLIM_INFINITY:
            most = min(most, allowed)  # ulimit -v: nobody may go beyond it
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while (asked := _received(connection)) is not None:
            question, seconds = asked
            signal.alarm(int(seconds) + 5)  # for a parent that was killed meanwhile
            _send(connection, _answered(answer, question, memory))
            signal.alarm(0)
    finally:
        os._exit(0)


def _answered(answer: Callable[[Json], Json], question: Json, memory: int) -> Json:
    try:
        found = {"answer": answer(question)}
        if len(json.dumps(found)) <= WRITTEN:
            return found
        return {"beyond": f"writes more than {WRITTEN >> 20} MiB"}
    except MemoryError:
        return {"beyond": f"takes more than {memory >> 20} MiB of memory"}
    except BaseException as error:  # a panic of a Rust library is no Exception
        return {"beyond": stopped(error) or f"fails ({type(error).__name__}: {first_line(error)})"}


def stopped(error: BaseException) -> str | None:
    """What is said of a panic of a Rust library, which is no Exception; None of any other error."""
    if type(error).__name__ != "PanicException":
        return None
    explodes = "retry-limit" in str(error)
    return "has an expression that takes too many steps" if explodes else f"stops its library ({first_line(error)})"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, short."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    return said if len(said) <= 300 else said[:300] + " …"


def _cut_off(kept: int) -> None:
    """No terminal, and no file, socket or lock of the parent."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    most = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, kept)
    os.closerange(kept + 1, most if most > 0 else 65536)


def _send(connection: socket.socket, message: Json) -> None:
    data = json.dumps(message).encode("ascii")
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def _received(connection: socket.socket) -> Json:
    """The next message; None where there will be none."""
    head = _exactly(connection, _LENGTH)
    body = None if head is None else _exactly(connection, int.from_bytes(head, "big"))
    return None if body is None else json.loads(body)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
