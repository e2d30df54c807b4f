"""Does a program pass its tests? It runs where it can do nothing else, and where a machine cannot see to that, nothing runs.

`judged` runs programs, several at once, each within the limits of `Limits` in processes of `jail.py`, and returns when nothing of them is
left. What a machine can limit is tried, not read off: before the first program a trial runs that does all that must fail.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from reward.functions import RewardError
from reward.programs.exam import MISTAKE, PASSED
from reward.programs.jail import REFUSED

ROOT = Path(__file__).resolve().parents[2]
START = "import sys; sys.path.append(sys.argv[2]); from reward.programs.jail import main; sys.path.pop(); main(int(sys.argv[1]), sys.argv[3], sys.argv[4] == 'user')"
AT_ONCE = min(2 * len(os.sched_getaffinity(0)), 32) if sys.platform == "linux" else 1
"""Programs that run side by side. The starter holds a file for each, and jail.sealed_off counts on fewer than 200 open ones."""
REMEDY = (
    "run it as root, or let users make namespaces (sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0), in a container with --security-opt seccomp=unconfined and --cap-add SYS_ADMIN; "
    "or take another reward function"
)


@dataclass(frozen=True)
class Program:
    """Code, and the sources of its tests. `entry_point` names the function that a `check(candidate)` of the tests is given."""

    code: str
    tests: list[str]
    entry_point: str | None = None


@dataclass(frozen=True)
class Limits:
    """Of each of a program's two processes: bytes of memory, seconds of CPU, processes and threads that its user may have; of both: seconds on the clock."""

    memory: int = 256 << 20
    seconds: int = 2
    wall: int = 8
    processes: int = 1


@dataclass(frozen=True)
class Verdict:
    """Whether the tests held. `why` says why they did not: words of the jail's, or the first error of the tests."""

    passed: bool
    why: str = ""
    mistake: bool = False  # of the tests' author


LIMITS = Limits()


def judged(programs: Sequence[Program], limits: Limits = LIMITS) -> list[Verdict]:
    """A verdict a program, in their order. Nothing of them runs any more when it returns. Raises RewardError where this machine
    cannot limit what they do."""
    if not programs:
        return []
    control = _server()
    try:
        return list(_run(control, programs, limits))
    except BaseException:  # an interruption too: what runs ends with the process that started it
        _end(os.getpid(), *_servers.pop(os.getpid()))
        raise


_servers: dict[
    int, tuple[subprocess.Popen[bytes], socket.socket]
] = {}  # of this process, by its number: a fork makes its own


def _server() -> socket.socket:
    """The process that starts programs, on trial before it is trusted."""
    if os.getpid() in _servers and _servers[os.getpid()][0].poll() is None:
        return _servers[os.getpid()][1]
    if sys.platform != "linux":
        raise RewardError(f"reward.verifiers:python_tests: only Linux can limit what a program does; {REMEDY}")
    why = ""
    for way in ("root", "user")[os.getuid() != 0 :]:
        server, control, said = _started(way)
        if not said:
            said = _tried(control)
        if not said:
            _servers[os.getpid()] = server, control
            atexit.register(_end, os.getpid(), server, control)
            return control
        _end(os.getpid(), server, control)
        why = said if not why else f"{why}; in a user namespace: {said}"
    raise RewardError(
        f"reward.verifiers:python_tests: this machine does not limit what a program does ({why}), so none is run; {REMEDY}"
    )


def _started(way: str, python: Sequence[str] = (sys.executable,)) -> tuple[subprocess.Popen[bytes], socket.socket, str]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, tempfile.TemporaryDirectory(prefix="programs-") as root:
        os.chmod(root, 0o755)
        server = subprocess.Popen(
            [*python, "-S", "-s", "-P", "-B", "-c", START, str(theirs.fileno()), str(ROOT), root, way],
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us, and we end it
        )
        theirs.close()
        said = json.loads(ours.recv(4096) or b'{"refused": "it ended at once"}')
    return server, ours, said.get("refused", "")


def _end(owner: int, server: subprocess.Popen[bytes], control: socket.socket) -> None:
    if os.getpid() == owner:
        control.close()
        server.wait()


def _run(control: socket.socket, programs: Sequence[Program], limits: Limits) -> Iterator[Verdict]:
    found: dict[int, Verdict] = {}
    running: dict[int, tuple[int, int]] = {}  # slot -> program, pipe of its verdict
    free = list(range(AT_ONCE))
    todo = list(reversed(range(len(programs))))
    while len(found) < len(programs):
        while todo and free:
            place, slot = todo.pop(), free.pop()
            running[slot] = place, _sent(control, slot, programs[place], limits)
        message = control.recv(256)
        if not message:
            raise RuntimeError("the process that runs programs ended")
        slot = json.loads(message)["done"]
        place, pipe = running.pop(slot)
        free.append(slot)
        with open(pipe, encoding="utf-8", errors="replace") as file:
            said = file.read(8192)
        found[place] = _verdict(said)
    yield from (found[place] for place in range(len(programs)))


def _verdict(said: str) -> Verdict:
    if said.startswith(REFUSED):
        raise RewardError(f"reward.verifiers:python_tests: {said.removeprefix(REFUSED)}; {REMEDY}")
    if said.startswith(MISTAKE):
        return Verdict(False, said.removeprefix(MISTAKE), mistake=True)
    return Verdict(said == PASSED, "" if said == PASSED else said.removeprefix("failed: ") or "its tests were ended")


def _sent(control: socket.socket, slot: int, program: Program, limits: Limits) -> int:
    """Hand a program over; gives the pipe that its verdict will be read from. Who starts processes sees neither code nor tests."""
    reading, writing = os.pipe()
    asked = json.dumps({"tests": program.tests, "entry_point": program.entry_point})
    with _handed(asked.encode()) as tests, _handed(program.code.encode("utf-8", "surrogatepass")) as code:
        message = json.dumps({"slot": slot, **asdict(limits)}).encode()
        socket.send_fds(control, [message], [tests, code, writing])
    os.close(writing)
    return reading


@contextmanager
def _handed(data: bytes) -> Iterator[int]:
    number = os.memfd_create("program", os.MFD_CLOEXEC)
    try:
        os.write(number, data)
        os.lseek(number, 0, os.SEEK_SET)
        yield number
    finally:
        os.close(number)


# The trial: every one of these must fail. Its answer is what succeeded.
TRIAL = textwrap.dedent(
    """
    import ctypes, os, socket, subprocess, threading

    def connect(port):
        socket.create_connection(("127.0.0.1", port), 1)

    def fork(port):
        if os.fork() == 0:
            os._exit(0)

    def thread(port):
        threading.Thread(target=print).start()

    def memory(port):
        bytearray(8 << 30)

    def big_file(port):
        with open("big", "wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
                file.flush()

    def many_files(port):
        kept = [open(f"file{n}", "w") for n in range(64)]

    def read_outside(port):
        if not any(os.path.exists(path) for path in OUTSIDE):
            raise OSError

    def write_outside(port):
        for folder in ("/", "/usr/lib", os.path.dirname(os.__file__)):
            try:
                open(folder + "/written", "w")
                return
            except OSError:
                pass
        raise OSError

    def privileges(port):
        if os.getuid() and os.geteuid() and ctypes.CDLL(None).unshare(0x20000) == -1:
            raise OSError

    def environment(port):
        if not os.environ:
            raise OSError

    def others(port):
        for one in range(1, 2000):
            if one != os.getpid():
                try:
                    os.kill(one, 0)
                    return
                except ProcessLookupError:
                    pass
        raise OSError

    EVERY = [connect, fork, thread, memory, big_file, many_files, read_outside, write_outside, privileges, environment, others]

    def succeeded(port):
        found = []
        for attempt in EVERY:
            try:
                attempt(port)
                found.append(attempt.__name__)
            except Exception:
                pass
        return found
    """
)
ENDLESS = "def wait():\n    while True:\n        pass\n"


def _tried(control: socket.socket) -> str:
    """What this machine does not limit, "" where it limits all of it: a network, processes, memory, files, time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        tests = [f"found = succeeded({port})\nassert found == [], ' '.join(found)", "assert True"]
        beside = [
            path for folder in (Path.home(), Path.cwd(), tempfile.gettempdir()) for path in Path(folder).glob("*")
        ]
        outside = [str(path) for path in beside if path.is_file()][:100]
        outside += [__file__, "/etc/passwd", "/proc/self/environ", "/dev/null", "/sys/kernel"]
        programs = [
            Program(f"OUTSIDE = {outside!r}\n{TRIAL}", tests),
            Program("def one(): return 1", ["assert one() == 1"]),
        ]
        with suppress(RewardError):
            tried, sound = _run(control, programs, LIMITS)
            endless, late = _run(
                control,
                [Program(ENDLESS, ["wait()"]), Program("import time\ndef wait(): time.sleep(9)", ["wait()"])],
                Limits(seconds=1, wall=2),
            )
            if not sound.passed:
                return f"a sound program failed: {sound.why}"
            if not tried.passed:
                return tried.why.removeprefix("AssertionError: ")
            return "time" if endless.passed or late.passed else ""
        return "no namespaces can be made"
