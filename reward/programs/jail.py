"""Where does a program run, so that it reaches nothing and leaves nothing? A process that `sandbox.py` starts, which starts all others.

It has an environment without a variable, a network, mounts and System V memory of its own, and a root folder that holds Python's
library, read-only, and nothing else. For each program it makes, in a new PID namespace:

- a keeper, the namespace's process 1, which runs nothing of anybody's: when the time is over, the tests have ended or we are gone, it
  ends, and the kernel kills every process of the namespace with it, whatever session or group that is in;
- the tests, which alone hold the pipe of the verdict;
- the code, in a PID namespace of its own, which sees no other process. It was forked from what never read the tests.

Tests and code have no privileges: as root's child each is a user of its own that nobody else is, else all capabilities are gone. Limits
(setrlimit): memory, CPU seconds, file size, open files, no further process or thread. The folder /work, a few megabytes of memory, is all
that they can write. System calls that make sockets, shared memory, namespaces or look into other processes fail (seccomp, on x86-64 and
ARM64). Linux alone; standard library alone.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import random
import resource
import select
import selectors
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from reward.programs.answer import Answer
from reward.programs.exam import Exam
from reward.programs.values import Channel, Closed

if TYPE_CHECKING:
    from policies.untyped import AnyFunction

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18, 2
NO_NEW_PRIVS, DUMPABLE, SECCOMP = 38, 4, 22  # <linux/prctl.h>
FIRST_USER, USERS = (
    61184,
    4000,
)  # of those that systemd gives to services for a while, which own no file: 61184 to 65519
WORK = f"size={8 << 20},nr_inodes=128,mode=1777"
DENIED = {  # socket, socketpair, ptrace, unshare, setns, mount, shmget, msgget, semget, mq_open, memfd_create, add_key, request_key,
    # keyctl, bpf, userfaultfd, perf_event_open, io_uring_setup, process_vm_readv, process_vm_writev
    "x86_64": (0xC000003E, (41, 53, 101, 272, 308, 165, 29, 68, 64, 240, 319, 248, 249, 250, 321, 323, 298, 425, 310, 311)),
    "aarch64": (0xC00000B7, (198, 199, 117, 97, 268, 40, 194, 186, 190, 180, 279, 217, 218, 219, 280, 282, 241, 425, 270, 271)),
}  # fmt: skip
REFUSED = "refused: "  # by the machine
for _name in (
    *(
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "heapq",
        "itertools",
    ),
    *("math", "operator", "random", "re", "statistics", "string", "typing", "unittest"),
):  # what small programs import, once for all of them
    importlib.import_module(_name)
libc = ctypes.CDLL(None, use_errno=True)


def called(name: str, *given: object) -> None:
    """A function of the C library. Raises OSError with its name where it fails."""
    if getattr(libc, name)(*(one.encode() if isinstance(one, str) else one for one in given)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    called("mount", source, target, kind, ctypes.c_ulong(flags), data)


def unshared(own_users: bool) -> None:
    """Mounts, network, System V memory and host name of its own. `own_users`: by way of a user namespace, which root fills with those users
    that programs become, and anybody else with themself alone."""
    spaces = NEWNS | NEWNET | NEWIPC | NEWUTS
    if not own_users:
        called("unshare", spaces)
        return
    uid, gid, process = os.getuid(), os.getgid(), os.getpid()
    users = f"0 0 1\n{FIRST_USER} {FIRST_USER} {USERS}"
    if uid:
        called("unshare", spaces | NEWUSER)
        written(process, setgroups="deny", uid_map=f"{uid} {uid} 1", gid_map=f"{gid} {gid} 1")
        return
    reading, writing = os.pipe()
    helper = os.fork()  # only who stays outside may name more than one user
    if not helper:
        os.close(writing)
        try:
            if os.read(reading, 1):
                written(process, uid_map=users, gid_map=users)
                os._exit(0)
        finally:
            os._exit(1)
    os.close(reading)
    called("unshare", spaces | NEWUSER)
    os.write(writing, b".")
    os.close(writing)
    if os.waitpid(helper, 0)[1]:
        raise PermissionError("the users of a user namespace cannot be named")


def written(process: int, **files: str) -> None:
    for name, text in files.items():
        with open(f"/proc/{process}/{name}", "w") as file:
            file.write(text)


def enter(root: str, own_users: bool) -> None:
    """Leave the machine's files and networks behind. `root` is an empty folder, on which the new root is mounted. Raises OSError."""
    library = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    folders = [
        one for one in dict.fromkeys(["/lib", "/lib64", "/usr/lib", "/usr/lib64", *library]) if os.path.isdir(one)
    ]
    unshared(own_users)
    mount(None, "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=65536,nr_inodes=64,mode=755")
    shared: list[str] = []
    for folder in folders:
        place = root + folder
        if os.path.islink(folder) and folder.count("/") == 1:
            os.symlink(os.readlink(folder), place)
        elif not any(folder.startswith(f"{one}/") for one in shared):
            os.makedirs(place, exist_ok=True)
            mount(folder, place, None, BIND | REC)
            had = os.statvfs(place).f_flag & (NOSUID | NODEV | NOEXEC | 1024 | 2048)
            if os.statvfs(place).f_flag & 4096:  # relatime, which has another number here and there
                had |= 1 << 21
            mount(None, place, None, BIND | REMOUNT | RDONLY | NOSUID | had)
            shared.append(folder)
    os.mkdir(f"{root}/work")
    os.chdir(root)
    called("pivot_root", ".", ".")
    called("umount2", ".", DETACH)
    os.chdir("/")
    mount(None, "/", None, REMOUNT | RDONLY | NOSUID | NODEV | BIND)


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def limited(user: int | None, told: dict[str, int]) -> None:
    """Give up all privileges of this process, for good, and set its limits. `user`: whom root's child becomes."""
    for kind, limit in (
        (resource.RLIMIT_AS, told["memory"]),
        (resource.RLIMIT_CPU, told["seconds"]),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, told["processes"]),
    ):
        resource.setrlimit(kind, (limit, limit))
    if user is not None:
        become(user)
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    called("capset", header, nothing)
    called("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    called("prctl", DUMPABLE, 0, 0, 0, 0)
    if platform.machine() in DENIED:
        program = denying(*DENIED[platform.machine()])
        filters = ctypes.create_string_buffer(program)
        called("prctl", SECCOMP, 2, struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filters)), 0, 0)


def denying(machine: int, calls: Sequence[int]) -> bytes:
    """A filter (classic BPF) by which these system calls fail with EPERM, as do all of another machine's numbering."""
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    last = len(calls) + 1
    steps = [(load, 0, 0, 4), (equal, 0, last + 2, machine), (load, 0, 0, 0), (above, last, 0, 0x40000000)]
    steps += [(equal, last - 1 - place, 0, number) for place, number in enumerate(calls)]
    steps += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x50001)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def sealed_off(keep: Sequence[int]) -> list[int]:
    """Close every file but those to `keep`, which get the numbers from 3 on; input and outputs lead nowhere. No
    signal to a group reaches anybody else from here on."""
    os.setsid()
    high = [os.dup2(number, 200 + place, False) for place, number in enumerate(keep)]
    os.closerange(3, 200)
    kept = [os.dup2(number, 3 + place, False) for place, number in enumerate(high)]
    os.closerange(200, 256)
    return kept


def read_all(number: int) -> str:
    with open(number, encoding="utf-8", errors="surrogatepass") as file:
        return file.read()


def keeper(files: Sequence[int], alive: int, told: dict[str, int]) -> NoReturn:
    """Process 1 of a program's namespace: starts the tests and the code, and ends when the tests do, or too late."""
    tests, code, verdict = files
    until = time.monotonic() + told["wall"]
    mount("tmpfs", "/work", "tmpfs", NOSUID | NODEV, WORK)
    os.chdir("/work")
    ours, theirs = socket.socketpair()
    user = FIRST_USER + 2 * told["slot"] if os.getuid() == 0 else None

    def examine() -> None:
        given, channel, say = sealed_off([tests, ours.fileno(), verdict])
        limited(user, told)
        asked = json.loads(read_all(given))
        Exam(Channel(channel), say).run(asked["tests"], asked["entry_point"])

    def answer() -> None:
        given, channel = sealed_off([code, theirs.fileno()])
        limited(None if user is None else user + 1, told)
        text = read_all(given)
        random.seed(0)
        Answer(Channel(channel)).run(text)

    examining = forked(examine)
    called("unshare", NEWPID)
    forked(answer)
    ours.close()
    theirs.close()
    ended = os.pidfd_open(examining)
    found = select.select([ended, alive], [], [], max(0.0, until - time.monotonic()))[0]
    if not found:
        os.write(verdict, b"failed: its time is over")
    os._exit(0)


def forked(work: AnyFunction) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except (Closed, MemoryError):
        pass
    finally:
        os._exit(1)


def begun(files: Sequence[int], alive: int, ours: Sequence[int], told: dict[str, int]) -> int:
    """The process that waits for a program's keeper: when it is gone, everything of the program is. `ours` it closes."""
    child = os.fork()
    if child:
        return child
    try:
        for number in ours:
            os.close(number)
        called("unshare", NEWNS | NEWIPC | NEWPID)
        first = os.fork()
        if not first:
            try:
                keeper(files, alive, told)
            except OSError as error:
                os.write(files[2], f"{REFUSED}{error}".encode())
            os._exit(1)
        for number in files:
            os.close(number)
        os.waitpid(first, 0)
    except OSError as error:
        os.write(files[2], f"{REFUSED}{error}".encode())
    finally:
        os._exit(0)


def main(number: int, root: str, own_users: bool) -> None:
    """Serve until who started us is gone: a message {"slot", "wall", "memory", "seconds", "processes"} with three files (tests, code, verdict) begins a
    program, and {"done": slot} says that nothing of it is left."""
    os.environ.clear()
    os.umask(0o022)
    nothing = os.open(os.devnull, os.O_RDWR)
    control = socket.socket(fileno=number)
    try:
        enter(root, own_users)
    except OSError as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    os.umask(0)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    control.send(b'{"ready": true}')
    alive, writing = os.pipe()  # `writing` closes when this process ends, however that comes about
    wait = selectors.DefaultSelector()
    wait.register(control, selectors.EVENT_READ)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for key, _ in wait.select():
            if key.fd != number:
                child, slot = running.pop(key.fd)
                os.waitpid(child, 0)
                wait.unregister(key.fd)
                os.close(key.fd)
                control.send(json.dumps({"done": slot}).encode())
                continue
            message, files, _, _ = socket.recv_fds(control, 256, 3)
            if not message:
                os._exit(0)
            told = json.loads(message)
            child = begun(files, alive, (writing, number), told)
            for one in files:
                os.close(one)
            ended = os.pidfd_open(child)
            running[ended] = child, told["slot"]
            wait.register(ended, selectors.EVENT_READ)
