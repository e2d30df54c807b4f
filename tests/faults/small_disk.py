"""How does a test get a disk of so many bytes? A tmpfs in a mount namespace of a child's own, which ends with the child.

Root makes the namespace by itself (a container's root may), anybody else in a user namespace. In the child the test's stages run in
forks of a process that has imported everything.
"""

import ctypes
import errno
import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.running import guarded

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, PRIVATE = 1, 32, (1 << 18) | 16384
NEITHER = (
    "tests of full disks mount a tmpfs in a namespace of their own, and here neither root may (CAP_SYS_ADMIN) nor a user "
    "(kernel.unprivileged_userns_clone, user.max_user_namespaces): run the container with --cap-add SYS_ADMIN"
)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Ended:
    """How an attempt ended, and what it said."""

    code: int
    said: str

    @property
    def error(self) -> str:
        """The one line that begins with error:; fails where there is none or a traceback."""
        assert "Traceback" not in self.said, self.said[-3000:]
        found = [line for line in self.said.splitlines() if line.startswith("error: ")]
        assert len(found) == 1, self.said[-3000:]
        return found[0]


class Disk:
    """The disk, seen from the process that has it."""

    def __init__(self, at: Path):
        self.at = at

    def mount(self, flags: int, data: str, kind: bytes = b"tmpfs") -> None:
        _done(_libc.mount(b"tmpfs", os.fsencode(self.at), kind, flags, data.encode()))

    def resize(self, size: int | None = None, read_only: bool = False) -> None:
        """Make it `size` bytes in all, or as few as are used; None: as much as anything here needs."""
        size = 1 << 30 if size is None else max(size, self.used(), 4096)  # 0 would be no limit
        self.mount(REMOUNT | (READ_ONLY if read_only else 0), f"size={-(-size // 4096) * 4096}")

    def used(self) -> int:
        told = os.statvfs(self.at)
        return (told.f_blocks - told.f_bfree) * told.f_bsize

    def most_used(self, work: Callable[[], Any]) -> int:
        """The most that is used at any time while `work` runs, looked at every millisecond."""
        found, over = [self.used()], threading.Event()

        def look() -> None:
            while not over.wait(0.001):
                found.append(self.used())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            work()
        finally:
            over.set()
            looking.join()
        return max(found)


def on_a_disk(at: Path, work: Callable[[Disk], Any]) -> Any:
    """What `work` (JSON) gives in a process that has a disk mounted at `at`, and works there."""
    at.mkdir(parents=True, exist_ok=True)
    user, group = os.getuid(), os.getgid()

    def inside() -> Any:
        if _libc.unshare(NEW_MOUNTS):
            assert _libc.unshare(NEW_MOUNTS | NEW_USER) == 0, NEITHER
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path(f"/proc/self/{name}").write_text(text)
        _libc.mount(b"none", b"/", None, PRIVATE, None)
        disk = Disk(at)
        disk.mount(0, "size=1g,mode=755")
        os.chdir(at)
        return work(disk)

    return forked(inside)


def forked(work: Callable[[], Any]) -> Any:
    """What `work` gives (JSON), in a fork; an exception there fails here."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            told = {"given": work()}
        except BaseException:
            told = {"failed": traceback.format_exc()}
        with os.fdopen(writing, "w") as file:
            json.dump(told, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    told = json.loads(text or '{"failed": "the process was ended"}')
    assert "failed" not in told, told["failed"]
    return told["given"]


def attempt(work: Callable[[], object], before: Callable[[], object] = int) -> Ended:
    """Run `work` as the command line does, in a fork: exit code, and all that it wrote on the terminal. `before` is called first."""
    out = os.memfd_create("said")
    if (child := os.fork()) == 0:
        code = 70
        try:
            for stream in (1, 2):
                os.dup2(out, stream)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
            before()
            guarded(lambda: work() and None)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.pread(out, 1 << 22, 0).decode("utf-8", "replace")
    os.close(out)
    return Ended(status, said)


def without_privileges() -> None:
    """From now on permission bits count, as they do for anybody but root."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _done(_libc.capset(header, none))


def few_files(more: int) -> None:
    """So many more files may be opened than are open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more,) * 2)


def _done(returned: int) -> None:
    if returned:
        number = ctypes.get_errno()
        raise OSError(number, NEITHER if number in (errno.EPERM, errno.EACCES) else os.strerror(number))
