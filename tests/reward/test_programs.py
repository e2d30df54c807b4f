"""Is a program stopped that does anything but answer its tests, does only a right answer pass, and is nothing left of it?"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward.functions import RewardError
from reward.programs import sandbox
from reward.programs.jail import FIRST_USER
from reward.programs.sandbox import Limits, Program, Verdict, judged

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("root", "root in a user namespace", "user")[-3 if os.getuid() == 0 else -1 :]
QUICK = Limits(seconds=1, wall=3)


@pytest.fixture(params=WAYS, scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, socket.socket]]:
    """A process that runs programs, as root and as a user has it."""
    python = [sys.executable]
    if request.param == "user" and os.getuid() == 0:  # root becomes one, with Python where that one may read it
        folder = tmp_path_factory.mktemp("python")
        for one in (folder, *folder.parents[:2]):
            one.chmod(0o755)
        become = f'mount --bind {sys.base_prefix} {folder} && exec setpriv --reuid 1234 --regid 1234 --clear-groups {folder}/bin/python3 $0 "$@"'
        python = ["unshare", "--mount", "sh", "-c", become]
    process, control, said = sandbox._started("root" if request.param == "root" else "user", python)
    assert said == "" and sandbox._tried(control) == ""
    yield process.pid, control
    sandbox._end(os.getpid(), process, control)


def one(server: tuple[int, socket.socket], code: str, *tests: str, limits: Limits = QUICK, **more: str) -> Verdict:
    found = list(sandbox._run(server[1], [Program(code, list(tests), **more)], limits))[0]
    assert left(server[0]) == []
    return found


def left(process: int) -> list[int]:
    """Processes that come from `process`, and those of the users that programs have whose parent is gone: other tests may run programs
    of their own beside these."""
    parents, users = {}, {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            told = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if told["State"].startswith("Z"):
            continue  # it has ended, and nobody asked how
        parents[int(told["Pid"])], users[int(told["Pid"])] = int(told["PPid"]), int(told["Uid"].split()[0])
    found = {pid for pid, user in users.items() if FIRST_USER <= user < FIRST_USER + 4000 and parents[pid] == 1}
    todo = [process]
    while todo:
        children = [pid for pid, parent in parents.items() if parent == todo[-1] and pid not in found]
        todo.pop()
        found.update(children)
        todo += children
    return sorted(found)


NEXT = "def f(x):\n    return x + 1\n"
TEST = "assert f(1) == 2\nassert f(5) == 6"
HOSTILE = {
    "forks": "import os\nwhile True:\n    os.fork()\n",
    "starts a program": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 60'])\n",
    "starts threads": "import threading\nfor _ in range(99):\n    threading.Thread(target=print).start()\n",
    "allocates 8 GB": "kept = bytearray(8 << 30)\n",
    "allocates bit by bit": "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))\n",
    "writes a huge file": "with open('x', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))\n        file.flush()\n",
    "opens many files": "kept = [open(str(n), 'w') for n in range(999)]\n",
    "floods stdout": "while True:\n    print('OK passed' * 1000, flush=True)\n",
    "sleeps": "import time\ntime.sleep(60)\n",
    "never ends": "while True:\n    pass\n",
    "takes signals": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass\n",
    "ends well at once": "import os\nos._exit(0)\n",
    "exits well at once": "import sys\nsys.exit(0)\n",
    "ends well when called": "import os\ndef f(x):\n    os._exit(0)\n",
    "exits well when called": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "says OK": "print('OK')\nprint('passed')\n",
    "kills what it can": "import os\nos.kill(-1, 9)\n",
    "kills its group": "import os\nos.kill(0, 9)\n",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\nos.killpg(os.getppid(), 9)\n",
    "writes into every file": "import os\nfor n in range(256):\n    try: os.write(n, b'passed')\n    except OSError: pass\n",
    "closes every file": "import os\nos.closerange(0, 256)\n",
    "answers ahead": "import json, os, struct\nfor m in (['names', [['f', 'object', None]]], *[['value', True, []]] * 9):\n    d = json.dumps(m).encode()\n    os.write(4, struct.pack('>I', len(d)) + d)\n",
    "sends nonsense": "import os, struct\nos.write(4, struct.pack('>I', 1 << 31))\n",
    "changes assert": "import builtins\nclass Never(Exception): pass\nbuiltins.AssertionError = Never\ndef f(x): return 0\n",
    "changes Python": "import builtins, json, operator, unittest\nbuiltins.len = lambda x: 2\njson.dumps = lambda *a, **k: '[\"value\", 2, []]'\ndef f(x): return 0\n",
    "equals everything": "class Any:\n    __eq__ = lambda a, b: True\n    __hash__ = lambda a: 2\ndef f(x): return Any()\n",
    "is a number that equals everything": "class Any(int):\n    __eq__ = lambda a, b: True\n    __ne__ = lambda a, b: False\ndef f(x): return Any(2)\n",
    "claims another class": "class Any:\n    __class__ = int\n    __eq__ = lambda a, b: True\ndef f(x): return Any()\n",
    "raises what tests expect": "def f(x): raise AssertionError\n",
    "asks": "def f(x): return int(input())\n",
    "recurses": "def f(x): return f(x)\n",
    "returns what has no end": "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
    "returns too much": "def f(x): return 'x' * (64 << 20)\n",
    "looks up the stack": "import sys\ndef f(x):\n    g = sys._getframe()\n    while g.f_back: g = g.f_back\n    return g.f_globals['expected']\n",
    "is no Python": "Sure! Here is the function you asked for:\n",
    "is nothing": "",
    "holds a null": "def f(x): return x + 1\x00\n",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_does_anything_else_fails_and_leaves_nothing(server: tuple[int, socket.socket], what: str) -> None:
    limits = Limits(seconds=1, wall=1) if what == "sleeps" else QUICK
    assert not one(server, HOSTILE[what], TEST, limits=limits).passed
    assert one(server, NEXT, TEST) == Verdict(True), "the next program is judged as if nothing had been"


FORGED = """
import json, os, struct, sys
def abs(x): return 0.0
def f(x): return 7.0
class Names:
    def __getitem__(self, name): return abs
said = json.dumps(["names", [["f", "object", None], ["__builtins__", "object", None]]]).encode()
os.write(4, struct.pack(">I", len(said)) + said)
me = sys._getframe().f_back.f_locals["self"]
vars(sys.modules["answer"])["__builtins__"] = Names()
while True:
    me.answer(me.channel.receive(), sys.modules["answer"])
"""


@pytest.mark.parametrize(
    ("code", "test"),
    [
        (FORGED, "assert abs(f(2.0) - 1.4142) < 1e-3"),
        ("class isinstance(Exception): pass\ndef f(x): return 'no number'", "assert isinstance(f(1), int)"),
        ("class all(Exception): pass\ndef f(x): return 0", "assert all(f(x) == x + 1 for x in range(3))"),
        ("import math as all\ndef f(x): return 0", "assert all(f(x) == x + 1 for x in range(3))"),
    ],
    ids=["forged names", "an exception as a function", "an exception as all", "a module as all"],
)
def test_pythons_own_words_keep_their_meaning_in_the_tests(server: tuple[int, Any], code: str, test: str) -> None:
    """By no kind of name, and the tests' author is not blamed for it."""
    found = one(server, code, test)
    assert not found.passed and not found.mistake


def test_no_connection_gets_out(server: tuple[int, socket.socket]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        port = listening.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\n{NEXT}"
        assert not one(server, code, TEST).passed
        with pytest.raises(TimeoutError):
            listening.accept()


def test_what_goes_on_in_sessions_of_its_own_ends_with_the_program(server: tuple[int, socket.socket]) -> None:
    """Where processes are allowed at all: it passes its tests, and its daemons are gone when it has."""
    code = f"""
import os, time
for _ in range(5):
    if not os.fork():
        os.setsid()
        if not os.fork():
            time.sleep(60)
        os._exit(0)
{NEXT}"""
    users = Limits(processes=4000)  # a user's other processes count where users make namespaces
    assert one(server, code, TEST, limits=users) == Verdict(True)


def test_nothing_outside_is_read_or_written(server: tuple[int, socket.socket], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    tmp_path.chmod(0o777)
    outside = [str(secret), str(ROOT), "/etc/passwd", "/proc/self/status", "/dev/null", "/sys", "/bin/sh"]
    code = f"""
import os
def seen(): return [path for path in {outside} if os.path.exists(path)]
def written():
    done = []
    for folder in ("/", "/usr/lib", os.path.dirname(os.__file__), {str(tmp_path)!r}):
        try:
            with open(folder + "/x", "w"): done.append(folder)
        except OSError: pass
    return done
def who(): return [dict(os.environ), os.getpid(), os.listdir(".")]
"""
    tests = ["assert seen() == [], seen()", "assert written() == []", "assert who() == [{}, 1, []], who()"]
    assert one(server, code, *tests) == Verdict(True)
    assert list(tmp_path.iterdir()) == [secret]


def test_the_code_never_holds_the_tests(server: tuple[int, socket.socket]) -> None:
    """Neither in its memory nor in its frames, files, arguments or environment."""
    code = """
import gc, os, sys
def leaked():
    mark = "-".join(["marked", "4711"])
    found = []
    for thing in gc.get_objects():
        inside = list(thing.values()) if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else []
        found += [1 for one in inside if isinstance(one, (str, bytes)) and one is not mark and mark in str(one)]
    frame = sys._getframe().f_back
    while frame:
        found += [2 for one in frame.f_locals.values() if isinstance(one, (str, bytes)) and mark in str(one)]
        frame = frame.f_back
    for number in range(16):
        try: found += [3] if mark in os.pread(number, 1 << 16, 0).decode() else []
        except (OSError, ValueError): pass
    return found + [mark in str(sys.argv + sys.orig_argv)]
"""
    assert one(server, code, "assert leaked() == [False], leaked()  # marked-4711") == Verdict(True)


def test_programs_do_not_see_each_other(server: tuple[int, socket.socket]) -> None:
    code = "import os\ndef files():\n    open('mine', 'w').close()\n    return os.listdir('.')\n"
    for _ in range(2):
        assert one(server, code, "assert files() == ['mine']").passed


SOUND = {
    "numbers and texts": ("def f(*a, **k): return [a, k]", "assert f(1, 2.5, x='é') == [(1, 2.5), {'x': 'é'}]"),
    "containers": ("def f(x): return x", "import collections, datetime, decimal, fractions\nfor v in ({1: [2]}, {(1, 2)}, frozenset({1}), b'a', 1j, range(3), 10**30, -10**99, None, True, collections.Counter('aab'), collections.deque([1]), collections.OrderedDict(a=1), decimal.Decimal('1.5'), fractions.Fraction(1, 3), datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3), datetime.timedelta(1, 2)):\n    assert f(v) == v and type(f(v)) is type(v), v"),
    "not a number": ("def f(): return float('nan')", "assert f() != f()"),
    "what a call changes": ("def f(x, y): x.sort(); y['k'] = x", "a, b = [3, 1], {}\nf(a, b)\nassert a == [1, 3] and b == {'k': [1, 3]}"),
    "what a call by name changes": ("def f(items): items.sort()", "a = [2, 1]\nf(items=a)\nassert a == [1, 2]"),
    "its plain values": ("MOST = 5\nNAME = 'x'", "assert MOST == 5 and NAME == 'x'"),
    "a class": ("class Stack:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x)\n    def pop(self): return self.all.pop()\n    def __len__(self): return len(self.all)", "s = Stack()\ns.push(4)\ns.push((1,))\nassert len(s) == 2 and s.pop() == (1,) and s.all == [4] and isinstance(s, Stack)"),
    "two of its objects": ("from dataclasses import dataclass\n@dataclass\nclass V:\n    x: int\n    def __add__(self, o): return V(self.x + o.x)", "assert V(1) + V(2) == V(3) and V(1) != V(2)"),
    "a generator": ("def f(n):\n    for i in range(n): yield i", "g = f(4)\nassert next(g) == 0 and list(g) == [1, 2, 3]"),
    "a function handed over": ("def f(g, x): return [g(one) for one in x]", "assert f(lambda v: v * 2, [1, 2]) == [2, 4]"),
    "its exception": ("class Mine(ValueError): pass\ndef f(): raise Mine('no')", "for kind in (Mine, ValueError):\n    try:\n        f()\n        assert False\n    except kind as error:\n        assert str(error) == 'no'"),
    "unittest": ("def f(x): return x + 1", "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(f(1), 2)\n    def test_b(self):\n        with self.assertRaises(TypeError): f('a')"),
    "test functions": ("def f(x): return x + 1", "def test_it(): assert f(1) == 2"),
    "the same at every start": ("import random\ndef f(): return [random.random() < 2, hash('a') == hash('a'), list({'a', 'b'})]", "assert f()[:2] == [True, True]"),
}  # fmt: skip


@pytest.mark.parametrize("what", SOUND)
def test_sound_code_passes_and_wrong_tests_fail(server: tuple[int, socket.socket], what: str) -> None:
    code, tests = SOUND[what]
    assert one(server, code, tests) == Verdict(True)
    wrong = "import unittest\nclass Z(unittest.TestCase):\n    def test_z(self): self.assertEqual(1, 2)\ndef test_y(): assert 0"
    assert not one(server, code, tests, wrong).passed


def test_check_is_given_the_entry_point_and_builtins_stay(server: tuple[int, socket.socket]) -> None:
    check = "def check(candidate):\n    assert candidate(10, 15) == 25"
    assert one(server, "def sum(a, b): return a + b", check, entry_point="sum").passed
    assert not one(server, "def sum(a, b): return a", check, entry_point="sum").passed
    assert not one(server, "def sorted(x): return 'right'\ndef f(): return [2]", "assert sorted(f()) == 'right'").passed


@pytest.mark.parametrize("tests", ["assert 1 == 1", "def check(candidate): assert False", "class T: pass"])
def test_tests_that_ask_nothing_are_their_authors_mistake(server: tuple[int, socket.socket], tests: str) -> None:
    found = one(server, NEXT, tests)
    assert found.mistake and not found.passed and "call nothing" in found.why


def test_several_at_once_keep_their_order_and_say_the_same_again() -> None:
    programs = [Program(f"def f(x): return x + {n % 3}", [TEST]) for n in range(24)]
    expected = [n % 3 == 1 for n in range(24)]
    assert [found.passed for found in judged(programs)] == expected == [found.passed for found in judged(programs)]
    assert judged([]) == []


def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    code = (
        "from reward.programs import sandbox\n"
        "control = sandbox._server()\nprint(sandbox._servers.popitem()[1][0].pid, flush=True)\n"
        "list(sandbox._run(control, [sandbox.Program('while True: pass', ['f()'])], sandbox.Limits(seconds=60, wall=60)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    server = int(process.stdout.readline())
    until = time.monotonic() + 20
    while len(left(server)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    running = left(server)
    assert len(running) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    while set(left(1)) & {server, *running} and time.monotonic() < until:
        time.sleep(0.05)
    assert not set(left(1)) & {server, *running}


def test_a_machine_that_limits_nothing_is_told_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container without namespaces is: the starter's own refusal, and each limit that does not hold, by the trial."""
    monkeypatch.setattr(sandbox, "_servers", {})
    monkeypatch.setattr(
        sandbox,
        "START",
        sandbox.START.replace(
            "import sys;", "import sys, os; os.setresuid(9, 9, 9) if os.getuid() == 0 else None;"
        ).replace(
            "main(", "__import__('reward.programs.jail', fromlist=['libc']).resource.setrlimit(0, (1, 1)); main("
        ),
    )
    with pytest.raises(
        RewardError, match="does not limit what a program does .* so none is run; run it as root, or let users"
    ):
        judged([Program(NEXT, [TEST])])


@pytest.mark.parametrize("attempt", ["connect", "fork", "memory", "big_file", "write_outside", "environment"])
def test_the_trial_finds_each_limit_that_is_not_there(attempt: str) -> None:
    """The trial's own program, run here without any: it says what it could do."""
    body = sandbox.TRIAL.replace("8 << 30", "8").replace(
        'for folder in ("/", "/usr/lib", os.path.dirname(os.__file__))', 'for folder in ("/tmp",)'
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        names = {"OUTSIDE": []}
        exec(body.replace("os._exit(0)", "os.kill(os.getpid(), 9)"), names)
        here = os.getcwd()
        try:
            os.chdir("/tmp")
            names["EVERY"] = [names[attempt]]
            assert names["succeeded"](listening.getsockname()[1]) == [attempt], "it succeeds, as nothing limits it"  # type: ignore[operator]
        finally:
            os.chdir(here)
            for left_over in ("/tmp/big", "/tmp/written"):
                Path(left_over).unlink(missing_ok=True)
