"""How does a program's code answer what it is asked? It is loaded once, and each call of it is a message.

Standard library alone: `jail.py` runs it where nothing of ours is.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

from reward.programs.values import CHANGE, Channel, Closed, decoded, encoded

if TYPE_CHECKING:
    from policies.untyped import AnyFunction, Foreign, Json


class Answer:
    """The code's own side: it holds what stays here, and does what it is asked."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.kept: list[Foreign] = []
        self.places: dict[int, int] = {}
        self.lent: dict[int, int] = {}  # functions of the tests that were handed over

    def run(self, code: str) -> None:
        """Load the code, say what it defines, and answer until nobody asks any more."""
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        try:
            exec(compile(code, "answer.py", "exec"), module.__dict__)
        except BaseException as error:
            self.channel.send(raised(error))
            return
        self.channel.send(["names", [_described(k, v) for k, v in vars(module).items() if not k.startswith("__")]])
        while True:
            self.answer(self.channel.receive(), module)

    def answer(self, message: Json, module: types.ModuleType) -> None:
        what, *rest = message
        try:
            reply = self.done(what, rest, module)
        except Closed:
            raise
        except BaseException as error:
            reply = raised(error)
        try:
            self.channel.send(reply)
        except (ValueError, RecursionError) as error:
            self.channel.send(raised(error))

    def done(self, what: str, rest: list[Json], module: types.ModuleType) -> Json:
        if what == "name":
            value = vars(module)[rest[0]]
            return ["value", encoded(value, self.keep) if type(value) in PLAIN else self.keep(value), []]
        thing = self.kept[rest[0]]
        given = [decoded(one, self.taken) for one in rest[1]]
        if what == "call":
            named = {key: decoded(one, self.taken) for key, one in rest[2].items()}
            every = [*given, *named.values()]
            before = [encoded(one, self.keep) if isinstance(one, CHANGE) else None for one in every]
            found = thing(*given, **named)
            after = [None if old is None else encoded(one, self.keep) for one, old in zip(every, before, strict=True)]
            changed = [[place, new] for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
            return ["value", encoded(found, self.keep), changed]
        return ["value", encoded(_ASKED[what](thing, *given), self.keep), []]

    def keep(self, thing: Foreign) -> Json:
        if id(thing) in self.lent:
            return ["lent", self.lent[id(thing)]]
        if id(thing) not in self.places:
            self.places[id(thing)] = len(self.kept)
            self.kept.append(thing)
        return ["object", self.places[id(thing)]]

    def taken(self, kind: str, number: Json) -> Foreign:
        if kind == "object":
            return self.kept[number]

        def lent(*given: object) -> Foreign:
            self.channel.send(["lent", number, [encoded(one, self.keep) for one in given]])
            while (message := self.channel.receive())[0] not in ("value", "raise"):
                self.answer(message, sys.modules["answer"])
            if message[0] == "raise":
                raise ValueError(message[2])
            return decoded(message[1], self.taken)

        self.lent[id(lent)] = number
        self.kept.append(lent)
        return lent


PLAIN = (bool, int, float, str, type(None))  # values of a module's names that the tests get as they are


_ASKED: dict[str, AnyFunction] = {
    "get": getattr,
    "set": setattr,
    "item": lambda thing, key: thing[key],
    "put": lambda thing, key, value: thing.__setitem__(key, value),
    "delete": lambda thing, key: thing.__delitem__(key),
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "isinstance": lambda kind, thing: isinstance(thing, kind),
    "__eq__": lambda a, b: bool(a == b),
    "__lt__": lambda a, b: bool(a < b),
    "__le__": lambda a, b: bool(a <= b),
    "__add__": lambda a, b: a + b,
    "__sub__": lambda a, b: a - b,
    "__mul__": lambda a, b: a * b,
}


def _described(name: str, value: Foreign) -> Json:
    if isinstance(value, types.ModuleType):
        return [name, "module", None]
    if isinstance(value, type) and issubclass(value, BaseException):
        return [name, "exception", [one.__name__ for one in value.__mro__]]
    return [name, "object", None]


def raised(error: BaseException) -> Json:
    return ["raise", [one.__name__ for one in type(error).__mro__], str(error)[:500]]
