"""How much is taken of a source that a stranger made? A row, a file that is packed, memory: each has a limit and a setting that raises it.

A file of 40 KB may unpack to as many MB, hold one line of a GB, or say that its pages are that large. A file that grows while it is read
is read to where it ended, and one that changed is told.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from data.reading.flaws import stop

FREE = 16 * 2**20
"""Bytes that any packed file may unpack to, whatever its ratio: a small file that is mostly blanks is no attack."""
HEADROOM = 2**30
"""Bytes that a library may ask for beyond a row's limit, for what it keeps in order to read at all."""


class Limits(NamedTuple):
    """`row_mb`: of one row or line. `unpacked_gb`, `ratio`: of one packed file, in all and as a multiple of its size."""

    row_mb: int = 16
    unpacked_gb: int = 64
    ratio: int = 250

    @property
    def row(self) -> int:
        return self.row_mb * 2**20


USUAL = Limits()


def check_regular(path: Path, file: str) -> None:
    """Raises DataError for what would be waited for, or never ends: a pipe, a device, a socket."""
    mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    kinds = {"a pipe": stat.S_ISFIFO, "a device": stat.S_ISCHR, "a disk": stat.S_ISBLK, "a socket": stat.S_ISSOCK}
    for what, is_one in kinds.items():
        if is_one(mode):
            stop(file, None, "file", f"it is {what}, no file with an end", "write the rows to a file and name that")


def lines(stream: Any, file: str, limits: Limits, blank: bool = True) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream with their numbers, blank ones only if wanted. Raises DataError for one that is longer than a row may be."""
    most = limits.row
    number = 0
    readline = stream.readline
    while raw := readline(most + 1):
        number += 1
        if len(raw) > most:
            too_long(file, number, limits)
        if blank or not raw.isspace():
            yield number, raw
        elif hasattr(stream, "peek"):  # a packed file may hold a thousand million blank lines
            ahead = stream.peek()
            ahead = ahead[: len(ahead) - len(ahead.lstrip())]
            if end := ahead.rfind(b"\n") + 1:
                number += stream.read(end).count(b"\n")


def too_long(file: str, line: int, limits: Limits) -> Any:
    what = f"it has more than {limits.row_mb} MB, which no row that can be learned from has"
    stop(file, line, "line", what, "break the file into rows, or raise data.max_row_mb")


class Upto(io.RawIOBase):
    """An open file as long as it was when it was opened."""

    def __init__(self, raw: IO[bytes], file: str):
        self.raw, self.file, self.seen = raw, file, os.fstat(raw.fileno())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = max(0, self.seen.st_size - self.raw.tell())
        found = self.raw.read(min(len(buffer), left))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.raw.seek(place, whence)

    def check_unchanged(self) -> None:
        """Raises DataError where somebody wrote to the file while it was read."""
        now = os.fstat(self.raw.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.seen.st_size, self.seen.st_mtime_ns):
            stop(self.file, None, "file", "it changed while it was read", "wait until it is written, and read it again")


class Unpacked(io.RawIOBase):
    """What a packed file holds, of which no more is unpacked than it may hold."""

    def __init__(self, inner: IO[bytes], packed: int, file: str, limits: Limits):
        self.inner, self.packed, self.file, self.limits = inner, packed, file, limits

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self.inner.read(len(buffer))
        buffer[: len(found)] = found
        check_unpacked(self.inner.tell(), self.packed, self.file, self.limits)
        return len(found)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.inner.seek(place, whence)


def check_unpacked(unpacked: int, packed: int, file: str, limits: Limits) -> None:
    """Raises DataError where a packed file holds more than it may."""
    if unpacked > FREE and unpacked > packed * limits.ratio:
        what = f"it unpacks to more than {limits.ratio} times its size"
        stop(file, None, "file", what, "do not trust it; if you do, raise data.max_ratio")
    if unpacked > limits.unpacked_gb * 2**30:
        what = f"it unpacks to more than {limits.unpacked_gb} GB"
        stop(file, None, "file", what, "break it into several, or raise data.max_unpacked_gb")


@contextmanager
def memory(limits: Limits, packed: int) -> Iterator[None]:
    """Within the block this process gets no more memory than a file of `packed` bytes and some rows need, so that a library that believes a file's own figures
    raises a MemoryError. Where the system has no such limit, nothing is limited."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + HEADROOM + 64 * limits.row + packed
    allowed = [one for one in (wanted, soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
