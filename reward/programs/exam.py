"""Do a program's tests hold? They run in a process of their own, and ask the code in another.

So the code never sees the tests, holds nothing through which they report, and cannot change what `assert` or `==` means to them. An
object of the code's own is asked for its attributes, items and calls; it equals nothing of the tests', so that an `__eq__` of the code's
decides nothing. Lists, dictionaries and sets that a call changed are changed in the tests too.

Standard library alone: `jail.py` runs it where nothing of ours is.
"""

from __future__ import annotations

import builtins
import os
import sys
import types
import unittest
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from reward.programs.answer import raised
from reward.programs.values import CHANGE, Channel, Closed, decoded, encoded

if TYPE_CHECKING:
    from policies.untyped import AnyFunction, Foreign, Json

PASSED = "passed"
MISTAKE = "mistake: "  # of who wrote the tests, and not of the code


class Remote:
    """An object of the code's, as the tests hold it: calls, attributes, items and iteration are asked of it. It equals only another such
    object that says so, and nothing is computed between it and a value of the tests."""

    def __init__(self, exam: Exam, number: int):
        object.__setattr__(self, "_exam", exam)
        object.__setattr__(self, "_number", number)

    def _ask(self, what: str, *given: object) -> Foreign:
        return self._exam.ask([what, self._number, [self._exam.encode(one) for one in given]])

    def __call__(self, *given: object, **named: object) -> Foreign:
        return self._exam.call(self._number, list(given), named)

    def __getattr__(self, name: str) -> Foreign:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: object) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: object) -> Foreign:
        return self._ask("item", key)

    def __setitem__(self, key: object, value: object) -> None:
        self._ask("put", key, value)

    def __delitem__(self, key: object) -> None:
        self._ask("delete", key)

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))

    def __iter__(self) -> Iterator[Foreign]:
        steps = self._ask("iter")
        while True:
            try:
                yield steps._ask("next")
            except StopIteration:
                return

    def __next__(self) -> Foreign:
        return self._ask("next")

    def __str__(self) -> str:
        return str(self._ask("str"))

    __repr__ = __str__

    def __hash__(self) -> int:
        return hash(self._number)

    def __instancecheck__(self, one: object) -> bool:
        return isinstance(one, Remote) and bool(self._ask("isinstance", one) is True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and (self._number == other._number or self._ask("__eq__", other) is True)


def _between(name: str) -> AnyFunction:
    return lambda self, other: self._ask(name, other) if isinstance(other, Remote) else NotImplemented


for _name in ("__lt__", "__le__", "__add__", "__sub__", "__mul__"):
    setattr(Remote, _name, _between(_name))


class Exam:
    """The tests' own side: it asks the code, and says at the end what came of it."""

    def __init__(self, channel: Channel, verdict: int):
        self.channel, self.verdict = channel, verdict
        self.lent: list[AnyFunction] = []
        self.errors: dict[str, type[BaseException]] = {}
        self.asked = 0
        self.plain: set[str] = set()  # names of the code's whose values are here, so that reading them asks nothing

    def end(self, said: str) -> NoReturn:
        os.write(self.verdict, said[:400].encode("utf-8", "replace"))
        os._exit(0)

    def run(self, tests: list[str], entry_point: str | None) -> None:
        """Run the tests against the code, then `check(entry_point)`, `test…` functions and unittest's cases among them."""
        try:
            names = self.loaded(entry_point)
            names["__name__"] = "tests"
            for number, source in enumerate(tests):
                code = compile(source, f"test {number + 1}", "exec")
                self.asked += bool(_read_by(code) & self.plain)
                exec(code, names)
            if callable(check := names.get("check")) and entry_point and not isinstance(check, Remote):
                check(names[entry_point])
            for name, one in list(names.items()):
                if isinstance(one, types.FunctionType) and name.startswith("test") and not one.__code__.co_argcount:
                    one()
                elif isinstance(one, type) and issubclass(one, unittest.TestCase):
                    _unittest(one)
        except Closed:
            self.end("failed: the code's process ended, or answered what was not asked")
        except BaseException as error:
            self.end(f"failed: {type(error).__name__}: {error}")
        if not self.asked:
            self.end(f"{MISTAKE}they call nothing that the code defines, so any code passes them")
        self.end(PASSED)

    def loaded(self, entry_point: str | None) -> dict[str, Foreign]:
        """The names that the code defines, as the tests see them; those of Python's own keep their meaning."""
        message = self.channel.receive()
        if message[0] == "raise":
            self.raise_it(message)
        names: dict[str, Foreign] = {}
        for name, kind, told in message[1]:  # it may be forged: __builtins__ would decide what assert's own words mean
            if name.startswith("__") or (hasattr(builtins, name) and name != entry_point):
                continue
            if kind == "module" and name in sys.stdlib_module_names:
                names[name] = __import__(name)
            elif kind == "exception":
                self.errors[name] = type(name, (self.error_class(told[1:]),), {})
                names[name] = self.errors[name]
            elif kind == "object":
                names[name] = self.ask(["name", name])
                self.plain |= set() if isinstance(names[name], Remote) else {name}
        self.asked = 0
        return names

    def call(self, number: int, given: list[Foreign], named: dict[str, object]) -> Foreign:
        message = ["call", number, [self.encode(one) for one in given], {k: self.encode(v) for k, v in named.items()}]
        return self.ask(message, [*given, *named.values()])

    def ask(self, message: Json, given: list[Foreign] | None = None) -> Foreign:
        self.asked += 1
        try:
            self.channel.send(message)
            while (reply := self.channel.receive())[0] == "lent":
                self.lend(reply)
            if reply[0] == "raise":
                self.raise_it(reply)
            for place, new in reply[2]:
                _changed((given or [])[place], decoded(new, self.taken))
            return decoded(reply[1], self.taken)
        except (Closed, IndexError, KeyError):
            self.end("failed: the code's process ended, or answered what was not asked")

    def lend(self, message: Json) -> None:
        try:
            found = self.lent[message[1]](*[decoded(one, self.taken) for one in message[2]])
            self.channel.send(["value", self.encode(found)])
        except Exception as error:
            if isinstance(error, Closed):
                raise
            self.channel.send(raised(error))

    def raise_it(self, message: Json) -> NoReturn:
        names, text = message[1:]
        if "Exception" not in names:
            self.end(f"failed: the code raised {names[0]}")
        raise self.error_class(names)(text)

    def error_class(self, names: list[str]) -> type[BaseException]:
        for name in names:
            kind = self.errors.get(name) or getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
                return kind
        return Exception

    def encode(self, value: Foreign) -> Json:
        return encoded(value, self._other)

    def _other(self, thing: Foreign) -> Json:
        if isinstance(thing, Remote):
            return ["object", thing._number]
        if not callable(thing):
            raise TypeError(f"a {type(thing).__name__} of the tests cannot be handed to the code")
        self.lent.append(thing)
        return ["lent", len(self.lent) - 1]

    def taken(self, kind: str, number: Json) -> Foreign:
        return Remote(self, number) if kind == "object" else self.lent[number]


def _read_by(code: types.CodeType) -> set[str]:
    """The names that code reads, that of its functions too."""
    return {*code.co_names}.union(*(_read_by(one) for one in code.co_consts if isinstance(one, types.CodeType)))


def _changed(mine: Foreign, new: Foreign) -> None:
    if type(mine) is not type(new) or not isinstance(mine, CHANGE):
        raise Closed
    mine.clear()
    mine.extend(new) if hasattr(mine, "extend") else mine.update(new)


def _unittest(case: type[unittest.TestCase]) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    for _, told in [*result.failures, *result.errors]:
        raise AssertionError(told.strip().splitlines()[-1])
    if result.unexpectedSuccesses:
        raise AssertionError("an expected failure did not come")
